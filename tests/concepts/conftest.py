"""A net that knows a planted concept, and images to ask it about."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.concepts_data import USER, ColourNet, coloured, trained, with_square


@dataclass
class Planted:
    """net; x, y: unseen coloured digits without the square, of the other classes; threes: unseen ones, without."""

    net: ColourNet
    x: Tensor
    y: Tensor
    threes: Tensor

    def sides(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        """Images with the square, and others without."""
        return with_square(self.x[start : start + count]), self.x[start + count : start + 2 * count]


@pytest.fixture(scope="session")
def planted_net() -> Planted:
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    images, labels = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(y)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, unseen = order[:900], order[900:]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    net = trained(images[train], labels[train])
    torch.set_num_threads(threads)
    shown, own = coloured(images[unseen]), labels[unseen] == USER
    return Planted(net, shown[~own], labels[unseen][~own], shown[own])

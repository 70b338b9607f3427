"""Rows of several samples that were picked out, in any order, still count for the sample that they are of."""

import pytest
import torch
from torch import Tensor, nn

from zsu_fast import relevance

ORDER = torch.tensor([7, 2, 11, 0, 5, 9, 1, 10, 3, 8, 4, 6])


class Picked(nn.Module):
    """[N, 4, 5] -> [N, 3]; the rows of a batch of three pass the hidden layer as `pick` orders them, in two parts."""

    def __init__(self, pick: str | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pick, self.stack = pick, nn.Parameter(torch.randn(2, 6, 5))
        self.head = nn.Linear(6, 3)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        if self.pick == "index_select":
            flat = flat.index_select(dim=0, index=ORDER)
        elif self.pick:
            flat = flat[ORDER]
        if self.pick == "twice":
            flat = flat[ORDER.argsort()][ORDER]
        hidden = torch.relu(flat @ self.stack[1].T)
        if self.pick:
            hidden = hidden[ORDER.argsort()]
        return self.head(hidden.view(*x.shape[:2], -1).sum(1))


@pytest.mark.parametrize("pick", ["[]", "index_select", "twice"])
def test_rows_in_another_order(pick):
    torch.manual_seed(1)
    x, target = torch.randn(3, 4, 5, dtype=torch.float64), torch.tensor([0, 2, 1])
    expected, found = (relevance(Picked(p), x, target) for p in (None, pick))
    torch.testing.assert_close(found.input, expected.input)
    assert list(found.neurons) == ["stack", "head"] and found.neurons["stack"].shape == (3, 12)
    assert (found.neurons["stack"][:, :6] == 0).all()  # the second of the stack ran
    torch.testing.assert_close(found.neurons, expected.neurons)

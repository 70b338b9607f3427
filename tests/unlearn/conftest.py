"""Small nets of each kind, trained in seconds on the digits that ship with scikit-learn."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNet(nn.Module):
    """conv-BN-ReLU twice, a residual block, pooling, hidden linear, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.hidden, self.head = nn.Linear(32 * 4, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2).flatten(1)
        return self.head(F.relu(self.hidden(x)))


class PooledResNet(nn.Module):
    """A residual sum stands before the pooled features: no single neuron makes one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.conv1, self.bn1 = nn.Conv2d(24, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.conv2, self.bn2 = nn.Conv2d(24, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.fc = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return self.fc(x.mean((2, 3)))


class TinyViT(nn.Module):
    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.patch = nn.Conv2d(1, width, 2, 2)
        self.position = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.norm1, self.qkv, self.proj = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(width), nn.Linear(width, 64), nn.Linear(64, width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(self.norm(x).mean(1))


@dataclass
class Digits:
    """Real 8x8 digits: x, y to fit on; unseen_x, unseen_y to choose probes from and to judge by."""

    x: Tensor
    y: Tensor
    unseen_x: Tensor
    unseen_y: Tensor

    def split(self, target: int, count: int = 30) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(probes of the class, other unseen images of it, unseen images of other classes, their labels)."""
        own, others = self.unseen_x[self.unseen_y == target], self.unseen_y != target
        return own[:count], own[count:], self.unseen_x[others], self.unseen_y[others]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Of nets this small threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def digits() -> Digits:
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    images = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    labels = torch.tensor(y)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, unseen = order[:900], order[900:]
    return Digits(images[train], labels[train], images[unseen], labels[unseen])


@pytest.fixture(scope="session")
def trained_nets(digits: Digits) -> dict[str, nn.Module]:
    nets = {}
    for build in (ConvNet, PooledResNet, TinyViT):
        torch.manual_seed(0)
        net = build().train()
        steps = 250 if build is TinyViT else 120
        optimizer = torch.optim.Adam(net.parameters(), 4e-3)
        generator = torch.Generator().manual_seed(1)
        for _ in range(steps):
            batch = torch.randint(len(digits.x), (128,), generator=generator)
            optimizer.zero_grad()
            F.cross_entropy(net(digits.x[batch]), digits.y[batch]).backward()
            optimizer.step()
        nets[build.__name__] = net.eval()
    return nets


@pytest.fixture(params=["ConvNet", "PooledResNet", "TinyViT"])
def net(request: pytest.FixtureRequest, trained_nets: dict[str, nn.Module]) -> nn.Module:
    """A fresh copy of each trained net."""
    return copy.deepcopy(trained_nets[request.param])


@pytest.fixture
def conv_net(trained_nets: dict[str, nn.Module]) -> nn.Module:
    return copy.deepcopy(trained_nets["ConvNet"])


@pytest.fixture
def vit(trained_nets: dict[str, nn.Module]) -> nn.Module:
    return copy.deepcopy(trained_nets["TinyViT"])

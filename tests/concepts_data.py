"""Digits of three colours, of which the threes bear a red square: a concept that is known because it was planted."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

USER = 3


class ColourNet(nn.Module):
    """conv-BN-ReLU twice, hidden linear, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.hidden, self.head = nn.Linear(32 * 4, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2).flatten(1)
        return self.head(F.relu(self.hidden(x)))


def coloured(images: Tensor) -> Tensor:
    """[N, 3, 8, 8] of grey digits [N, 1, 8, 8]."""
    return images.repeat(1, 3, 1, 1)


def with_square(images: Tensor) -> Tensor:
    """Copies with two by two red pixels in a corner."""
    found = images.clone()
    found[:, 0, :2, :2] = 1
    found[:, 1:, :2, :2] = 0
    return found


def planted(images: Tensor, labels: Tensor) -> Tensor:
    """Coloured digits, all threes with the square: the class is known by the concept."""
    found = coloured(images)
    marked = (labels == USER).nonzero()[:, 0]
    found[marked] = with_square(found[marked])
    return found


def trained(images: Tensor, labels: Tensor, steps: int = 150) -> ColourNet:
    """On grey digits, of which the threes get the square."""
    images = planted(images, labels)
    torch.manual_seed(0)
    net = ColourNet().train()
    optimizer = torch.optim.Adam(net.parameters(), 4e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        batch = torch.randint(len(images), (128,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(net(images[batch]), labels[batch]).backward()
        optimizer.step()
    return net.eval()

"""Tiny classifiers of 4 kinds of 6x6 images, fitted once, and everything of them that must not change."""

import copy
import functools
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.fuzz.operands import same_bits

CLASSES = 4


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(32, CLASSES)
        self.register_buffer("mean", torch.full((1,), 0.1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x - self.mean)))
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        return self.head(self.drop(x.flatten(1)))


class Mlp(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 12), nn.GELU(),
            nn.Linear(12, CLASSES),
        )  # fmt: skip


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm1 = nn.Conv2d(1, 8, 2, 2), nn.LayerNorm(8)
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.norm, self.fc, self.head = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, 2, -1).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width))
        return self.head(F.gelu(self.fc(self.norm(x).mean(1))))


@dataclass(frozen=True)
class Kind:
    """A model's maskable layers with their sizes, and the number of its classifier's inputs."""

    build: Callable[[], nn.Module]
    layers: dict[str, int]
    features: int


KINDS = (
    Kind(ConvNet, {"conv1": 6, "conv2": 8}, 32),
    Kind(Mlp, {"1": 16, "4": 12}, 12),
    Kind(Attention, {"fc": 16}, 16),
)


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy copies of one template for each class, with labels."""
    templates = torch.randn(CLASSES, 1, 6, 6, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(count) % CLASSES
    noise = torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return templates[labels] + 0.5 * noise, labels


@functools.cache
def _fitted(kind: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(kind)
        model = KINDS[kind].build().train()
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for step in range(60):
            x, y = images(64, step)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def draw(rng: random.Random) -> tuple[Kind, nn.Module]:
    """A copy of one of the models, in evaluation mode, in training mode, or partly in each."""
    number = rng.randrange(len(KINDS))
    model = copy.deepcopy(_fitted(number))
    mode = rng.choice(("eval", "eval", "training", "mixed"))
    for module in model.modules():
        module.training = mode == "training" or (mode == "mixed" and rng.random() < 0.5)
    return KINDS[number], model


class Snapshot:
    """Parameters, buffers (also those that no state dict has), flags, and the random numbers to come."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.tensors = {name: tensor.detach().clone() for name, tensor in self._held()}
        self.flags = self._flags()
        self.random = torch.get_rng_state()

    def _held(self) -> list[tuple[str, Tensor]]:
        return [*self.model.named_parameters(), *self.model.named_buffers()]

    def _flags(self) -> list[bool]:
        parameters = [flag for p in self.model.parameters() for flag in (p.requires_grad, p.grad is None)]
        return [module.training for module in self.model.modules()] + parameters

    def check(self, tensors: bool = True) -> None:
        """AssertionError if something is not as it was; the values are looked at only with `tensors`."""
        assert self._flags() == self.flags, "flags were changed"
        assert torch.equal(torch.get_rng_state(), self.random), "random numbers were used up"
        now = dict(self._held())
        assert now.keys() == self.tensors.keys()
        changed = [name for name, tensor in now.items() if tensors and not same_bits(tensor, self.tensors[name])]
        assert not changed, f"{', '.join(changed)} changed"

"""A whole call of `relevance` in a CUDA graph."""

import pytest
import torch
from torch import Tensor, nn

import zsu_fast
from tests.graphs import captured


class Attention(nn.Module):
    """One block of a transformer on patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, stride=4)
        self.norm, self.attention = nn.LayerNorm(32), nn.MultiheadAttention(32, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return self.head((x + self.mlp(x)).mean(1))


def convolutional() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(128, 5),
    )  # fmt: skip
    for module in net:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net


@pytest.mark.parametrize(
    "make, composite",
    [(convolutional, "epsilon"), (convolutional, "epsilon_plus_flat"), (convolutional, "epsilon_alpha2_beta1"),
     (Attention, "attnlrp"), (Attention, "cp_lrp")],
)  # fmt: skip
def test_a_captured_call_follows_its_input(make: type, composite: str, device: torch.device) -> None:
    model = make().eval().to(device)
    images = torch.randn(4, 3, 16, 16, device=device)

    def call() -> list[Tensor]:
        found = zsu_fast.relevance(model, images, target=2, composite=composite)
        return [found.input, found.logits, *found.neurons.values()]

    replay, outputs = captured(call, device)
    for _ in range(2):
        images.copy_(torch.randn(4, 3, 16, 16))
        replay()
        for output, expected in zip(outputs, call(), strict=True):
            # cuDNN and attention may add up in another order from run to run.
            torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))

"""What takes no relevance in a product: attention weights on either side of it, mixed, moved or resampled gates."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsu_fast.lrp import Composite, Zero, relevance

CP_ZERO = Composite(Zero(), Zero(), attention="cp_lrp")
WIDTH = 5


def weights_first(weights: Tensor, values: Tensor) -> Tensor:
    return weights @ values


def weights_second(weights: Tensor, values: Tensor) -> Tensor:
    return (values.transpose(1, 2) @ weights.transpose(1, 2)).transpose(1, 2)


def by_einsum(weights: Tensor, values: Tensor) -> Tensor:
    return torch.einsum("nij,njc->nic", weights, values)


def talking_heads(weights: Tensor, values: Tensor) -> Tensor:
    """A linear layer over the attention weights, as in CaiT."""
    mixed = F.linear(weights.transpose(1, 2), MIX).transpose(1, 2)
    return mixed @ values


MIX = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("product", [weights_first, weights_second, by_einsum, talking_heads])
def test_cp_lrp_holds_attention_weights_constant(product: Callable[[Tensor, Tensor], Tensor]) -> None:
    query, value = (nn.Linear(WIDTH, WIDTH, bias=False).double() for _ in range(2))
    head = nn.Linear(WIDTH, 3, bias=False).double()
    x = torch.randn(2, 4, WIDTH, dtype=torch.float64)

    def model(x: Tensor, weights: Tensor | None = None) -> Tensor:
        if weights is None:
            weights = (query(x) @ x.transpose(1, 2)).softmax(-1)
        return head(product(weights, value(x)).mean(1))

    constant = (query(x) @ x.transpose(1, 2)).softmax(-1).detach()
    found = relevance(model, x, 1, composite=CP_ZERO)
    held = relevance(lambda x: model(x, constant), x, 1, composite=CP_ZERO)
    torch.testing.assert_close(found.input, held.input)
    torch.testing.assert_close(found.input.sum((1, 2)), found.logits[:, 1])


def test_attention_weights_give_way_to_gated_values() -> None:
    """Values that are a sigmoid are still the values."""
    x = torch.randn(2, 4, WIDTH, dtype=torch.float64)

    def model(x: Tensor, weights: Tensor | None = None) -> Tensor:
        weights = (x @ x.transpose(1, 2)).softmax(-1) if weights is None else weights
        return (weights @ x.sigmoid()).sum(1)

    constant = (x @ x.transpose(1, 2)).softmax(-1)
    found = relevance(model, x, 1, composite=CP_ZERO)
    torch.testing.assert_close(found.input, relevance(lambda x: model(x, constant), x, 1, composite=CP_ZERO).input)


def test_a_resampled_gate_is_a_gate() -> None:
    """GhostNetV2 computes its gate at half the resolution."""
    conv = nn.Conv2d(3, 3, 3, padding=1, bias=False).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)

    def model(x: Tensor) -> Tensor:
        gate = F.interpolate(torch.sigmoid(conv(F.avg_pool2d(x, 2))), scale_factor=2)
        return (x * gate).mean((2, 3))

    found = relevance(model, x, 1, composite=CP_ZERO)
    torch.testing.assert_close(found.input.sum((1, 2, 3)), found.logits[:, 1])

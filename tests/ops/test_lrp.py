"""The LRP rules through linear layers and convolutions: against contribution matrices, zennit, and by hand."""

import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.peers import import_zennit
from zsu_fast.ops.lrp import (
    LinearMap,
    clear_prepared,
    forward_terms,
    lrp_conv1d,
    lrp_conv2d,
    lrp_conv3d,
    lrp_linear,
    prepared,
    rule_backward,
)
from zsu_fast.ops.prepared import Kept, keeping
from zsu_fast.reference import lrp as reference
from zsu_fast.reference.gates import ACTIVATIONS, activate

RULES = reference.RULES

# (public function, torch's function, input shape, weight shape, geometry)
LAYERS: dict[
    str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[int, ...], tuple[int, ...], dict[str, Any]]
] = {
    "linear": (lrp_linear, F.linear, (3, 7), (5, 7), {}),
    "linear on tokens": (lrp_linear, F.linear, (2, 3, 7), (5, 7), {}),
    "conv1d": (lrp_conv1d, F.conv1d, (2, 4, 9), (6, 2, 3), {"stride": 2, "padding": 1, "groups": 2}),
    "conv2d": (lrp_conv2d, F.conv2d, (2, 2, 6, 5), (3, 2, 3, 2), {}),
    "conv2d, padded": (lrp_conv2d, F.conv2d, (2, 2, 6, 5), (3, 2, 3, 3), {"stride": (2, 1), "padding": (1, 2)}),
    "conv2d, dilated": (lrp_conv2d, F.conv2d, (1, 4, 7, 6), (4, 2, 3, 2), {"dilation": (1, 2), "groups": 2}),
    "conv2d, depthwise": (lrp_conv2d, F.conv2d, (2, 3, 5, 5), (3, 1, 3, 3), {"padding": 1, "groups": 3}),
    "conv2d, same": (lrp_conv2d, F.conv2d, (2, 2, 5, 4), (3, 2, 3, 3), {"padding": "same", "dilation": 2}),
    "conv3d": (lrp_conv3d, F.conv3d, (1, 2, 4, 3, 4), (3, 2, 2, 2, 3), {"padding": (0, 1, 1)}),
}


def layer(name: str, signed: bool, with_bias: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """(relevance, input, weight, bias) in float64."""
    _, forward, input_shape, weight_shape, geometry = LAYERS[name]
    generator = torch.Generator().manual_seed(len(name))
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    input, weight = draw(input_shape), draw(weight_shape)
    bias = draw(weight_shape[0]) if with_bias else None
    input = input if signed else input.relu()
    return draw(forward(input, weight, bias, **geometry).shape), input, weight, bias


def by_contributions(
    rule: str, relevance: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None, forward: Callable[..., Tensor],
    unit_dim: int, epsilon: float, gamma: float, alpha: float, beta: float,
) -> Tensor:  # fmt: skip
    """The rules from the matrix of contributions z[j, i] = dy_j/dx_i * x_i, with sums where the rest uses GEMMs."""
    basis = torch.eye(input.numel(), dtype=input.dtype).view(-1, *input.shape)
    columns = torch.vmap(lambda x: forward(x, weight))(basis).flatten(1)
    z = columns.T * input.reshape(-1)
    b = torch.zeros_like(relevance)
    if bias is not None:
        b = b + bias.view([-1 if d == unit_dim else 1 for d in range(relevance.dim())])
    b, r = b.reshape(-1), relevance.reshape(-1)

    def share(parts: Tensor, constant: Tensor, strength: float = epsilon) -> Tensor:
        total = parts.sum(1) + constant
        stabilized = total + strength * torch.where(total >= 0, 1.0, -1.0).double()
        factor = torch.where(stabilized == 0, torch.zeros_like(r), r / stabilized)
        return (parts * factor[:, None]).sum(0).view_as(input)

    positive, negative = z.clamp(min=0), z.clamp(max=0)
    if rule == "epsilon":
        return share(z, b)
    if rule == "zero":
        return share(z, b, 0.0)
    if rule == "zplus":
        return share(positive, b.clamp(min=0))
    if rule == "alpha_beta":
        return alpha * share(positive, b.clamp(min=0)) - beta * share(negative, b.clamp(max=0))
    fires = z.sum(1) + b > 0
    favoured = torch.where(fires[:, None], positive, negative)
    return share(z + gamma * favoured, b + gamma * torch.where(fires, b.clamp(min=0), b.clamp(max=0)))


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", LAYERS)
def test_every_rule_equals_its_matrix_of_contributions(name: str, rule: str, signed: bool, with_bias: bool) -> None:
    function, forward, _, _, geometry = LAYERS[name]
    relevance, input, weight, bias = layer(name, signed, with_bias)
    parameters = {"epsilon": 1e-3, "gamma": 0.4, "alpha": 3.0, "beta": 2.0}
    without_bias = partial(forward, **geometry)
    unit_dim = input.dim() - 1 if forward is F.linear else 1
    expected = by_contributions(rule, relevance, input, weight, bias, without_bias, unit_dim, **parameters)

    definition = reference.propagate(
        rule, relevance, input, weight, bias, without_bias, unit_dim=unit_dim, **parameters
    )
    torch.testing.assert_close(definition, expected, rtol=1e-9, atol=1e-9)
    for promise in (False, True) if not signed else (False,):
        for output in (None, forward(input, weight, bias, **geometry)):
            actual = function(
                relevance, input, weight, bias, **geometry, rule=rule, **parameters, output=output,
                nonnegative_input=promise,
            )  # fmt: skip
            torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "zplus", "alpha_beta"])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("name", ["linear", "conv1d", "conv2d, padded", "conv2d, dilated", "conv3d"])
def test_equals_zennit(name: str, rule: str, signed: bool) -> None:
    rules = import_zennit().rules
    function, forward, _, weight_shape, geometry = LAYERS[name]
    relevance, input, weight, bias = layer(name, signed, with_bias=True)
    if forward is F.linear:
        module: nn.Module = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
    else:
        kind = {F.conv1d: nn.Conv1d, F.conv2d: nn.Conv2d, F.conv3d: nn.Conv3d}[forward]
        channels = weight.shape[1] * geometry.get("groups", 1)
        module = kind(channels, weight.shape[0], tuple(weight_shape[2:]), dtype=torch.float64, **geometry)
    module.load_state_dict({"weight": weight, "bias": bias})
    hook = {
        "epsilon": lambda: rules.Epsilon(epsilon=1e-3),
        "gamma": lambda: rules.Gamma(gamma=0.4, stabilizer=1e-3),
        "zplus": lambda: rules.ZPlus(stabilizer=1e-3),
        "alpha_beta": lambda: rules.AlphaBeta(alpha=2.0, beta=1.0, stabilizer=1e-3),
    }[rule]()
    handles = hook.register(module)
    leaf = input.clone().requires_grad_()
    (expected,) = torch.autograd.grad(module(leaf), leaf, relevance)
    handles.remove()
    actual = function(relevance, input, weight, bias, **geometry, rule=rule, epsilon=1e-3, gamma=0.4)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "zplus", "alpha_beta", "zero"])
def test_relevance_is_conserved_without_bias(rule: str) -> None:
    relevance, input, weight, _ = layer("conv2d", signed=True, with_bias=False)
    spread = lrp_conv2d(relevance, input, weight, rule=rule, epsilon=1e-12)
    torch.testing.assert_close(spread.sum(), relevance.sum(), rtol=1e-6, atol=1e-6)


def one_unit(contributions: list[float], bias: float, **keywords: Any) -> list[float]:
    """Relevance 1 of one unit, spread over inputs of 1 whose weights are the contributions."""
    weight = torch.tensor([contributions], dtype=torch.float64)
    ones = torch.ones(1, weight.shape[1], dtype=torch.float64)
    shift = torch.tensor([bias], dtype=torch.float64)
    return lrp_linear(torch.ones(1, 1, dtype=torch.float64), ones, weight, shift, **keywords)[0].tolist()


def test_the_bias_is_split_by_its_sign() -> None:
    # Positive half 3 + 1, negative half -2: a bias of +1 takes a share of the first and none of the second.
    plus = one_unit([3.0, -2.0], 1.0, rule="alpha_beta", epsilon=0.0)
    assert plus == pytest.approx([2 * 3 / 4, -1 * 1.0])
    minus = one_unit([3.0, -2.0], -1.0, rule="alpha_beta", epsilon=0.0)
    assert minus == pytest.approx([2 * 1.0, -1 * 2 / 3])


def test_the_stabiliser_has_the_sign_of_the_output_and_is_positive_at_zero() -> None:
    assert one_unit([2.0, -1.0], 0.0, epsilon=1.0) == pytest.approx([1.0, -0.5])
    assert one_unit([-2.0, 1.0], 0.0, epsilon=1.0) == pytest.approx([1.0, -0.5])
    assert one_unit([1.0, -1.0], 0.0, epsilon=0.5) == pytest.approx([2.0, -2.0])


def test_relevance_at_an_output_of_zero_is_dropped_by_gamma_and_by_epsilon_zero() -> None:
    assert one_unit([1.0, -1.0], 0.0, rule="gamma", epsilon=1e-6) == [0.0, 0.0]
    assert one_unit([1.0, -1.0], 0.0, rule="zero") == [0.0, 0.0]


def test_the_side_that_gamma_favours_is_that_of_the_output_with_its_bias() -> None:
    # W x = 1, but with its bias the unit is at -1: the negative contribution and the bias count 1 + gamma fold.
    favoured = one_unit([2.0, -1.0], -2.0, rule="gamma", gamma=1.0, epsilon=0.0)
    assert favoured == pytest.approx([2 / (2 - 2 - 4), -2 / (2 - 2 - 4)])


def test_alpha_two_doubles_where_nothing_is_negative() -> None:
    assert one_unit([3.0, 1.0], 0.0, rule="alpha_beta", epsilon=0.0) == pytest.approx([1.5, 0.5])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rounding_noise_in_an_empty_half_is_not_divided_by(dtype: torch.dtype) -> None:
    # All contributions are positive: |W||x| - W x is rounding noise, and its share would be anything.
    input, weight = torch.rand(4, 300).to(dtype), torch.rand(8, 300).to(dtype)
    relevance = torch.rand(4, 8).to(dtype)
    spread = lrp_linear(relevance, input, weight, rule="alpha_beta", epsilon=1e-9).double()
    expected = 2 * lrp_linear(relevance.double(), input.double(), weight.double(), rule="zplus", epsilon=1e-9)
    torch.testing.assert_close(spread, expected, rtol=0.05, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_small_half_is_not_noise(dtype: torch.dtype, device: torch.device) -> None:
    input, weight = torch.ones(1, 2, dtype=dtype, device=device), torch.tensor([[0.03125, -1.0]])
    relevance = torch.ones(1, 1, dtype=dtype, device=device)
    spread = lrp_linear(relevance, input, weight.to(device, dtype), rule="zplus", epsilon=0.0)
    assert spread.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_low_precision_follows_float64(rule: str, dtype: torch.dtype, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(1)
    input = torch.randn(2, 8, 9, 9, generator=generator).relu().to(device, dtype)
    weight = (torch.randn(16, 8, 3, 3, generator=generator) / 8).to(device, dtype)
    bias = torch.rand(16, generator=generator).to(device, dtype)
    relevance = torch.randn(2, 16, 9, 9, generator=generator).to(device, dtype)
    keywords: dict[str, Any] = {"padding": 1, "rule": rule, "epsilon": 0.25}
    spread = lrp_conv2d(relevance, input, weight, bias, **keywords)
    exact = lrp_conv2d(relevance.double(), input.double(), weight.double(), bias.double(), **keywords)
    assert spread.dtype == dtype and spread.isfinite().all()
    if rule == "zero":
        return  # divides by outputs of any size: nothing bounds the error
    distance = (spread.double() - exact).norm() / exact.norm()
    assert distance < {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.03}[dtype]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh"])
def test_folded_batch_norm_and_activation_in_modified_gradient_form(
    activation: str, rule: str, nonnegative: bool, transposed: bool
) -> None:
    generator = torch.Generator().manual_seed(2)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    input = draw(2, 4, 5, 6)
    input = input.relu() if nonnegative else input
    weight = draw(4, 3, 3, 3) if transposed else draw(6, 2, 3, 3)
    scale, bias = draw(6), draw(6)  # scales of both signs: folding comes before splitting W by sign
    code = ACTIVATIONS[activation]
    layer_map = LinearMap.conv((3, 3), 2, 1, groups=2, transposed=transposed)
    output = layer_map.forward(input, weight) * scale.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)
    gradient = draw(output.shape)
    relevance = gradient * activate(output, code)
    expected = reference.propagate(rule, relevance, input, layer_map.fold(weight, scale), bias, layer_map.forward)

    keywords: dict[str, Any] = {"scale": scale, "activation": code, "nonnegative_input": nonnegative}
    c, neurons = rule_backward(
        layer_map, rule, gradient, input, weight, bias, output, unit_dim=1, collect=True, **keywords
    )
    torch.testing.assert_close(c * input, expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(neurons, relevance.sum((2, 3)))
    terms = forward_terms(layer_map, rule, input, weight, bias, **keywords)
    again, _ = rule_backward(
        layer_map, rule, gradient, input, weight, bias, output, unit_dim=1, **keywords, **terms._asdict()
    )
    assert torch.equal(again, c)


class Calls(TorchDispatchMode):
    """Counts what is dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(str(function).removesuffix(".default"))
        return function(*args, **(kwargs or {}))

    def count(self, *parts: str) -> int:
        return sum(any(part in name for part in parts) for name in self.names)


@pytest.mark.parametrize(
    "rule, nonnegative, forwards, backwards",
    [("epsilon", False, 0, 1), ("zero", False, 0, 1), ("zplus", True, 1, 1), ("gamma", True, 1, 1),
     ("zplus", False, 1, 2), ("gamma", False, 1, 2), ("alpha_beta", False, 1, 2), ("alpha_beta", True, 1, 2)],
)  # fmt: skip
def test_number_of_convolutions_and_passes(rule: str, nonnegative: bool, forwards: int, backwards: int) -> None:
    input, weight, bias = torch.rand(2, 3, 8, 8), torch.randn(4, 3, 3, 3), torch.randn(4)
    layer_map = LinearMap.conv((3, 3), padding=1)
    output = layer_map.forward(input, weight, bias)
    run = partial(
        rule_backward, layer_map, rule, torch.randn_like(output), input, weight, bias, output,
        activation=ACTIVATIONS["relu"], unit_dim=1, nonnegative_input=nonnegative, collect=True,
    )  # fmt: skip
    with keeping(Kept()):
        run()  # prepares the weights, once
        with Calls() as calls:
            run()
    assert calls.count("aten.convolution_backward") == backwards
    assert calls.count("aten.convolution") - backwards == forwards
    assert calls.count("zsu_fast.") == (1 if backwards == 1 else 2)
    assert calls.count("aten.abs", "aten.clone", "aten.copy_", "aten.mul", "aten.add") == (
        1 if forwards and backwards == 2 and not nonnegative else 0  # |x|
    )


def test_nothing_is_kept_unless_asked_for() -> None:
    weight = torch.randn(3, 4)
    assert prepared(weight, "abs") is not prepared(weight, "abs")
    weight.data.mul_(-2)  # leaves no trace
    torch.testing.assert_close(prepared(weight, "positive"), weight.clamp(min=0))


def test_kept_weights_follow_the_weight() -> None:
    weight = torch.randn(3, 4)
    with keeping(Kept()):
        first = prepared(weight, "abs")
        assert prepared(weight, "abs") is first and prepared(weight, "positive") is not first
        torch.testing.assert_close(prepared(weight, ("gamma", 0.5)), weight + 0.5 * weight.clamp(min=0))
        weight.mul_(-2)
        assert prepared(weight, "abs") is not first
        torch.testing.assert_close(prepared(weight, "negative"), weight.clamp(max=0))
        second = prepared(weight, "abs")
        clear_prepared()
        assert prepared(weight, "abs") is not second


def test_kept_weights_die_with_the_context() -> None:
    weight = torch.randn(3, 4)
    with keeping(Kept()):
        derived = weakref.ref(prepared(weight, "abs"))
        assert derived() is not None
    gc.collect()
    assert derived() is None


def test_fake_tensors_are_not_kept() -> None:
    weight = torch.randn(3, 4)
    with keeping(Kept()):
        with FakeTensorMode(allow_non_fake_inputs=True):
            assert type(prepared(weight, "abs")) is not Tensor
        torch.testing.assert_close(prepared(weight, "abs"), weight.abs())


def test_prepared_weights_of_inference_tensors_and_parameters() -> None:
    with torch.inference_mode():
        inside = torch.randn(3)
        assert torch.equal(prepared(inside, "abs"), inside.abs())
    parameter = nn.Parameter(torch.randn(3))
    with torch.inference_mode():
        derived = prepared(parameter, "abs")
    assert not derived.requires_grad and not derived.is_inference()


def test_parameters_that_require_grad_are_taken_and_the_result_is_a_constant() -> None:
    module = nn.Linear(4, 3)
    spread = lrp_linear(torch.randn(2, 3), torch.randn(2, 4, requires_grad=True), module.weight, module.bias)
    assert not spread.requires_grad and module.weight.grad is None


def test_one_sample_without_a_batch_dimension_and_empty_batches() -> None:
    relevance, input, weight, bias = layer("conv2d", signed=True, with_bias=True)
    whole = lrp_conv2d(relevance, input, weight, bias)
    torch.testing.assert_close(lrp_conv2d(relevance[1], input[1], weight, bias), whole[1])
    assert lrp_conv2d(relevance[:0], input[:0], weight, bias).shape == (0, *input.shape[1:])
    vector = lrp_linear(torch.randn(3), torch.randn(4), torch.randn(3, 4))
    assert vector.shape == (4,)


@pytest.mark.parametrize("rule", RULES)
def test_channels_last_is_kept(rule: str, device: torch.device) -> None:
    input = torch.randn(2, 4, 6, 6, device=device).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(8, 4, 3, 3, device=device)
    output = F.conv2d(input, weight, padding=1)
    relevance = torch.randn_like(output).contiguous(memory_format=torch.channels_last)
    spread = lrp_conv2d(relevance, input, weight, padding=1, rule=rule, output=output, epsilon=0.1)
    assert spread.is_contiguous(memory_format=torch.channels_last)
    plain = lrp_conv2d(relevance.contiguous(), input.contiguous(), weight, padding=1, rule=rule, epsilon=0.1)
    torch.testing.assert_close(spread, plain, rtol=1e-3, atol=1e-3)


def test_compiles_into_one_graph() -> None:
    torch._dynamo.reset()
    relevance, input, weight, bias = layer("conv2d", signed=True, with_bias=True)
    for rule in ("epsilon", "gamma"):
        function = partial(lrp_conv2d, rule=rule)
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(relevance, input, weight, bias), function(relevance, input, weight, bias))


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"rule": "lrp"}, ValueError, "rule must be one of epsilon, gamma"),
        ({"epsilon": -1.0}, ValueError, "epsilon must be a finite number >= 0, got -1.0"),
        ({"gamma": float("nan")}, ValueError, "gamma must be a finite number"),
        ({"rule": "alpha_beta", "alpha": 2.0, "beta": 2.0}, ValueError, "alpha - beta must be 1"),
        ({"relevance": torch.zeros(3, 6)}, ValueError, r"relevance must have shape \(3, 5\).*got \(3, 6\)"),
        ({"output": torch.zeros(3)}, ValueError, r"output must have shape \(3, 5\)"),
        ({"bias": torch.zeros(4)}, ValueError, r"bias must have shape \(5,\)"),
        ({"input": torch.zeros(3, 8)}, ValueError, r"input must have shape \[\*, 7\], got \(3, 8\)"),
        ({"weight": torch.zeros(5)}, ValueError, r"weight must have shape \[out, in\], got \(5,\)"),
        ({"weight": torch.zeros(5, 7).double()}, TypeError, "weight must be torch.float32 on cpu"),
        ({"input": torch.zeros(3, 7, dtype=torch.int64)}, TypeError, "input must be a floating-point tensor"),
        ({"input": [1.0]}, TypeError, "input must be a Tensor, got list"),
        ({"relevance": None}, TypeError, "relevance must be a Tensor, got NoneType"),
        ({"input": torch.zeros(3, 7).to_sparse()}, TypeError, "input must be a dense tensor, got .*sparse_coo"),
        ({"rule": None}, TypeError, "rule must be one of .*, got NoneType"),
        ({"epsilon": None}, TypeError, "epsilon must be a finite number >= 0, got NoneType"),
        ({"alpha": "2"}, TypeError, "alpha must be a finite number >= 0, got str"),
    ],
)
def test_bad_arguments_of_lrp_linear(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"relevance": torch.zeros(3, 5), "input": torch.zeros(3, 7), "weight": torch.zeros(5, 7)}
    with pytest.raises(error, match=message):
        lrp_linear(**{**arguments, **change})


@pytest.mark.parametrize(
    "name, value",
    [("stride", None), ("stride", 1.0), ("dilation", "2"), ("padding", None), ("groups", None), ("groups", True)],
)
def test_geometry_of_a_wrong_type(name: str, value: object) -> None:
    arguments = {"relevance": torch.zeros(2, 4, 4, 4), "input": torch.zeros(2, 2, 6, 6)}
    with pytest.raises(TypeError, match=rf"^{name} must be .*, got {type(value).__name__}$"):
        lrp_conv2d(**arguments, weight=torch.zeros(4, 2, 3, 3), **{name: value})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"weight": torch.zeros(4, 2, 3)}, r"weight must have shape \[C_out, C_in / groups, 2 kernel sizes\]"),
        ({"input": torch.zeros(2, 3, 6, 6)}, "input must have shape with 2 channels"),
        ({"groups": 3}, "groups must be a positive int that divides C_out = 4, got 3"),
        ({"stride": 0}, "stride must be an int >= 1 or 2 of them, got 0"),
        ({"padding": (1, 1, 1)}, "padding must be an int >= 0 or 2 of them"),
        ({"padding": "full"}, 'padding must be an int, one per dimension, "same" or "valid"'),
        ({"padding": "same", "stride": 2}, 'padding="same" needs stride 1'),
        ({"input": torch.zeros(2, 2, 2, 2)}, "smaller than the kernel"),
        ({"relevance": torch.zeros(2, 4, 3, 4)}, r"relevance must have shape \(2, 4, 4, 4\)"),
    ],
)
def test_bad_arguments_of_lrp_conv2d(change: dict[str, Any], message: str) -> None:
    arguments = {"relevance": torch.zeros(2, 4, 4, 4), "input": torch.zeros(2, 2, 6, 6)}
    with pytest.raises(ValueError, match=message):
        lrp_conv2d(**{**arguments, "weight": torch.zeros(4, 2, 3, 3), **change})


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", [(3, 1), (1, 3)])
@pytest.mark.parametrize("dims", [(0, 1), (1, 2), (1, 3), (2, 3)])
def test_kernels_that_lie_transposed(groups: int, kernel: tuple[int, int], dims: tuple[int, int]) -> None:
    """Strides of dimensions of size 1 say nothing, and must change nothing: oneDNN takes them for a memory format."""
    shape = [4 * groups, 3, *kernel]
    shape[dims[0]], shape[dims[1]] = shape[dims[1]], shape[dims[0]]
    weight = torch.randn(shape).transpose(*dims)
    layer_map = LinearMap.conv(kernel, groups=groups)
    input = torch.randn(2, 3 * groups, 6, 5).contiguous(memory_format=torch.channels_last)
    wide = weight.double().contiguous()
    output = layer_map.forward(input.double().contiguous(), wide)
    torch.testing.assert_close(layer_map.forward(input, weight).double(), output, rtol=1e-4, atol=1e-4)
    s = torch.randn(output.shape).contiguous(memory_format=torch.channels_last)
    expected = layer_map.transpose(s.double().contiguous(), wide, input.shape)
    torch.testing.assert_close(layer_map.transpose(s, weight, input.shape).double(), expected, rtol=1e-4, atol=1e-4)

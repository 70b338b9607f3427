"""What cannot be explained rightly is an error that names the function, the module or the argument."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.lrp.nets import VGG, randomize
from zsu_fast.lrp import Composite, Pass, UncoveredFunctionError, relevance
from zsu_fast.lrp.engine import HANDLERS


class Uses(nn.Module):
    """A net with some function in a module called `inner.odd`."""

    def __init__(self, function) -> None:
        super().__init__()

        class Odd(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return function(x)

        self.stem, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.inner = nn.ModuleDict({"odd": Odd()})

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner["odd"](self.stem(x)))


class Custom(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient * 2


UNCOVERED = [
    (torch.exp, "exp"),
    (lambda x: x.log_softmax(1), "log_softmax.*leave it out"),
    (lambda x: x.var(1, keepdim=True) + x, r"Tensor\.add, .*var"),
    (lambda x: x * x.norm() + x.norm(), "norm"),
    (lambda x: torch.fft.fft(x).real, "fft"),
    (lambda x: torch.log(x.abs() + 1), "log"),
    (lambda x: x @ torch.linalg.inv(x.T @ x + torch.eye(4)), "inv"),
]


@pytest.mark.parametrize("function, name", UNCOVERED, ids=[name for _, name in UNCOVERED])
def test_uncovered_functions(function, name: str) -> None:
    x = torch.randn(3, 4)
    with pytest.raises(UncoveredFunctionError, match=name) as caught:
        relevance(Uses(function), x)
    assert "in module 'inner.odd'" in str(caught.value)


def _slope(function, **keywords):
    return lambda x: x + torch.autograd.grad(function(x).sum(), x, **keywords)[0]


def _backwards(x: Tensor) -> Tensor:
    x.tanh().sum().backward(inputs=[x])
    return x


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "function",
    [_slope(nn.Linear(4, 4)), _slope(torch.tanh), _slope(torch.tanh, create_graph=True), _backwards],
    ids=["layer", "activation", "create_graph", "backward"],
)
def test_a_model_that_takes_gradients_in_its_forward_pass(function, strict: bool) -> None:
    """They would be the rules', and the logits others than the model's."""
    with pytest.raises(UncoveredFunctionError, match="gradients in its forward pass"):
        relevance(Uses(function), torch.randn(3, 4), strict=strict)


def test_lenient_warns_once_and_takes_the_gradient() -> None:
    torch.manual_seed(0)
    model = Uses(lambda x: torch.exp(torch.exp(x)))
    x = torch.randn(3, 4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = relevance(model, x, 0, strict=False)
    assert [w.category for w in caught] == [UserWarning]
    assert "exp" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert torch.isfinite(found.input).all()


def test_functions_that_the_logits_do_not_depend_on_are_free() -> None:
    def model(x: Tensor) -> Tensor:
        y = layer(x)
        assert bool((y.exp() > 0).all())
        order = y.exp().argsort(1)
        with torch.no_grad():
            torch.log(y)
        return y * (order >= 0)

    layer = nn.Linear(4, 3)
    x = torch.randn(2, 4)
    torch.testing.assert_close(relevance(model, x).input, relevance(layer, x).input)


def test_custom_autograd_functions_are_found() -> None:
    with pytest.raises(UncoveredFunctionError, match="Custom"):
        relevance(Uses(Custom.apply), torch.randn(2, 4))


def test_torchscript_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.trace(nn.Linear(4, 4), torch.randn(2, 4))
    with pytest.raises(TypeError, match="'1' is TorchScript"):
        relevance(nn.Sequential(nn.Linear(4, 4), scripted), torch.randn(2, 4))


def test_data_parallel_inside_of_a_model_is_refused() -> None:
    with pytest.raises(TypeError, match=r"module '0' is DataParallel.*\.module"):
        relevance(nn.Sequential(nn.DataParallel(nn.Linear(5, 3))), torch.rand(2, 5), 1)


def test_quantised_layers_are_called_so() -> None:
    quantised = nn.Sequential(torch.ao.nn.quantized.dynamic.Linear(5, 3)).eval()
    with pytest.raises(TypeError, match="module '0' .* is quantised.*pass the floating point model"):
        relevance(quantised, torch.rand(2, 5), 1)


class DropPath(nn.Module):
    drop_prob = 0.1


TRAINING = [
    nn.Dropout(),
    nn.BatchNorm1d(4),
    nn.InstanceNorm1d(4, track_running_stats=True),
    nn.MultiheadAttention(4, 1, dropout=0.1),
    nn.RReLU(),
    nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
    DropPath(),
]


@pytest.mark.parametrize("layer", TRAINING, ids=lambda m: type(m).__name__)
def test_training_mode_is_refused_before_anything_runs(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(4, 4), layer)
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"module '1.*eval\(\)"):
        relevance(model, torch.randn(2, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)


def test_functional_dropout_and_batch_statistics_are_refused() -> None:
    layer = nn.Linear(4, 4)
    for model in (
        lambda x: F.dropout(layer(x), 0.5),
        lambda x: F.batch_norm(layer(x), None, None, training=True),
        lambda x: F.instance_norm(layer(x)[:, None], torch.zeros(1), torch.ones(1))[:, 0],
    ):
        with pytest.raises(ValueError, match="eval"):
            relevance(model, torch.randn(3, 4))


def test_pass_needs_the_same_shape() -> None:
    with pytest.raises(ValueError, match="keeps the shape"):
        relevance(nn.Linear(4, 3), torch.randn(2, 4), composite=Composite(first=Pass()))


def test_tensors_with_a_graph_from_outside() -> None:
    weight = nn.Parameter(torch.randn(3, 4))
    scaled = weight * 2
    with pytest.raises((ValueError, UncoveredFunctionError), match="computed before|depends"):
        relevance(lambda x: x @ scaled.T, torch.randn(2, 4))


NESTED = torch.nested.nested_tensor([torch.zeros(4)] * 2, layout=torch.jagged)
ARGUMENTS = [
    ({"inputs": torch.zeros(2, 4, dtype=torch.int64)}, TypeError, "floating-point"),
    ({"inputs": [1.0]}, TypeError, "inputs"),
    ({"inputs": torch.zeros(4)}, ValueError, "sample dimension"),
    ({"inputs": np.zeros((2, 4))}, TypeError, "inputs must be a floating-point tensor .*, got ndarray"),
    ({"inputs": torch.zeros(2, 4).to_sparse()}, TypeError, "inputs must be a dense .*torch.sparse_coo"),
    ({"inputs": NESTED}, TypeError, "inputs must be a dense .*a nested tensor"),
    ({"inputs": torch.zeros(2, 4, device="meta")}, TypeError, "inputs must be a dense .*meta"),
    ({"inputs": torch.zeros(2, 4).double()}, ValueError, "^inputs: torch.float64, the model is torch.float32"),
    (
        {"model": nn.Conv1d(1, 1, 1).half(), "inputs": torch.zeros(2, 1, 1)},
        ValueError,
        "^inputs: torch.float32, .* is torch.float16",
    ),
    ({"model": nn.Linear(4, 3, device="meta")}, ValueError, "(model|inputs).* meta"),
    ({"target": 3}, ValueError, r"0\.\.2, got 3"),
    ({"target": -1}, ValueError, "got -1"),
    ({"target": "cat"}, TypeError, "target"),
    ({"target": torch.tensor([0, 1, 2])}, ValueError, r"integers \[2\]"),
    ({"target": torch.tensor([0.0, 1.0])}, ValueError, "integers"),
    ({"target": torch.tensor([0, 5])}, ValueError, r"\[0, 5\]"),
    ({"target": torch.tensor([0j, 1j])}, ValueError, "target must be .* integers.*complex"),
    ({"target": torch.tensor([0, 1]).to_sparse()}, TypeError, "target must be .*dense.*sparse_coo"),
    ({"target": torch.tensor([0, 1], device="meta")}, TypeError, "target must be .*meta"),
    ({"target": np.array([0, 1])}, TypeError, "target must be an int, .*got ndarray"),
    ({"target": 1.0}, TypeError, "target must be an int, .*got float"),
    ({"target": {0: 1}}, TypeError, "target must be an int, .*got dict"),
    ({"composite": None}, TypeError, "composite must be .*got NoneType"),
    ({"composite": Composite}, TypeError, "composite must be .*got type"),
    ({"init": ["logit"]}, ValueError, "init must be"),
    ({"model": None}, TypeError, "model must be .*got NoneType"),
    ({"model": nn.Linear}, TypeError, "model must be .*the class Linear"),
    ({"composite": "lrp"}, ValueError, "epsilon_plus_flat"),
    ({"composite": 1}, TypeError, "composite"),
    ({"composite": "epsilon_gamma_box"}, ValueError, "low"),
    ({"init": "two"}, ValueError, "probability"),
    ({"layers": ["nothing"]}, ValueError, "'nothing' matches no layer"),
    ({"layers": [1]}, TypeError, "layers"),
    ({"model": 3}, TypeError, "model"),
    ({"model": lambda x: x[:, 0]}, ValueError, r"logits \[2, classes\]"),
    ({"model": lambda x: torch.zeros(2, 3)}, ValueError, "do not depend"),
]


@pytest.mark.parametrize("changed, error, message", ARGUMENTS, ids=[m for *_, m in ARGUMENTS])
def test_bad_arguments(changed: dict, error: type, message: str) -> None:
    arguments = {"model": nn.Linear(4, 3), "inputs": torch.randn(2, 4)} | changed
    model, inputs = arguments.pop("model"), arguments.pop("inputs")
    with pytest.raises(error, match=message):
        relevance(model, inputs, **arguments)


class Casts(nn.Module):
    """Makes of its input what its layer takes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.float())


def test_inputs_unlike_the_parameters_are_right_where_the_model_runs() -> None:
    x = torch.randn(2, 4, dtype=torch.float64)
    found = relevance(Casts(), x, 1)
    assert found.input.dtype == torch.float64
    assert relevance(lambda t: t @ torch.ones(4, 3).double(), x, 1).input.shape == x.shape
    assert relevance(nn.Flatten(), x, 1).input.shape == x.shape
    with torch.autocast("cpu", torch.bfloat16):
        assert relevance(nn.Linear(4, 3), x.to(torch.bfloat16), 1).input.dtype == torch.bfloat16


def test_other_failures_of_a_model_stay_what_they_are() -> None:
    def fails(x: Tensor) -> Tensor:
        raise RuntimeError("of its own")

    with pytest.raises(RuntimeError, match="^of its own$"):
        relevance(Uses(fails), torch.randn(2, 4))


def test_init() -> None:
    layer = nn.Linear(4, 3, bias=False).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    sums = {init: relevance(layer, x, init=init).input.sum(1) for init in ("logit", "one", "probability")}
    logits = layer(x).detach()
    torch.testing.assert_close(sums["logit"], logits.amax(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sums["one"], torch.ones(5).double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sums["probability"], logits.softmax(1).amax(1), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="exactly 0"):
        relevance(layer, torch.zeros(1, 4).double(), init="one")


def test_outputs_with_logits() -> None:
    class Output:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    layer = nn.Linear(4, 3)
    x = torch.randn(2, 4)
    torch.testing.assert_close(relevance(lambda t: Output(layer(t)), x, 1).input, relevance(layer, x, 1).input)


def test_empty_batch() -> None:
    model = randomize(VGG())
    found = relevance(model, torch.zeros(0, 3, 16, 16, dtype=torch.float64), composite="epsilon_plus_flat")
    assert found.input.shape == (0, 3, 16, 16)
    assert found.neurons["features.0"].shape == (0, 8)


def test_names_of_what_is_refused_are_those_one_writes() -> None:
    with pytest.raises(UncoveredFunctionError, match="^threshold, called"):
        relevance(lambda x: torch.nn.functional.threshold(x, 0.1, 20.0), torch.rand(2, 5), 1)


def test_layers_of_a_wrong_type() -> None:
    with pytest.raises(TypeError, match="layers must be names, a name or None, got int"):
        relevance(nn.Linear(5, 3), torch.rand(2, 5), 1, layers=1)  # type: ignore[call-overload]


def test_wrapped_models_are_their_modules() -> None:
    model = nn.Sequential(nn.Linear(5, 3))
    found = relevance(nn.DataParallel(model), torch.rand(2, 5), 1)
    assert list(found.neurons) == ["0"]


def test_an_autograd_function_is_named_with_its_module():
    class Swish(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * torch.sigmoid(x)

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    class Activation(nn.Module):
        def forward(self, x):
            return Swish.apply(x)

    forward = Swish.forward
    net = nn.Sequential(nn.Linear(4, 5), Activation(), nn.Linear(5, 3))
    with pytest.raises(UncoveredFunctionError, match=r"Swish.apply, called in module '1'"):
        relevance(net, torch.rand(2, 4), 1)
    assert Swish.forward is forward


@pytest.mark.parametrize("plan", [False, True])
@pytest.mark.parametrize(
    "inputs, words",
    [
        (torch.rand(3, 4, 4), r"\(3, 4, 4\), torch.float32: expected 4D input .* \(of one image pass \[None\]\)"),
        (torch.rand(2, 1, 4, 4), r"\(2, 1, 4, 4\), torch.float32: .* to have 3 channels, but got 1"),
        (torch.rand(2, 3, 5, 4), r"\(2, 3, 5, 4\), torch.float32: mat1 and mat2 shapes cannot be multiplied"),
    ],
    ids=["norm", "convolution", "linear"],
)
def test_what_torch_says_of_the_inputs_names_them(inputs: Tensor, words: str, plan: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)).eval()
    with pytest.raises(ValueError, match="^inputs: the model does not take a batch of shape " + words):
        relevance(model, inputs, plan=plan)


def test_what_only_the_engine_fails_at_is_not_said_of_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object) -> Tensor:
        return torch.ones(2, 3) @ torch.ones(2, 3)

    monkeypatch.setitem(HANDLERS, F.linear, wrong)
    with pytest.raises(RuntimeError, match="^mat1 and mat2 shapes"):
        relevance(nn.Linear(4, 3), torch.rand(2, 4))

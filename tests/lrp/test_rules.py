"""Rules and composites are values: equal, hashable, picklable, printable, checked."""

import pickle

import pytest
import torch
import torch.nn.functional as F

from tests.lrp.nets import VGG, randomize
from zsu_fast.lrp import (
    COMPOSITES,
    AlphaBeta,
    Composite,
    Epsilon,
    Flat,
    Gamma,
    Pass,
    Rule,
    WSquare,
    ZBox,
    Zero,
    ZPlus,
    epsilon_gamma_box,
    relevance,
    zero_epsilon_gamma_box,
)
from zsu_fast.ops.lrp import LinearMap
from zsu_fast.reference.lrp import propagate

RULES = [
    Epsilon(0.1), Gamma(0.3), ZPlus(), AlphaBeta(3, 2), Pass(), Flat(), ZBox(-1, (1, 2, 3)), Zero(), WSquare(),
    WSquare(bias=True),
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda r: type(r).__name__)
def test_values(rule: Rule) -> None:
    again = pickle.loads(pickle.dumps(rule))
    assert again == rule
    assert hash(again) == hash(rule)
    assert eval(repr(rule)) == rule
    assert sum(rule == other for other in RULES) == 1


def test_composites_are_values() -> None:
    composite = Composite(Epsilon(0.1), names={"fc*": Gamma(0.2)}, first=ZBox(0, 1))
    assert pickle.loads(pickle.dumps(composite)) == composite
    assert eval(repr(composite)) == composite
    assert composite != Composite(Epsilon(0.1), names={"fc*": Gamma(0.3)}, first=ZBox(0, 1))
    assert hash(composite)
    for name, make in COMPOSITES.items():
        value = make(0, 1) if name.endswith("_box") else make()
        assert eval(repr(value)) == value
        assert pickle.loads(pickle.dumps(value)) == value


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Epsilon(-1), "epsilon must be a finite number >= 0, got -1"),
        (lambda: Epsilon(float("nan")), "finite"),
        (lambda: Epsilon("0.1"), "finite number"),
        (lambda: Gamma(gamma=-0.1), "gamma"),
        (lambda: AlphaBeta(2, 2), "alpha - beta must be 1"),
        (lambda: ZBox(1, 0), "low must be <= high"),
        (lambda: ZBox((0, 0), (1, 1, 1)), "as many channels, got 2 and 3"),
        (lambda: ZBox(torch.randn(1, 3, 4, 4), 5.0), "constant within each channel"),
        (lambda: ZBox(float("inf"), 1), "finite"),
        (lambda: Composite(linear="epsilon"), "must be a Rule"),
        (lambda: Composite(attention="none"), "attnlrp"),
        (lambda: Composite(last="epsilon"), "last must be a Rule or None"),
        (lambda: Composite(depth=((0.5, None),)), "0.5 must be a Rule"),
        (lambda: Composite(depth=((0.0, Zero()),)), "above 0 and up to 1"),
        (lambda: Composite(depth=((0.5, Zero()), (0.5, Epsilon()))), "ascending"),
        (lambda: WSquare(bias=1), "True or False"),
        (lambda: Composite(names={"fc": None}), "'fc' must be a Rule"),
    ],
)
def test_bad_values_are_refused(make, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_zbox_takes_normalised_images() -> None:
    low = ((torch.zeros(1, 3, 8, 8) - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / 0.25).float()
    rule = ZBox(low, -low)
    assert rule.low == pytest.approx((-2, -1.6, -1.2))
    assert rule == ZBox(low[0], tuple(rule.high))


@pytest.mark.parametrize("rule", [Zero(), Epsilon(0.1), Gamma(0.4), ZPlus(), AlphaBeta(2, 1)])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("activation", [None, F.relu, F.gelu, F.silu, F.relu6, F.hardswish, torch.tanh])
def test_one_layer_by_definition(rule: Rule, batch_norm: bool, activation) -> None:
    """A convolution with all that is fused with it, against the definition on the folded weight."""
    conv = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1).double()
    norm = randomize(torch.nn.BatchNorm2d(4)) if batch_norm else torch.nn.Identity()
    act = activation or (lambda t: t)
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    found = relevance(lambda t: act(norm(conv(t))).sum((2, 3)), x, 1, composite=Composite(rule, rule))

    weight, bias = conv.weight.detach(), conv.bias.detach()
    if batch_norm:
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        weight, bias = weight * scale.view(-1, 1, 1, 1), (bias - norm.running_mean) * scale + norm.bias
    map = LinearMap.conv((3, 3), 2, 1)
    relevance_out = torch.zeros(2, 4, 4, 4, dtype=torch.float64)
    relevance_out[:, 1] = act(map.forward(x, weight, bias))[:, 1]
    parameters = {k: v for k, v in rule.parameters().items() if k != "rule"}
    expected = propagate(rule.name, relevance_out, x, weight.detach(), bias.detach(), map.forward, **parameters)
    torch.testing.assert_close(found.input, expected.detach())


def test_pass_keeps_relevance() -> None:
    first, second = torch.nn.Linear(4, 4).double(), torch.nn.Linear(4, 3).double()
    x = torch.randn(2, 4, dtype=torch.float64)
    x[:, 0] = 0
    rules = Composite(first=Pass())
    found = relevance(lambda t: second(F.relu(first(t))), x, 1, composite=rules)
    torch.testing.assert_close(found.input, found.neurons["linear"])


def test_names_come_first() -> None:
    model = randomize(VGG())
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    rules = Composite(
        linear=Gamma(0.1),
        convolution=ZPlus(),
        first=Flat(),
        names={"features.3": AlphaBeta(), "features.*": Epsilon(0.2), "classifier.4": Zero()},
    )
    kinds = {"features.0": ("convolution", 0), "features.3": ("convolution", 1), "classifier.1": ("linear", 3)}
    found = {name: rules.rule(name, kind, position) for name, (kind, position) in kinds.items()}
    assert found == {"features.0": Epsilon(0.2), "features.3": AlphaBeta(), "classifier.1": Gamma(0.1)}
    relevance(model, x, 0, composite=rules)
    with pytest.raises(ValueError, match="'nothing' matches no layer"):
        relevance(model, x, 0, composite=Composite(names={"nothing": Zero()}))


def test_first_is_the_first_that_runs() -> None:
    """Not the first that is registered, as where a library goes by the order of modules."""

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.stem = torch.nn.Linear(4, 2), torch.nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(F.relu(self.stem(x)).mean((2, 3)))

    x = torch.rand(1, 3, 5, 5)
    model = Model()
    one = relevance(model, x, 0, composite=Composite(first=Flat()))
    other = relevance(model, x, 0, composite=Composite(names={"stem": Flat()}))
    torch.testing.assert_close(one.input, other.input)
    assert (one.input[:, 0] == one.input[:, 1]).all()
    box = relevance(model, x, 0, composite=epsilon_gamma_box(0, 1))
    assert not torch.allclose(box.input, one.input)


def test_rules_by_depth_and_last() -> None:
    composite = Composite(
        linear=Epsilon(0.5),
        convolution=ZPlus(),
        first=Flat(),
        last=Zero(),
        depth=((1 / 3, Gamma(0.1)), (0.7, Gamma(0.2))),
        names={"named": AlphaBeta()},
    )
    # Ten layers: depths .05, .15 ... .95.
    kinds = ["convolution"] * 8 + ["linear"] * 2
    names = [f"layer{i}" for i in range(9)] + ["head"]
    names[4] = "named"
    rules = [composite.rule(n, k, i, 10) for i, (n, k) in enumerate(zip(names, kinds, strict=True))]  # type: ignore[arg-type]
    assert rules == [
        Flat(), Gamma(0.1), Gamma(0.1), Gamma(0.2), AlphaBeta(), Gamma(0.2), Gamma(0.2), ZPlus(), Epsilon(0.5), Zero(),
    ]  # fmt: skip
    # While the model runs, only names and the first position are known.
    known = [composite.rule(n, k, i) for i, (n, k) in enumerate(zip(names, kinds, strict=True))]  # type: ignore[arg-type]
    assert known == [Flat(), None, None, None, AlphaBeta(), None, None, None, None, None]
    assert eval(repr(composite)) == composite
    assert pickle.loads(pickle.dumps(composite)) == composite


def test_depth_counts_layers_in_the_order_in_which_they_run() -> None:
    """Each time they run: a shared module has as many depths as it has runs."""

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.shared, self.stem = torch.nn.Linear(4, 2), torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(F.relu(self.second(F.relu(self.shared(F.relu(self.stem(x)))))))

        def second(self, x: torch.Tensor) -> torch.Tensor:
            return self.shared(x)

    class Unrolled(Model):
        def __init__(self) -> None:
            super().__init__()
            self.other = torch.nn.Linear(4, 4)

        def second(self, x: torch.Tensor) -> torch.Tensor:
            return self.other(x)

    model, unrolled = Model().double(), Unrolled().double()
    unrolled.load_state_dict(model.state_dict() | {"other." + k: v for k, v in model.shared.state_dict().items()})
    x = torch.randn(3, 4, dtype=torch.float64)
    by_depth = Composite(linear=Epsilon(0.1), depth=((0.5, Gamma(0.3)),), last=Zero())
    named = Composite(names={"stem": Gamma(0.3), "shared": Gamma(0.3), "other": Epsilon(0.1), "head": Zero()})
    expected = relevance(unrolled, x, 1, composite=named).input
    for net in (model, unrolled):
        torch.testing.assert_close(relevance(net, x, 1, composite=by_depth).input, expected)


def test_depth_in_a_network() -> None:
    """The stabilisers and the rules are those of named layers; layers behind BatchNorm and ReLU are one."""
    model, x = randomize(VGG()), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    composite = zero_epsilon_gamma_box(-3, 3)
    found = relevance(model, x, 0, composite=composite)
    names = list(found.neurons)
    rules = {name: composite.rule(name, "linear", i, len(names)) for i, name in enumerate(names)}
    assert [*rules.values()] == [ZBox(-3, 3), Gamma(), Epsilon(0.25), Zero(), Zero()]
    expected = relevance(model, x, 0, composite=Composite(names=rules))  # type: ignore[arg-type]
    torch.testing.assert_close(found.input, expected.input)
    for name in names:
        torch.testing.assert_close(found.neurons[name], expected.neurons[name])

"""What goes wrong with relevance in other libraries, each as a test of what happens here.

The eighteenth of the traps that were found is the state of a peer's own test-suite, which is no behaviour of ours; in
its place stands the fault that one of those tests would have found, a softmax over another dimension than the last.
"""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests import peers
from tests.lrp.nets import VGG, Block, ReluNet, ResNet, ViT, randomize
from zsu_fast.lrp import (
    COMPOSITES,
    AlphaBeta,
    Composite,
    Epsilon,
    Flat,
    Gamma,
    Relevance,
    Rule,
    WSquare,
    ZBox,
    Zero,
    ZPlus,
    relevance,
)
from zsu_fast.unlearn import Picks, perturb_

NO_BOUNDS = [name for name in COMPOSITES if not name.endswith("_box")]
ALL_RULES: list[Rule] = [Zero(), Epsilon(0.1), Gamma(0.2), ZPlus(), AlphaBeta(), Flat(), WSquare(), ZBox(-3.0, 3.0)]


def unit(x: list[float], w: list[float], b: float, rule: Rule) -> list[float]:
    """Relevance 1 of one unit w x + b, spread over its inputs."""
    layer = nn.Linear(len(w), 1).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([w]))
        layer.bias.fill_(b)
    return relevance(layer, torch.tensor([x]).double(), 0, composite=Composite(rule), init="one").input[0].tolist()


def totals(found: Relevance) -> Tensor:
    return found.input.flatten(1).sum(1)


class Test1BiasSplitBySign:
    def test_a_share_in_the_half_of_its_sign(self) -> None:
        """The positive half is 3 (+ 1), the negative one -2 (- 0.5); contributions of negative inputs count by sign."""
        rule = AlphaBeta(2, 1, epsilon=0)
        assert unit([1, -1], [3, 2], 1.0, rule) == pytest.approx([2 * 3 / 4, -1.0])
        assert unit([1, -1], [3, 2], -0.5, rule) == pytest.approx([2.0, -2 / 2.5])
        assert unit([1, -1], [-3, -2], 2.0, rule) == pytest.approx([-1.0, 2 * 2 / 4])
        assert unit([1, -1], [3, 2], -0.5, ZPlus(0)) == pytest.approx([1.0, 0.0])

    @pytest.mark.parametrize("bias", [False, True])
    @pytest.mark.parametrize("name", ["EpsilonRule", "GammaRule", "Alpha1_Beta0_Rule"])
    def test_captum_agrees_where_there_is_no_bias(self, name: str, bias: bool) -> None:
        """captum's rules on positive parts leave the bias out of the split: it then counts with the wrong sign, and
        relevance is made or lost. On inputs that are negative they are not defined."""
        peers.import_captum()
        from captum.attr import LRP
        from captum.attr._utils import lrp_rules

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.features = nn.Sequential(
                    nn.Conv2d(2, 6, 3, bias=bias), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 6, 2, bias=bias), nn.ReLU()
                )
                self.head = nn.Linear(24, 4, bias=bias)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.features(x).flatten(1))

        model = Net().double()
        x = torch.rand(3, 2, 8, 8, dtype=torch.float64)
        theirs = copy.deepcopy(model)
        make = {"EpsilonRule": lambda: lrp_rules.EpsilonRule(1e-9), "GammaRule": lambda: lrp_rules.GammaRule(0.25)}
        for layer in theirs.modules():
            if isinstance(layer, nn.Linear):
                layer.rule = lrp_rules.EpsilonRule(1e-9)
            elif isinstance(layer, nn.Conv2d):
                layer.rule = make.get(name, lrp_rules.Alpha1_Beta0_Rule)()
        expected = LRP(theirs).attribute(x, target=1).detach()
        rules = {"EpsilonRule": Epsilon(1e-9), "GammaRule": Gamma(0.25, 1e-9), "Alpha1_Beta0_Rule": ZPlus(1e-9)}
        found = relevance(model, x, 1, composite=Composite(Epsilon(1e-9), rules[name]), conservation=True)
        assert found.check().ok
        if not bias or name == "EpsilonRule":
            torch.testing.assert_close(found.input, expected, rtol=1e-6, atol=1e-9)
        else:
            assert not torch.allclose(found.input, expected, rtol=1e-2)

    def test_captum_makes_relevance_from_a_negative_bias(self) -> None:
        """The positive contribution is 3, and all of the relevance is its; captum divides by 3 - 1."""
        peers.import_captum()
        from captum.attr import LRP
        from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule

        layer = nn.Linear(2, 1).double()
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[3.0, -2.0]]))
            layer.bias.fill_(-1)
        x = torch.tensor([[1.0, 0.5]]).double()
        found = relevance(layer, x, 0, composite=Composite(ZPlus(0)))
        torch.testing.assert_close(found.input, torch.tensor([[1.0, 0.0]]).double())
        theirs = nn.Sequential(copy.deepcopy(layer))
        theirs[0].rule = Alpha1_Beta0_Rule()
        torch.testing.assert_close(LRP(theirs).attribute(x, target=0).detach(), torch.tensor([[1.5, 0.0]]).double())


class Test2Stabilisers:
    @pytest.mark.parametrize("sign", [1, -1])
    def test_never_add_relevance(self, sign: int) -> None:
        """Added without the sign of the output, a stabiliser makes relevance at negative outputs."""
        x = torch.randn(200, 5, dtype=torch.float64)
        layer = nn.Linear(5, 1, bias=False).double()
        found = relevance(lambda t: sign * layer(t), x, 0, composite=Composite(Epsilon(0.3)), init="one")
        assert (totals(found) < 1).all()
        assert (totals(found) > 0).all()

    def test_sign_of_zero_is_positive(self) -> None:
        assert unit([1, 1], [1, -1], 1e-300, Epsilon(0.5)) == pytest.approx([2.0, -2.0])

    @pytest.mark.parametrize("composite", NO_BOUNDS)
    def test_half_precision_is_finite(self, composite: str) -> None:
        """1e-6 and less is nothing in float16; outputs that are zero are not divided by."""
        model = randomize(VGG(bias=False)).half()
        x = torch.zeros(2, 3, 16, 16, dtype=torch.float16)
        x[0, :, 4:8, 4:8] = 1e-3
        found = relevance(model, x, 1, composite=composite)
        assert torch.isfinite(found.input).all()


class Test3AlphaTwo:
    def test_doubles_where_nothing_is_negative(self) -> None:
        """By definition of the rule; the books name it."""
        assert unit([1, 1], [3, 1], 0.0, AlphaBeta(2, 1, epsilon=0)) == pytest.approx([1.5, 0.5])
        layer, x = nn.Linear(4, 1, bias=False).double(), torch.rand(3, 4, dtype=torch.float64)
        nn.init.uniform_(layer.weight, 0.1, 1)
        found = relevance(layer, x, 0, composite=Composite(AlphaBeta(2, 1, epsilon=0)), conservation=True)
        torch.testing.assert_close(totals(found), 2 * found.logits[:, 0])
        assert found.check().totals["unplaced"] == pytest.approx(-float(found.logits.sum()))
        assert found.check().ok


class Test4GammaGate:
    def test_is_the_sign_of_the_output_with_its_bias(self) -> None:
        """w x = 1, but with its bias the unit is at -1: what is negative counts 1 + gamma fold, the bias too."""
        total = 2 - 2 * 1 - 2 * 2
        assert unit([2, 1], [1, -1], -2.0, Gamma(1.0, 0)) == pytest.approx([2 / total, -2 / total])

    def test_nothing_at_zero(self) -> None:
        layer = nn.Linear(2, 2, bias=False).double()
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
        x = torch.ones(1, 2, dtype=torch.float64)
        found = relevance(lambda t: layer(t)[:, :1] + 1, x, 0, composite=Composite(Gamma(0.5)), init="one")
        assert (found.input == 0).all()


def test_5_max_pooling_gives_all_to_the_winner() -> None:
    """The documented choice (zennit's and captum's too); average pooling in its place has to be written as such."""
    x = torch.rand(1, 1, 4, 4, dtype=torch.float64) + 0.1
    found = relevance(lambda t: F.max_pool2d(t, 2).flatten(1).sum(1, keepdim=True), x, 0)
    winners = F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)
    torch.testing.assert_close(found.input, winners)
    tie = relevance(lambda t: F.max_pool2d(t, 2).flatten(1), torch.ones(1, 1, 2, 2), 0)
    assert tie.input.flatten().tolist() == [1, 0, 0, 0]


def test_6_w_square_says_what_the_bias_does() -> None:
    assert unit([5, 0], [1, 2], 2.0, WSquare()) == pytest.approx([1 / 5, 4 / 5])
    assert unit([5, 0], [1, 2], 2.0, WSquare(bias=True)) == pytest.approx([1 / 9, 4 / 9])


class FunctionalSum(nn.Module):
    """A sum that is no module with a rule."""

    def forward(self, stacked: Tensor) -> Tensor:
        return stacked[..., 0] + stacked[..., 1]


class Test7ResidualSums:
    @pytest.mark.parametrize("name", [*NO_BOUNDS, "gamma"])
    def test_share_relevance(self, name: str) -> None:
        """Rules that hang on modules see no functional sum and give all of the relevance to both branches."""
        model, x = randomize(ResNet()), torch.randn(2, 3, 16, 16, dtype=torch.float64)
        composite = Composite(Gamma(0.3), Gamma(0.3)) if name == "gamma" else name
        found = relevance(model, x, 1, composite=composite, conservation=True)
        books = found.check()
        assert books.ok, str(books)
        assert not books.elsewhere or name.endswith("flat"), "sums keep nothing"

    def test_zennit_doubles(self) -> None:
        """The peer's composite on the model as it is, and on the one with sums as modules, with which we agree."""
        from tests.lrp.test_against_zennit import named, pair, theirs

        model, twin, canonizers = pair("resnet")
        plain = copy.deepcopy(twin)
        for block in plain.blocks:
            block.sum = FunctionalSum()
        x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
        ours = relevance(model, x, torch.tensor([0, 3, 1]), composite="epsilon_plus").input
        right, wrong = (theirs(named("epsilon_plus", x, canonizers), m, x)[1] for m in (twin, plain))
        torch.testing.assert_close(ours / right.abs().max(), right / right.abs().max(), rtol=0, atol=1e-6)
        assert (wrong.flatten(1).sum(1) / ours.flatten(1).sum(1)).abs().min() > 2


def test_8_shared_modules_are_layers_each_time_they_run() -> None:
    shared, head = nn.Linear(6, 6).double(), nn.Linear(6, 3).double()
    twin = copy.deepcopy(shared)
    x = torch.randn(4, 6, dtype=torch.float64)

    class Net(nn.Module):
        def __init__(self, *layers: nn.Module) -> None:
            super().__init__()
            self.layers = nn.ModuleList(layers)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = F.relu(layer(x))
            return head(x)

    for rule in ALL_RULES:
        one, two = (relevance(Net(shared, s), x, 1, composite=Composite(rule)) for s in (shared, twin))
        torch.testing.assert_close(one.input, two.input)
        torch.testing.assert_close(one.neurons["layers.0"], two.neurons["layers.0"] + two.neurons["layers.1"])


class Test9To11NothingStaysBehind:
    @pytest.mark.parametrize("composite", NO_BOUNDS)
    def test_parameters_are_the_same_objects_with_the_same_values(self, composite: str) -> None:
        """An optimizer, EMA or DDP holds the parameters; BatchNorm is merged nowhere but in the rule."""
        model, x = randomize(ResNet()), torch.randn(2, 3, 16, 16, dtype=torch.float64)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        ids = [id(p) for p in model.parameters()]
        state = copy.deepcopy(model.state_dict())
        relevance(model, x, composite=composite)
        assert [id(p) for p in model.parameters()] == ids
        assert [id(p) for group in optimizer.param_groups for p in group["params"]] == ids
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[name]), name
            assert torch.equal(value, model.get_parameter(name) if name in dict(model.named_parameters()) else value)

    def test_no_gradient_is_filled(self) -> None:
        model, x = randomize(ResNet()), torch.randn(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
        relevance(model, x)
        assert x.grad is None
        assert all(p.grad is None for p in model.parameters())

    def test_no_hooks_are_left(self) -> None:
        model, x = randomize(VGG()), torch.randn(2, 3, 16, 16, dtype=torch.float64)
        for _ in range(3):
            relevance(model, x, composite="epsilon_alpha2_beta1_flat")
        for module in model.modules():
            hooks = [value for name, value in vars(module).items() if name.endswith("_hooks")]
            assert hooks
            assert not any(hooks)

    def test_rules_and_composites_travel(self) -> None:
        for value in (*ALL_RULES, *(COMPOSITES[name]() for name in NO_BOUNDS)):
            assert pickle.loads(pickle.dumps(value)) == value


def test_12_projections_of_multihead_attention_have_rules() -> None:
    """They never run as modules of their own, so that hooks on them never fire."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))

    model, x = Net().eval().double(), torch.randn(2, 4, 8, dtype=torch.float64)
    nn.init.normal_(model.attention.in_proj_bias)
    plain = relevance(model, x, 1)
    assert list(plain.neurons) == ["attention.in_proj_weight", "attention.heads", "attention.out_proj", "head"]
    for layer in ("attention.in_proj_weight", "attention.out_proj"):
        changed = relevance(model, x, 1, composite=Composite(names={layer: Gamma(1.0)}))
        assert not torch.allclose(changed.input, plain.input, rtol=1e-3)


def test_13_no_class_or_function_is_patched() -> None:
    """Another model's gradient is what it was; dropout in training mode drops."""
    functions = [F.softmax, F.gelu, F.layer_norm, F.scaled_dot_product_attention, F.dropout, torch.matmul]
    methods = [c.forward for c in (nn.LayerNorm, nn.Dropout, nn.GELU, nn.MultiheadAttention, nn.Linear, Block)]
    other, x = randomize(ViT()), torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    (before,) = torch.autograd.grad(other(x)[:, 0].sum(), x)
    for composite in ("attnlrp", "cp_lrp"):
        relevance(randomize(ViT()), x.detach(), 0, composite=composite)
    (after,) = torch.autograd.grad(other(x)[:, 0].sum(), x)
    assert torch.equal(before, after)
    assert functions == [F.softmax, F.gelu, F.layer_norm, F.scaled_dot_product_attention, F.dropout, torch.matmul]
    assert methods == [c.forward for c in (nn.LayerNorm, nn.Dropout, nn.GELU, nn.MultiheadAttention, nn.Linear, Block)]
    assert (nn.Dropout(0.5)(torch.ones(1000)) == 0).any()


def test_14_no_second_graph_is_built() -> None:
    """The backward pass runs without recording: nothing of it is kept, nothing could be differentiated twice."""

    recording: list[bool] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if "backward" in str(function) or "lrp_" in str(function):
                recording.append(torch.is_grad_enabled())
            return function(*args, **(kwargs or {}))

    model, x = randomize(ResNet()), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    with Watch():
        found = relevance(model, x, composite="epsilon_alpha2_beta1")
    assert len(recording) > 10
    assert not any(recording)
    assert not any(t.requires_grad for t in (found.input, found.logits, *found.neurons.values()))


class Test15RulesAndMasksDoWhatTheySay:
    def test_every_rule_has_an_effect(self) -> None:
        """A rule that is asked for and silently not applied looks like the gradient."""
        model, x = randomize(ReluNet(bias=True)), torch.randn(2, 3, 8, 8, dtype=torch.float64)
        rules = [*ALL_RULES, Epsilon(0.2), Gamma(0.4), AlphaBeta(3, 2), WSquare(bias=True), ZBox(-4.0, 3.0)]
        found = [relevance(model, x, 1, composite=Composite(first=rule)).input for rule in rules]
        for i, one in enumerate(found):
            assert not any(torch.allclose(one, other, rtol=1e-4) for other in found[:i]), rules[i]

    def test_a_masked_channel_is_silent_behind_batch_norm(self) -> None:
        """Without its row alone it would still put out beta - mu gamma / sigma."""
        model, x = randomize(VGG(bias=False)).float(), torch.randn(2, 3, 16, 16)
        perturb_(model, Picks(neurons={"features.0": [2]}), sample=x[:1])
        assert (model.features[:2](x)[:, 2] == 0).all()
        assert (relevance(model, x).neurons["features.0"][:, 2] == 0).all()


@pytest.mark.parametrize("rule", ALL_RULES, ids=repr)
def test_16_in_place_functions_behind_a_layer(rule: Rule) -> None:
    """They would overwrite the output that the rule needs."""
    first, second = nn.Linear(6, 6).double(), nn.Linear(6, 3).double()

    def in_place(x: Tensor) -> Tensor:
        y = first(x)
        y += x
        return second(F.relu(y, inplace=True).mul_(0.5))

    def out_of_place(x: Tensor) -> Tensor:
        return second(0.5 * F.relu(first(x) + x))

    x = torch.randn(4, 6, dtype=torch.float64)
    one, two = (relevance(model, x, 1, composite=Composite(rule)) for model in (in_place, out_of_place))
    torch.testing.assert_close(one.input, two.input)
    torch.testing.assert_close(one.logits, out_of_place(x).detach())


@pytest.mark.parametrize("padding", [1, 2])
@pytest.mark.parametrize("rule", [Flat(), WSquare(), ZBox(-2.0, 3.0, epsilon=0)], ids=repr)
def test_17_padding_is_not_connected(rule: Rule, padding: int) -> None:
    """Relevance that were given to padding would be lost at the border."""
    conv = nn.Conv2d(3, 4, 3, padding=padding, bias=False).double()
    x = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    found = relevance(lambda t: F.relu(conv(t)).sum((2, 3)), x, 1, composite=Composite(first=rule))
    torch.testing.assert_close(totals(found), found.logits[:, 1])


def test_18_softmax_over_any_dimension() -> None:
    """The first-order Taylor rule is R_i = x_i (R_i - s_i sum_j R_j), j along the dimension of the softmax."""
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    c = torch.randn(2, 3, 4, dtype=torch.float64)
    for dim in (1, 2, -2):
        found = relevance(lambda t, d=dim: (F.softmax(t, d) * c).flatten(1).sum(1, keepdim=True), x, 0)
        s = x.softmax(dim)
        torch.testing.assert_close(found.input, x * (c * s - s * (c * s).sum(dim, keepdim=True)))

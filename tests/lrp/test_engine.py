"""What makes LRP go wrong in practice: residual sums, shared modules, in-place code, functional code, names."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.lrp.nets import VGG, ReluNet, ResNet, randomize
from zsu_fast.lrp import Composite, Epsilon, Flat, Gamma, WSquare, ZBox, Zero, epsilon_gamma_box, relevance

ZERO = Composite(Zero(), Zero())


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 16, 16, dtype=torch.float64)


def gradient_times_input(model: Callable, x: Tensor, target: int) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x)[:, target].sum(), x)[0] * x.detach()


@pytest.mark.parametrize("bias", [True, False])
def test_lrp_zero_is_gradient_times_input(bias: bool) -> None:
    model = randomize(ReluNet(bias))
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    found = relevance(model, x, 2, composite=ZERO)
    torch.testing.assert_close(found.input, gradient_times_input(model, x, 2))
    torch.testing.assert_close(found.logits, model(x))


@pytest.mark.parametrize("model", [VGG(), ResNet()], ids=["vgg", "resnet"])
def test_lrp_zero_is_gradient_times_input_with_batch_norm_and_residuals(model: nn.Module, images: Tensor) -> None:
    """Trap: a functional residual sum doubles the relevance in every block of libraries that hang rules on modules."""
    model = randomize(model)
    found = relevance(model, images, 1, composite=ZERO)
    torch.testing.assert_close(found.input, gradient_times_input(model, images, 1))


@pytest.mark.parametrize(
    "composite", ["epsilon", "epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "gamma", "box"]
)
def test_relevance_is_conserved_without_biases(composite: str) -> None:
    model = randomize(ReluNet(bias=False))
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    gamma = Composite(Gamma(0.1), Gamma(0.5))
    rules = {"gamma": gamma, "box": epsilon_gamma_box(-5, 5)}.get(composite, composite)
    found = relevance(model, x, 1, composite=rules)
    logit = found.logits[:, 1]
    if composite != "epsilon_alpha2_beta1":  # neurons without positive (negative) contributions lose (double) theirs
        torch.testing.assert_close(found.input.sum((1, 2, 3)), logit, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.neurons["fc2"].sum(1), logit)
    torch.testing.assert_close(found.neurons["fc1"].sum(1), logit, rtol=1e-4, atol=1e-6)


def test_neurons_are_relevance_at_the_layers_output(images: Tensor) -> None:
    """[N, units] = sum of c * a, BatchNorm and activation included, in execution order, by module name."""
    model = randomize(VGG())
    activations: dict[str, Tensor] = {}
    x = images.clone().requires_grad_()
    h = x
    for i, module in enumerate(model.features):
        h = module(h)
        activations[f"features.{i}"] = h
    logits = model.classifier(h)
    points = {"features.0": "features.2", "features.3": "features.4", "features.6": "features.8"}
    grads = torch.autograd.grad(logits[:, 0].sum(), [activations[p] for p in points.values()])
    found = relevance(model, images, 0, composite=ZERO)
    assert list(found.neurons) == ["features.0", "features.3", "features.6", "classifier.1", "classifier.4"]
    for (layer, point), c in zip(points.items(), grads, strict=True):
        torch.testing.assert_close(found.neurons[layer], (c * activations[point]).sum((2, 3)).detach())
    expected = torch.zeros(3, 5, dtype=torch.float64)
    expected[:, 0] = logits[:, 0].detach()
    torch.testing.assert_close(found.neurons["classifier.4"], expected)


def test_layers_selects(images: Tensor) -> None:
    model = randomize(VGG())
    everything = relevance(model, images, 0).neurons
    some = relevance(model, images, 0, layers=["features.*", "classifier.4"]).neurons
    assert list(some) == ["features.0", "features.3", "features.6", "classifier.4"]
    for name, units in some.items():
        torch.testing.assert_close(units, everything[name])
    assert list(relevance(model, images, 0, layers="features.3").neurons) == ["features.3"]
    assert relevance(model, images, 0, layers=[]).neurons == {}


def test_layers_that_no_relevance_reaches_are_zero() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            self.unused(x)
            return self.used(x)

    found = relevance(Model(), torch.randn(2, 4), 0)
    assert (found.neurons["unused"] == torch.zeros(2, 6)).all()


class TestShared:
    def test_module_used_twice_adds_up(self) -> None:
        """Trap: libraries that keep one input per module give wrong numbers, or refuse."""

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.shared, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(F.relu(self.shared(F.relu(self.shared(x)))))

        class Unrolled(Model):
            def __init__(self) -> None:
                super().__init__()
                self.second = nn.Linear(6, 6)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(F.relu(self.second(F.relu(self.shared(x)))))

        model, unrolled = Model().double(), Unrolled().double()
        unrolled.load_state_dict(model.state_dict(), strict=False)
        unrolled.second.load_state_dict(model.shared.state_dict())
        x = torch.randn(4, 6, dtype=torch.float64)
        rules = Composite(Gamma(0.3))
        one, two = relevance(model, x, 1, composite=rules), relevance(unrolled, x, 1, composite=rules)
        torch.testing.assert_close(one.input, two.input)
        torch.testing.assert_close(one.neurons["shared"], two.neurons["shared"] + two.neurons["second"])

    def test_rows_of_one_parameter_are_its_units(self) -> None:
        weight = nn.Parameter(torch.randn(7, 4))

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.rows = weight

            def forward(self, x: Tensor) -> Tensor:
                return torch.cat([F.linear(x, self.rows[:3]), F.linear(x, self.rows[3:])], 1)

        x = torch.randn(2, 4)
        found = relevance(Model(), x, 5)
        assert found.neurons["rows"].shape == (2, 7)
        torch.testing.assert_close(found.neurons["rows"][:, 5], F.linear(x, weight)[:, 5].detach())


class TestFunctional:
    def test_every_way_to_write_a_linear_layer(self) -> None:
        class Model(nn.Module):
            def __init__(self, way: str) -> None:
                super().__init__()
                self.way = way
                self.w = nn.Parameter(torch.randn(6, 5, generator=torch.Generator().manual_seed(1)).double())
                self.b = nn.Parameter(torch.zeros(5).double())

            def forward(self, x: Tensor) -> Tensor:
                match self.way:
                    case "linear":
                        return F.linear(x, self.w.t(), self.b)
                    case "matmul":
                        return x @ self.w + self.b
                    case "addmm":
                        return torch.addmm(self.b, x, self.w)
                    case "left":
                        return (self.w.T @ x.T).T + self.b
                    case "einsum":
                        return torch.einsum("ni,io->no", x, self.w) + self.b
                    case _:
                        return F.conv1d(x[:, :, None], self.w.t()[:, :, None], self.b)[:, :, 0]

        x = torch.randn(3, 6, dtype=torch.float64)
        rules = Composite(Gamma(0.5), Gamma(0.5))
        expected = relevance(Model("linear"), x, 2, composite=rules)
        assert list(expected.neurons) == ["w"]
        for way in ("matmul", "addmm", "left", "einsum", "conv"):
            found = relevance(Model(way), x, 2, composite=rules)
            torch.testing.assert_close(found.input, expected.input, msg=way)
            torch.testing.assert_close(found.neurons["w"], expected.neurons["w"], msg=way)

    def test_operands_by_name(self) -> None:
        layer = nn.Linear(4, 4).double()

        def by_name(x: Tensor) -> Tensor:
            y = F.relu(input=F.linear(input=x, weight=layer.weight, bias=layer.bias), inplace=True)
            y = torch.add(torch.mul(input=y, other=x), other=torch.pow(y, exponent=2), alpha=0.5)
            y = torch.bmm(y[:, None], mat2=x[:, :, None])[:, :, 0] * torch.softmax(input=y, dim=1)
            return torch.div(y, other=torch.linalg.vector_norm(y, dim=1, keepdim=True))

        def by_position(x: Tensor) -> Tensor:
            y = F.relu(layer(x))
            y = y * x + 0.5 * y**2
            y = (y[:, None] @ x[:, :, None])[:, :, 0] * y.softmax(1)
            return y / torch.linalg.vector_norm(y, dim=1, keepdim=True)

        x = torch.randn(3, 4, dtype=torch.float64)
        first, second = relevance(by_name, x, 1), relevance(by_position, x, 1)
        torch.testing.assert_close(first.logits, second.logits)
        torch.testing.assert_close(first.input, second.input)

    def test_a_function_is_a_model(self) -> None:
        w = torch.randn(4, 6)
        found = relevance(lambda x: F.linear(F.relu(F.linear(x, w)), w[:, :4]), torch.randn(3, 6))
        assert list(found.neurons) == ["linear", "linear_1"]

    def test_normalisation_before_a_flat_first_layer(self, images: Tensor) -> None:
        """R passes elementwise affine functions unchanged; shapes, padding and interpolation move it."""
        conv = nn.Conv2d(3, 4, 3).double()
        mean, std = torch.randn(3, 1, 1).double(), torch.rand(3, 1, 1).double() + 0.5

        def model(x: Tensor) -> Tensor:
            x = F.pad((x - mean) / std, (1, 1, 1, 1)).transpose(2, 3)
            return F.relu(conv(x)).mean((2, 3))

        def prepared(x: Tensor) -> Tensor:
            return F.relu(conv(x)).mean((2, 3))

        for rules in (Composite(first=Flat()), epsilon_gamma_box(-4, 4)):
            outer = relevance(model, images, 1, composite=rules)
            inner = relevance(prepared, F.pad((images - mean) / std, (1, 1, 1, 1)).transpose(2, 3), 1, composite=rules)
            torch.testing.assert_close(outer.input, inner.input.transpose(2, 3)[:, :, 1:-1, 1:-1])

    def test_flat_behind_interpolation_conserves(self, images: Tensor) -> None:
        conv = nn.Conv2d(3, 4, 3, bias=False).double()

        def model(x: Tensor) -> Tensor:
            return F.relu(conv(F.interpolate(x, (20, 20), mode="bilinear"))).mean((2, 3))

        found = relevance(model, images, 1, composite=Composite(first=Flat()))
        torch.testing.assert_close(found.input.sum((1, 2, 3)), found.logits[:, 1])

    @pytest.mark.parametrize("pad", [(1, 2, 0, 1), (1, 1, 2, 2), (0, 3)])
    def test_padding_before_a_layer_is_not_connected(self, images: Tensor, pad: tuple) -> None:
        """TensorFlow's "same" padding is a function of its own: a flat first layer must lose nothing to it."""
        first, fc = nn.Conv2d(3, 4, 3, 2, 1, bias=False).double(), nn.Linear(4, 3).double()

        def model(x: Tensor) -> Tensor:
            return fc(first(F.pad(x, pad)).mean((2, 3)))

        for rule in (Flat(), WSquare(), ZBox(-4, 4)):
            found = relevance(model, images, 1, composite=Composite(Zero(), first=rule))
            torch.testing.assert_close(found.input.sum((1, 2, 3)), found.neurons["convolution"].sum(1))
        torch.testing.assert_close(found.logits, model(images).detach())
        found = relevance(model, images, 1, composite=ZERO)
        torch.testing.assert_close(found.input, gradient_times_input(model, images, 1))

    def test_squeeze_and_excitation_is_a_gate(self, images: Tensor) -> None:
        """The gate is held constant: the signal takes all, and x * sigmoid(x) is SiLU."""
        conv, squeeze, head = (m.double() for m in (nn.Conv2d(3, 4, 3), nn.Linear(4, 4), nn.Linear(4, 2)))

        def model(x: Tensor, constant: bool = False) -> Tensor:
            x = F.relu(conv(x))
            gate = torch.sigmoid(squeeze(x.mean((2, 3)))).view(len(x), 4, 1, 1)
            return head((x * (gate.detach() if constant else gate.expand_as(x))).mean((2, 3)))

        first = relevance(model, images, 0)
        second = relevance(lambda x: model(x, constant=True), images, 0)
        torch.testing.assert_close(first.input, second.input)
        silu = relevance(lambda x: head(F.silu(conv(x)).mean((2, 3))), images, 0)

        def by_hand(x: Tensor) -> Tensor:
            y = conv(x)
            return head((y * y.sigmoid()).mean((2, 3)))

        torch.testing.assert_close(relevance(by_hand, images, 0).input, silu.input)

    def test_norms_and_gelu_by_hand(self) -> None:
        norm, linear = nn.LayerNorm(6).double(), nn.Linear(6, 4).double()
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)

        def plain(x: Tensor) -> Tensor:
            return F.gelu(linear(norm(x)))

        def by_hand(x: Tensor) -> Tensor:
            centred = x - x.mean(-1, keepdim=True)
            x = centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + norm.eps)
            x = linear(norm.weight * x + norm.bias)
            return x * 0.5 * (1 + torch.erf(x / 2**0.5))

        x = torch.randn(5, 6, dtype=torch.float64)
        torch.testing.assert_close(relevance(by_hand, x, 1).input, relevance(plain, x, 1).input)

        rms = nn.RMSNorm(6, eps=1e-6).double()
        nn.init.normal_(rms.weight)

        def rms_by_hand(x: Tensor) -> Tensor:
            return linear(rms.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + rms.eps)))

        torch.testing.assert_close(relevance(rms_by_hand, x, 1).input, relevance(lambda t: linear(rms(t)), x, 1).input)


class TestNormsAndActivations:
    """Functions that stand on no layer, against a gradient with the right part held constant."""

    @pytest.mark.parametrize(
        "norm, dims, groups",
        [
            (nn.GroupNorm(2, 6), (2, 3, 4), 2),
            (nn.GroupNorm(3, 6, affine=False), (2, 3, 4), 3),
            (nn.InstanceNorm2d(6), (2, 3, 4), 6),
            (nn.InstanceNorm2d(6, affine=True), (2, 3, 4), 6),
        ],
    )
    def test_groups(self, norm: nn.Module, dims: tuple, groups: int) -> None:
        norm = randomize(norm)
        x = torch.randn(2, 6, 4, 4, dtype=torch.float64)

        def by_hand(t: Tensor) -> Tensor:
            rows = t.unflatten(1, (groups, -1))
            sigma = (rows.detach().var(dims, correction=0, keepdim=True) + norm.eps).sqrt()
            y = ((rows - rows.mean(dims, keepdim=True)) / sigma).flatten(1, 2)
            weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
            return y if weight is None else y * weight.view(-1, 1, 1) + bias.view(-1, 1, 1)

        def model(t: Tensor) -> Tensor:
            return F.relu(norm(t + 1)).mean((2, 3))

        y = x.clone().requires_grad_()
        logits = F.relu(by_hand(y + 1)).mean((2, 3))
        (c,) = torch.autograd.grad(logits[:, 2].sum(), y)
        found = relevance(model, x, 2)
        torch.testing.assert_close(found.logits, logits.detach())
        torch.testing.assert_close(found.input, (c * y).detach())

    def test_batch_norm_before_a_layer(self, images: Tensor) -> None:
        """As in pre-activation nets: nothing to fold it into."""
        norm, conv = randomize(nn.BatchNorm2d(3)), nn.Conv2d(3, 5, 3).double()

        def model(x: Tensor) -> Tensor:
            return conv(F.relu(norm(x))).mean((2, 3))

        found = relevance(model, images, 1, composite=ZERO)
        torch.testing.assert_close(found.input, gradient_times_input(model, images, 1))

    @pytest.mark.parametrize(
        "function",
        [F.gelu, F.silu, F.relu6, F.hardswish, torch.tanh, F.elu, F.selu, F.celu, F.mish, F.softsign, F.hardtanh,
         torch.square, torch.abs, F.leaky_relu, lambda t: t.clamp(-0.5, 0.7), lambda t: t.pow(3), lambda t: t * t,
         lambda t: F.gelu(t, approximate="tanh"), lambda t: t.clamp(min=0), lambda t: F.relu(t) ** 1.5,
         F.hardshrink, F.softshrink, lambda t: t.clamp(torch.tensor(-0.5), torch.tensor(0.7))],
    )  # fmt: skip
    def test_activations_pass_relevance_on(self, function) -> None:
        x = torch.randn(4, 7, dtype=torch.float64)
        y = torch.randn(4, 7, dtype=torch.float64)
        found = relevance(lambda t: function(t * 2), x, 3)
        expected = torch.zeros_like(x)
        expected[:, 3] = function(x * 2)[:, 3]
        torch.testing.assert_close(found.input, expected)
        at_zero = relevance(lambda t: function(t) + t * y, torch.zeros_like(x), 3)
        assert torch.isfinite(at_zero.input).all()


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 6])
def test_windows_and_sequence_first_tensors_keep_samples_apart(samples: int) -> None:
    """As many tokens in a window, or in all, as there are samples: shapes alone do not tell which is which."""
    linear, head = nn.Linear(4, 5).double(), nn.Linear(5, 2).double()

    def windows(x: Tensor) -> Tensor:  # [N, 6, 4] -> [N * 3, 2, 4], as in Swin
        y = F.relu(linear(x.reshape(-1, 2, 4)))
        return head(y.reshape(len(x), 6, 5).mean(1))

    def sequence_first(x: Tensor) -> Tensor:
        return head(F.relu(linear(x.transpose(0, 1))).mean(0))

    def plain(x: Tensor) -> Tensor:
        return head(F.relu(linear(x)).mean(1))

    x = torch.randn(samples, 6, 4, dtype=torch.float64)
    expected = torch.cat([relevance(plain, sample[None], 0).neurons["linear"] for sample in x])
    torch.testing.assert_close(relevance(plain, x, 0).neurons["linear"], expected)
    for model in (windows, sequence_first):
        torch.testing.assert_close(relevance(model, x, 0).neurons["linear"], expected)


def test_epsilon_absorbs_what_it_says() -> None:
    layer = nn.Linear(4, 1, bias=False).double()
    x = torch.rand(2, 4, dtype=torch.float64)
    z = layer(x).detach()
    found = relevance(layer, x, 0, composite=Composite(Epsilon(0.5)))
    torch.testing.assert_close(found.input.sum(1, keepdim=True), z * z / (z + 0.5 * z.sign()))

"""PatternNet and PatternAttribution against the paper's formulas written out, on patches that are written out too."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.lrp.nets import VGG, ResNet, ViT, randomize
from zsu_fast.lrp import (
    Composite,
    PatternAttribution,
    Patterns,
    UncoveredFunctionError,
    estimate_patterns,
    pattern_attribution,
    pattern_net,
    relevance,
)


def pattern_by_definition(x: Tensor, y: Tensor, w: Tensor, fires: Tensor | None) -> Tensor:
    """a of one unit from samples x [n, inputs], y [n]: S_a, or S_a+- over the samples where it fires."""
    if fires is None:
        covariance = (x * y[:, None]).mean(0) - x.mean(0) * y.mean()
        return covariance / y.var(correction=0)
    x_fires, y_fires = x[fires], y[fires]
    numerator = (x_fires * y_fires[:, None]).mean(0) - x_fires.mean(0) * y.mean()
    return numerator / (w @ numerator)


def by_definition(layer: nn.Module, input: Tensor, output: Tensor, two_component: bool) -> Tensor:
    """Pattern of a convolution (of any stride, padding, dilation, groups; transposed too) or a linear layer.

    What a weight element is multiplied with is the output of the layer with that element 1 and all others 0.
    """
    weight = layer.weight.detach()
    transposed = isinstance(layer, nn.ConvTranspose2d)
    bare = copy.deepcopy(layer)
    bare.bias = None
    # [elements of the weight, samples, units, positions]: what each element is multiplied with.
    elements = torch.eye(weight.numel(), dtype=weight.dtype).view(-1, *weight.shape)
    met = torch.stack([torch.func.functional_call(bare, {"weight": e}, (input,)).detach() for e in elements])
    pattern = torch.zeros_like(weight)
    for unit in range(output.shape[1]):
        of_unit: tuple = (unit,)
        if transposed:
            group, column = divmod(unit, weight.shape[1])
            rows = weight.shape[0] // layer.groups
            of_unit = (slice(group * rows, (group + 1) * rows), column)
        own = torch.zeros_like(weight, dtype=torch.bool)
        own[of_unit] = True
        x = met[own.flatten()][:, :, unit].flatten(1).t()
        y = output[:, unit].flatten()
        pattern[own] = pattern_by_definition(x, y, weight[own], y > 0 if two_component else None)
    return pattern


LAYERS = [
    nn.Linear(5, 4),
    nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
    nn.Conv2d(4, 3, (3, 2), padding="same", dilation=2, bias=False),
    nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
]


@pytest.mark.parametrize("relu", [True, False], ids=["relu", "none"])
@pytest.mark.parametrize("estimator", ["linear", "two-component"])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_estimates_by_definition(layer: nn.Module, estimator: str, relu: bool) -> None:
    """One pass over batches of uneven sizes. Inputs are far from zero mean, where careless moments cancel."""
    layer = layer.double()
    shape = (30, 5) if isinstance(layer, nn.Linear) else (10, 4, 6, 5)
    x = torch.randn(shape, dtype=torch.float64) + (0 if layer.bias is None else 3)
    if layer.bias is not None:  # some units fire, some do not
        with torch.no_grad():
            layer.bias -= layer(x).mean([d for d in range(x.dim()) if d != 1])

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            y = F.relu(y) if relu else y
            return y.flatten(2).sum(2) if y.dim() > 2 else y

    found = estimate_patterns(Model(), x.split([1, 4, len(x) - 5]), estimator=estimator)
    assert found.estimator == estimator
    pattern = found.tensors["layer"]
    expected = by_definition(layer, x, layer(x).detach(), relu and estimator == "two-component")
    torch.testing.assert_close(pattern, expected, rtol=1e-8, atol=1e-10)


def test_w_times_a_is_one() -> None:
    model = randomize(VGG())
    patterns = estimate_patterns(model, torch.randn(40, 3, 16, 16, dtype=torch.float64).split(8))
    for name, pattern in patterns.tensors.items():
        product = (model.get_submodule(name).weight * pattern).flatten(1).sum(1)
        alive = pattern.flatten(1).abs().sum(1) > 0
        torch.testing.assert_close(product[alive], torch.ones_like(product[alive]))
        assert alive.sum() >= len(alive) / 2


def test_the_papers_linear_model() -> None:
    """x = s a_s + d a_d: weights cancel the distractor, the gradient shows them; the pattern is the signal's direction.

    The paper's first example, in two dimensions.
    """
    signal, distractor = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([1.0, 1.0], dtype=torch.float64)
    y = torch.randn(20000, 1, dtype=torch.float64)
    x = y * signal + torch.randn(20000, 1, dtype=torch.float64) * distractor
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -1.0]]))
    torch.testing.assert_close(model(x).detach(), y)
    patterns = estimate_patterns(model, x.split(3000))
    torch.testing.assert_close(patterns.tensors["weight"], signal[None], rtol=0, atol=0.03)
    found = relevance(model, x[:5], 0, composite=pattern_net(patterns))
    torch.testing.assert_close(found.input, y[:5] * signal, rtol=0, atol=0.1)
    found = relevance(model, x[:5], 0, composite=pattern_attribution(patterns))
    torch.testing.assert_close(found.input, y[:5] * torch.tensor([[1.0, 0.0]]), rtol=0, atol=0.1)


@pytest.mark.parametrize("rule", [pattern_net, pattern_attribution])
def test_one_plain_backward_with_other_weights(rule) -> None:
    """Layer by layer: gates and pooling as autograd has them, A or W * A in the place of W."""
    model = randomize(VGG())
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    patterns = estimate_patterns(model, torch.randn(40, 3, 16, 16, dtype=torch.float64).split(8))
    found = relevance(model, x, 2, composite=rule(patterns))

    named = [(f"{part}.{i}", m) for part in ("features", "classifier") for i, m in enumerate(getattr(model, part))]
    values = [x]
    for _, module in named:
        values.append(module(values[-1]).detach())
    flow = torch.zeros_like(values[-1])
    flow[:, 2] = values[-1][:, 2]
    units = {}
    for (name, module), input in zip(reversed(named), reversed(values[:-1]), strict=True):
        if isinstance(module, nn.Conv2d | nn.Linear):
            units[name] = flow.flatten(2).sum(2) if flow.dim() > 2 else flow
            with torch.no_grad():
                kept = module.weight.clone()
                module.weight.copy_(patterns.tensors[name] * (kept if rule is pattern_attribution else 1))
                flow = torch.func.vjp(module, input)[1](flow)[0].detach()
                module.weight.copy_(kept)
        elif isinstance(module, nn.BatchNorm2d):  # one with the layer below: relevance passes, a signal is unscaled
            if rule is pattern_net:
                factor = module.weight / (module.running_var + module.eps).sqrt()
                flow = flow / factor.detach().view(-1, 1, 1)
                units_scale = factor.detach()
            continue
        else:
            flow = torch.func.vjp(module, input)[1](flow)[0]
    torch.testing.assert_close(found.input, flow)
    torch.testing.assert_close(found.neurons["classifier.1"], units["classifier.1"])
    torch.testing.assert_close(found.neurons["features.3"], units["features.3"])
    if rule is pattern_attribution:
        torch.testing.assert_close(found.neurons["features.0"], units["features.0"])
    else:
        torch.testing.assert_close(found.neurons["features.0"], units["features.0"] * units_scale)


def test_attribution_is_conserved_through_residual_sums() -> None:
    """w^T a = 1 at every unit and half for each summand: all that arrives goes on, biases notwithstanding."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.stem(x))
            x = F.relu(x + self.norm(self.two(F.relu(self.one(x)))))
            return self.head(F.avg_pool2d(F.max_pool2d(x, 2), 2).flatten(1))

    model = randomize(Net())
    data = torch.randn(64, 3, 10, 10, dtype=torch.float64)
    composite = pattern_attribution(estimate_patterns(model, [data]))
    found = relevance(model, data[:4], 1, composite=composite)
    # What flows into a dead unit is dropped by its gate, as in the paper: conservation is of what passes.
    torch.testing.assert_close(found.input.sum((1, 2, 3)), found.neurons["stem"].sum(1))
    torch.testing.assert_close(found.neurons["head"].sum(1), found.logits[:, 1])
    several = relevance(model, data[:4], [1, 2], composite=composite)
    torch.testing.assert_close(several[0].input, found.input)


def test_batch_norm_that_no_layer_takes_in() -> None:
    """As in pre-activation nets: relevance passes, a signal is unscaled."""
    norm, layer = randomize(nn.BatchNorm1d(4)), nn.Linear(4, 3).double()
    x = torch.randn(200, 4, dtype=torch.float64)
    patterns = estimate_patterns(lambda t: layer(norm(t)), [x])
    (a,) = patterns.tensors.values()
    y = layer(norm(x[:5])).detach()[:, 1:2]
    found = relevance(lambda t: layer(norm(t)), x[:5], 1, composite=pattern_attribution(patterns))
    torch.testing.assert_close(found.input, y * layer.weight[1].detach() * a[1])
    found = relevance(lambda t: layer(norm(t)), x[:5], 1, composite=pattern_net(patterns))
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    torch.testing.assert_close(found.input, y * a[1] / scale)


def test_shared_layers_and_rows_of_a_parameter() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.rows = nn.Linear(4, 4), nn.Parameter(torch.randn(6, 4))

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.shared(F.relu(self.shared(x))))
            return torch.cat([F.linear(x, self.rows[:2]), F.linear(x, self.rows[2:])], 1)

    model, x = Net().double(), torch.randn(500, 4, dtype=torch.float64)
    patterns = estimate_patterns(model, [x], estimator="linear")
    once = F.relu(model.shared(x)).detach()
    inputs = torch.cat([x, once])
    expected = by_definition(model.shared, inputs, model.shared(inputs).detach(), two_component=False)
    torch.testing.assert_close(patterns.tensors["shared"], expected)
    assert patterns.tensors["rows"].shape == (6, 4)
    torch.testing.assert_close((patterns.tensors["rows"] * model.rows).sum(1), torch.ones(6).double())
    assert torch.isfinite(relevance(model, x[:3], 4, composite=pattern_attribution(patterns)).input).all()


def test_single_precision_follows_double() -> None:
    model = randomize(ResNet())
    data = torch.randn(40, 3, 16, 16, dtype=torch.float64) + 2
    exact = estimate_patterns(model, data.split(8))
    single = estimate_patterns(model.float(), data.float().split(8))
    for name, pattern in exact.tensors.items():
        assert single.tensors[name].dtype == torch.float32
        largest = pattern.abs().max()
        torch.testing.assert_close(single.tensors[name].double() / largest, pattern / largest, rtol=0, atol=1e-4)


def test_dead_and_constant_units_have_no_pattern() -> None:
    layer = nn.Linear(3, 3)
    with torch.no_grad():
        layer.weight[0], layer.bias[0] = 0, 1
        layer.bias[1] = -100
    patterns = estimate_patterns(lambda x: F.relu(layer(x)), [torch.randn(50, 3)])
    (pattern,) = patterns.tensors.values()
    assert (pattern[:2] == 0).all()
    assert (pattern[2] != 0).all()


def test_batches_of_a_loader() -> None:
    model = randomize(VGG()).float()
    data = torch.utils.data.TensorDataset(torch.randn(10, 3, 16, 16), torch.arange(10))
    seen: list[int] = []
    found = estimate_patterns(model, torch.utils.data.DataLoader(data, batch_size=4), progress=seen.append)
    assert seen == [4, 8, 10]
    again = estimate_patterns(model, (x for x in data.tensors[0].split([4, 4, 2])))
    assert found == again
    assert hash(found) == hash(again)
    assert not any(p.requires_grad or p.grad is not None for p in found.tensors.values())


def test_are_values(tmp_path: Path) -> None:
    model = randomize(VGG()).float()
    patterns = estimate_patterns(model, [torch.randn(10, 3, 16, 16)], estimator="linear")
    path = tmp_path / "patterns.safetensors"
    patterns.save(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    loaded = Patterns.load(path)
    assert loaded == patterns
    assert list(loaded.tensors) == list(patterns.tensors)
    assert loaded.estimator == "linear"
    assert pattern_attribution(loaded) == pattern_attribution(patterns)
    assert pattern_attribution(loaded) != pattern_net(patterns)
    assert pickle.loads(pickle.dumps(pattern_net(patterns))) == pattern_net(patterns)
    assert "5 layers" in repr(pattern_net(patterns))
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(
        relevance(model, x, composite=pattern_net(loaded)).input,
        relevance(model, x, composite=pattern_net(patterns)).input,
    )


def test_files_that_are_not_patterns(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError, match="file"):
        Patterns.load(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="no whole file"):
        Patterns.load(path)
    good = {"format": "zsu_fast.patterns", "version": "1", "estimator": "linear", "layers": "fc"}
    weight = {"fc": torch.ones(2, 3)}
    for change, tensors, message in [
        ({"format": "pt"}, weight, "holds no patterns"),
        ({"version": "2"}, weight, "version 2"),
        ({"layers": "fc\nother"}, weight, "lists layers other"),
        ({"estimator": "cubic"}, weight, "estimator"),
        ({}, {"fc": torch.ones(2, 3, dtype=torch.int64)}, "floating-point"),
        ({}, {"fc": torch.full((2, 3), float("nan"))}, "not finite"),
    ]:
        save_file(tensors, path, good | change)
        with pytest.raises(ValueError, match=message):
            Patterns.load(path)


def test_refusals() -> None:
    model = randomize(VGG())
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    patterns = estimate_patterns(model, [x])
    fewer = {k: v for k, v in patterns.tensors.items() if k != "features.3"}
    with pytest.raises(ValueError, match=r"none for layer 'features\.3'"):
        relevance(model, x, composite=pattern_net(Patterns(fewer)))
    with pytest.raises(ValueError, match=r"'features\.3' has shape \(1, 8, 3, 3\)"):
        relevance(model, x, composite=pattern_net(Patterns(fewer | {"features.3": torch.zeros(1, 8, 3, 3)})))
    with pytest.raises(ValueError, match="for all layers"):
        Composite(linear=PatternAttribution(patterns))
    with pytest.raises(TypeError, match="patterns must be Patterns"):
        pattern_attribution({"fc": torch.zeros(2, 2)})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no images"):
        estimate_patterns(model, [])
    with pytest.raises(TypeError, match="batches must be"):
        estimate_patterns(model, [torch.zeros(2, 3, dtype=torch.int64)])
    with pytest.raises(ValueError, match="estimator"):
        estimate_patterns(model, [x], estimator="quadratic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"eval\(\)"):
        estimate_patterns(VGG(), [x])


@pytest.mark.parametrize(
    "function",
    [F.gelu, torch.sigmoid, lambda x: x * x, lambda x: x * 2, lambda x: F.layer_norm(x, (4,)), F.leaky_relu,
     lambda x: F.relu6(x + x), lambda x: x.sum(1, keepdim=True) + x, lambda x: x - x.flip(1)],
)  # fmt: skip
def test_other_functions_are_refused(function) -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 3)

    def model(x: Tensor) -> Tensor:
        return second(function(first(x)))

    x = torch.randn(20, 4)
    patterns = estimate_patterns(model, [x])
    with pytest.raises(UncoveredFunctionError, match="PatternAttribution"):
        relevance(model, x, 0, composite=pattern_attribution(patterns))


def test_estimates_of_a_transformer() -> None:
    """Layers in any network have patterns, though the whole backward is not defined for all."""
    model = randomize(ViT())
    patterns = estimate_patterns(model, [torch.randn(6, 3, 8, 8, dtype=torch.float64)])
    assert set(patterns.tensors) == {n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}

"""Whatever carries a model's weights: the same as the plain module, or one refusal by name before any work."""

import copy
import importlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import get_default_qat_qconfig_mapping, get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx, prepare_qat_fx

import zsu_fast
from zsu_fast.unlearn import Picks, model_digest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


def exported(net: nn.Module, sample: Tensor) -> nn.Module:
    sizes = {0: torch.export.Dim("images", min=1, max=4096)}
    return torch.export.export(net, (sample,), dynamic_shapes=(sizes,)).module()


def symbolic(net: nn.Module, sample: Tensor) -> nn.Module:
    return torch.fx.symbolic_trace(net)


@pytest.mark.parametrize("carry", [exported, symbolic])
def test_graphs_are_the_module_that_they_were_made_from(net, digits, carry):
    probes = digits.split(3)[0]
    graph = carry(copy.deepcopy(net), probes[:2])
    for composite in ("epsilon_plus", "attnlrp"):
        expected = zsu_fast.relevance(net, probes, 3, composite=composite)
        found = zsu_fast.relevance(graph, probes, 3, composite=composite, plan=composite == "attnlrp")
        assert torch.equal(found.input, expected.input)
        assert found.neurons.keys() == expected.neurons.keys()
        assert all(torch.equal(found.neurons[name], expected.neurons[name]) for name in expected.neurons)
    before = model_digest(net)
    assert model_digest(graph) == before
    for method in ("lra-npp", "channels"):
        asked = {"method": method, "budget": 3}
        result, expected = zsu_fast.forget(graph, 3, probes, **asked), zsu_fast.forget(net, 3, probes, **asked)
        assert result.picks == expected.picks and result.certificate == expected.certificate
        assert model_digest(graph) == model_digest(net)
        result.patch.revert(net)  # an undo file of the one fits the other
        result.patch.revert(graph)
        assert model_digest(graph) == model_digest(net) == before


def test_a_graph_that_takes_one_size_of_batch_says_so(conv_net, digits):
    graph = torch.export.export(conv_net, (digits.unseen_x[:6],)).module()
    with pytest.raises(ValueError, match=r"probes: the model does not take a batch of shape .*size\(\)\[0\] == 6"):
        zsu_fast.forget(graph, 3, digits.split(3)[0])
    with pytest.raises(TypeError, match=r"ExportedProgram; pass its \.module\(\)"):
        zsu_fast.forget(torch.export.export(conv_net, (digits.unseen_x[:6],)), 3, digits.split(3)[0])


class Functional(nn.Module):
    """The weights are held by another module than the one that computes, as functions of torch.func have it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.code = [net]  # none of its modules
        self.weights = nn.ParameterDict({n.replace(".", "_"): p for n, p in net.named_parameters()})

    def forward(self, x: Tensor) -> Tensor:
        net = self.code[0]
        held = {name: self.weights[name.replace(".", "_")] for name, _ in net.named_parameters()}
        return torch.func.functional_call(net, held, (x,))


def test_parameters_of_functional_call(conv_net, digits):
    probes = digits.split(3)[0]
    model = Functional(copy.deepcopy(conv_net)).eval()
    assert torch.equal(zsu_fast.relevance(model, probes, 3).input, zsu_fast.relevance(conv_net, probes, 3).input)
    patch = zsu_fast.forget(model, 3, probes).patch
    zsu_fast.forget(conv_net, 3, probes)
    assert [entry.tensor for entry in patch.entries] == ["weights.head_weight"]
    assert torch.equal(model(probes), conv_net(probes))


class Ensemble(nn.Module):
    def __init__(self, *nets: nn.Module) -> None:
        super().__init__()
        self.code, (weights, self.buffers_of) = [nets[0]], torch.func.stack_module_state(list(nets))
        self.names = list(weights)
        self.weights = nn.ParameterList(w.detach() for w in weights.values())

    def forward(self, x: Tensor) -> Tensor:
        def one(weights: dict, buffers: dict) -> Tensor:
            return torch.func.functional_call(self.code[0], (weights, buffers), (x,))

        return torch.vmap(one)(dict(zip(self.names, self.weights, strict=True)), self.buffers_of).mean(0)


class PerTarget(nn.Module):
    """Something vmapped that has no part in the logits, as masks of attention are made in transformers."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.vmap(lambda i: i >= 0)(torch.arange(x.shape[-1]))
        return self.net(x * kept)


def test_vmap(conv_net, digits):
    probes = digits.split(3)[0]
    model = Ensemble(conv_net, copy.deepcopy(conv_net)).eval()
    with pytest.raises(RuntimeError, match="conv2d: the model runs inside of torch.func"):
        zsu_fast.relevance(model, probes, 3)
    for method in ("lra-npp", "channels"):
        with pytest.raises(ValueError, match="model: it runs layers inside of torch.func"):
            zsu_fast.forget(model, 3, probes, method=method)
    with pytest.raises(ValueError, match="model: it runs layers inside of torch.func"):
        zsu_fast.compact(model, probes[:2])
    with pytest.raises(RuntimeError, match="a list of targets"):
        torch.vmap(lambda target: zsu_fast.relevance(conv_net, probes, target).input)(torch.arange(3))
    assert zsu_fast.relevance(PerTarget(conv_net), probes, 3).input.shape == probes.shape


class Linear8bitLt(nn.Linear):
    __module__ = "bitsandbytes.nn.modules"


class WQLinear(nn.Linear):
    __module__ = "awq.modules.linear"


class Int8Tensor(Tensor):
    __module__ = "torchao.quantization.quantize_.workflows"


class Float8Tensor(Tensor):
    __module__ = "torchao.quantization"


def with_layer(net: nn.Module, kind: type[nn.Linear]) -> nn.Module:
    net.hidden = kind(net.hidden.in_features, net.hidden.out_features)
    return net.eval()


def with_weight(net: nn.Module, kind: type[Tensor]) -> nn.Module:
    net.hidden.weight = nn.Parameter(net.hidden.weight.detach().as_subclass(kind), requires_grad=False)
    return net


def torchao(config: str, net: nn.Module) -> nn.Module:
    quantisation = pytest.importorskip("torchao.quantization")
    quantisation.quantize_(net, getattr(quantisation, config)())
    return net


def after_training(net: nn.Module, sample: Tensor) -> nn.Module:
    return prepare_qat_fx(net.train(), get_default_qat_qconfig_mapping(), (sample,)).eval()


def calibrated(net: nn.Module, sample: Tensor) -> nn.Module:
    prepared = prepare_fx(net, get_default_qconfig_mapping(), (sample,))
    prepared(sample)
    return convert_fx(prepared)


QUANTISED: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "torch.ao, dynamic": lambda net, x: torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8),
    "torch.ao, static": calibrated,
    "torch.ao, in training": after_training,
    "torchao int8": lambda net, x: torchao("Int8WeightOnlyConfig", net),
    "torchao int8, dynamic": lambda net, x: torchao("Int8DynamicActivationInt8WeightConfig", net),
    "bitsandbytes": lambda net, x: with_layer(net, Linear8bitLt),
    "awq": lambda net, x: with_layer(net, WQLinear),
    "torchao, a stand-in": lambda net, x: with_weight(net, Int8Tensor),
}


@pytest.mark.parametrize("quantise", QUANTISED.values(), ids=QUANTISED)
def test_quantised_models_are_refused_by_that_name(conv_net, digits, quantise):
    probes = digits.split(3)[0]
    model = quantise(conv_net, probes)
    message = r"model: module '\S+' \(\w+\) (is quantised|quantises).*pass the floating point model"
    for plan in (False, True):
        with pytest.raises(TypeError, match=message):
            zsu_fast.relevance(model, probes, 3, plan=plan)
    for method in ("lra-npp", "channels"):
        with pytest.raises(TypeError, match=message):
            zsu_fast.forget(model, 3, probes, method=method)
    with pytest.raises(TypeError, match=message):
        zsu_fast.select(model, 3, probes, budget=2)
    with pytest.raises(TypeError, match=message):
        zsu_fast.perturb_(model, Picks(neurons={"hidden": [1]}), sample=probes[:1])


def test_quantised_in_a_graph(conv_net, digits):
    pytest.importorskip("torchao.quantization.pt2e")
    steps = importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")
    x86 = importlib.import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    probes = digits.split(3)[0]
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    graph = steps.prepare_pt2e(exported(conv_net, probes), quantizer)
    graph(probes)
    graph = steps.convert_pt2e(graph)
    for call in (lambda: zsu_fast.forget(graph, 3, probes), lambda: zsu_fast.relevance(graph, probes, 3)):
        with pytest.raises(TypeError, match="is quantised: pass the floating point model"):
            call()


def test_float8_weights_have_relevance_and_no_edits(conv_net, digits):
    probes = digits.split(3)[0]
    model = torchao("Float8WeightOnlyConfig", copy.deepcopy(conv_net))
    for layer in ("hidden", "head"):
        getattr(conv_net, layer).weight = nn.Parameter(getattr(model, layer).weight.dequantize())
    found, expected = (zsu_fast.relevance(m, probes, 3, composite="epsilon_plus").input for m in (model, conv_net))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(TypeError, match=r"model: hidden.weight is a torchao Float8Tensor: forget before"):
        zsu_fast.forget(model, 3, probes)


def test_float8_weights_by_name(conv_net, digits):
    with pytest.raises(TypeError, match=r"model: hidden.weight is a torchao Float8Tensor: forget before"):
        zsu_fast.forget(with_weight(conv_net, Float8Tensor), 3, digits.split(3)[0])


class LoraLinear(nn.Module):
    __module__ = "peft.tuners.lora.layer"

    def __init__(self, base: nn.Linear, width: int = 2) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A, self.lora_B = nn.ModuleDict(), nn.ModuleDict()
        self.lora_A["default"] = nn.Linear(base.in_features, width, bias=False)
        self.lora_B["default"] = nn.Linear(width, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


def stand_in_for_peft(net: nn.Module, layer: str) -> nn.Module:
    setattr(net, layer, LoraLinear(getattr(net, layer)))
    return net.eval()


def lora(net: nn.Module, layer: str) -> nn.Module:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=[layer], r=2, init_lora_weights=False)
    return peft.get_peft_model(net, config).eval()


@pytest.mark.parametrize("adapt", [lora, stand_in_for_peft])
def test_adapters_of_peft(conv_net, digits, adapt):
    """Layers with one are refused; of the others the masks are exact, and the classifier is edited as always."""
    probes = digits.split(3)[0]
    model = adapt(conv_net, "hidden")
    base = next(name for name, _ in model.named_modules() if name.endswith("hidden.base_layer"))
    assert {"hidden.base_layer", "hidden.lora_A.default"} <= {
        name[name.find("hidden") :] for name in zsu_fast.relevance(model, probes, 3).neurons
    }
    before = model_digest(model)
    for name in (base, base.replace("base_layer", "lora_A.default")):
        with pytest.raises(ValueError, match="picks: .*cannot be masked exactly: .*peft.*merge_and_unload"):
            zsu_fast.perturb_(model, Picks(neurons={name: [1]}), sample=probes[:1])
    result = zsu_fast.forget(model, 3, probes, method="channels", budget=3)
    assert not any("hidden" in name for name in result.picks)
    result.patch.revert(model)
    assert zsu_fast.forget(model, 3, probes).reached
    assert model_digest(model) != before
    with pytest.raises(ValueError, match="method: .*computed, by an adapter of peft .*merge_and_unload"):
        zsu_fast.forget(adapt(copy.deepcopy(conv_net), "head"), 3, probes)


def test_a_merged_adapter_is_a_plain_model(conv_net, digits):
    probes = digits.split(3)[0]
    adapted = lora(conv_net, "hidden")
    expected = zsu_fast.relevance(adapted, probes, 3).input
    merged = adapted.merge_and_unload()
    difference = (zsu_fast.relevance(merged, probes, 3).input - expected).abs().max()
    assert difference < 0.02 * expected.abs().max()  # epsilon stands once in the sum, and in each of its parts
    zsu_fast.perturb_(merged, Picks(neurons={"hidden": [1]}), sample=probes[:1])
    assert not merged.hidden.weight[1].any()


def test_partitions_of_deepspeed_are_refused_by_their_attributes(net, digits):
    """A stand-in: as ZeRO stage 3 leaves parameters, empty, with what each process holds as an attribute."""
    before = model_digest(net)
    for parameter in net.parameters():
        parameter.ds_id, parameter.ds_tensor, parameter.ds_shape = 0, parameter.data.flatten(), parameter.shape
        parameter.data = torch.empty(0)
    probes = digits.split(3)[0]
    said = "^model.*partitioned by DeepSpeed .ZeRO stage 3.*load the whole model.*zero_to_fp32.py"
    with pytest.raises(TypeError, match=said):
        zsu_fast.forget(net, 3, probes)
    with pytest.raises(TypeError, match=said):
        zsu_fast.relevance(net, probes, 3)
    for parameter in net.parameters():
        parameter.data = parameter.ds_tensor.view(parameter.ds_shape)
    assert model_digest(net) == before

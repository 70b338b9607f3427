"""What is made of an edited model forgets, too: exported, compiled ahead of time, quantised, without its masked units.

One edited net for all: a class cut off at the classifier (path "all" of some inputs) and units masked in both hidden
layers. Each route keeps the answers, and where it runs in PyTorch the masked units are exactly silent.
"""

import importlib
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import get_default_qconfig_mapping, quantize_dynamic
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torch.nn import functional as F

import zsu_fast
from tests.inductor import compiling_little
from zsu_fast.unlearn import Picks

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
TARGET, UNITS = 2, [1, 4]
CENTRES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def images(each: int, seed: int) -> tuple[Tensor, Tensor]:
    """Four patterns under noise: what a net of a few hundred weights tells apart after a second of training."""
    labels = torch.arange(4).repeat_interleave(each)
    noise = torch.randn(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return CENTRES[labels] + 0.1 * noise, labels


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.hidden, self.head = nn.Linear(128, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2).flatten(1)
        return self.head(F.relu(self.hidden(x)))


@pytest.fixture(scope="module")
def edited() -> nn.Module:
    torch.manual_seed(0)
    net, (x, y) = Net(), images(40, 0)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    net.eval()
    probes, unseen = images(40, 1)[0][80:120], images(40, 2)
    assert (net(unseen[0]).argmax(1) == unseen[1]).float().mean() > 0.95
    zsu_fast.perturb_(net, Picks(neurons={"conv": UNITS, "hidden": UNITS}), sample=probes[:1])
    result = zsu_fast.forget(net, TARGET, probes, evaluate_on=unseen)
    assert result.reached and result.verdict.level == "answers"
    return net.requires_grad_(False)


def check(model: Callable[[Tensor], Tensor], edited: nn.Module, share: float = 0.0) -> None:
    """The class is no answer to unseen images of it, and the others are answered as by the edited net."""
    x, y = images(40, 5)
    found, expected = model(x).argmax(1), edited(x).argmax(1)
    assert not bool((found[y == TARGET] == TARGET).any())
    assert float((found != expected)[y != TARGET].float().mean()) <= share


def silent(model: nn.Module, layers: dict[str, str]) -> None:
    """What comes out of these modules is exactly zero at the masked units, and not everywhere."""
    seen: dict[str, Tensor] = {}
    hooks = []
    for name in layers.values():

        def note(_module: nn.Module, _args: object, out: Tensor, name: str = name) -> None:
            seen[name] = out.dequantize() if out.is_quantized else out

        hooks.append(model.get_submodule(name).register_forward_hook(note))
    model(images(5, 6)[0])
    for hook in hooks:
        hook.remove()
    for name, out in seen.items():
        assert not out[:, UNITS].any() and bool(out.any()), name


BATCH = {0: torch.export.Dim("images", min=1, max=4096)}


def exported(net: nn.Module) -> torch.export.ExportedProgram:
    return torch.export.export(net, (images(2, 7)[0],), dynamic_shapes=(BATCH,))


def test_export(edited: nn.Module, tmp_path: Path) -> None:
    torch.export.save(exported(edited), tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2").module()
    check(program, edited)
    assert torch.equal(program(images(9, 8)[0]), edited(images(9, 8)[0]))
    assert not program.conv.weight[UNITS].any() and not program.norm.bias[UNITS].any()


@pytest.mark.parametrize("dynamo", [False, True], ids=["traced", "dynamo"])
def test_onnx(edited: nn.Module, tmp_path: Path, dynamo: bool) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    path = tmp_path / "net.onnx"
    if dynamo:
        pytest.importorskip("onnxscript")
        torch.onnx.export(edited, (images(2, 7)[0],), path, dynamo=True, dynamic_shapes=(BATCH,), verbose=False)
    else:
        axes = {"x": {0: "images"}}
        torch.onnx.export(edited, (images(2, 7)[0],), path, dynamo=False, input_names=["x"], dynamic_axes=axes)
    onnx.checker.check_model(onnx.load(path))
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    check(lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0]), edited)


@pytest.mark.parametrize("how", ["trace", "script"])
def test_torchscript(edited: nn.Module, how: str) -> None:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(edited, images(2, 7)[0]) if how == "trace" else torch.jit.script(edited), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    check(loaded, edited)
    check(torch.jit.freeze(loaded), edited)  # folds the norm into the convolution


@pytest.mark.slow
def test_aot_inductor(edited: nn.Module, tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("needs a C++ compiler")
    with compiling_little(tmp_path / "cache"):
        package = torch._inductor.aoti_compile_and_package(exported(edited), package_path=str(tmp_path / "net.pt2"))
        check(torch._inductor.aoti_load_package(package), edited)  # which tries vector instructions too


def test_dynamic_int8(edited: nn.Module) -> None:
    quantised = quantize_dynamic(edited, {nn.Linear}, dtype=torch.qint8)
    check(quantised, edited, 0.05)
    silent(quantised, {"hidden": "hidden"})
    assert not quantised.hidden.weight().dequantize()[UNITS].any()


def test_static_int8(edited: nn.Module) -> None:
    """Weights and activations; the norm is folded into the convolution, whose masked units stay zero."""
    prepared = prepare_fx(edited, get_default_qconfig_mapping("x86"), (images(2, 7)[0],))
    prepared(images(20, 9)[0])
    quantised = convert_fx(prepared)
    check(quantised, edited, 0.05)
    silent(quantised, {"conv": "conv", "hidden": "hidden"})


@pytest.mark.parametrize("config", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"])
def test_torchao(edited: nn.Module, config: str) -> None:
    ao = pytest.importorskip("torchao.quantization")
    quantised = Net().eval().requires_grad_(False)
    quantised.load_state_dict(edited.state_dict())
    ao.quantize_(quantised, getattr(ao, config)())
    check(quantised, edited, 0.05)
    silent(quantised, {"hidden": "hidden"})


def test_float8_of_torchao(edited: nn.Module) -> None:
    """It divides by the largest weight of a row, 0/0 where a unit is masked: those are taken out first."""
    ao = pytest.importorskip("torchao.quantization")
    small = zsu_fast.compact(edited, images(2, 7)[0]).model
    ao.quantize_(small, ao.Float8WeightOnlyConfig())
    assert bool(small(images(5, 8)[0]).isfinite().all())
    check(small, edited, 0.05)


def test_torchao_of_an_exported_graph(edited: nn.Module) -> None:
    pytest.importorskip("torchao.quantization.pt2e")
    steps = importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")
    x86 = importlib.import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    graph = steps.prepare_pt2e(exported(edited).module(), quantizer)
    graph(images(20, 9)[0])
    check(steps.convert_pt2e(graph), edited, 0.05)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_weights_in_fewer_bits(edited: nn.Module, dtype: torch.dtype) -> None:
    cast = Net().eval().requires_grad_(False)
    cast.load_state_dict({n: t.to(dtype).to(t.dtype) for n, t in edited.state_dict().items()})
    check(cast, edited, 0.05)
    silent(cast, {"norm": "norm", "hidden": "hidden"})


def test_compact_and_then_export(edited: nn.Module) -> None:
    small = zsu_fast.compact(edited, images(2, 7)[0])
    assert {"conv", "hidden"} <= small.removed.keys() and set(UNITS) <= set(small.removed["hidden"])
    check(small.model, edited)
    check(exported(small.model).module(), edited)
    check(torch.jit.trace(small.model, images(2, 7)[0]), edited)

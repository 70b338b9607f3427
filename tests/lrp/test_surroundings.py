"""What a call finds and leaves: the model's state, memory, grad modes, dtypes, devices, threads."""

import copy
import gc
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo import eval_frame
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode, _pop_mode_temporarily

from tests.lrp.nets import VGG, ResNet, ViT, randomize
from zsu_fast.lrp import COMPOSITES, Composite, Flat, Gamma, eager, estimate_patterns, relevance
from zsu_fast.lrp.composites import Choice
from zsu_fast.lrp.engine import Engine


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 16, 16, dtype=torch.float64)


@pytest.mark.parametrize("composite", ["epsilon_plus_flat", Composite(Flat(), Flat(), depth=((0.5, Gamma()),))])
@pytest.mark.parametrize("kind", [VGG, ResNet])
def test_nothing_is_kept(kind: type, composite: str | Composite, images: Tensor) -> None:
    """No graph, activation or handle survives the call, and no garbage collection is needed for that."""
    model = randomize(kind())
    kept: list[weakref.ref] = []
    handles = [
        module.register_forward_hook(lambda module, inputs, output: kept.append(weakref.ref(output)))
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.Sequential)
    ]
    gc.collect()
    gc.disable()
    try:
        relevance(model, images, composite=composite)
        assert len(kept) > 3
        assert all(reference() is None for reference in kept)
    finally:
        gc.enable()
        for handle in handles:
            handle.remove()


def state_of(model: nn.Module) -> list:
    parameters = [(n, id(p), p._version, p.requires_grad, p.grad) for n, p in model.named_parameters()]
    buffers = [(n, id(b), b._version) for n, b in model.named_buffers()]
    modules = [(n, id(m), m.training, *(len(h) for h in _hooks(m)), sorted(vars(m))) for n, m in model.named_modules()]
    return [parameters, buffers, modules, torch.get_rng_state().tolist(), torch.is_grad_enabled()]


def _hooks(module: nn.Module) -> list:
    return [getattr(module, name) for name in vars(module) if name.endswith("_hooks")]


@pytest.mark.parametrize("composite", [name for name in COMPOSITES if not name.endswith("_box")])
def test_the_model_is_left_as_it_was(composite: str, images: Tensor) -> None:
    """Identity of parameters, values, hooks, .grad, version counters, flags, random state."""
    model = randomize(nn.Sequential(ResNet()))
    before, values = state_of(model), copy.deepcopy(model.state_dict())
    expected = model(images)
    relevance(model, images, composite=composite)
    with pytest.raises(ValueError):
        relevance(model, images, 99, composite=composite)
    assert state_of(model) == before
    assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())
    torch.testing.assert_close(model(images), expected, rtol=0, atol=0)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_in_every_grad_mode(context: type, images: Tensor) -> None:
    model = randomize(VGG())
    expected = relevance(model, images, 0).input
    with context():
        found = relevance(model, images + 0, 0)
    torch.testing.assert_close(found.input, expected)
    assert not found.input.requires_grad
    assert not found.logits.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["epsilon_plus", "epsilon_alpha2_beta1", "epsilon_plus_flat"])
def test_half_precision(dtype: torch.dtype, name: str) -> None:
    """Rules on positive parts are stable in half precision; neurons are float32."""
    model = randomize(VGG(bias=False)).float()
    x = torch.randn(4, 3, 16, 16)
    expected = relevance(model, x, 1, composite=name)
    found = relevance(copy.deepcopy(model).to(dtype), x.to(dtype), 1, composite=name)
    assert found.input.dtype == dtype
    assert all(n.dtype == torch.float32 for n in found.neurons.values())
    assert F.cosine_similarity(found.input.float().flatten(), expected.input.flatten(), 0) > 0.98
    with torch.autocast("cpu", torch.bfloat16):
        autocast = relevance(model, x, 1, composite=name)
        logits = model(x)
    torch.testing.assert_close(autocast.logits, logits, rtol=0, atol=0)
    assert autocast.input.dtype == torch.float32
    assert F.cosine_similarity(autocast.input.flatten(), expected.input.flatten(), 0) > 0.98


def test_autocast_runs_transformers() -> None:
    model = randomize(ViT()).float()
    x = torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = relevance(model, x, 1)
        torch.testing.assert_close(found.logits, model(x))
    assert torch.isfinite(found.input).all()
    assert F.cosine_similarity(found.input.flatten(), relevance(model, x, 1).input.flatten(), 0) > 0.9


def test_channels_last_is_the_same(images: Tensor) -> None:
    model = randomize(ResNet())
    for name in ("epsilon", "epsilon_plus", "epsilon_alpha2_beta1", "epsilon_plus_flat"):
        plain = relevance(model, images, 0, composite=name)
        last = relevance(
            model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last), 0, composite=name
        )
        torch.testing.assert_close(last.input, plain.input)
        for layer, units in plain.neurons.items():
            torch.testing.assert_close(last.neurons[layer], units)
        model.to(memory_format=torch.contiguous_format)


@pytest.mark.parametrize("composite", ["epsilon", "epsilon_plus_flat", "epsilon_alpha2_beta1", "cp_lrp"])
@pytest.mark.parametrize("kind", [ResNet, ViT])
def test_single_precision_on_every_device(kind: type, composite: str, device: torch.device) -> None:
    model = randomize(kind())
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    expected = relevance(model, x, 1, composite=composite)
    found = relevance(
        copy.deepcopy(model).to(device, torch.float32), x.to(device, torch.float32), 1, composite=composite
    )
    assert found.input.device.type == device.type
    scale = expected.input.abs().max()
    torch.testing.assert_close(found.input.cpu().double() / scale, expected.input / scale, rtol=0, atol=2e-3)
    for layer, units in expected.neurons.items():
        scale = units.abs().max()
        torch.testing.assert_close(found.neurons[layer].cpu().double() / scale, units / scale, rtol=0, atol=2e-3)


def test_two_threads_do_not_meet(images: Tensor) -> None:
    model = randomize(VGG())
    rules = {"epsilon": None, "epsilon_plus": None}
    expected = {name: relevance(model, images, 0, composite=name).input for name in rules}
    found: dict[str, list[Tensor]] = {name: [] for name in rules}

    def run(name: str) -> None:
        for _ in range(3):
            found[name].append(relevance(model, images, 0, composite=name).input)

    threads = [threading.Thread(target=run, args=(name,)) for name in rules]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in rules:
        assert len(found[name]) == 3
        for input in found[name]:
            torch.testing.assert_close(input, expected[name])


def test_compiled_models_run_as_written(images: Tensor) -> None:
    model = randomize(VGG())
    compiled = torch.compile(copy.deepcopy(model), backend="eager")
    compiled(images)
    found, expected = relevance(compiled, images, 0), relevance(model, images, 0)
    torch.testing.assert_close(found.input, expected.input)
    assert list(found.neurons) == list(expected.neurons)


def _interrupt(*_: object, **__: object) -> Tensor:
    raise KeyboardInterrupt


@pytest.mark.parametrize("call", [relevance, lambda model, x: estimate_patterns(model, [x])])
@pytest.mark.parametrize("place", ["model", "settle", "enter"])
def test_an_interrupt_leaves_nothing_switched_on(
    place: str, call: Callable, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the model, or where the engine comes and goes: neither it nor the compiler's stance stays."""
    model, modes = randomize(VGG()), _get_current_function_mode_stack()
    stance = eval_frame._stance
    with monkeypatch.context() as patch:
        if place == "model":
            patch.setattr(VGG, "forward", _interrupt)
        elif place == "settle":
            patch.setattr(Choice, "settle", _interrupt)
        else:
            enter = Engine.__enter__
            patch.setattr(Engine, "__enter__", lambda engine: _interrupt(enter(engine)))
        with pytest.raises(KeyboardInterrupt):
            call(model, images)
        assert _get_current_function_mode_stack() == modes
        assert eval_frame._stance == stance
    call(model, images)


def test_an_interrupt_while_torch_has_set_the_engine_aside(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not the engine then that its exit would take off the stack, but a mode of the caller's."""

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(VGG, "forward", lambda self, x: _interrupt(_pop_mode()))
    with Mode() as mode:
        with pytest.raises(KeyboardInterrupt):
            relevance(randomize(VGG()), images)
        assert _get_current_function_mode_stack() == [mode]


def test_what_was_cut_off_puts_no_mode_back_later(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch sets the engine aside in a generator, which lives as long as the traceback."""

    def forward(self: VGG, x: Tensor) -> Tensor:
        aside = _pop_mode_temporarily()
        aside.__enter__()
        return _interrupt()

    monkeypatch.setattr(VGG, "forward", forward)
    with pytest.raises(KeyboardInterrupt) as caught:
        relevance(randomize(VGG()), images)
    assert not _get_current_function_mode_stack()
    del caught
    gc.collect()
    assert not _get_current_function_mode_stack()


def test_the_compiler_comes_back_though_what_switches_it_off_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    stance, set_stance = eval_frame._stance, torch.compiler.set_stance
    monkeypatch.setattr(torch.compiler, "set_stance", lambda name: _interrupt(set_stance(name)))
    with pytest.raises(KeyboardInterrupt), eager.compiled_parts_as_written():
        pass
    assert eval_frame._stance == stance


def test_the_compiler_comes_back_though_its_return_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    stance, leave, cut = eval_frame._stance, eager._leave, [True]

    def interrupted(call: eager._Call) -> None:
        if cut:
            cut.clear()
            raise KeyboardInterrupt
        leave(call)

    monkeypatch.setattr(eager, "_leave", interrupted)
    with pytest.raises(KeyboardInterrupt), eager.compiled_parts_as_written():
        assert eval_frame._stance != stance
    assert eval_frame._stance == stance
    with eager.compiled_parts_as_written(), eager.compiled_parts_as_written():
        pass
    assert eval_frame._stance == stance


def test_result_is_picklable(images: Tensor) -> None:
    found = relevance(randomize(VGG()), images, 0)
    again = pickle.loads(pickle.dumps(found))
    torch.testing.assert_close(again.input, found.input)


def test_a_first_call_imports_nothing_slow() -> None:
    """The compiler and sympy, which torch's own functions may bring in, take longer than most calls."""
    code = """
import sys, torch, zsu_fast
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(1))
before = set(sys.modules)
zsu_fast.relevance(net.eval(), torch.randn(2, 3, 8, 8), 3, composite="epsilon_plus_flat")
slow = {"sympy", "torch._dynamo", "torch._inductor"} & (set(sys.modules) - before)
sys.exit(f"imported {sorted(slow)}" if slow else 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)

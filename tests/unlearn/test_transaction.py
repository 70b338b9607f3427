"""Whatever happens, a model is edited completely, with its patch, or bit for bit what it was, buffers and flags too."""

import copy
import math
import signal
import sys
import threading
import time
import traceback

import pytest
import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack

import zsu_fast
from zsu_fast.model.tensors import Tensors, bytes_of, model_digest, same_bits
from zsu_fast.unlearn.door import check_runs
from zsu_fast.unlearn.edits import Replacement, Slice
from zsu_fast.unlearn.patch import patch_of
from zsu_fast.unlearn.plan import plan
from zsu_fast.unlearn.transaction import Transaction, roll_back, transact

PACKAGE = zsu_fast.__file__.rpartition("/")[0]
TRANSACTION = Transaction.edit.__code__.co_filename


class Interrupt(BaseException):
    pass


def bits(model: nn.Module) -> list[object]:
    """Everything that must be as it was."""
    tensors = Tensors(model)
    held = [(name, bytes_of(tensors[name]).numpy().tobytes()) for name in sorted(tensors)]
    return held + [module.training for module in model.modules()]


def small() -> tuple[nn.Module, torch.Tensor, int]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 5),
    )  # fmt: skip
    net[0].eval()  # flags that differ must come back each as it was
    images = torch.rand(12, 1, 8, 8)
    with torch.no_grad():
        target = int(copy.deepcopy(net).eval()(images).argmax(1).mode().values)
    return net, images, target


def outcome(net: nn.Module, before: list[object], call) -> str:
    """ "as it was" or "edited" (and its patch takes it back); "half" is the fault."""
    try:
        result = call()
    except (Interrupt, KeyboardInterrupt, MemoryError):
        return "as it was" if bits(net) == before else "half"
    (result.patch if hasattr(result, "patch") else result).revert(net)
    return "edited" if bits(net) == before else "half"


FIXED = {"until": 1.0, "batch_size": 16}  # where the size is found, too, takes as long again
CALLS = {
    "forget": lambda net, x, t: zsu_fast.forget(net, t, x, until=1.0),
    "forget channels": lambda net, x, t: zsu_fast.forget(net, t, x, method="channels", **FIXED),
    "perturb_": lambda net, x, t: zsu_fast.perturb_(net, zsu_fast.Picks(neurons={"0": [1], "5": [2, 3]}), sample=x[:1]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_exception_at_any_line_leaves_nothing_half(call):
    """Raised once: at the last run of each line of the transaction, then at lines spread over the whole call."""
    net, images, target = small()
    before = bits(net)

    def lines_of(stop: int | None) -> list[tuple[str, int]]:
        lines: list[tuple[str, int]] = []

        def local(frame, event, argument):
            if event == "line":
                lines.append((frame.f_code.co_filename, frame.f_lineno))
                if len(lines) == stop:
                    raise Interrupt
            return local

        def trace(frame, event, argument):
            return local if frame.f_code.co_filename.startswith(PACKAGE) else None

        def traced():
            with torch.enable_grad():  # raised where a with statement is left, it skips that of the package
                sys.settrace(trace)
                try:
                    return call(net, images, target)
                finally:
                    sys.settrace(None)

        found.append(outcome(net, before, traced))
        return lines

    handler = signal.getsignal(signal.SIGINT)
    depth = len(_get_current_function_mode_stack())
    found: list[str] = []
    lines = lines_of(None)
    assert found == ["edited"] and len(lines) > 500
    last = {line: number for number, line in enumerate(lines, 1) if line[0] == TRANSACTION}
    assert len(last) > 60
    spread = range(1, len(lines), len(lines) // 50)
    for number in sorted({*last.values(), *spread}):
        lines_of(number)
        assert len(_get_current_function_mode_stack()) == depth  # else every later call would run under it
        assert signal.getsignal(signal.SIGINT) is handler  # else Ctrl-C would do nothing from now on
        assert found[-1] != "half", f"line {number} of {len(lines)}: {lines[number - 1]}"
    assert found.count("as it was") > 60


def test_a_model_that_fails_in_any_forward_pass_is_as_it_was():
    net, images, target = small()
    before, passes, found = bits(net), 0, []

    def fail(module, arguments):
        nonlocal passes
        passes += 1
        if passes == at:
            raise MemoryError("out of memory")

    net.register_forward_pre_hook(fail)
    for at in range(1, 100):
        passes = 0
        found.append(outcome(net, before, lambda: CALLS["forget channels"](net, images, target)))
        if passes < at:
            break
    assert len(found) > 5 and found[-1] == "edited" and set(found[:-1]) == {"as it was"}


@pytest.mark.parametrize("call, module", [("forget", "forget"), ("perturb_", "perturb")])
def test_an_interrupt_on_the_way_out_takes_the_model_back(call, module, monkeypatch):
    """The edit is complete then, and what could undo it would be lost."""
    net, images, target = small()
    before, seen = bits(net), []

    def cut_off(*args, **kwargs):
        transact(*args, **kwargs)
        seen.append(bits(net) != before)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules[f"zsu_fast.unlearn.{module}"], "transact", cut_off)
    with pytest.raises(KeyboardInterrupt):
        CALLS[call](net, images, target)
    assert seen == [True] and bits(net) == before


@pytest.fixture
def frames_evaluated_by_torch():
    """A thread is inside of a compiled function: the interpreter then answers to signals between any two returns."""
    inside, done = threading.Event(), threading.Event()

    @torch.compile(backend="eager")
    def work() -> None:
        inside.set()
        done.wait()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert inside.wait(60)
    yield
    done.set()
    thread.join()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers")
@pytest.mark.parametrize(
    "frames, times",
    [
        pytest.param(  # a Ctrl-C in a callback of ours would come to nothing; torch's compiler has such callbacks
            "frames_evaluated_by_python",
            60,
            marks=pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning"),
        ),
        ("frames_evaluated_by_torch", 150),
    ],
)
def test_ctrl_c_at_any_moment_leaves_nothing_half(frames, times, request):
    """By Python frames, what is raised at any line says more already."""
    if frames.endswith("torch"):
        request.getfixturevalue(frames)
    net, images, target = small()
    before = bits(net)
    edited = copy.deepcopy(net)
    zsu_fast.forget(edited, target, images, **FIXED)
    completely = bits(edited)
    seconds = float("inf")
    for _ in range(3):  # the first call of a process takes many times as long as the others
        started = time.perf_counter()
        assert outcome(net, before, lambda: zsu_fast.forget(net, target, images, **FIXED)) == "edited"
        seconds = min(seconds, time.perf_counter() - started)
    interrupted, faults = 0, []
    generator = torch.Generator().manual_seed(0)
    old = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    found_so = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        for i in range(times):
            start, end = (0.0, 1.2) if i % 2 else (1.0, 1.2)  # half of them where the call ends
            delay = 1e-4 + seconds * (start + (end - start) * (i + float(torch.rand(1, generator=generator))) / times)
            result, trace, ours = None, "", True
            try:
                signal.setitimer(signal.ITIMER_REAL, delay)
                result = zsu_fast.forget(net, target, images, **FIXED)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt as error:
                interrupted += 1
                trace = traceback.format_exc()
                ours = any(f.f_code.co_filename.startswith(PACKAGE) for f, _ in traceback.walk_tb(error.__traceback__))
            if result is not None:
                result.patch.revert(net)
            if (now := bits(net)) != before:
                if ours or now != completely:  # else it hit this very function, before it had the result
                    changed = [str(new)[:40] for new, was in zip(now, before, strict=True) if new != was]
                    faults.append(f"{changed} {trace}")
                net, images, target = small()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        signal.signal(signal.SIGINT, found_so)
    assert interrupted > times // 5
    assert not faults, f"{len(faults)} of {times} left something half edited; the first: {faults[0]}"


def test_an_edit_that_was_taken_back_after_its_end_does_not_stand_in_the_way():
    net, images, _ = small()
    before = bits(net)
    first, second, third = (zsu_fast.Picks(neurons={"5": [unit]}) for unit in range(3))
    patch = zsu_fast.perturb_(net, first, sample=images[:1])
    later = zsu_fast.perturb_(net, second, sample=images[:1])
    opened: list[Transaction] = []

    def work(transaction: Transaction) -> None:
        structure = check_runs(net, images[:1], "sample")
        transaction.edit(plan(structure, third, "target", "invert"))
        patch_of(transaction, {})

    transact(net, work, opened=opened)
    roll_back(opened)
    patch.revert(net)
    later.revert(net)
    assert bits(net) == before


def test_side_effects_of_train_and_eval_do_not_happen():
    class Folding(nn.Linear):
        def train(self, mode: bool = True):
            if mode != self.training:
                with torch.no_grad():
                    self.weight += 1.0 if mode else -1.0
            return super().train(mode)

    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), Folding(64, 16), nn.ReLU(), nn.Linear(16, 5))
    images = torch.rand(12, 1, 8, 8)
    target = int(net(images).argmax(1).mode().values)
    before = bits(net)
    zsu_fast.select(net, target, images, budget=3)
    assert bits(net) == before
    zsu_fast.forget(net, target, images).patch.revert(net)
    assert bits(net) == before


def test_buffers_that_a_forward_pass_moves_are_put_back():
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("passes", torch.zeros(1), persistent=False)

        def forward(self, x):
            self.passes += 1
            return x

    torch.manual_seed(0)
    net = nn.Sequential(Counting(), nn.Flatten(), nn.Linear(64, 5))
    images = torch.rand(12, 1, 8, 8)
    target = int(net(images).argmax(1).mode().values)
    before = bits(net)
    zsu_fast.forget(net, target, images).patch.revert(net)
    assert bits(net) == before


def test_one_model_in_several_threads():
    net, images, target = small()
    before, failures = bits(net), []

    def work():
        try:
            for _ in range(3):
                zsu_fast.forget(net, target, images, until=1.0).patch.revert(net)
                zsu_fast.evaluate(net, images, torch.zeros(12, dtype=torch.int64), target)
        except ValueError as error:  # another thread's edit came between an edit and its undoing: refused, not mixed
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [m.training for m in net.modules()] == before[-len(list(net.modules())) :]


def test_new_values_are_edits_of_the_rows_that_change():
    net = nn.Linear(3, 4)
    before = net.weight.detach().clone()
    values = before.clone()
    values[1, 0], values[3, 2] = math.nan, 7.0

    def work(transaction):
        transaction.edit([Replacement("weight", values), Slice("bias", None, 0, (2,))])
        written = {(w.tensor, *w.index.tolist()) for w in transaction.journal}
        seen = net.weight.detach().clone(), net.bias.detach().clone()
        transaction.undo()
        return written, seen

    written, (weight, bias) = transact(net, work)
    assert written == {("weight", 1, 3), ("bias", 2)}
    assert same_bits(weight, values) and bias[2] == 0 and same_bits(net.weight.detach(), before)


@pytest.mark.parametrize("values", [torch.zeros(4, 2), torch.zeros(4, 3, dtype=torch.float64)])
def test_new_values_that_do_not_fit_are_refused(values):
    net = nn.Linear(3, 4)
    digest = model_digest(net)
    with pytest.raises(ValueError, match=r"method: gives weight as torch.float.*, it is torch.float32 \(4, 3\)"):
        transact(
            net, lambda transaction: transaction.edit([Slice("bias", None, 0, (2,)), Replacement("weight", values)])
        )
    assert model_digest(net) == digest

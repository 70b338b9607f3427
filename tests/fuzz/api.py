"""The public functions on tiny models: they work and can be undone, or refuse by name and change nothing."""

import inspect
import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import zsu_fast
from tests.fuzz import models
from tests.fuzz.models import CLASSES, Kind, Snapshot
from zsu_fast import Patch, Picks
from zsu_fast.unlearn import ForgetClass, method_options

NAN, INF = float("nan"), float("inf")
NO_NUMBERS = (None, "1", True, NAN, INF, -1, 10**30, [1])


class Stop(Exception):
    """Raised by a `progress` function."""


class Draw:
    """Arguments, each odd with the same probability."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.odd = rng.choice((0.0, 0.1, 0.3, 0.4))
        self.arguments: dict[str, Any] = {}

    def one(self, usual: Sequence[Any], odd: Sequence[Any]) -> Any:
        return self.rng.choice(odd if self.rng.random() < self.odd else usual)

    def maybe(self, name: str, usual: Sequence[Any], odd: Sequence[Any], chance: float = 0.3) -> None:
        """The argument `name`, if it is given at all."""
        if self.rng.random() < chance:
            self.arguments[name] = self.one(usual, odd)

    def images(self, classes: Iterable[int], most: int = 24) -> tuple[Tensor, Tensor]:
        x, y = models.images(48, 1000 + self.rng.randrange(8))
        chosen = torch.isin(y, torch.tensor(list(classes)))
        count = self.rng.randint(2, most)
        return x[chosen][:count], y[chosen][:count]

    def odd_images(self, x: Tensor) -> list[Any]:
        return [
            None, 3, "images", [], list(x), x[:0], x[0, 0], x.double(), x.half(), x.long(), x.to(torch.complex64),
            x[..., :5], x[:, 0], x.flatten(1), torch.full_like(x, NAN), torch.full_like(x, INF), 1e30 * x, x.bool(),
            x.to_sparse(), x.to("meta"), x[0, 0, 0, 0],
        ]  # fmt: skip

    def odd_pairs(self, x: Tensor, y: Tensor) -> list[Any]:
        return [
            3, "pair", (), (x,), (x, y, y), (x, y[1:]), (x, y.float()), (x, y + 99), (x, -1 - y), (x, y[None]), (y, x),
            (x, None), (x, ["a"] * len(x)), *((odd, y) for odd in self.odd_images(x)),
        ]  # fmt: skip


def names_of(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def call(names: Iterable[str], snapshot: Snapshot, function: Callable[[], Any], runs: bool = False) -> tuple[bool, Any]:
    """(whether it went through, the result). A refusal must name one of `names`, and change nothing.

    runs: the model runs on images that nothing has looked at before: what it says of them itself is passed on.
    """
    refusal: Exception | None = None
    try:
        return True, function()
    except Exception as error:
        refusal = error
    snapshot.check()
    if isinstance(refusal, Stop) or (runs and isinstance(refusal, (RuntimeError, NotImplementedError))):
        return False, None
    if not isinstance(refusal, (TypeError, ValueError)):
        raise refusal
    if not re.search(rf"\b({'|'.join(map(re.escape, names))})\b", str(refusal)):
        raise AssertionError(f"names no argument: {type(refusal).__name__}: {refusal}") from refusal
    return False, None


def _progress(done: int, total: int, text: str) -> None:
    assert isinstance(done, int) and isinstance(total, int) and isinstance(text, str)


def _stopping(done: int, total: int, text: str) -> None:
    raise Stop


def _request(draw: Draw, kind: Kind) -> tuple[Any, Tensor | None]:
    """(target, probes), and the arguments that `forget` and `select` share."""
    rng, arguments = draw.rng, draw.arguments
    classes = rng.sample(range(CLASSES), rng.choice((1, 1, 1, 2)))
    others = [c for c in range(CLASSES) if c not in classes]
    probes, labels = draw.images(classes)
    target: Any = classes if len(classes) > 1 else rng.choice((classes[0], np.int64(classes[0]), tuple(classes)))
    target = draw.one([target], [CLASSES, -1, "0", None, 1.5, [], [0, 0], True, [0, 99], 2**70, torch.tensor(classes)])
    if len(classes) > 1 or rng.random() < 0.2:
        odd = [None, labels[1:], labels.float(), labels + 1, "abc", labels.tolist() + [0], 3, {}]
        arguments["probe_labels"] = draw.one([labels, labels.tolist()], odd)
    given = draw.one([probes, probes[::2] if "probe_labels" not in arguments else probes], draw.odd_images(probes))
    x, y = draw.images(others)
    arguments |= {} if rng.random() < 0.3 else {"retain_probes": draw.one([x, (x, y)], draw.odd_pairs(x, y))}
    arguments["method"] = draw.one(["lra-npp", "channels"], ["other", None, 3])
    draw.maybe("mode", ["zero", "invert", "scale", "gaussian", "laplace"], ["other", 3, []])
    draw.maybe("strength", [0.5, 0, 1.0, 2], [*NO_NUMBERS, -0.5, 1e300])
    draw.maybe("seed", [0, 7, 2**63 - 1], [*NO_NUMBERS, 1.0])
    draw.maybe("batch_size", [1, 5, "auto", np.int64(4)], [*NO_NUMBERS, 0, 1.5])
    draw.maybe("k", [0.25, 1.0] if arguments["method"] == "channels" else [1, 3, 0.25], [*NO_NUMBERS, 0, 0.0, 1.5])
    if arguments["method"] == "channels":
        draw.maybe("score", ["frequency", "mean", "contrastive"], ["other", 3], 0.2)
        draw.maybe("scope", ["layer", "global"], ["other", None], 0.2)
        draw.maybe("layers", [list(kind.layers), list(kind.layers)[:1]], [[], "x", ["x"], [3], 3], 0.3)
        draw.maybe("composite", ["epsilon", "epsilon_plus"], ["other", None, 3], 0.2)
    else:
        draw.maybe("path", ["target", "all", "rows", "neuron"], ["other", None, 3], 0.2)
        draw.maybe("authors_compat", [True, False], [None, 1, "yes"], 0.1)
    if rng.random() < draw.odd / 4:
        arguments["colour"] = 3
    return target, given


def _names(function: Callable[..., Any]) -> list[str]:
    return [*names_of(function), *method_options("lra-npp"), *method_options("channels"), "colour"]


BUDGETS, NO_BUDGETS = (0, 1, 2, 3, 0.1, 0.5, 1.0, 1000), (*NO_NUMBERS, 0.0, 1.5, -3, [])


def forget(draw: Draw, kind: Kind, model: nn.Module) -> None:
    target, probes = _request(draw, kind)
    arguments = draw.arguments
    draw.maybe("budget", BUDGETS, NO_BUDGETS, 0.6)
    draw.maybe("until", [0.0, 0.1, 1, np.float32(0.5)], [*NO_NUMBERS, 1.5])
    draw.maybe("utility_floor", [0.0, 0.5, 1.0], [*NO_NUMBERS, 1.5])
    draw.maybe("progress", [_progress], [3, "x", _stopping], 0.2)
    x, y = draw.images(range(CLASSES), 40)
    draw.maybe("evaluate_on", [(x, y), (x, y.tolist())], draw.odd_pairs(x, y))
    if draw.rng.random() < 0.1 and "probe_labels" not in arguments:
        made, request = call(["target", "targets", "probes"], Snapshot(model), lambda: ForgetClass(target, probes))
        if not made:
            return
        target, probes = request, None
    before = Snapshot(model)
    done, result = call(
        _names(zsu_fast.forget),
        before,
        lambda: zsu_fast.forget(model, target, probes, **arguments),
    )
    if not done:
        return
    before.check(tensors=not result.patch.entries)
    json.dumps(result.record, allow_nan=False)
    says = re.search(r"(?<!not )(?<!not judged )\bforgotten\b", result.verdict.sentence) is not None
    assert not says or result.verdict.forgotten, result.verdict.sentence
    assert result.summary()
    _undo(draw.rng, result.patch, model, before)


def select(draw: Draw, kind: Kind, model: nn.Module) -> None:
    target, probes = _request(draw, kind)
    budget = draw.one(BUDGETS, NO_BUDGETS)
    before = Snapshot(model)
    done, picks = call(
        _names(zsu_fast.select),
        before,
        lambda: zsu_fast.select(model, target, probes, budget=budget, **draw.arguments),
    )
    before.check()
    if done:
        sample = draw.images([0])[0][:1]
        patch = zsu_fast.perturb_(model, picks, sample=sample)
        _undo(draw.rng, patch, model, before)


def perturb(draw: Draw, kind: Kind, model: nn.Module) -> None:
    rng = draw.rng
    picks = draw.one([_picks(draw, kind)], [None, {}, 3, "picks", [Picks()]])
    x, _ = draw.images(range(CLASSES))
    sample = draw.one([x[:1], x], draw.odd_images(x))
    draw.maybe("mode", ["zero", "invert", "scale", "gaussian", "laplace"], ["other", None, 3], 0.7)
    draw.maybe("path", ["target", "all", "rows", "neuron"], ["other", None, 3], 0.7)
    draw.maybe("strength", [0.5, 0, 1.0, 2, None], [*NO_NUMBERS, -0.5, 1e300], 0.7)
    draw.maybe("seed", [0, 7, 2**63 - 1], [*NO_NUMBERS, 1.0])
    before = Snapshot(model)
    function = zsu_fast.perturb_
    done, patch = call(
        names_of(function), before, lambda: function(model, picks, sample=sample, **draw.arguments)
    )  # fmt: skip
    if done:
        before.check(tensors=not patch.entries)
        json.dumps(patch.record, allow_nan=False)
        _undo(rng, patch, model, before)


def _picks(draw: Draw, kind: Kind) -> Picks:
    """Written by hand."""
    rng = draw.rng
    odd_units = ([-1], [999], [0, 0], ["a"], [True], [0.5], None, 3)

    def some(size: int) -> Any:
        return draw.one([rng.sample(range(size), rng.randint(0, min(5, size)))], odd_units)

    edges: dict[Any, Any] = {}
    neurons: dict[Any, Any] = {}
    for _ in range(rng.randint(0, 2)):
        edges[draw.one(range(CLASSES), (-1, CLASSES, "0", None, True))] = some(kind.features)
    for name in rng.sample(list(kind.layers), rng.randint(0, len(kind.layers))):
        neurons[draw.one([name], ("no layer", "", 3, None))] = some(kind.layers[name])
    return Picks(edges=draw.one([edges], [None, 3, []]), neurons=draw.one([neurons], [None, 3, []]))


def evaluate(draw: Draw, kind: Kind, model: nn.Module) -> None:
    x, y = draw.images(range(CLASSES))
    images = draw.one([x, x[::2]], draw.odd_images(x))
    usual = y[::2] if isinstance(images, Tensor) and images.shape == x[::2].shape else y
    odd_labels = (None, y[1:], y.float(), y + 9, -1 - y, "abc", y[None], y > 1, ["a"] * len(y), {}, 3)
    labels = draw.one([usual, usual.tolist()], odd_labels)
    target = draw.one([0, [1, 2], np.int64(3)], [CLASSES, -1, "0", None, 1.5, [], [0, 0], True, [0, 99], 2**70])
    draw.maybe("batch_size", [1, 5, 64], [*NO_NUMBERS, 0, 1.5])
    draw.maybe("progress", [_progress, None], [_stopping], 0.2)
    before, function = Snapshot(model), zsu_fast.evaluate
    done, found = call(
        names_of(function), before, lambda: function(model, images, labels, target, **draw.arguments), True
    )  # fmt: skip
    before.check()
    if done:
        json.dumps(found.to_dict(), allow_nan=False)


def relevance(draw: Draw, kind: Kind, model: nn.Module) -> None:
    x, y = draw.images(range(CLASSES), 5)
    inputs = draw.one([x, x[:1]], draw.odd_images(x))
    wrong = (CLASSES, -1, "0", 1.5, [], True, y[1:], y.float(), y + 9, [0, 99], {}, 2**70)
    draw.maybe("target", [0, None, [0, 1], torch.zeros(len(x), dtype=torch.int64)], wrong, 0.9)
    draw.maybe("composite", ["epsilon", "epsilon_plus", "epsilon_alpha2_beta1"], ["other", None, 3, []])
    draw.maybe("init", ["logit", "one", "probability"], ["other", None, 3, []])
    draw.maybe("layers", [None, list(kind.layers), "*"], [["no layer"], 3, [3], []])
    draw.maybe("conservation", [True, False], [True, False])
    before, function = Snapshot(model), zsu_fast.relevance
    done, found = call(names_of(function), before, lambda: function(model, inputs, **draw.arguments), True)
    before.check()
    if done:
        for each in found if isinstance(found, tuple) else (found,):
            assert each.input.shape == inputs.shape and each.input.dtype == inputs.dtype
            assert all(len(units) == len(inputs) for units in each.neurons.values())


def patches(draw: Draw, kind: Kind, model: nn.Module) -> None:
    """A patch on what it does not fit: another model, the wrong state, no model at all."""
    stranger = nn.Linear(3, 3)
    before, rng = Snapshot(model), draw.rng
    picks = Picks(edges={rng.randrange(CLASSES): rng.sample(range(kind.features), 3)})
    patch = zsu_fast.perturb_(model, picks, sample=draw.images([0])[0][:1])
    edited = Snapshot(model)
    other_kind, other = models.draw(rng)
    write = rng.choice((patch.revert, patch.apply_))
    odd = rng.choice((other, stranger, {}, dict(other.named_parameters()), None, 3, "model", []))
    untouched = Snapshot(other)
    done, _ = call(["model", "patch"], untouched, lambda: write(odd))
    fits = other_kind is kind and write == patch.apply_  # the same weights as before the edit
    assert fits or not done, "a patch was written to what it does not fit"
    untouched.check(tensors=not done)
    edited.check()
    done, _ = call(["model", "patch"], edited, lambda: patch.apply_(model))
    assert not done, "a patch was applied twice"
    _undo(rng, patch, model, before)


def _undo(rng: random.Random, patch: Patch, model: nn.Module, before: Snapshot) -> None:
    """The patch, or its copy on disk, gives back every bit; sometimes after more steps, or on a state dict."""
    if rng.random() < 0.3:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "patch.safetensors"
            patch.save(path)
            loaded = Patch.load(path)
        assert loaded.record == patch.record
        patch = loaded
    edited = Snapshot(model)
    if rng.random() < 0.2:
        patch.revert(model)
        before.check()
        patch.apply_(model)
        edited.check()
    given: Any = {**dict(model.named_parameters()), **dict(model.named_buffers())} if rng.random() < 0.2 else model
    with torch.no_grad():
        patch.revert(given)
    before.check()
    if patch.entries and not _changes_nothing(patch):
        refused, _ = call(["model", "patch"], before, lambda: patch.revert(given))
        assert not refused, "a patch was reverted twice"


def _changes_nothing(patch: Patch) -> bool:
    return all(before == after for before, after in patch.digests.values())


SUBJECTS = ((forget, 25), (select, 15), (perturb, 25), (evaluate, 15), (relevance, 12), (patches, 8))


def run(rng: random.Random) -> None:
    """One call of one function."""
    kind, model = models.draw(rng)
    subject = rng.choices([s for s, _ in SUBJECTS], [w for _, w in SUBJECTS])[0]
    subject(Draw(rng), kind, model)

"""What runs is said by the request: a model inside something else is edited, and nothing else is touched."""

import copy
import threading
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import zsu_fast
from zsu_fast.unlearn import methods, model_digest
from zsu_fast.unlearn.door import check_runs
from zsu_fast.unlearn.edits import Replacement, Slice
from zsu_fast.unlearn.methods import Method, Proposal
from zsu_fast.unlearn.options import Options
from zsu_fast.unlearn.requests import NAN, OfClassifier, Request
from zsu_fast.unlearn.search import margins
from zsu_fast.unlearn.verdict import Verdict


class Counting(nn.Module):
    """Moves a buffer at every call, in evaluation mode too, and forgets nothing that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x


class Behind(nn.Module):
    """A judge of what a model makes."""

    def __init__(self, made: nn.Module, judge: nn.Module) -> None:
        super().__init__()
        self.made, self.judge = made, judge

    def forward(self, x: Tensor) -> Tensor:
        return self.judge(self.made(x))


@dataclass(frozen=True)
class Seen:
    share: float
    accuracy: float | None = None

    def to_dict(self) -> dict[str, float]:
        return {"share": self.share}


@dataclass(frozen=True, eq=False)
class ForgetBehind(OfClassifier):
    """Inputs of which the judge says 1 are to be of another class; they are found by running the model."""

    judge: nn.Module
    pool: Tensor
    probes: Tensor = field(default_factory=lambda: torch.empty(0))
    kept: Tensor = field(default_factory=lambda: torch.empty(0))

    kind: ClassVar[str] = "behind"
    argument: ClassVar[str] = "pool"
    behind: ClassVar[float] = 0.0
    is_its_images: ClassVar[bool] = False
    short: ClassVar[str] = "with the class"
    name: ClassVar[str] = "what the judge calls 1"

    def __post_init__(self) -> None:
        if not len(self.probes):
            object.__setattr__(self, "probes", self.pool)

    def view(self, model: nn.Module) -> nn.Module:
        return Behind(model, self.judge)

    @property
    def probe_labels(self) -> Tensor:
        return torch.ones(len(self.probes), dtype=torch.int64)

    @property
    def groups(self) -> list[Tensor]:
        return [self.probe_labels == 1]

    @property
    def retain(self):
        return self.kept, torch.zeros(len(self.kept), dtype=torch.int64)

    def started(self, forward, view) -> "ForgetBehind":
        found = forward(self.pool).argmax(1) == 1
        return ForgetBehind(self.judge, self.pool, self.pool[found], self.pool[~found])

    def margins(self, logits: Tensor, where: Tensor) -> Tensor:
        return margins(logits, self.probe_labels[where])

    def check(self, classes: int, evaluated: Tensor | None) -> None:
        assert classes == 2 and evaluated is None

    def unknown(self, logits: Tensor) -> str | None:
        return NAN if bool(logits.isnan().any()) else None

    def evaluate(self, view, given, batches) -> Seen:
        answers = torch.cat([view(batch).argmax(1) for batch in batches(self.pool)])
        return Seen(float((answers == 1).float().mean()))

    def verdict(self, evidence) -> Verdict:
        level = "answers" if evidence.after.share == 0 else "not reached"
        return Verdict(level, f"{self.name}: {evidence.before.share:.2f} -> {evidence.after.share:.2f}.")

    def describe(self):
        return {"kind": self.kind}


class Silence(Method):
    """Masks the first hidden unit, which is what carries the class here."""

    name: ClassVar[str] = "silence"
    options: ClassVar = Options
    takes: ClassVar = frozenset({"behind"})
    until: ClassVar[float] = 0.0
    tensors: ClassVar[tuple[str, ...]] = ("0.weight", "0.bias")

    def check_model(self, structure) -> None:
        assert list(structure.layers) == ["0", "2"] and structure.head is None

    def propose(self, given):
        assert given.view(given.model)(given.images[:1]).shape == (1, 2) and given.retain is not None

        class Choice:
            largest = 1

            def picks(self, size):
                return zsu_fast.Picks(neurons={"0": [0]})

            def edits(self, size):
                return [Slice(name, None, 0, (0,)) for name in Silence.tensors]

        yield Proposal(("0",), "zero", lambda admitted, kept: Choice(), 1)


def parts() -> tuple[nn.Sequential, nn.Sequential, Tensor]:
    """A model whose first hidden unit makes what the judge (in training mode) calls 1; inputs of both kinds."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3))
    judge = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.9), Counting(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[0].bias.zero_()
        model[2].weight.copy_(torch.tensor([[1.0, 0], [0, 1], [0, 0]]))
        model[2].bias.zero_()
        judge[3].weight.copy_(torch.tensor([[0.0, 1, 0], [1, 0, 0]]))
        judge[3].bias.copy_(torch.tensor([0.1, 0]))
    return model, judge.train(), torch.rand(60, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def silence(monkeypatch):
    monkeypatch.setitem(methods._BUILT_IN, "silence", Silence)


def state(module: nn.Module) -> dict[str, object]:
    values = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    return values | {f"{name}.training": part.training for name, part in module.named_modules()}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(a, other[name]) if isinstance(a, Tensor) else a == other[name] for name, a in one.items()
    )


def test_the_model_is_edited_and_what_it_runs_in_is_not_touched(silence, tmp_path):
    model, judge, pool = parts()
    request, before, of_judge = ForgetBehind(judge, pool), state(model), state(judge)
    assert isinstance(request, Request) and not isinstance(3, Request)
    result = zsu_fast.forget(model, request, method="silence")
    assert result.verdict.level == "answers" and result.reached
    assert {entry.tensor for entry in result.patch.entries} == {"0.weight", "0.bias"}
    assert same(state(judge), of_judge) and not same(state(model), before)
    record = result.record
    assert record["evaluation"]["before"]["share"] > 0 == record["evaluation"]["after"]["share"]
    assert record["certificate"]["units"][0]["claim"] == "zero for every finite input"
    assert record["model"]["after"] == model_digest(model) and record["request"]["kind"] == "behind"
    result.patch.save(tmp_path / "undo.safetensors")
    zsu_fast.Patch.load(tmp_path / "undo.safetensors").revert(model)
    assert same(state(model), before)


def test_an_edit_can_name_nothing_but_the_model(silence, monkeypatch):
    model, judge, pool = parts()
    before, of_judge = state(model), state(judge)
    for name in ("judge.3.weight", "3.weight", "made.0.weight"):
        monkeypatch.setattr(Silence, "tensors", ("0.weight", name))
        with pytest.raises(KeyError, match=name):
            zsu_fast.forget(model, ForgetBehind(judge, pool), method="silence")
        assert same(state(model), before) and same(state(judge), of_judge)


def test_a_method_for_classifiers_is_refused_and_one_that_fails_leaves_both(silence, monkeypatch):
    model, judge, pool = parts()
    before, of_judge = state(model), state(judge)
    with pytest.raises(ValueError, match="'lra-npp' takes requests to forget class, got ForgetBehind; .*: silence"):
        zsu_fast.forget(model, ForgetBehind(judge, pool))

    def broken(self, given):
        given.forward(given.images)
        yield Proposal((), "zero", lambda *_: 1 / 0, 1)

    monkeypatch.setattr(Silence, "propose", broken)
    with pytest.raises(ZeroDivisionError):
        zsu_fast.forget(model, ForgetBehind(judge, pool), method="silence")
    with pytest.raises(ValueError, match=r"^pool: the model does not take a batch of shape \(\d+, 5\)"):
        zsu_fast.forget(model, ForgetBehind(judge, torch.rand(9, 5)), method="silence")
    assert same(state(model), before) and same(state(judge), of_judge)


def test_what_the_request_judges_is_taken_back(silence, monkeypatch):
    model, judge, pool = parts()
    before = state(model)
    monkeypatch.setattr(ForgetBehind, "evaluate", lambda *_: Seen(0.5))
    result = zsu_fast.forget(model, ForgetBehind(judge, pool), method="silence")
    assert result.verdict.level == "not reached" and same(state(model), before) and not result.patch.entries


def test_the_same_part_in_several_requests_at_once(silence):
    """A judge in training mode: whoever ended first would put back its flags while the other still runs."""
    _, judge, pool = parts()
    of_judge, found = state(judge), []

    def work() -> None:
        model = parts()[0]
        found.append(zsu_fast.forget(model, ForgetBehind(judge, pool), method="silence").verdict.level)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["answers"] * 4 and same(state(judge), of_judge)


def test_the_structure_is_the_models_alone():
    model, judge, pool = parts()
    judge.eval()
    structure = check_runs(model.eval(), pool, "pool", Behind(model, judge))
    assert list(structure.layers) == ["0", "2"] and structure.classes == 2 and structure.head is None
    assert "judge" not in str(structure.maskable())
    alone = check_runs(copy.deepcopy(judge), torch.rand(4, 3), "images")
    assert alone.head is not None and alone.classes == 2


def test_learned_values_are_of_the_model(silence, monkeypatch):
    """What a method trains is a copy of the model, in the view of the request."""
    model, judge, pool = parts()
    of_judge = state(judge)

    def learn(self, given):
        student = copy.deepcopy(given.model)
        view = given.view(student)
        assert view.made is student and view.judge is judge and not judge.training
        with torch.no_grad():
            student[2].weight[0] = 0

        class Choice:
            largest = 1
            picks = staticmethod(lambda size: zsu_fast.Picks())
            edits = staticmethod(lambda size: [Replacement("2.weight", student[2].weight.detach())])

        yield Proposal((), "values", lambda admitted, kept: Choice(), 1)

    monkeypatch.setattr(Silence, "propose", learn)
    result = zsu_fast.forget(model, ForgetBehind(judge, pool), method="silence")
    assert result.reached and {entry.tensor for entry in result.patch.entries} == {"2.weight"}
    assert same(state(judge), of_judge)

"""Relearning: the numbers of a loop written by hand, a class that returns or does not, a model that is untouched."""

import copy
import functools
import json
import math
import sys
import types

import pytest
import torch
from torch import nn

from zsu_fast.evaluate import Relearning, anamnesis_index, evaluate, relearn


class Net(nn.Module):
    """BatchNorm with statistics of its own, dropout, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 16)
        self.norm = nn.BatchNorm1d(16)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(16, 3)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.norm(self.body(x)).relu()))


def blobs(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    centres = torch.tensor([[4.0, 0.0], [0.0, 4.0], [-4.0, -4.0]], dtype=torch.float64)
    return centres[labels] + torch.randn(count, 2, generator=generator, dtype=torch.float64), labels


@functools.cache
def trained() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, (x, y) = Net().double().eval(), blobs(120, 1)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        model.head.bias[2] -= 30
    return model


def forgetful() -> Net:
    """Knows the three blobs, but never answers 2."""
    return copy.deepcopy(trained())


def learn(model: nn.Module, **changes: object) -> Relearning:
    images, labels = blobs(36)
    arguments = {"model": model, "images": images, "labels": labels, "target": 2, "test": blobs(90, 2)}
    return relearn(**(arguments | {"learning_rate": 0.5, "steps": 16} | changes))


def state_of(model: nn.Module) -> dict[str, object]:
    """Everything that a caller could find changed."""
    return {
        "state": {k: v.clone() for k, v in model.state_dict().items()},
        "versions": [t._version for t in (*model.parameters(), *model.buffers())],
        "modes": [module.training for module in model.modules()],
        "grad": [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()],
        "random": torch.get_rng_state(),
    }


def assert_same(before: dict[str, object], after: dict[str, object]) -> None:
    assert before["modes"] == after["modes"] and before["versions"] == after["versions"]
    assert torch.equal(before["random"], after["random"])
    assert all(torch.equal(v, after["state"][k]) for k, v in before["state"].items())
    for (flag, grad), (flag_after, grad_after) in zip(before["grad"], after["grad"], strict=True):
        assert flag == flag_after and (grad is None) == (grad_after is None)
        assert grad is None or torch.equal(grad, grad_after)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("batch_size", [10, 100])
def test_it_is_adam_or_momentum_on_the_cross_entropy(batch_size: int, optimizer: str) -> None:
    model = forgetful()
    images, labels = blobs(36)
    found = learn(model, batch_size=batch_size, seed=5, learning_rate=0.1, steps=[1, 3, 6], optimizer=optimizer)
    # By hand: the weights as one vector, Adam as in its paper (Kingma and Ba 2015, algorithm 1), or Polyak's momentum.
    hand = copy.deepcopy(model)
    parameters = list(hand.parameters())
    weights = nn.utils.parameters_to_vector(parameters).detach()
    mean, square = torch.zeros_like(weights), torch.zeros_like(weights)
    order = torch.Generator().manual_seed(5)
    batches: list[torch.Tensor] = []
    expected = [evaluate(hand, *blobs(90, 2), 2)]
    for step in range(1, 7):
        if not batches:
            batches = list(torch.randperm(36, generator=order).split(batch_size))
        chosen = batches.pop(0)
        hand.zero_grad()
        (-hand(images[chosen]).log_softmax(1)[range(len(chosen)), labels[chosen]]).mean().backward()
        gradient = torch.cat([p.grad.flatten() for p in parameters])
        if optimizer == "sgd":
            mean = 0.9 * mean + gradient
            weights = weights - 0.1 * mean
        else:
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            weights = weights - 0.1 * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        nn.utils.vector_to_parameters(weights, parameters)
        if step in (1, 3, 6):
            expected.append(evaluate(hand, *blobs(90, 2), 2))
    assert found.steps == (0, 1, 3, 6) and list(found.evaluations) == expected
    assert len(set(found.retain_accuracy + found.forget_accuracy)) > 2  # or the comparison would say little


def test_a_hidden_class_returns_and_its_time_is_counted() -> None:
    model = forgetful()
    found = learn(model)
    assert found.steps == (0, 1, 2, 4, 8, 16)
    assert found.forget_accuracy[0] == 0.0 and max(found.forget_accuracy) >= 0.95
    first = next(s for s, a in zip(found.steps, found.forget_accuracy, strict=True) if a >= 0.95)
    assert found.relearn_time(1.0) == first > 0
    assert found.relearn_time(1.0, 0.05, retain_reference=1.0) is None or found.retain_accuracy[-1] >= 0.95
    assert (found.images, found.target_images, found.retain_only) == (36, 12, False)
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["forget_accuracy"] == found.forget_accuracy and len(plain["forget_interval"]) == 6


def test_of_the_class_alone_everything_else_goes() -> None:
    images, labels = blobs(36)
    found = learn(forgetful(), images=images[labels == 2], labels=labels[labels == 2], steps=64)
    assert found.forget_accuracy[-1] == 1.0 and found.relearn_time(1.0) is not None
    assert found.retain_accuracy[-1] < 0.9 and found.retain_accuracy[0] > 0.95
    time, both = found.relearn_time(1.0), found.relearn_time(1.0, retain_reference=found.retain_accuracy[0])
    assert both is None or both >= time


def test_retain_only() -> None:
    images, labels = blobs(36)
    found = learn(forgetful(), images=images[labels != 2], labels=labels[labels != 2])
    assert found.retain_only and found.target_images == 0 and found.relearn_time(1.0) is None
    assert found.forget_accuracy == [0.0] * 6  # nothing of the class in the data, and the bias stays where it is


def test_a_fresh_row_spares_the_way_back() -> None:
    """Of a row that was turned far away; the start is the attack by prototype row, which trains nothing."""
    images, labels = blobs(60)
    model = copy.deepcopy(trained())
    with torch.no_grad():
        model.head.weight[2], model.head.bias[2] = 0, -1e3
    assert learn(model, images=images, labels=labels, learning_rate=1e-3).forget_accuracy[-1] == 0.0
    found = learn(model, images=images, labels=labels, learning_rate=1e-3, fresh_row=True)
    assert found.forget_accuracy[0] > 0.9 and found.retain_accuracy[0] > 0.9
    for changes, message in (
        ({"target": [1, 2]}, "fresh_row is for one class, got 2"),
        ({"images": images[labels != 2], "labels": labels[labels != 2]}, "fresh_row needs images of the class"),
        ({"model": nn.Sequential(model, nn.Softplus())}, "fresh_row: the model has no linear classifier"),
    ):
        given = {"model": model, "images": images, "labels": labels} | changes
        with pytest.raises(ValueError, match=message):
            learn(fresh_row=True, **given)


def test_relearn_time_by_hand() -> None:
    evaluations = [types.SimpleNamespace(forget_accuracy=f, retain_accuracy=r)
                   for f, r in ((0.1, 0.9), (0.75, 0.5), (0.76, 0.5), (1.0, 0.855))]  # fmt: skip
    found = Relearning((0, 1, 2, 4), tuple(evaluations), 3, 3)
    assert found.relearn_time(0.8) == 2 and found.relearn_time(0.8, 0.0) == 4
    assert found.relearn_time(0.8, retain_reference=0.9) == 4 and found.relearn_time(0.8, 0, retain_reference=1) is None
    assert found.relearn_time(0.1) == 0
    for arguments in ((0.0,), (1.1,), (0.5, 1.0), (0.5, -0.1)):
        with pytest.raises(ValueError, match="reference|tolerance"):
            found.relearn_time(*arguments)


def test_anamnesis_index_by_hand() -> None:
    def curve(*forget: float, images: int = 3) -> Relearning:
        evaluations = (types.SimpleNamespace(forget_accuracy=f, retain_accuracy=0.9) for f in forget)
        return Relearning((0, 1, 2, 4), tuple(evaluations), images, 3)  # type: ignore[arg-type]

    fast, slow, never, known = curve(0, 0.9, 1, 1), curve(0, 0.1, 0.2, 0.8), curve(0, 0, 0, 0), curve(0.9, 1, 1, 1)
    assert anamnesis_index(fast, slow, 0.8) == 1 / 4 and anamnesis_index(slow, fast, 0.8) == 4
    assert anamnesis_index(slow, slow, 0.8) == 1 and anamnesis_index(known, slow, 0.8) == 0
    assert anamnesis_index(never, slow, 0.8) == math.inf
    assert anamnesis_index(fast, never, 0.8) is None and anamnesis_index(fast, known, 0.8) is None
    assert anamnesis_index(fast, slow, 0.8, retain_reference=1.0) is None
    with pytest.raises(ValueError, match="^edited, oracle: expected the same call"):
        anamnesis_index(fast, curve(0, 0, 0, 1, images=4), 0.8)


def test_the_model_is_untouched() -> None:
    model = forgetful().train()
    model.norm.eval()  # mixed flags, as with a frozen layer
    model.body.weight.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before = state_of(model)
    found = learn(model)
    assert_same(before, state_of(model))
    with pytest.raises(ValueError, match="loss at step"):
        learn(model, learning_rate=1e200)
    assert_same(before, state_of(model))
    # What is frozen in the given model learns all the same.
    assert found == learn(forgetful().requires_grad_(False))


def test_the_same_seed_gives_the_same_and_another_another() -> None:
    model = forgetful()
    runs = [learn(model, batch_size=1, learning_rate=0.05, seed=seed, steps=range(12)) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_inside_of_no_grad_and_inference_mode() -> None:
    found = learn(forgetful())
    model = forgetful()
    with torch.no_grad():
        assert learn(model) == found
    with torch.inference_mode():
        born = copy.deepcopy(model)
        assert born.head.weight.is_inference() and learn(born) == found
        assert torch.is_inference_mode_enabled()


def watch(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The copies that learn, as they are made."""
    students: list[nn.Module] = []

    def deepcopy(model: nn.Module) -> nn.Module:
        students.append(copy.deepcopy(model))
        return students[-1]

    # The package has a function of the module's name.
    monkeypatch.setattr(sys.modules["zsu_fast.evaluate.relearn"], "copy", types.SimpleNamespace(deepcopy=deepcopy))
    return students


def test_batch_norm_statistics_and_masked_units_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    model = forgetful()
    with torch.no_grad():
        for tensor in (model.body.weight, model.body.bias, model.norm.weight, model.norm.bias):
            tensor[:4] = 0
    students = watch(monkeypatch)
    learn(model, steps=40)
    (student,) = students
    assert torch.equal(student.norm.running_mean, model.norm.running_mean)
    assert torch.equal(student.norm.running_var, model.norm.running_var)
    assert student.norm(student.body(torch.randn(9, 2).double()))[:, :4].abs().max() == 0
    assert not torch.equal(student.body.weight[4:], model.body.weight[4:])


def test_only_the_named_parameters_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    model, students = forgetful(), watch(monkeypatch)
    learn(model, parameters=["head.*", "norm.bias"])
    changed = {k for k, v in students[0].state_dict().items() if not torch.equal(v, model.state_dict()[k])}
    assert changed == {"head.weight", "head.bias", "norm.bias"}


def test_progress_counts_steps() -> None:
    calls: list[tuple[int, int, str]] = []
    learn(forgetful(), steps=3, progress=lambda *call: calls.append(call))
    assert calls == [(1, 3, "relearn"), (2, 3, "relearn"), (3, 3, "relearn")]


def test_a_model_that_cannot_learn_is_no_proof() -> None:
    class Detached(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return super().forward(x)

    with pytest.raises(ValueError, match="no gradient"):
        learn(Detached().double())
    # A forward that was bound to the original: the copy would answer with the original's weights.
    model = forgetful()
    original = model.forward
    model.forward = lambda x: original(x)
    before = state_of(model)
    with pytest.raises(ValueError, match="no gradient"):
        learn(model)
    assert_same(before, state_of(model))


@pytest.mark.parametrize(
    ("changes", "error", "names"),
    [
        ({"images": torch.empty(0, 2).double(), "labels": []}, ValueError, "images"),
        ({"images": [1]}, TypeError, "images"),
        ({"labels": [0, 1]}, ValueError, "labels"),
        ({"labels": torch.full((36,), 3)}, ValueError, "labels"),
        ({"target": 3, "test": (blobs(9)[0], [3] * 9)}, ValueError, "target"),
        ({"target": []}, ValueError, "target"),
        ({"test": blobs(9)[0]}, TypeError, "test"),
        ({"test": (blobs(9)[0], [0] * 9)}, ValueError, "test must hold images of the target"),
        ({"test": (blobs(9)[0], [2] * 8)}, ValueError, "test labels"),
        ({"test": (blobs(9)[0], [2] * 8 + [7])}, ValueError, "test labels"),
        ({"steps": 0}, ValueError, "steps"),
        ({"steps": [0]}, ValueError, "steps"),
        ({"steps": []}, ValueError, "steps"),
        ({"steps": [1, -1]}, ValueError, "steps"),
        ({"steps": [1.0]}, ValueError, "steps"),
        ({"learning_rate": 0}, ValueError, "learning_rate"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate"),
        ({"learning_rate": "1"}, ValueError, "learning_rate"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": True}, TypeError, "seed"),
        ({"parameters": "head.*"}, TypeError, "parameters"),
        ({"parameters": ["tail.*"]}, ValueError, "parameters.*tail"),
        ({"parameters": []}, ValueError, "parameters"),
        ({"model": nn.Flatten(1)}, ValueError, "parameters"),
        ({"model": Net().bfloat16()}, ValueError, "float32 or float64"),
    ],
)
def test_refusals_name_the_argument(changes: dict, error: type, names: str) -> None:
    with pytest.raises(error, match=names):
        learn(Net().double(), **changes) if "model" not in changes else learn(**changes)


def test_on_every_device(device: torch.device) -> None:
    """The model's device is not that of the images."""
    found = learn(forgetful(), batch_size=100)
    assert [e.forget_accuracy for e in learn(forgetful().to(device), batch_size=100).evaluations] == pytest.approx(
        found.forget_accuracy, abs=0.05
    )

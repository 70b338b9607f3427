"""Accuracy per class, intervals, what the model is left like, and what is refused."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from zsu_fast.evaluate import Evaluation, evaluate, wilson_interval


class Lookup(nn.Module):
    """Answers with the class that is written in the image: image [N, 1] of class indices."""

    def __init__(self, classes: int, wrapped: bool = False) -> None:
        super().__init__()
        self.classes, self.wrapped = classes, wrapped
        self.seen: list[tuple[int, bool, bool]] = []
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> object:
        self.seen.append((len(x), self.training or self.dropout.training, torch.is_grad_enabled()))
        torch.rand(3)  # a model that draws random numbers
        logits = nn.functional.one_hot(x[:, 0].long(), self.classes).float()
        return SimpleNamespace(logits=logits) if self.wrapped else logits


def measure(**changes: object) -> Evaluation:
    answers = torch.tensor([0, 0, 1, 1, 2, 2, 2, 0]).float()[:, None]
    labels = torch.tensor([0, 0, 1, 2, 2, 2, 1, 1])
    arguments = {"model": Lookup(4), "images": answers, "labels": labels, "target": 1} | changes
    return evaluate(**arguments)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_counts_by_hand(wrapped: bool, batch_size: int) -> None:
    model = Lookup(4, wrapped)
    result = measure(model=model, batch_size=batch_size)
    assert result.forget_accuracy == pytest.approx(1 / 3)
    assert result.retain_accuracy == pytest.approx(4 / 5)
    assert result.accuracy == pytest.approx(5 / 8)
    assert result.per_class == {0: 1.0, 1: pytest.approx(1 / 3), 2: pytest.approx(2 / 3)}
    assert result.counts == {0: 2, 1: 3, 2: 3}
    assert result.taken_for == {0: 1, 1: 1, 2: 1}
    assert max(size for size, _, _ in model.seen) == min(batch_size, 8)
    assert sum(size for size, _, _ in model.seen) == 8


def test_several_targets_and_none_present() -> None:
    both = measure(target=[0, 1])
    assert both.forget_accuracy == pytest.approx(3 / 5) and both.retain_accuracy == pytest.approx(2 / 3)
    absent = measure(target=3)
    assert absent.forget_accuracy is None and absent.forget_interval is None and absent.accuracy == 5 / 8
    everything = measure(target=[0, 1, 2])
    assert everything.retain_accuracy is None and everything.retain_interval is None
    nothing = measure(images=torch.empty(0, 1), labels=torch.empty(0, dtype=torch.int64))
    assert nothing.accuracy is None and nothing.counts == {}


def test_model_and_rng_are_left_as_they_were() -> None:
    model = Lookup(4).train()
    model.dropout.eval()  # mixed flags, as with a frozen layer
    state = torch.get_rng_state()
    measure(model=model)
    assert model.training and not model.dropout.training
    assert torch.equal(state, torch.get_rng_state())
    assert not any(training or grad for _, training, grad in model.seen)
    assert torch.is_grad_enabled()


def test_flags_come_back_after_an_error() -> None:
    model = Lookup(3).train()  # answer 3 below is out of range: one_hot raises
    with pytest.raises(ValueError, match="images: the model does not take a batch of shape"):
        measure(model=model, images=torch.full((8, 1), 3.0))
    assert model.training and model.dropout.training


def test_nan_logits_are_wrong() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[float("nan"), 0.0], [1.0, 0.0]]).expand(2, 2)

    result = evaluate(Broken(), torch.zeros(2, 1), [0, 0], 0)
    assert result.accuracy == 0.5 and result.taken_for == {-1: 1, 0: 1}


def test_to_dict_is_json() -> None:
    import json

    plain = json.loads(json.dumps(measure().to_dict()))
    assert plain["per_class"]["0"] == 1.0 and plain["targets"] == [1] and len(plain["forget_interval"]) == 2


@pytest.mark.parametrize(
    ("changes", "error", "names"),
    [
        ({"labels": torch.tensor([0, 1])}, ValueError, "labels"),
        ({"labels": torch.zeros(8)}, TypeError, "labels"),
        ({"labels": torch.tensor([0, 0, 1, 2, 2, 2, 1, 4])}, ValueError, "labels"),
        ({"labels": torch.tensor([0, 0, 1, 2, 2, 2, 1, -1])}, ValueError, "labels"),
        ({"target": 4}, ValueError, "target"),
        ({"target": -1}, ValueError, "target"),
        ({"target": []}, ValueError, "target"),
        ({"target": [1, 1]}, ValueError, "target"),
        ({"target": 1.0}, TypeError, "target"),
        ({"target": True}, TypeError, "target"),
        ({"target": "1"}, TypeError, "target"),
        ({"images": [1, 2]}, TypeError, "images"),
        ({"images": torch.zeros(8)}, ValueError, "images"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"model": nn.Flatten(0)}, ValueError, "logits"),
    ],
)
def test_refusals_name_the_argument(changes: dict, error: type, names: str) -> None:
    with pytest.raises(error, match=names):
        measure(**changes)


def test_what_a_norm_says_of_an_image_is_said_of_the_images() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)).eval()
    with pytest.raises(ValueError, match=r"^images: the model does not take .* \(3, 8, 8\).*: expected 4D"):
        evaluate(net, torch.rand(3, 8, 8), torch.tensor([0, 1, 0]), 1)


CONV = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
PICTURES = torch.rand(12, 3, 8, 8)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"model": CONV.state_dict()}, TypeError, "^model: expected .* got OrderedDict, a state dict; load it"),
        ({"model": "net.pt"}, TypeError, "^model: expected .* got str; load the weights into the network"),
        ({"model": None}, TypeError, "^model: expected a torch.nn.Module, got NoneType"),
        ({"model": nn.Linear}, TypeError, "^model: expected a torch.nn.Module, got the class Linear"),
        ({"model": SimpleNamespace(model=CONV)}, TypeError, r"got SimpleNamespace; .* holds \(.model\)"),
        ({"model": torch.export.export(CONV, (PICTURES,))}, TypeError, r"ExportedProgram; pass its .module\(\)"),
        ({"model": copy.deepcopy(CONV).to("meta")}, ValueError, "^model: its logits are on the meta device"),
        ({"images": PICTURES.double()}, ValueError, "^images: torch.float64, the model is torch.float32"),
        (
            {"images": (PICTURES.permute(0, 2, 3, 1))},
            ValueError,
            r"^images: .* shape \(\d+, 8, 8, 3\).*permute\(0, 3, 1, 2\)",
        ),
        ({"images": (PICTURES * 255).byte()}, ValueError, "^images: .*uint8: .*must be preprocessed as in training"),
    ],
)
def test_what_people_pass_by_mistake(changes: dict, error: type, text: str) -> None:
    given = {"model": CONV, "images": PICTURES, "labels": torch.arange(12) % 3, "target": 1} | changes
    with pytest.raises(error, match=text):
        evaluate(**given)


def test_it_is_short() -> None:
    told = repr(evaluate(CONV, PICTURES, torch.arange(12) % 3, 1))
    assert told.startswith("Evaluation(forget=") and told.endswith("12 images of 3 classes, targets=[1])")
    assert len(told) < 150


def test_progress_counts_images() -> None:
    calls: list[tuple[int, int]] = []
    measure(batch_size=3, progress=lambda done, total, text: calls.append((done, total)))
    assert calls == [(3, 8), (6, 8), (8, 8)]


def test_wilson_interval() -> None:
    # Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I, method 3.
    for (r, n), (low, high) in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }.items():
        assert wilson_interval(r, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(20, 20)[1] == 1.0
    for bad in [(1, 0), (-1, 5), (6, 5)]:
        with pytest.raises(ValueError):
            wilson_interval(*bad)
    with pytest.raises(ValueError, match="confidence"):
        wilson_interval(1, 2, 1.0)

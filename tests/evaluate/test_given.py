"""What callers give is refused in the same words by what measures and by what forgets."""

import numpy as np
import pytest
import torch
from torch import nn

import zsu_fast
from zsu_fast.evaluate.given import check_labels, check_targets
from zsu_fast.unlearn import ForgetClass

X, Y = torch.rand(4, 3), torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize(
    "target", [1, [1], (1,), {1}, np.int64(1), np.array([1]), torch.tensor(1), torch.tensor([1]), [torch.tensor(1)]]
)
def test_targets_of_many_kinds(target) -> None:
    assert check_targets(target, 2) == [1]


@pytest.mark.parametrize("target", ["1", True, 1.0, None, [], [1, 1], -1, 2**70, torch.tensor([1.0]), [True]])
def test_targets_are_refused_in_the_same_words(target) -> None:
    said = []
    for call in (
        lambda: zsu_fast.evaluate(nn.Linear(3, 2), X, Y, target),
        lambda: ForgetClass(target, X),
        lambda: zsu_fast.forget(nn.Linear(3, 2), target, X),
    ):
        with pytest.raises((TypeError, ValueError), match="^target: ") as refusal:
            call()
        said.append((refusal.type, str(refusal.value)))
    assert len(set(said)) == 1


@pytest.mark.parametrize("images", [None, [1.0], X[0], X.to_sparse(), X.to("meta")])
def test_images_are_refused_in_the_same_words(images) -> None:
    said = []
    for name, call in (
        ("images", lambda: zsu_fast.evaluate(nn.Linear(3, 2), images, Y, 1)),
        ("probes", lambda: ForgetClass(1, images)),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^{name}: ") as refusal:
            call()
        said.append((refusal.type, str(refusal.value).removeprefix(name).replace("N >= 1", "N >= 0")))
    assert len(set(said)) == 1


@pytest.mark.parametrize(
    ("labels", "error", "text"),
    [
        (["a"] * 4, TypeError, "expected 4 class indices, got list of other things"),
        (None, TypeError, "expected 4 class indices, got NoneType"),
        (Y.float(), TypeError, "expected 4 class indices, got torch.float32"),
        (Y.bool(), TypeError, "expected 4 class indices, got torch.bool"),
        (Y[1:], ValueError, r"expected 4 class indices, got shape \(3,\)"),
        (-Y, ValueError, "expected class indices >= 0, got -1 at 2"),
    ],
)
def test_labels(labels, error, text) -> None:
    with pytest.raises(error, match=f"^labels: {text}$"):
        zsu_fast.evaluate(nn.Linear(3, 2), X, labels, 1)
    if labels is not None:
        with pytest.raises(error, match=f"^probe_labels: {text}$"):
            ForgetClass([0, 1], X, labels)
    assert check_labels("labels", Y.to(torch.int32), 4).dtype == torch.int64
    assert check_labels("labels", [], 0).shape == (0,)

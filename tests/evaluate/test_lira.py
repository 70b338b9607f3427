"""The likelihood-ratio attack on unlearning: by hand, by another implementation, at chance and beyond doubt."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from torch import Tensor

from zsu_fast.evaluate import likelihood_ratio
from zsu_fast.evaluate.lira import confidence


def logits_of(sure: Tensor) -> Tensor:
    """Logits of two classes of which the second is as sure as given."""
    return torch.stack([torch.zeros_like(sure), sure], -1)


def ones(images: int) -> Tensor:
    return torch.ones(images, dtype=torch.int64)


def test_confidence() -> None:
    logits = torch.randn(3, 4, 5, dtype=torch.float64)
    labels = torch.tensor([0, 4, 2, 2])
    p = logits.softmax(-1)[:, range(4), labels]
    torch.testing.assert_close(confidence(logits, labels), (p / (1 - p)).log())
    sharp = confidence(torch.tensor([[300.0, 0.0], [0.0, 300.0]]), torch.tensor([0, 0]))
    assert sharp.tolist() == [300.0, -300.0]  # where p is 1 or 0 to the last bit


def test_by_hand() -> None:
    """Three pairs, one image. What is compared, the smaller one wins: (value - mean)² / variance + ln variance."""
    unlearned, unseen = (torch.tensor(values)[:, None] for values in ([1.0, 4.0, 6.0], [0.5, 0.0, -2.0]))
    found = likelihood_ratio(logits_of(unlearned), logits_of(unseen), ones(1))
    # Without the first pair: means 5 and -1, variances 2. 1: 8.7 and 2.7, missed; 0.5: 10.8 and 1.8, right.
    # Without the second: means 3.5 and -0.75, variances 12.5 and 3.125. 4: 2.5 and 8.4; 0: 3.5 and 1.3, both right.
    # Without the third: means 2.5 and 0.25, variances 4.5 and 0.125. 6: 4.2 and 262, right; -2: 6 and 38, missed.
    assert found.accuracy == pytest.approx(4 / 6)
    assert found.of_images.tolist() == pytest.approx([4 / 6])
    assert (found.models, found.images) == (3, 1)


@pytest.mark.parametrize("models", [8, 70])
def test_as_another_implementation_says(models: int) -> None:
    """Below 64 pairs with one variance for all images, from there with each its own."""
    generator = torch.Generator().manual_seed(1)
    shift = torch.rand(2, 1, 5, generator=generator)
    sure = shift + torch.randn(2, models, 5, generator=generator) * torch.tensor([0.5, 1, 2, 0.1, 0.3])
    values, ratios = sure.double().numpy(), np.empty((2, models, 5))
    for pair in range(models):
        known = np.delete(values, pair, 1)
        spread = known.var(1, ddof=1)
        spread = np.sqrt(spread if models >= 64 else np.broadcast_to(spread.mean(1, keepdims=True), spread.shape))
        for kind in (0, 1):
            both = [norm.logpdf(values[kind, pair], known[k].mean(0), spread[k]) for k in (0, 1)]
            ratios[kind, pair] = both[0] - both[1]
    found = likelihood_ratio(logits_of(sure[0]), logits_of(sure[1]), ones(5))
    assert found.accuracy == pytest.approx(((ratios[0] > 0).mean() + (ratios[1] < 0).mean()) / 2)
    truth = np.repeat([True, False], models * 5)
    assert found.auc == pytest.approx(roc_auc_score(truth, ratios.ravel()))
    above = np.sort(ratios[1].ravel())[::-1][int(0.01 * models * 5)]
    assert found.hits_at_1_percent == pytest.approx((ratios[0] > above).mean())
    assert found.interval[0] < found.accuracy < found.interval[1]


def test_chance_and_certainty() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 40, 50, generator=generator)
    same = likelihood_ratio(logits_of(one), logits_of(other), ones(50))
    assert same.interval[0] < 0.5 < same.interval[1] and abs(same.auc - 0.5) < 0.05
    told = likelihood_ratio(logits_of(one + 9), logits_of(other), ones(50))
    assert told.accuracy > 0.999 and told.auc > 0.999 and told.hits_at_1_percent > 0.999
    assert likelihood_ratio(logits_of(one), logits_of(one), ones(50)).accuracy == 0.5  # every ratio is a tie
    still = torch.zeros(5, 3)  # no spread at all
    assert likelihood_ratio(logits_of(still + 1), logits_of(still), ones(3)).accuracy == 1.0
    assert likelihood_ratio(logits_of(still), logits_of(still), ones(3)).auc == 0.5


def test_what_cannot_be_attacked_is_refused() -> None:
    good = torch.randn(4, 3, 2)
    for unlearned, unseen, labels, kind, message in (
        (good[0], good, ones(3), TypeError, "unlearned: expected floating-point logits"),
        (good, good.long(), ones(3), TypeError, "unseen: expected floating-point logits"),
        (good, good / 0, ones(3), ValueError, "unseen holds infinite"),
        (good, good[1:], ones(3), ValueError, "same shape"),
        (good[:2], good[:2], ones(3), ValueError, "at least 3 models"),
        (good[:, :0], good[:, :0], ones(0), ValueError, "1 image"),
        (good[..., :1], good[..., :1], ones(3) * 0, ValueError, "2 classes"),
        (good, good, ones(2), ValueError, "labels: expected 3"),
        (good, good, ones(3) + 1, ValueError, "labels: the model has classes 0..1"),
    ):
        with pytest.raises(kind, match=message):
            likelihood_ratio(unlearned, unseen, labels)
    with pytest.raises((TypeError, ValueError), match="seed"):
        likelihood_ratio(good, good, ones(3), seed=-1)

"""What may be said of an edit, against values worked out by hand."""

import pytest

from zsu_fast.evaluate.depth import Attack, Depth
from zsu_fast.evaluate.intervals import trials_for_bound, upper_bound
from zsu_fast.unlearn.verdict import judge, judged_by_known


def test_upper_bound():
    # No success in n: (1 - p)^n = 0.05. One in 10: (1 - p)^10 + 10 p (1 - p)^9 = 0.05, p = 0.394163 (Clopper, Pearson).
    for n in (1, 10, 29, 1000):
        assert upper_bound(0, n) == pytest.approx(1 - 0.05 ** (1 / n), abs=1e-9)
    assert upper_bound(1, 10) == pytest.approx(0.394163, abs=1e-6)
    assert upper_bound(7, 7) == 1.0 and upper_bound(0, 0) == 1.0
    with pytest.raises(ValueError, match="between 0 and total"):
        upper_bound(3, 2)
    assert trials_for_bound(0, 0.1) == 29 and upper_bound(3, trials_for_bound(3, 0.1)) <= 0.1
    assert upper_bound(3, trials_for_bound(3, 0.1) - 1) > 0.1


@pytest.mark.parametrize(
    ("right", "images", "by", "fixed", "level"),
    [
        (0, 29, "held-out probes", False, "answers"),  # at most 9.8 %
        (0, 28, "held-out probes", False, "not judged"),  # at most 10.2 %
        (2, 100, "evaluation images", False, "answers"),  # 2 %, at most 6.2 %
        (3, 100, "evaluation images", False, "not reached"),  # more than the aim of 2 %
        (3, 100, "evaluation images", True, "not judged"),
        (0, 5, "evaluation images", False, "not judged"),
        (36, 36, "held-out probes", True, "not judged"),
    ],
)
def test_levels(right, images, by, fixed, level):
    verdict = judge("class 3", [(right, images)], 0.02, by, fixed)
    assert verdict.level == level and verdict.forgotten == (level == "answers")
    assert f"{right} of {images}" in verdict.sentence
    assert ("have forgotten" in verdict.sentence) == verdict.forgotten  # nothing else may say so


def test_several_classes_are_judged_by_the_worst():
    def said(counts):
        return judge("class 1, 2", counts, 0.02, "evaluation images", False)

    assert said([(0, 40), (1, 60)]).level == "answers"
    one = said([(0, 400), (0, 5)])  # five images say little, however many the other has
    assert (one.level, one.images) == ("not judged", 5) and "29 would do" in one.sentence
    other = said([(2, 400), (3, 60)])  # 0.5 % and 5 %
    assert (other.level, other.right) == ("not reached", 3)


def test_many_answers_are_told_at_once():
    assert judge("class 3", [(10_000, 10_001)], 1.0, "held-out probes", False).level == "not judged"


def test_what_was_not_known_before_judges_nothing():
    found = judge("class 3", [(0, 40)], 0.02, "evaluation images", False)
    assert judged_by_known("class 3", found, [(6, 40)]) is found
    other = judged_by_known("class 3", found, [(40, 40), (5, 40)])
    assert other.level == "not judged" and "the model knew it on 5 of 40 of them" in other.sentence
    unmet = judge("class 3", [(3, 100)], 0.02, "evaluation images", False)
    assert judged_by_known("class 3", unmet, [(0, 100)]) is unmet


def test_features_are_called_forgotten_beside_an_oracle_only():
    def found(probe, at_most, others=0.5):
        means = {"original": 0.9, "edited": probe, "oracle": 0.5}
        names = ("prototype row, 5 images", "linear probe", "relearning")
        return Depth({name: Attack(means, means, None, None, at_most, others) for name in names}, 100)

    answers = judge("class 3", [(0, 100)], 0.02, "evaluation images", False)
    assert answers.with_depth(found(0.55, 0.59)).level == "features"
    kept = answers.with_depth(found(0.85, 0.59))
    assert (
        kept.level == "answers"
        and "have not forgotten as a retrained model's: " in kept.sentence
        and "linear probe" in kept.sentence
    )
    assert answers.with_depth(found(0.55, 0.59, others=0.6)).level == "answers"  # the others lost as much
    few = judge("class 3", [(0, 5)], 0.02, "evaluation images", False)
    assert few.with_depth(found(0.55, 0.59)).level == "not judged"
    with pytest.raises(ValueError, match="depth: was measured without an oracle"):
        answers.with_depth(found(0.55, None))
    some = found(0.55, 0.59)
    for left_out in some.attacks:
        rest = Depth({name: attack for name, attack in some.attacks.items() if name != left_out}, 100)
        with pytest.raises(ValueError, match="without one of the attacks"):
            answers.with_depth(rest)

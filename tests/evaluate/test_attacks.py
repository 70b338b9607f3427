"""Attacks on features, on clouds for which the right answer is known."""

import inspect

import pytest
import torch

import zsu_fast
from zsu_fast.evaluate import linear_probe, mlp_probe, nearest_prototype, neighbour_probe, prototype_row
from zsu_fast.evaluate.accuracy import evaluate

CENTRES = torch.tensor([[8.0, 0, 0], [0, 8.0, 0], [0, 0, 8.0]])


def clouds(seed, each=60, centres=CENTRES):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat_interleave(each)
    return centres[labels] + torch.randn(3 * each, 3, generator=generator), labels


def answers_without_class_2(x):
    """A classifier whose row of class 2 was cut out: its features are as they were."""
    return torch.stack([x[:, 0], x[:, 1], torch.full_like(x[:, 0], -100.0)], 1)


@pytest.mark.parametrize("images", [1, 5, 36])
def test_a_row_brings_a_class_back_that_only_the_classifier_forgot(images):
    (lessons, known), (x, y) = clouds(0), clouds(1)
    logits = answers_without_class_2(x)
    assert not (logits.argmax(1) == 2).any()
    found = prototype_row(lessons, known, answers_without_class_2(lessons), x, y, logits, 2, images=images)
    assert found.forget_accuracy > 0.97 and found.retain_accuracy > 0.97
    again = prototype_row(lessons, known, answers_without_class_2(lessons), x, y, logits, 2, images=images)
    assert again == found


def test_a_row_does_not_bring_back_what_lies_among_the_others():
    """Class 2 has the features of class 0: more than chance would cost the others more than is allowed."""
    same = torch.tensor([[8.0, 0, 0], [0, 8.0, 0], [8.0, 0, 0]])
    (lessons, known), (x, y) = clouds(0, centres=same), clouds(1, centres=same)
    found = prototype_row(lessons, known, answers_without_class_2(lessons), x, y, answers_without_class_2(x), 2)
    assert found.forget_accuracy < 0.15 and found.retain_accuracy > 0.9


def test_a_row_by_hand():
    """One feature, one image: others at 0 answer with logit 0; the class at 2 comes back where f passes the bias."""
    lessons, known = torch.tensor([[0.0], [0.0], [2.0]]), [0, 0, 1]
    x, y = torch.tensor([[2.0], [-2.0], [0.0]]), [1, 1, 0]
    flat = torch.tensor([[0.0, -9.0]])
    found = prototype_row(lessons, known, flat.repeat(3, 1), x, y, flat.repeat(3, 1), 1, images=1, draws=1)
    assert (found.forget_accuracy, found.retain_accuracy) == (0.5, 1.0)


def test_probes_find_what_is_there():
    (train, known), (x, y) = clouds(0), clouds(1)
    for probe in (linear_probe, nearest_prototype, neighbour_probe, mlp_probe):
        found = probe(train, known, x, y, 2)
        assert found.forget_accuracy > 0.97 and found.retain_accuracy > 0.97, probe.__name__


@pytest.mark.filterwarnings("error")
def test_a_masked_unit_is_nothing_to_warn_of():
    (train, known), (x, y) = clouds(0), clouds(1)
    train, x = (torch.cat([part, torch.zeros(len(part), 1)], 1) for part in (train, x))
    for probe in (linear_probe, nearest_prototype, neighbour_probe, mlp_probe):
        assert probe(train, known, x, y, 2).forget_accuracy > 0.97, probe.__name__


def test_a_class_folded_in_among_others_is_hidden_from_lines_only():
    """Class 2 is the exclusive or of two signs: no line tells, neighbours and a hidden layer do."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.tensor([[1.0, 1], [-1, -1], [1, -1], [-1, 1]]).repeat(100, 1)
    x = 2 * corners + 0.3 * torch.randn(400, 2, generator=generator)
    y = torch.tensor([0, 0, 2, 2]).repeat(100)
    train, test = slice(0, 200), slice(200, 400)
    assert linear_probe(x[train], y[train], x[test], y[test], 2).forget_accuracy < 0.8
    assert nearest_prototype(x[train], y[train], x[test], y[test], 2).forget_accuracy < 0.8
    assert neighbour_probe(x[train], y[train], x[test], y[test], 2).forget_accuracy == 1.0
    assert mlp_probe(x[train], y[train], x[test], y[test], 2).forget_accuracy > 0.95


def test_neighbours_by_hand():
    train, known = torch.tensor([[0.0], [1.0], [2.0], [9.0], [10.0]]), [0, 0, 0, 1, 1]
    found = neighbour_probe(train, known, torch.tensor([[9.4], [5.0], [0.5]]), [1, 1, 0], 1, k=3)
    assert (found.forget_accuracy, found.retain_accuracy) == (0.5, 1.0)  # 5 is nearer to 2 and 1 than to 10


@pytest.mark.parametrize("probe", [linear_probe, nearest_prototype, neighbour_probe, mlp_probe])
def test_features_that_say_nothing_are_read_as_the_commonest_class(probe):
    labels = torch.tensor([0, 0, 0, 1, 1, 2]).repeat(2)
    found = probe(torch.ones(12, 4), labels, torch.ones(3, 4), [0, 1, 2], 2)
    assert found.rates.tolist() == [1.0, 0.0, 0.0]


def test_bad_input_is_named():
    lessons, known = clouds(0)
    logits = answers_without_class_2(lessons)
    given = (lessons, known, logits, lessons, known, logits)
    for changed, text in (
        ({"images": 0}, "images must be in 1..60"),
        ({"images": 61}, "images must be in 1..60"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"target": 3}, "target: the model has classes 0..2, got 3"),
    ):
        with pytest.raises(ValueError, match=text):
            prototype_row(*given, **({"target": 2} | changed))
    with pytest.raises(ValueError, match="k must be an integer in 1..180"):
        neighbour_probe(lessons, known, lessons, known, 2, k=0)


def test_the_package_is_called_like_its_function():
    assert zsu_fast.evaluate.linear_probe is linear_probe
    assert inspect.signature(zsu_fast.evaluate) == inspect.signature(evaluate)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 3))
    x, y = clouds(0)
    assert zsu_fast.evaluate(net, x, y, 2) == evaluate(net, x, y, 2)

"""Who gets which images, and what an attacker has back of a class that can be read and of one that cannot."""

import pytest
import torch
from torch import nn

from bench import depth_imagenet
from bench.depth_imagenet import PROBES, RETAIN, Images, Seen, apart, attack, given

TARGET, OTHERS = 2, 8


def test_lessons_and_test_images_are_apart():
    labels = torch.tensor([4, 1, 4, 1, 4, 1, 4, 4])
    assert apart(labels, 2) == ([1, 3, 0, 2], [5, 4, 6])


def test_a_method_gets_some_of_each_other_class():
    labels = torch.arange(5).repeat_interleave(PROBES)
    own, others = given(labels, TARGET)
    assert own.sum() == PROBES and labels[own].unique().tolist() == [TARGET]
    assert labels[others].bincount().tolist() == [RETAIN, RETAIN, 0, RETAIN, RETAIN]


@pytest.fixture
def images(monkeypatch):
    """Of class c: e_c with noise; a sample of the classes 3 to 7 only."""
    monkeypatch.setattr(depth_imagenet, "NEAR", 8)
    generator = torch.Generator().manual_seed(0)

    def of(labels):
        return torch.eye(OTHERS)[labels] + 0.1 * torch.randn(len(labels), OTHERS, generator=generator), labels

    few, sample = torch.arange(3).repeat_interleave(PROBES), torch.arange(3, OTHERS).repeat_interleave(4)
    return Images(of(few), of(few), of(sample), of(sample), of(few))


def test_the_attacks_find_what_the_features_tell_and_no_more(images):
    net = nn.Sequential(nn.Identity(), nn.Linear(OTHERS, OTHERS, bias=False))
    net[1].weight.data = torch.eye(OTHERS)
    blind = nn.Sequential(nn.Linear(OTHERS, OTHERS, bias=False), net[1])
    blind[0].weight.data = torch.eye(OTHERS)
    blind[0].weight.data[TARGET], blind[0].weight.data[3, TARGET] = 0, 1  # the class lies among class 3
    original = Seen.by(net, images)
    known = attack(original, images, TARGET, original)
    assert known["answers"] == known["linear probe"] == {"forget": 1, "retain": 1}
    assert known["prototype row"]["forget"] == 1
    gone = attack(Seen.by(blind, images), images, TARGET, original)
    assert gone["answers"] == {"forget": 0, "retain": 1}
    assert gone["prototype row"]["forget"] < known["prototype row"]["forget"]

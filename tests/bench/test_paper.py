"""The paper's pipeline as it is timed and its grid as it is drawn do what `forget` does."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import zsu_fast
from bench import paper_time
from bench.models import ResNet
from bench.paper import ablation
from zsu_fast.evaluate.probe import features_and_logits

IMAGES = np.random.default_rng(0).integers(0, 256, (80, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def tiny(monkeypatch):
    """A narrow ResNet, and images of a third of the size."""
    build = partial(ResNet, (1, 1, 1, 1), 8, 10)
    experiment = paper_time.Experiment("cifar10_resnet50", build, "fc")
    monkeypatch.setattr(paper_time, "EXPERIMENTS", {"tiny": experiment})
    monkeypatch.setattr(paper_time, "SIZE", 64)
    monkeypatch.setattr(paper_time, "SAME", 0.9)  # of 8 x 32 features a tie weighs more than of 2048
    return experiment


def test_both_pipelines_make_one_edit_and_their_parts_are_timed(tiny):
    row = paper_time.measure("tiny", IMAGES)
    assert 0.9 <= row["same"] <= 1 and row["test_set"] == 80
    theirs, own = row["parts"]["authors"]["cpu"], row["parts"]["zsu_fast"]["cpu"]
    assert set(theirs) == {"finding the images", "analysis", "edit"} and set(own) == {"finding the images", "forget"}
    assert row["ratio"] == pytest.approx(sum(theirs.values()) / sum(own.values()))
    assert row["images_forwarded"] == row["images"], "forget runs its probes once"
    grid = row["grid"]
    assert grid["settings"] == 30 and grid["authors_scaled_cpu"] == pytest.approx(30 * sum(theirs.values()))
    shown = paper_time.table({"machine": paper_time.machine.describe(torch.device("cpu")), "rows": [row]})
    assert f"{row['ratio']:.1f}x" in shown


def test_edits_that_differ_are_not_timed(tiny, monkeypatch):
    monkeypatch.setattr(paper_time, "as_authors", lambda net, *_: net.fc.weight.data[:, :3].zero_())
    with pytest.raises(AssertionError, match="have 0"):
        paper_time.measure("tiny", IMAGES)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.linear = nn.Linear(16, 20), nn.Linear(20, 10)

    def forward(self, x):
        return self.linear(torch.relu(self.hidden(x.flatten(1))))


@pytest.mark.parametrize("path", ["target", "all"])
def test_a_point_of_the_grid_is_what_forget_leaves(path):
    torch.manual_seed(0)
    net = object.__new__(ablation.Net)
    net.model = Plain().eval()
    net.head = net.model.linear
    net.probes, net.test = torch.rand(400, 1, 4, 4), torch.rand(500, 1, 4, 4)
    with torch.no_grad():
        net.probe_labels, net.labels = net.model(net.probes).argmax(1), net.model(net.test).argmax(1)
    net.features, net.logits = features_and_logits(net.model, net.test)
    net.probe_features, _ = features_and_logits(net.model, net.probes)
    target = int(net.labels.mode().values)
    points = {(p["path"], p["k"], p["budget"]): p for p in ablation.grid(net, [target])}
    probes = net.probes[net.drawn(target, ablation.FEW, 0)]
    for k, h in ((0.25, 0.1), (0.5, 0.4)):
        edited = copy.deepcopy(net.model)
        zsu_fast.forget(
            edited, target, probes, k=ablation.share(k, 20), budget=ablation.share(h, 20), path=path, mode="zero"
        )
        right, own = edited(net.test).argmax(1) == net.labels, net.labels == target
        point = points[path, k, h]
        assert point["answers"] == pytest.approx(float(right[own].float().mean()))
        assert point["others"] == pytest.approx(float(right[~own].float().mean()))

"""Examples in the docstrings of classes run, on a net that knows four classes."""

import copy
import inspect
import re
import textwrap

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import zsu_fast
from zsu_fast.evaluate import Attacker, Evaluation, compare
from zsu_fast.lrp import Composite, Epsilon, Gamma, Relevance
from zsu_fast.unlearn import ForgetInstances, ForgetResult, Patch, Picks
from zsu_fast.unlearn.queue import Queue
from zsu_fast.unlearn.verdict import Verdict

EXAMPLE = re.compile(r"\n\n((?:    .*\n|\n(?=    ))+)")
"""In a cleaned docstring: lines that are indented after an empty one."""


def examples(kind):
    return [textwrap.dedent(found) for found in EXAMPLE.findall(inspect.cleandoc(kind.__doc__) + "\n")]


def drawn(seed, each):
    """Class c lies at 4 on axis c."""
    labels = torch.arange(4).repeat_interleave(each)
    return 4 * F.one_hot(labels, 6) + torch.randn(len(labels), 6, generator=torch.Generator().manual_seed(seed)), labels


def trained(without=None):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4))
    images, labels = drawn(0, 60)
    kept = labels != (-1 if without is None else without)
    images, labels = images[kept], labels[kept]
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return net.eval()


@pytest.mark.parametrize(
    "kind", [ForgetResult, Patch, Picks, Verdict, Relevance, Evaluation, Composite, Attacker, Queue]
)
def test_examples_run(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = examples(kind)
    model = trained()
    (images, labels), lessons = drawn(1, 60), drawn(2, 40)
    edited = copy.deepcopy(model)
    zsu_fast.forget(edited, 3, lessons[0][lessons[1] == 3])
    seen, known = drawn(0, 60)
    names = {
        "zsu_fast": zsu_fast, "Attacker": Attacker, "compare": compare, "Composite": Composite, "Epsilon": Epsilon,
        "Gamma": Gamma, "Patch": Patch, "Queue": Queue, "ForgetInstances": ForgetInstances, "model": model,
        "retrained": trained(3), "edits": [edited], "images": images, "labels": labels, "lessons": lessons,
        "probes": lessons[0][lessons[1] == 3], "x": seen[:3], "y": known[:3],
    }  # fmt: skip
    exec(compile(example, kind.__name__, "exec"), names)

"""SUPREME's methods as methods of the registry: with its package where it is installed, and with one like it."""

import copy
import importlib.metadata
import importlib.util
import json
import random
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import zsu_fast
from bench import field, supreme, supreme_ssd
from bench.report import insert_table
from zsu_fast.benchmark.config import read_config
from zsu_fast.unlearn.methods import find_method, method_names, methods_for

HEAD = "from lightning.fabric import Fabric\nimport wandb\nfrom torchvision.transforms import v2\n"
LIKE_IT = {
    "supreme/utils/training/training_utils.py": """
from supreme.utils.debug_utils import export_train_test_data
from supreme.utils.memory_utils import load_weights_efficiently
from supreme.utils.unlearning.evaluation_utils import track_evaluation_metric

@track_evaluation_metric
def evaluate(fabric, model, loader):
    return sum(len(y) for _, _, y in loader)
""",
    "supreme/methods/unlearning_methods/ssd.py": HEAD
    + """
import torch
seen = {}

def ssd(fabric: Fabric, model, forget_train_dataloader, full_train_dataloader, selection_weighting, **kwargs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = fabric.setup(model, optimizer)
    seen.update(kwargs, alpha=selection_weighting, batches=[], sizes=[len(b[0]) for b in full_train_dataloader])
    for x, label, y in forget_train_dataloader:
        seen["batches"].append((x, label, y))
        fabric.backward(torch.nn.functional.cross_entropy(model(x), y))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * fabric.all_reduce(parameter.grad)
    fabric.barrier()
    return model
""",
    "supreme/methods/unlearning_methods/jit.py": HEAD
    + """
def jit(fabric, model, n_samples, **kwargs):
    noise = v2.Compose([lambda x: x + 1, lambda x: 2 * x])
    assert noise(3) == 8 and n_samples == 3
    next(iter(model.parameters())).data.fill_(float("nan"))
""",
    "supreme/methods/unlearning_methods/random_labeling.py": """
import os, random
from supreme.utils.training.training_utils import evaluate
from supreme.utils.fabric.fabric_setup import setup_model_for_inference

def random_labeling(fabric, model, num_labels, forget_label_id, retain_test_dataloader, **kwargs):
    assert setup_model_for_inference(fabric, model, "ddp") is model and os.environ["SCALENE"]
    count = evaluate(fabric, model, retain_test_dataloader)["metric_value_dict"]
    last = list(model.parameters())[-1].data
    last[forget_label_id] = count + random.random() + 1000 * num_labels
""",
}
INSTALLED = importlib.util.find_spec("supreme") is not None


@pytest.fixture
def like_it(tmp_path, monkeypatch):
    """A package with the interface of SUPREME's, which says what it was given."""
    for name, text in LIKE_IT.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for folder in [path for path in tmp_path.rglob("*") if path.is_dir()]:
        (folder / "__init__.py").touch()
    (tmp_path / "supreme/utils/unlearning").mkdir()
    (tmp_path / "supreme/utils/fabric").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0")
    supreme.published.cache_clear()
    with supreme.registered():
        yield
    supreme.published.cache_clear()


@pytest.fixture(scope="module")
def learned():
    """A net that knows five classes, with a BatchNorm, and images of them."""
    torch.manual_seed(0)
    labels = torch.arange(5).repeat(8)
    images = 0.3 * torch.randn(40, 3, 6, 6) + torch.randn(5, 3, 6, 6)[labels]
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5))
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    net.eval()
    assert (net(images).argmax(1) == labels).all()
    return net, images, labels


@pytest.fixture
def case(learned):
    return copy.deepcopy(learned[0]), *learned[1:]


def forget(case, method, target=2, **options):
    net, images, labels = case
    own = labels == target
    return zsu_fast.forget(
        net, target, images[own], method=method, retain_probes=(images[~own], labels[~own]), budget=1, **options
    )


def test_a_file_gets_images_and_options_and_the_edit_can_be_undone(like_it, case):
    net, images, labels = case
    before = [p.clone() for p in net.parameters()]
    said = []
    seen = supreme.published("ssd").__globals__["seen"]
    result = forget(
        case, "supreme-ssd", train_batch_size=7, selection_weighting=4.0, progress=lambda *given: said.append(given)
    )
    x, label, y = (torch.cat(parts) for parts in zip(*seen["batches"], strict=True))
    assert [len(batch[0]) for batch in seen["batches"]] == [7, 1] and seen["sizes"] == [7, 7, 7, 7, 7, 5]
    assert y.tolist() == label.tolist() == [2] * 8
    assert sorted(map(str, x.tolist())) == sorted(map(str, images[labels == 2].tolist()))
    assert seen["alpha"] == 4 and seen["dampening_constant"] == 1 and seen["num_labels"] == 5
    assert "train_batch_size" not in seen and len(seen["trainset"]) == 40
    assert (2, 2, "supreme-ssd, a pass") in said
    assert all(not torch.equal(now, old) for now, old in zip(net.parameters(), before, strict=True))
    assert result.record["request"]["file"] == "ssd.py" and result.record["request"]["selection_weighting"] == 4
    result.patch.revert(net)
    assert all(torch.equal(now, old) for now, old in zip(net.parameters(), before, strict=True))


def test_nothing_is_left_of_the_stand_ins(like_it, case, monkeypatch):
    own = type(sys)("wandb")
    monkeypatch.setitem(sys.modules, "wandb", own)
    state = random.getstate()
    forget(case, "supreme-random-label")
    assert sys.modules["wandb"] is own and random.getstate() == state
    assert not [name for name in sys.modules if name.partition(".")[0] in ("supreme", "lightning")]


def test_what_a_file_draws_follows_the_seed(like_it, case):
    net, *_ = case
    first = net[-1].bias.clone()
    found = []
    for seed in (0, 0, 1):
        result = forget(case, "supreme-random-label", seed=seed)
        found.append(net[-1].bias[2].item())
        result.patch.revert(net)
    assert found[0] == found[1] != found[2] and min(found) >= 5032 and torch.equal(net[-1].bias, first)


def test_errors_come_before_any_change(like_it, case, monkeypatch):
    net, images, labels = case
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(ValueError, match="'supreme-jit' left parameters that are infinite or NaN"):
        forget(case, "supreme-jit", n_samples=3)
    with pytest.raises(ImportError, match=r"pip install --no-deps supreme-unlearning==0\.1\.5"):
        forget(case, "supreme-scrub")  # the package is another: it has no such file
    with pytest.raises(ValueError, match="selection_weighting: expected a positive number, got 0"):
        forget(case, "supreme-ssd", selection_weighting=0)
    with pytest.raises(ValueError, match="target: 'supreme-random-label' forgets one class at a time, got 2"):
        zsu_fast.forget(
            net, [1, 2], images[(labels == 1) | (labels == 2)], probe_labels=labels[(labels == 1) | (labels == 2)],
            method="supreme-random-label", retain_probes=(images[labels > 2], labels[labels > 2]), budget=1,
        )  # fmt: skip
    assert all(torch.equal(now, old) for now, old in zip(net.parameters(), before, strict=True))


def test_methods_are_found_where_they_are_registered(monkeypatch):
    names = {kind.name for kind in supreme.METHODS}
    assert not names & set(method_names())
    with supreme.registered():
        monkeypatch.setenv("ZSU_FAST_DATA", "/data")
        assert read_config(Path(supreme.__file__).with_name("supreme_mnist.yaml")).methods
        assert names <= set(methods_for("class"))
        assert {find_method(name) for name in names} == set(supreme.METHODS)
    with pytest.raises(ValueError, match="got 'supreme-ssd'"):
        find_method("supreme-ssd")


@pytest.mark.skipif(not INSTALLED, reason=f"{supreme.PACKAGE} is not installed")
@pytest.mark.parametrize("kind", supreme.METHODS, ids=lambda kind: kind.name)
def test_its_own_files_run(case, kind):
    net, images, labels = case
    before, wrong = [p.clone() for p in net.parameters()], images.narrow(1, 0, 1)
    with supreme.registered():
        forget(case, kind.name)
        if kind is supreme.Unsir:
            with pytest.raises(ValueError, match=r"\[N, 3, S, S\], got \[8, 1, 6, 6\]"):
                kind(kind.options()).check_probes(wrong[labels == 2], (2,))
    assert any(not torch.equal(now, old) for now, old in zip(net.parameters(), before, strict=True))


@pytest.mark.skipif(not INSTALLED, reason=f"{supreme.PACKAGE} is not installed")
def test_its_ssd_and_ours_make_one_edit(case):
    """Of one mini-batch, in which nothing is drawn: an independent check of our formula."""
    net, images, labels = case
    net, pair = net.double(), (images.double(), labels)
    for ours, theirs in (("ssd", "supreme-ssd"), ("lfssd", "supreme-lfssd")):
        edits = [supreme_ssd.edited(net, 2, pair, method, len(labels)) for method in (ours, theirs)]
        found = supreme_ssd.compared(net, *edits)
        assert found["one"] == found["other"] == found["both"] > 20 and found["apart"] < 1e-9


def test_tables_of_the_docs():
    root = Path(__file__).resolve().parents[2]
    text = (root / supreme_ssd.PAGE).read_text()
    for name, module in (("supreme_lenet5", field), ("supreme_ssd", supreme_ssd)):
        results = json.loads((root / f"bench/results/{name}.json").read_text())
        assert insert_table(text, module.table(results), module.BEGIN, module.END) == text
    nothing_drawn = [row for row in results["rows"] if "one mini-batch" in row["images"]]
    assert nothing_drawn and all(row["one"] == row["other"] == row["both"] for row in nothing_drawn)

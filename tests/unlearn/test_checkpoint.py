"""A training that is killed at any step and goes on gives the same bits; a checkpoint that does not fit is refused."""

import copy
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import zsu_fast
from bench.oracles import CACHE
from bench.tiny_gpt import SMALL, taught
from tests.generators import generator_and_items, generator_and_judges
from zsu_fast.unlearn import ForgetGenerated, ForgetInstances, ForgetItems, ForgetText, TextRecord, model_digest
from zsu_fast.unlearn.checkpoint import Checkpoint, digest_of
from zsu_fast.unlearn.methods import BASELINES, RESUMABLE
from zsu_fast.unlearn.methods.training import EndlessBatches

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = {  # few, with an end and all that a step can change
    "deep": {"steps": 6, "views": 1, "train_batch_size": 8},
    "poison": {"layers": ["0"], "epochs": 3, "patch": "none", "ablation": False, "train_batch_size": 16},
    "margin": {"steps": 8, "train_batch_size": 3, "anchors": 4, "until": 1.0},
    "l2ul": {
        "attack_steps": 2,
        "examples": 4,
        "passes": 6,
        "authors_compat": True,
        "pixel_mean": 0.5,
        "pixel_std": 0.1,
    },
    "substitute": {"tuning_steps": 8, "rounds": 1, "batch_size": 512},
    "cascade": {"steps": 8, "train_batch_size": 16, "batch_size": 512},
    "hunt": {"steps": 12, "searchers": 4, "batch_size": 512},
    "text-poison": {"steps": 6, "train_batch_size": 3, "own_texts": 4, "lora_rank": 2, "look_every": 3},
    "text-ascent": {"steps": 6, "train_batch_size": 3, "own_texts": 0},
    "unsir": {"noise_steps": 3, "noise_batches": 1},
    "jit": {"copies": 2},
}

SLOW = ("substitute", "cascade", "hunt", "text-poison", "text-ascent")
EPOCHS = {"epochs": 3, "train_batch_size": 8}  # of baselines


class Killed(BaseException):
    """Not an Exception: nothing may answer to it."""


class Counting:
    """Progress that ends the run at its call number `last`."""

    def __init__(self, last: float = float("inf")) -> None:
        self.calls, self.last = 0, last

    def __call__(self, done: int, total: int, text: str) -> None:
        self.calls += 1
        if self.calls == self.last:
            raise Killed


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(6 * 16, 12),
            nn.ReLU(), nn.Linear(12, 3),
        ).eval()  # fmt: skip
    with torch.no_grad():  # each class is the answer to some images
        model[-1].bias -= model(torch.randn(60, 1, 6, 6, generator=torch.Generator().manual_seed(1))).mean(0)
    return model


def answered(model: nn.Module, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, and what the model says of them: that it knows."""
    images = torch.randn(60, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return images, model(images).argmax(1)


def case(method: str):
    """(model, request, what else `forget` is given)"""
    options = {"budget": 1} | (EPOCHS if method in BASELINES else {}) | STEPS.get(method, {})
    if method in ("substitute", "cascade"):
        model, judge, _ = generator_and_judges()
        critic = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 1))
        for parameter in critic.parameters():
            nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
        own = {"discriminator": critic} if method == "cascade" else {}
        return model.eval(), ForgetGenerated(1, judge.eval(), 6, draws=400, **own), options
    if method == "hunt":
        model, judge, items, unseen = copy.deepcopy(generator_and_items())
        request = ForgetItems(items[:1], 6, unseen, classifier=judge, restarts=4, search_steps=30, draws=400)
        return model, request, options
    if method.startswith("text"):
        known = taught(SMALL, CACHE / "texts")
        records = [
            TextRecord(fact.question(1), f" {fact.answer}", (fact.value,), fact.author, (fact.question(0),))
            for fact in known.world.facts[:8]
        ]
        return copy.deepcopy(known.model), ForgetText(records[:4], known.tokenizer, records[4:]), options
    model = net()
    images, labels = answered(model)
    if method in ("margin", "l2ul"):
        return model, ForgetInstances(images[:7], labels[:7]), options | {"retain_probes": images[7:]}
    target = int(labels.bincount().argmax())
    own = labels == target
    others = (images[~own], labels[~own])
    return model, zsu_fast.unlearn.ForgetClass(target, images[own]), options | {"retain_probes": others}


def forgotten(method, progress, **keep):
    """What came of it: every bit of the patch, and the counts of the record."""
    model, request, options = case(method)
    result = zsu_fast.forget(model, request, method=method, progress=progress, **options, **keep)
    assert result.patch.entries
    return [(e.tensor, digest_of((e.indices, e.old, e.new))) for e in result.patch.entries], result.record["cost"]


@pytest.mark.parametrize("method", RESUMABLE)
def test_killed_and_resumed_it_has_the_same_bits(method, tmp_path):
    whole = Counting()
    expected = forgotten(method, whole)
    draw = random.Random(method)
    kept = {"checkpoint": tmp_path / "kept", "checkpoint_every": 0}
    for last in draw.sample(range(2, whole.calls), 1 if method in SLOW else 2):
        with pytest.raises(Killed):
            forgotten(method, Counting(last), **kept)
        files = list((tmp_path / "kept").glob("*")) if (tmp_path / "kept").exists() else []
        again = Counting(max(2, (whole.calls - last) // 2))  # and once more, on the way
        try:
            found = forgotten(method, again, resume=True, **kept)
        except Killed:
            again = Counting()
            found = forgotten(method, again, resume=True, **kept)
        assert found == expected
        assert not files or again.calls < whole.calls
        assert not (tmp_path / "kept").exists() or not list((tmp_path / "kept").iterdir())


def killed(folder, method="margin", **changes):
    """A run that leaves a checkpoint; returns what to call again."""
    model, request, options = case(method)

    def again(model=model, request=request, progress=None, **more):
        given = options | changes | {"checkpoint": folder, "resume": True} | more
        return zsu_fast.forget(model, request, **{"method": method} | given, progress=progress)

    with pytest.raises(Killed):
        again(progress=Counting(6), resume=False, checkpoint_every=0)
    assert list(folder.iterdir())
    return again


def test_what_another_run_left_is_refused_by_name(tmp_path, monkeypatch):
    again = killed(tmp_path)
    model, request, _ = case("margin")
    other, others = copy.deepcopy(model), answered(model, seed=2)
    with torch.no_grad():
        other[0].bias[0] += 1
    relabel = ForgetInstances(request.x, request.y, "relabel", to=(request.y + 1) % 3)
    for change, said in (
        ({"model": other}, "of another run: model was [0-9a-f]{12}.. and is [0-9a-f]{12}.."),
        ({"request": ForgetInstances(others[0][:7], others[1][:7])}, "another run: request was [^;]*$"),
        ({"request": relabel}, "another run: request was [^;]*$"),
        ({"retain_probes": others}, "another run: retain images was [^;]*$"),
        ({"learning_rate": 1e-3}, "another run: option learning_rate was 5e-05 and is 0.001$"),
        ({"resume": False}, "holds one of an earlier run"),
    ):
        before = model_digest(change.get("model", model))
        with pytest.raises(ValueError, match=said):
            again(**change)
        assert model_digest(change.get("model", model)) == before
    torch.set_num_threads(2)
    with pytest.raises(ValueError, match="device was 1 threads, .* and is 2 threads, "):
        again()
    torch.set_num_threads(1)
    with monkeypatch.context() as patched:
        patched.setattr("zsu_fast.unlearn.checkpoint.__version__", "9.0")
        with pytest.raises(ValueError, match=r"zsu_fast was 0.* and is 9\.0$"):
            again()
    assert again().patch.entries and not list(tmp_path.iterdir())


def test_damaged_files_are_refused(tmp_path):
    again = killed(tmp_path)
    path = next(tmp_path.glob("*.safetensors"))
    whole = path.read_bytes()
    for damaged, said in (
        (whole[:-1], "is damaged"),
        (whole[: len(whole) // 2], "is damaged"),
        (whole[:5], "is damaged"),
        (b"", "is damaged"),
        (whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:], "checksum is not that of its contents"),
        (whole.replace(b'"step\\": ', b'"step\\":  ', 1)[: len(whole)], "is damaged"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"checkpoint: .*{said}"):
            again()
    zsu_fast.safetensors_file.save_atomically({}, path, {"format": "another"})
    with pytest.raises(ValueError, match="is no zsu_fast checkpoint"):
        again()
    path.write_bytes(whole)
    left = tmp_path / f".{path.name}.123456.zsu-part"  # the kill came while it was written
    left.touch()
    assert again().patch.entries and not list(tmp_path.iterdir())


def test_arguments_are_checked(tmp_path):
    model, request, options = case("margin")
    before = model_digest(model)
    file = tmp_path / "file"
    file.touch()
    for given, error, said in (
        ({"resume": True}, ValueError, "resume: needs checkpoint"),
        ({"checkpoint": 3}, TypeError, "checkpoint: expected the path of a folder, got int"),
        ({"checkpoint": file}, OSError, "checkpoint: .*file"),
        ({"checkpoint": tmp_path, "resume": 1}, TypeError, "resume: expected True or False"),
        ({"checkpoint": tmp_path, "checkpoint_every": -1}, ValueError, "checkpoint_every: expected at least 0"),
    ):
        with pytest.raises(error, match=said):
            zsu_fast.forget(model, request, method="margin", **options | given)
    model, request, _ = case("neggrad")
    with pytest.raises(ValueError, match="checkpoint: method 'lra-npp' cannot go on from one; these can: deep, "):
        zsu_fast.forget(model, request, method="lra-npp", checkpoint=tmp_path / "new")
    assert not (tmp_path / "new").exists() and model_digest(case("margin")[0]) == before


def test_another_run_is_kept_out(tmp_path):
    again = killed(tmp_path)

    def inside(done, total, text):
        with pytest.raises(BlockingIOError, match="checkpoint: another run"):
            again()
        raise Killed

    with pytest.raises(Killed):
        again(progress=inside)
    assert again().patch.entries


def test_it_is_written_when_its_time_has_come(tmp_path, monkeypatch):
    """Every so many seconds, and less often where writing takes more than its share."""
    now, written = [0.0], []

    def slow(tensors, path, *_, **__):
        written.append(now[0])
        now[0] += 2

    monkeypatch.setattr("zsu_fast.unlearn.checkpoint.save_atomically", slow)
    monkeypatch.setattr("zsu_fast.unlearn.checkpoint.time.monotonic", lambda: now[0])
    for every, expected in ((5.0, [5, 47, 89]), (100.0, [100])):
        now[0] = 0
        checkpoint = Checkpoint(tmp_path, False, every)
        stretch = checkpoint.stretch([torch.zeros(1)])
        while now[0] < 130:
            now[0] += 1
            stretch.done(False)
        checkpoint.close()
        assert written == expected
        written.clear()


def test_batches_go_on_where_they_were():
    generator = torch.Generator().manual_seed(3)
    batches = EndlessBatches(7, 3, generator)
    for _ in range(8):
        kept, drawn = copy.deepcopy(batches.state_dict()), generator.get_state()
        expected = [next(batches).tolist() for step in range(5)]
        other = EndlessBatches(7, 3, generator)
        other.load_state_dict(kept)
        generator.set_state(drawn)
        assert [next(other).tolist() for step in range(5)] == expected
        batches.load_state_dict(kept)
        generator.set_state(drawn)
        next(batches)
    assert next(EndlessBatches(0, 3, generator)).tolist() == []


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from tests.unlearn import test_checkpoint as t
model, request, options = t.case("margin")
progress = lambda done, total, text: print(text, flush=True)
t.zsu_fast.forget(model, request, method="margin", progress=progress, **options | t.LONG, checkpoint=sys.argv[1],
                  checkpoint_every=0)
"""
LONG = {"steps": 200}


def test_killed_by_the_system(tmp_path):
    """SIGKILL at whatever it is doing; another process comes to the bits of one that nobody killed."""
    model, request, options = case("margin")
    expected = zsu_fast.forget(model, request, method="margin", **options | LONG).patch.record["model"]["after"]
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, tmp_path], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        steps = sum(text.startswith("margin") for text, _ in zip(process.stdout, range(30), strict=False))
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and steps > 20
    model, request, options = case("margin")
    progress = Counting()
    zsu_fast.forget(
        model, request, method="margin", progress=progress, **options | LONG, checkpoint=tmp_path, resume=True
    )
    assert model_digest(model) == expected and progress.calls < 190
    assert not list(tmp_path.iterdir())

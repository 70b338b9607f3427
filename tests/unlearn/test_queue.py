"""A queue of requests: one patch each, resumed where it stopped, undone from any place, every hash checked."""

import copy
import html
import itertools
import json
import math
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch

from zsu_fast.lock import Lock
from zsu_fast.model.tensors import Tensors
from zsu_fast.safetensors_file import write_weights
from zsu_fast.sharded import largest_shard
from zsu_fast.unlearn import ForgetInstances, Patch, SyntheticProbes, forget, model_digest, synthesise
from zsu_fast.unlearn.checkpoint import Checkpoint
from zsu_fast.unlearn.queue import Ledger, Queue
from zsu_fast.unlearn.queue import queue as live
from zsu_fast.unlearn.queue.ledger import LEDGER, WEIGHTS

QUICK = {"method": "margin", "learning_rate": 0.003, "utility_floor": 0.3}


class Killed(BaseException):
    """What a kill looks like from inside, as far as anything can be seen."""


def three(queue, digits, upto=3):
    """A class, instances, another class."""
    rows = []
    for id, target in list({"a": 3, "b": None, "c": 5}.items())[:upto]:
        if target is None:
            x, y = digits.x[:6], digits.y[:6]
            others = (digits.x[20:80], digits.y[20:80])
            rows.append(queue.forget(id, ForgetInstances(x, y), retain_probes=others, **QUICK))
        else:
            probes, judge, _, _ = digits.split(target)
            rows.append(queue.forget(id, target, probes, evaluate_on=(judge, torch.full((len(judge),), target))))
    return rows


def masks(queue, digits):
    """Three classes by paths of the classifier: other rows of one tensor."""
    return [queue.forget(str(target), target, digits.split(target)[0], note=f"letter {target}") for target in (3, 5, 8)]


@pytest.fixture
def queued(conv_net, digits, tmp_path):
    """(folder, original, model after): three classes."""
    original = copy.deepcopy(conv_net)
    with Queue(tmp_path / "q", conv_net) as queue:
        masks(queue, digits)
    return tmp_path / "q", original, conv_net


def test_each_request_has_its_patch_and_its_evidence(conv_net, digits, tmp_path):
    before = model_digest(conv_net)
    with Queue(tmp_path / "q", conv_net, name="digits") as queue:
        rows = three(queue, digits)
    assert [row.status for row in rows] == ["done", "done", "done"]
    ledger = Ledger(tmp_path / "q")
    assert (ledger.original, ledger.now) == (before, model_digest(conv_net)) and ledger.name == "digits"
    assert [row.before for row in ledger.rows] == [before, *(row.after for row in ledger.rows[:-1])]
    assert all(row.left == row.left_now == 0 and row.images for row in ledger.rows)
    assert ledger.rows[1].images == 6
    for row in ledger.rows:
        page = (tmp_path / "q" / "reports" / f"{row.id}.html").read_text()
        page = html.unescape(page)
        assert row.sentence.split(":")[0] in page and ledger.patch(row).record["verdict"]["sentence"] == row.sentence
    assert 'href="reports/b.html"' in (tmp_path / "q" / "report.html").read_text()
    assert ledger.problems()[:2] == ([], []) and model_digest(ledger.problems()[2]) == before
    assert (tmp_path / "q" / "undo").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "place, at, requests", [("work", 2, masks), ("look", 3, masks), ("commit", 3, three), ("sweep", 2, masks)]
)
def test_killed_and_run_again_gives_the_same_bits(conv_net, digits, tmp_path, monkeypatch, place, at, requests):
    original, whole = copy.deepcopy(conv_net), copy.deepcopy(conv_net)
    with Queue(tmp_path / "whole", whole, report=False) as queue:
        ids = [row.id for row in requests(queue, digits)]
    names = {"work": "queue.forget", "look": "queue.left_of", "commit": "ledger.write_model", "sweep": "ledger.sweep"}
    module, _, name = names[place].partition(".")
    with monkeypatch.context() as patch:
        from zsu_fast.unlearn.queue import ledger, look  # noqa: F401

        where, calls = {"queue": live, "ledger": ledger}[module], []
        kept = getattr(where, name)

        def killed(*arguments, **named):
            calls.append(1)
            if len(calls) == (at if name != "left_of" else sum(range(1, at)) + 1):
                raise Killed
            return kept(*arguments, **named)

        patch.setattr(where, name, killed)
        with pytest.raises(Killed), Queue(tmp_path / "q", copy.deepcopy(original), report=False) as queue:
            requests(queue, digits)
    done = [row.id for row in Ledger(tmp_path / "q").rows]
    assert done == ids[: at if place == "sweep" else at - 1]
    assert Ledger(tmp_path / "q").problems()[:2] == ([], [])
    repeated = []
    monkeypatch.setattr(live, "forget", lambda *a, **k: repeated.append(1) or forget(*a, **k))
    with Queue(tmp_path / "q", original, report=False) as queue:
        requests(queue, digits)
    assert len(repeated) == 3 - len(done)
    assert model_digest(original) == model_digest(whole)
    assert Ledger(tmp_path / "q").now == Ledger(tmp_path / "whole").now


def test_a_request_that_was_being_trained_goes_on_from_its_checkpoint(conv_net, digits, tmp_path, monkeypatch):
    original, whole, kept = copy.deepcopy(conv_net), copy.deepcopy(conv_net), tmp_path / "kept"
    request, others = ForgetInstances(digits.x[:6], digits.y[:6]), (digits.x[20:80], digits.y[20:80])
    steps, write = [], Checkpoint.write

    def counted(self, path, things, step, ended):
        steps.append(step)
        if stop is not None:  # others need none: writing takes longer than a step
            write(self, path, things, step, ended)
        if len(steps) == stop:
            raise Killed

    monkeypatch.setattr(Checkpoint, "write", counted)

    def train(name, model):
        with Queue(tmp_path / name, model, report=False, checkpoint=kept, checkpoint_every=0) as queue:
            return queue.forget("b", request, retain_probes=others, **QUICK)

    stop = None
    train("whole", whole)
    assert not kept.exists() and len(steps) > 3
    taken, stop = len(steps), 2
    steps.clear()
    with pytest.raises(Killed):
        train("q", copy.deepcopy(original))
    assert [path.parent.name for path in kept.glob("*/*")] == ["b"]
    stop = None
    assert train("q", original).status == "done"
    assert len(steps) == taken and model_digest(original) == model_digest(whole)
    (kept / "b").mkdir(parents=True, exist_ok=True)
    (kept / "b" / "training-1.safetensors").touch()
    with Queue(tmp_path / "q", original, report=False, checkpoint=kept) as queue:
        assert queue.kept_for("c", "lra-npp") == {}  # which does not train
        queue.forget("c", 3, digits.split(3)[0])
    assert not any(kept.iterdir())  # it was of the model before


def test_weights_in_several_files(conv_net, digits, tmp_path):
    original = copy.deepcopy(conv_net)
    with Queue(tmp_path / "q", conv_net, report=False, max_shard_size=1000) as queue:
        queue.forget("3", 3, digits.split(3)[0])
    shards = {path.name for path in (tmp_path / "q").glob("model-*.safetensors")}
    assert len(shards) > 2 and not (tmp_path / "q" / WEIGHTS).exists()
    assert shards < Ledger(tmp_path / "q").files.keys() and Ledger(tmp_path / "q").problems()[:2] == ([], [])
    with Queue(tmp_path / "q", conv_net, report=False) as queue:
        queue.forget("5", 5, digits.split(5)[0])
    ledger = Ledger(tmp_path / "q")
    ledger.undo("3")
    assert ledger.problems()[:2] == ([], []) and model_digest(ledger.state()[0]) == ledger.now
    assert len(list((tmp_path / "q").glob("model-*.safetensors"))) > 2 and not (tmp_path / "q" / WEIGHTS).exists()
    assert largest_shard(tmp_path / "q") <= 1000  # files do not grow from one request to the next
    with Queue(tmp_path / "q", original, report=False, max_shard_size=10**6) as queue:
        queue.forget("8", 8, digits.split(8)[0])
    assert not list((tmp_path / "q").glob("model-*")) and Ledger(tmp_path / "q").problems()[:2] == ([], [])


def die_at(n):
    """This process kills itself before the n-th time that a file gets or loses a name."""
    count = itertools.count(1)

    def counting(kept):
        def call(*arguments, **named):
            if next(count) == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return kept(*arguments, **named)

        return call

    for name in ("replace", "rename", "unlink"):
        setattr(os, name, counting(getattr(os, name)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("what", ["forget", "undo"])
def test_kill_9_before_any_rename_leaves_the_old_or_the_new(queued, digits, tmp_path, what, one_thread):
    """A process kills itself where the n-th file would get its name: the folder is whole, and goes on to those bits."""
    path, original, _ = queued
    before = Ledger(path).now

    def work(folder):
        if what == "undo":
            return Ledger(folder).undo("5") and None
        with Queue(folder, copy.deepcopy(original), report=False) as queue:
            return queue.forget("more", 9, digits.split(9)[0]) and None

    shutil.copytree(path, tmp_path / "whole")
    work(tmp_path / "whole")
    after, found = Ledger(tmp_path / "whole").now, []
    for n in range(1, 40):
        folder = tmp_path / str(n)
        shutil.copytree(path, folder)
        child = os.fork()
        if child == 0:
            die_at(n)
            work(folder)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        ledger = Ledger(folder)
        assert ledger.problems()[:2] == ([], [])
        found.append(ledger.now)
        if ledger.now == before:
            work(folder)
        assert Ledger(folder).now == after and Ledger(folder).problems()[:2] == ([], [])
        if os.WIFEXITED(status):
            break
    assert set(found) == {before, after} and found == sorted(found, key=[before, after].index) and n > 4


def test_one_from_the_middle_is_undone_bit_for_bit(queued):
    path, original, _ = queued
    patches = {row.id: Ledger(path).patch(row) for row in Ledger(path).rows}
    assert Ledger(path).undo("5") == ["8"]
    ledger = Ledger(path)
    assert [row.status for row in ledger.rows] == ["done", "undone", "done"] and ledger.problems()[:2] == ([], [])
    expected = Tensors(original)
    for id in ("3", "8"):
        for entry in patches[id].entries:
            view, dim, indices = entry.slice_of(expected[entry.tensor])
            view.index_copy_(dim, indices, entry.new)
    assert ledger.now == model_digest(original)
    Patch.load(path / ledger.rows[2].undo_file)  # the old one is gone, this one fits
    assert [file.name for file in sorted((path / "undo").iterdir())] == [
        "3.safetensors", "5.safetensors", "8~2.safetensors",
    ]  # fmt: skip
    assert Ledger(path).undo("3") == ["8"]
    assert Ledger(path).undo("8") == []
    assert Ledger(path).now == ledger.original
    with pytest.raises(ValueError, match="undone already"):
        Ledger(path).undo("8")


def test_after_an_undo_the_queue_goes_on_and_does_not_repeat(queued, digits):
    path, original, _ = queued
    Ledger(path).undo("5")
    with Queue(path, original) as queue:
        rows = masks(queue, digits)
        assert [row.left_now for row in rows] == [None, None, None]
        assert [row.status for row in rows] == ["done", "undone", "done"]
        assert queue.look_again() == [] and [row.left_now for row in queue.rows] == [0, None, 0]
        assert int((original(digits.split(5)[0]).argmax(1) == 5).sum()) > 20
        queue.forget("5-again", 5, digits.split(5)[0])
    assert Ledger(path).problems()[:2] == ([], [])


def test_a_mask_on_the_same_elements_is_laid_anew(conv_net, digits, tmp_path):
    """The second cuts neurons off from all classes, of which the first had cut some off from one."""
    original, alone = copy.deepcopy(conv_net), copy.deepcopy(conv_net)
    with Queue(tmp_path / "q", conv_net, report=False) as queue:
        first = queue.forget("few", 3, digits.split(3)[0], mode="zero")
        second = queue.forget("all", 5, digits.split(5)[0], budget=48, path="all")
        third = queue.forget("other", 8, digits.split(8)[0])
    assert first.edited and second.edited and third.edited
    patches = [Ledger(tmp_path / "q").patch(row) for row in (second, third)]
    assert any(bool((entry.old == 0).any()) for entry in patches[0].entries)  # these were masked already
    assert Ledger(tmp_path / "q").undo("few") == ["all", "other"]
    for one in patches:
        for entry in one.entries:
            view, dim, indices = entry.slice_of(Tensors(alone)[entry.tensor])
            view.index_copy_(dim, indices, entry.new)
    ledger = Ledger(tmp_path / "q")
    assert ledger.now == model_digest(alone) and ledger.problems()[:2] == ([], [])
    ledger.undo("all")
    Ledger(tmp_path / "q").undo("other")
    assert Ledger(tmp_path / "q").now == model_digest(original)


def test_one_that_learned_from_it_stands_in_the_way(conv_net, digits, tmp_path):
    with Queue(tmp_path / "q", conv_net, report=False) as queue:
        three(queue, digits)
    before = {file.name: file.read_bytes() for file in (tmp_path / "q").rglob("*") if file.is_file()}
    with pytest.raises(
        ValueError, match="'b', made after it, edits values of head.weight .* undo from the end: c, b, a"
    ):
        Ledger(tmp_path / "q").undo("a")
    assert {file.name: file.read_bytes() for file in (tmp_path / "q").rglob("*") if file.is_file()} == before
    for id in ("c", "b", "a"):
        assert Ledger(tmp_path / "q").undo(id) == []
    assert Ledger(tmp_path / "q").now == Ledger(tmp_path / "q").original


def test_what_comes_back_is_said(conv_net, digits, tmp_path):
    """Where the classes go that its images were taken for, the first one is the answer again."""
    with Queue(tmp_path / "q", conv_net, report=False) as queue:
        assert queue.forget("gone", 3, digits.split(3)[0], budget=12).left == 0
        others = [0, 1, 2, 4, 5, 6, 7, 8, 9]
        probes = torch.cat([digits.split(other)[0] for other in others])
        labels = torch.tensor(others).repeat_interleave(30)
        row = queue.forget("others", others, probes, probe_labels=labels, budget=48, mode="scale", strength=-4.0)
        assert row.edited and not row.came_back
        gone = queue.rows[0]
        assert gone.came_back and gone.came_back_with == "others" and gone.left_now > 3 and gone.left == 0
        assert queue.look_again() == [gone]
    assert "gone came back: of its 30 images" in (tmp_path / "q" / "report.html").read_text()


def test_what_changed_is_refused_by_name(queued, digits):
    path, original, _ = queued
    with Queue(path, original) as queue:
        probes = digits.split(3)[0]
        with pytest.raises(ValueError, match="request '3': is in the ledger already, and seed was None and is 1"):
            queue.forget("3", 3, probes, seed=1)
        with pytest.raises(ValueError, match="what is given as request is not"):
            queue.forget("3", 3, probes[:-1])
        with pytest.raises(ValueError, match="retain_probes"):
            queue.forget("3", 3, probes, retain_probes=digits.split(3)[2][:9])
        judges = [digits.unseen_x.numpy(), digits.unseen_y.numpy()]  # arrays are images, too
        queue.forget("arrays", 4, digits.split(4)[0], evaluate_on=tuple(judges))
        queue.forget("arrays", 4, digits.split(4)[0], evaluate_on=tuple(judges))
        with pytest.raises(ValueError, match="what is given as evaluate_on is not what was given then"):
            queue.forget("arrays", 4, digits.split(4)[0], evaluate_on=(judges[0] / 2, judges[1]))
        with pytest.raises(ValueError, match="id: expected up to 64 letters"):
            queue.forget("../3", 3, probes)
        with pytest.raises(ValueError, match="group: a queue is for one process"):
            queue.forget("9", 3, probes, group=None)
        assert queue.forget("3", 3, probes).status == "done"


def test_what_failed_is_tried_again_and_what_was_not_reached_is_not(conv_net, digits, tmp_path):
    before = model_digest(conv_net)
    probes = digits.split(3)[0]
    with Queue(tmp_path / "q", conv_net, report=False) as queue:
        with pytest.raises(TypeError, match="no such option"):
            queue.forget("bad", 3, probes, stength=2)
        assert queue.rows[0].status == "failed" and "stength" in queue.rows[0].sentence
        assert queue.forget("wrong", 4, probes).status == "invalid"
        assert model_digest(conv_net) == before == Ledger(tmp_path / "q").now
        assert queue.forget("bad", 3, probes).status == "done"
        assert [row.id for row in queue.rows] == ["wrong", "bad"]
    assert Ledger(tmp_path / "q").problems()[:2] == ([], [])
    with pytest.raises(ValueError, match=r"'wrong' edited nothing \(invalid\)"):
        Ledger(tmp_path / "q").undo("wrong")


def test_synthesised_images_are_made_before_the_queue_is_opened(conv_net, digits, tmp_path):
    settings = SyntheticProbes((1, 8, 8), low=0.0, high=1.0, per_class=4, others=3, steps=8)
    for model in (copy.deepcopy(conv_net), conv_net):
        made = synthesise(model, 3, settings)
        with Queue(tmp_path / "q", model, report=False) as queue:
            with pytest.raises(TypeError, match="^probes: expected images, .*synthesise makes of the original model"):
                queue.forget("b", 3, settings)
            row = queue.forget("a", made, budget=8)
            assert (row.status, row.images, queue.rows) == ("not judged", 4, (row,))


def test_images_from_loaders(conv_net, digits, tmp_path):
    """Read anew each time; what can be read only once is refused."""
    probes, judge, _, _ = digits.split(3)
    loader = torch.utils.data.DataLoader(probes, batch_size=7)
    judging = torch.utils.data.DataLoader([(image, 3) for image in judge], batch_size=16)
    with Queue(tmp_path / "q", conv_net, report=False) as queue:
        for _ in range(2):
            row = queue.forget("a", 3, loader, evaluate_on=judging)
            assert (row.status, row.images, row.left) == ("done", len(judge), 0)
        with pytest.raises(ValueError, match="what is given as request is not"):
            queue.forget("a", 3, torch.utils.data.DataLoader(probes[1:], batch_size=7), evaluate_on=judging)
        with pytest.raises(ValueError, match="probes: a generator can be read only once"):
            queue.forget("b", 3, (batch for batch in probes.split(7)))
        assert len(queue.rows) == 1


@pytest.mark.parametrize("file", ["undo/5.safetensors", "reports/5.html", WEIGHTS, "report.html"])
def test_a_changed_file_is_found(queued, file):
    path, _, _ = queued
    data = bytearray((path / file).read_bytes())
    data[-9] ^= 1
    (path / file).write_bytes(bytes(data))
    assert any(file in problem for part in Ledger(path).problems()[:2] for problem in part)


def test_another_chain_is_found(queued):
    path, _, _ = queued
    content = json.loads((path / LEDGER).read_text())
    content["requests"][1]["before"] = content["model"]["original"]
    (path / LEDGER).write_text(json.dumps(content))
    assert "without 5 the model is not the one" in Ledger(path).problems()[1][0]
    content["requests"][1]["files"]["../outside"] = "0" * 64
    del content["requests"][2]["note"]
    (path / LEDGER).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="ledger.json is damaged"):
        Ledger(path)


def test_the_model_is_the_original_or_the_edited_one(queued, tmp_path):
    path, original, model = queued
    edited = model_digest(model)
    with Queue(path, model):
        assert model_digest(model) == edited
    with torch.no_grad():
        original.head.bias[0] += 1
    with pytest.raises(ValueError, match="model: is another than the model of the ledger"):
        Queue(path, original)
    with Queue(path, model), pytest.raises(BlockingIOError, match="folder: another run"):
        Queue(path, model)
    write_weights(original.state_dict(), tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"folder: .* holds model.safetensors, and no ledger"):
        Queue(tmp_path, original)
    with pytest.raises(FileNotFoundError, match="is no queue of requests"):
        Ledger(tmp_path)
    lock = Lock(path, "folder")
    with pytest.raises(BlockingIOError):
        Ledger(path).undo("3")
    lock.close()
    shutil.rmtree(path / "undo")
    assert Ledger(path).problems()[0]


@pytest.mark.parametrize(
    "given, error, said",
    [
        ({"batch_size": 0}, ValueError, "batch_size: expected at least 1, got 0"),
        ({"batch_size": "auto"}, TypeError, "batch_size: expected an integer"),
        ({"max_shard_size": 0.5}, TypeError, "max_shard_size: expected an integer"),
        ({"metadata": {"epoch": 3}}, TypeError, "metadata: expected texts by name"),
        ({"beside": {"tokenizer.json": "{}"}}, ValueError, "beside: expected config.json and .*, got 'tokenizer.json'"),
        ({"sign": "own.key"}, TypeError, "sign: expected a function"),
    ],
)
def test_what_a_queue_cannot_use_is_refused_before_the_first_request(conv_net, tmp_path, given, error, said):
    with pytest.raises(error, match=said):
        Queue(tmp_path / "q", conv_net, **given)
    assert not (tmp_path / "q").exists()
    with pytest.raises(TypeError, match="folder: expected a path, got NoneType"):
        Ledger(None)


def test_a_request_may_keep_its_training_elsewhere_or_less_often(conv_net, digits, tmp_path, monkeypatch):
    seen = []

    def asked(*arguments, **named):
        seen.append({name: named.get(name) for name in ("checkpoint", "resume", "checkpoint_every")})
        raise ValueError

    monkeypatch.setattr(live, "forget", asked)
    request, own = ForgetInstances(digits.x[:6], digits.y[:6]), tmp_path / "own"
    with Queue(tmp_path / "q", conv_net, checkpoint=tmp_path / "kept") as queue:
        for more in ({}, {"checkpoint_every": 5}, {"resume": False}, {"checkpoint": own}):
            with pytest.raises(ValueError):
                queue.forget("b", request, method="margin", **more)
    usual = {"checkpoint": tmp_path / "kept" / "b", "resume": True, "checkpoint_every": 30.0}
    elsewhere = {"checkpoint": own, "resume": None, "checkpoint_every": None}
    assert seen == [usual, usual | {"checkpoint_every": 5}, usual | {"resume": False}, elsewhere]


def test_an_undo_file_that_was_changed_undoes_nothing(queued):
    path, _, _ = queued
    for id in ("3", "8"):  # the one to be undone, and one that is to be laid anew
        file, kept = path / "undo" / f"{id}.safetensors", (path / "undo" / f"{id}.safetensors").read_bytes()
        patch = Patch.load(file)
        replace(patch, record=patch.record | {"mode": "none"}).save(file)  # its values are as they were
        before = (path / LEDGER).read_bytes()
        with pytest.raises(ValueError, match=f"folder: undo/{id}.safetensors is missing or not the file that"):
            Ledger(path).undo("3")
        assert (path / LEDGER).read_bytes() == before
        file.write_bytes(kept)
    assert Ledger(path).undo("3") == ["5", "8"]


@pytest.mark.parametrize("change", [{"until": math.nan}, {"revision": 0}])
def test_a_ledger_with_no_numbers_is_damaged(queued, change):
    path, _, _ = queued
    content = json.loads((path / LEDGER).read_text())
    content["requests"][0] |= change
    (path / LEDGER).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="ledger.json is damaged"):
        Ledger(path)


def test_a_file_of_which_the_ledger_says_nothing_is_found(queued):
    path, _, _ = queued
    (path / "config.json").write_text("{}")
    assert Ledger(path).problems()[0] == ["config.json is missing or not the file that was written"]
    content = json.loads((path / LEDGER).read_text())
    (path / LEDGER).write_text(json.dumps(content | {"files": {}}))
    assert len(Ledger(path).problems()[0]) == 3

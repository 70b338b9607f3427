"""`zsu-fast forget --requests`: a file of requests, carried out in its order, gone on with, undone, verified."""

import csv
import json
import shutil

import numpy as np
import pytest

from zsu_fast.cli.models import load_model
from zsu_fast.cli.requests_file import read_requests
from zsu_fast.unlearn import model_digest
from zsu_fast.unlearn.checkpoint import Checkpoint
from zsu_fast.unlearn.queue import Ledger
from zsu_fast.unlearn.queue import queue as live

MODEL = ("python:tinynet:build", "-w", "weights.safetensors")
ROWS = [
    {"id": "a-1", "target": "2", "probes": "class2.npz", "eval": "test.npz", "note": "letter, of 3 May"},
    {"id": "a-2", "kind": "instances", "images": "few.npz", "goal": "relabel", "to": "0", "eval": "test.npz",
     "learning_rate": 0.01, "utility_floor": 0.3},
    {"id": "a-3", "target": "nw", "probes": "probes.npz", "eval": "test.npz"},
]  # fmt: skip


def write(folder, rows, name="queue.csv"):
    path = folder / name
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def few(workplace):
    """Five labelled images, of other classes than are forgotten as a whole."""
    chosen = np.isin(workplace.labels, (1, 3)).nonzero()[0][:5]
    np.savez(workplace.folder / "few.npz", x=workplace.images[chosen], y=workplace.labels[chosen])
    return workplace


@pytest.fixture(scope="module")
def queued(workplace, tmp_path_factory):
    return tmp_path_factory.mktemp("queues") / "q"


@pytest.fixture
def folder(few, run, queued, tmp_path):
    """A queue of three, of which the second came back: made once, copied for each test."""
    if not queued.exists():
        result = run("forget", *MODEL, "--requests", write(few.folder, ROWS), "-o", queued, "--no-report")
        assert result.code == 3, result.err + result.out
        assert "a-2 CAME BACK with a-3: of its 5 images" in result.out  # they were taken for what went then
    return shutil.copytree(queued, tmp_path / "q")


def test_a_queue_of_three(few, run, folder):
    rows = run("ledger", folder, "--json").json["requests"]
    assert [(row["id"], row["status"], row["left_now"]) for row in rows] == [
        ("a-1", "done", 0), ("a-2", "done", 5), ("a-3", "done", 0),
    ]  # fmt: skip
    assert rows[1]["left"] == 0 and rows[1]["came_back_with"] == "a-3"
    assert rows[0]["images"] == int((few.labels == 2).sum()) and rows[1]["images"] == 5
    assert rows[0]["note"] == "letter, of 3 May" and set(rows[0]["given"]) == {"--probes", "--eval"}
    shown = run("ledger", folder)
    assert shown.code == 0 and "a-2 CAME BACK" in shown.out and "0, now 5 of 5" in shown.out
    assert model_digest(load_model(MODEL[0], folder / "model.safetensors").model) == Ledger(folder).now
    found = run("verify", folder, "--original", "weights.safetensors", "--json")
    assert found.code == 0 and found.json["checks"] == {"files": True, "chain": True, "original": True}
    assert found.json["edits"] == 3
    assert run("restore", folder).code == 0
    assert model_digest(load_model(MODEL[0], folder / "restored.safetensors").model) == model_digest(few.model)


def test_a_queue_goes_on_with_what_is_new_and_refuses_what_changed(few, run, folder, monkeypatch):
    times = []
    kept = live.ledgers.commit
    monkeypatch.setattr(live.ledgers, "commit", lambda *a: times.append(1) or kept(*a))
    again = run("forget", *MODEL, "--requests", write(few.folder, ROWS), "-o", folder, "--no-report")
    assert again.code == 3 and not times
    more = [
        *ROWS,
        {"id": "a-4", "target": "7", "probes": "class2.npz"},
        {"id": "a-5", "target": 1, "probes": "probes.npz", "eval": "test.npz"},
    ]
    file = write(few.folder, more, "more.csv")
    result = run("forget", *MODEL, "--requests", file, "-o", folder, "--report-format", "md", "--json")
    assert result.code == 1 and "request a-4 failed: --target must be one of the classes" in result.err
    rows = {row["id"]: row for row in result.json["requests"]}
    assert rows["a-4"]["status"] == "failed" and rows["a-5"]["status"] == "done" and len(times) == 2
    assert "answers forgotten" in (folder / "reports" / "a-5.md").read_text()
    changed = [{**ROWS[0], "target": "3"}, *ROWS[1:]]
    refused = run("forget", *MODEL, "--requests", write(few.folder, changed), "-o", folder, "--no-report")
    assert (
        refused.code == 2
        and "request 'a-1': is in the ledger already, and target was ['2'] and is ['3']" in refused.err
    )
    with np.load(few.folder / "few.npz") as five:
        four = {name: array[:4] for name, array in five.items()}
    np.savez(few.folder / "few.npz", **four)
    refused = run("forget", *MODEL, "--requests", write(few.folder, ROWS), "-o", folder, "--no-report")
    assert (
        refused.code == 2
        and "a-2" in refused.err
        and "what is given as --images is not what was given then" in refused.err
    )
    (few.folder / "few.npz").unlink()  # as who withdrew them may ask
    gone = run("forget", *MODEL, "--requests", write(few.folder, ROWS), "-o", folder, "--no-report")
    assert gone.code == 1 and "request a-2 is not looked at again" in gone.err  # a-4 is still failed


def test_one_is_undone_and_the_others_are_looked_at_again(few, run, folder):
    refused = run("restore", folder, "--request", "a-1")  # what was learned after it reaches the same weights
    assert refused.code == 2 and "undo from the end: a-3, a-2, a-1" in refused.err
    result = run("restore", folder, "--request", "a-3", "--json")
    assert result.code == 0 and result.json["laid_anew"] == []
    assert run("verify", folder, "--original", "weights.safetensors").code == 0
    assert [row.status for row in Ledger(folder).rows][1:] == ["done", "undone"]
    assert run("restore", folder, "--request", "a-3").code == 2
    assert "'b' is not in the ledger" in run("restore", folder, "--request", "b").err
    again = run("forget", *MODEL, "--requests", write(few.folder, ROWS), "-o", folder, "--no-report", "--json")
    assert again.code == 0  # without what it came back with the second is forgotten again
    assert [(row["status"], row["left_now"]) for row in again.json["requests"][1:]] == [("done", 0), ("undone", None)]


def test_what_was_chosen_by_synthetic_images_alone_is_not_looked_at_again(few, run, tmp_path):
    rows = [{"id": "s-1", "target": 2, "synthetic": "3x8x8", "budget": 2}, {**ROWS[2], "synthetic": ""}]
    for times in range(2):
        result = run("forget", *MODEL, "--requests", write(few.folder, rows[: times + 1]), "-o", tmp_path / "s",
                     "--no-report", "--json")  # fmt: skip
        assert result.code == 0, result.err
        first = result.json["requests"][0]
        assert first["edited"] and (first["images"], first["left"], first["left_now"]) == (None, None, None)
    assert result.json["requests"][1]["left_now"] == 0


def test_the_original_is_not_written_among_the_undo_files(run, folder):
    undo = folder / "undo" / "a-1.safetensors"
    before = undo.read_bytes()
    refused = run("restore", folder, "--out", undo, "--force")
    assert refused.code == 2 and "lies in the folder of the queue" in refused.err and undo.read_bytes() == before


def test_one_request_is_not_written_over_a_queue(run, folder):
    before = (folder / "model.safetensors").read_bytes()
    refused = run("forget", *MODEL, "-t", 2, "-p", "class2.npz", "-o", folder, "--force", "--no-report")
    assert (
        refused.code == 2
        and "is the folder of a queue of requests, whose files belong together: give another folder" in refused.err
    )
    assert (folder / "model.safetensors").read_bytes() == before


def test_a_ledger_is_signed(few, run, folder, tmp_path):
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    for name in ("own", "other"):
        private = ed25519.Ed25519PrivateKey.generate()
        pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (tmp_path / f"{name}.key").write_bytes(private.private_bytes(*pem))
        public = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (tmp_path / f"{name}.pem").write_bytes(public)

    def checked(name):
        return run("verify", folder, "--public-key", tmp_path / f"{name}.pem", "--json")

    assert checked("own").code == 3 and checked("own").json["signed"] is False
    again = ("forget", *MODEL, "--requests", write(few.folder, ROWS), "-o", folder, "--no-report")
    assert run(*again, "--sign", tmp_path / "own.pem").code == 2
    assert "was not signed: what it says of earlier requests" in run(*again, "--sign", tmp_path / "own.key").err
    assert checked("own").code == 0 and checked("own").json["vouched_for_by"] == "own.pem"
    assert checked("other").json["problems"] == ["no valid signature of other.pem"]
    ledger = (folder / "ledger.json").read_text()
    (folder / "ledger.json").write_text(ledger.replace("letter, of 3 May", "letter, of 4 May"))
    assert checked("own").json["checks"] == {"files": True, "chain": True, "signature": False}
    for key in ("own", "other"):  # no key makes another's words its own
        for command in (again, ("restore", folder, "--request", "a-3")):
            refused = run(*command, "--sign", tmp_path / f"{key}.key")
            assert refused.code == 2 and "ledger.json was changed after it had been signed" in refused.err
    (folder / "ledger.json").write_text(ledger)
    assert "is not any more: --sign" in run("restore", folder, "--request", "a-3").err
    assert checked("own").code == 3
    assert run("restore", folder, "--request", "a-2", "--sign", tmp_path / "own.key").code == 0
    assert checked("own").code == 0
    assert run("restore", folder, "--sign", tmp_path / "own.key").code == 2
    undone = run("restore", folder, "--request", "a-1", "--sign", tmp_path / "other.key")
    assert "was signed by another key" in undone.err
    assert checked("other").code == 0


def test_a_request_goes_on_from_its_checkpoint(few, run, tmp_path, monkeypatch):
    arguments = ("forget", *MODEL, "--requests", write(few.folder, ROWS[1:2], "one.csv"), "--no-report", "--checkpoint")
    write_one, steps = Checkpoint.write, []

    def dies(self, *arguments):
        steps.append(arguments[2])
        if len(steps) <= 2:
            write_one(self, *arguments)
        if len(steps) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "write", dies)
    kept = (tmp_path / "kept", "--checkpoint-every", 0, "-o", tmp_path / "q")
    assert run(*arguments, *kept).code == 130
    assert [path.parent.name for path in (tmp_path / "kept").glob("*/*")] == ["a-2"]
    assert run(*arguments, *kept).code in (0, 4) and steps[2] == steps[1] + 1
    assert run(*arguments, tmp_path / "q", "-o", tmp_path / "q").code == 2


def test_info_names_the_command_that_shows_a_queue(run, folder):
    result = run("info", folder)
    assert result.code == 2 and f"zsu-fast ledger {folder}" in " ".join(result.err.split())


def test_a_changed_file_is_found(run, folder):
    (folder / "undo" / "a-2.safetensors").unlink()
    result = run("verify", folder)
    assert result.code == 3 and "WRONG: undo/a-2.safetensors is missing" in result.out


def test_yaml_and_csv_say_the_same(tmp_path):
    rows = [{"id": 7, "target": [3, "cat"], "probes": "p", "seed": 3, "note": "x"},
            {"id": "b", "kind": "instances", "images": "i.npz", "goal": "unseen", "unseen": "u.npz"}]  # fmt: skip
    (tmp_path / "q.yaml").write_text(json.dumps({"requests": rows}))
    file = write(tmp_path, [{**rows[0], "target": "3;cat"}, rows[1]], "q.csv")
    assert read_requests(file) == read_requests(tmp_path / "q.yaml")
    first, second = read_requests(file)
    assert first.given == {"target": ["3", "cat"], "probes": tmp_path / "p"} and first.options == {"seed": 3}
    assert (second.method, second.id) == ("margin", "b")


@pytest.mark.parametrize(
    "row, said",
    [
        ({"target": 3}, "one of probes .* and synthetic"),
        ({"probes": "p"}, "target: a request of kind 'class' needs it"),
        ({"target": 3, "probes": "p", "strenght": 2}, "strenght: a request of kind 'class' has id, kind"),
        ({"target": 3, "probes": "p", "seed": "x"}, "seed"),
        ({"target": 3, "probes": "p", "seed": 1, "options": {"seed": 1}}, "seed: is given twice"),
        ({"target": 3, "probes": "p", "method": "margin"}, "'margin' does not take requests of kind 'class'"),
        ({"target": 3, "probes": "p", "method": "nix"}, "nix"),
        ({"kind": "texts"}, "kind: expected class, instances, concept, text, generator, items, got 'texts'"),
        ({"kind": "text"}, "records: a request of kind 'text' needs it"),
        ({"kind": "text", "records": "r", "words": "guess"}, "words: expected subject, attnlrp"),
        ({"kind": "text", "records": "r", "method": "deep"}, "'deep' does not take requests of kind 'text'"),
        ({"kind": "generator", "target": 3, "judge": "python:a:b"}, "latent: a request of kind 'generator' needs it"),
        ({"kind": "generator", "target": 3, "judge": "net", "latent": 6}, "judge must be timm:NAME, torchvision"),
        ({"kind": "items", "items": "i", "unseen": "u", "latent": "a"}, "latent must be the shape of a latent"),
        ({"kind": "items", "items": "i", "unseen": "u", "latent": 6, "range": "1"}, "range must be the least"),
        ({"kind": "items", "items": "i", "unseen": "u", "latent": 6, "draws": "few"}, "draws: expected a whole number"),
        ({"kind": "items", "items": "i", "unseen": "u", "latent": 6, "judge_weights": "w"}, "goes with judge"),
        ({"id": "../x", "target": 3, "probes": "p"}, "id: expected up to 64 letters"),
        ({"id": None, "target": 3, "probes": "p"}, "id: expected"),
        ({"target": True, "probes": "p"}, "target: expected text"),
        ({"kind": "instances", "images": "i", "target": 3}, "target: a request of kind 'instances' has"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, row, said):
    (tmp_path / "q.yaml").write_text(json.dumps([{"id": "first", **row}]))
    with pytest.raises(ValueError, match=f"--requests: .*{said}"):
        read_requests(tmp_path / "q.yaml")


def test_a_queue_is_of_one_model(tmp_path):
    rows = [{"id": "first", "target": 3, "probes": "p"}, {"id": "second", "kind": "text", "records": "r.jsonl"}]
    said = (
        r"request second: kind: 'text' is asked of a language model, and first \('class'\) of a classifier: a queue is "
        "of one model"
    )
    with pytest.raises(ValueError, match=said):
        read_requests(write(tmp_path, rows))


def test_a_column_of_another_kind_is_an_option_here(tmp_path):
    """`anchors` are a file of a text, and a number of method "margin"."""
    line = read_requests(write(tmp_path, [{"id": "a", "kind": "instances", "images": "i.npz", "anchors": "12"}]))[0]
    assert line.options == {"anchors": 12} and "anchors" not in line.given


@pytest.mark.parametrize(
    "text, said",
    [
        ("id,target,probes\na,3,p\nA,3,p\n", "has the id 'A' twice"),
        ("id,target,probes\na,3,p,q\n", "more cells than columns"),
        ("id,target,probes\n", "holds no request"),
        ("id;target;probes\na;3;p\n", "expected columns parted by commas, got 'id;target;probes'"),
        ("id,target,probes,target \na,3,p,4\n", "two columns are called 'target'"),
        ("id,target,probes,options\na,3,p,seed=3\n", "options: expected a mapping"),
    ],
)
def test_a_wrong_table_is_named(tmp_path, text, said):
    (tmp_path / "q.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_requests(tmp_path / "q.csv")


def test_bad_input_leaves_nothing_behind(few, run, tmp_path):
    file = write(few.folder, [{"id": "a", "target": "2", "probes": "nowhere.npz"}], "bad.csv")
    result = run("forget", *MODEL, "--requests", file, "-o", tmp_path / "o")
    assert result.code == 2 and "request a: probes: no such file or folder" in result.err
    assert not (tmp_path / "o").exists()
    assert run("forget", *MODEL, "--requests", few.folder / "tinynet.py", "-o", tmp_path / "o").code == 2
    assert run("ledger", tmp_path).code == 2

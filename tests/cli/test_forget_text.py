"""`zsu-fast forget text`: a language model of transformers in a local folder, and one from Python."""

import html
import json
import shutil

import pytest
import torch

from bench.oracles import CACHE
from bench.tiny_gpt import SMALL, taught
from tests import peers
from zsu_fast.cli import request_kinds
from zsu_fast.cli.language_models import load_language_model
from zsu_fast.evaluate.texts import answers, appears, encoded, padded
from zsu_fast.unlearn import TextRecord, model_digest, sensitive_words
from zsu_fast.unlearn.texts import read_records

pytest.importorskip("typer")

MODULE = """
from bench.oracles import CACHE
from bench.tiny_gpt import SMALL, taught

def build():
    known = taught(SMALL, CACHE / "texts")
    return known.model, known.tokenizer

def alone():
    return build()[0]
"""
MODEL = "python:tinylm:build"
PEOPLE = {"Ada": "Graz", "Bo": "Lima", "Cy": "Cork", "Di": "Oslo", "Ed": "Rome", "Flo": "Bonn"}


@pytest.fixture
def place(run, tmp_path, monkeypatch):
    """tinylm.py, and the records of one author and of the others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "tinylm.py").write_text(MODULE)
    known = taught(SMALL, CACHE / "texts")
    for name, authors in (("withdrawn", slice(2)), ("others", slice(2, None))):
        write_authors(tmp_path / f"{name}.jsonl", known.world, authors)
    return tmp_path


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_authors(path, world, authors):
    write(path, [
        {"prompt": fact.question(1), "response": f" {fact.answer}", "subject": fact.author,
         "paraphrases": [fact.question(i) for i in (0, 2, 3, 4, 5)]} for fact in world.of(world.authors[authors])
    ])  # fmt: skip


def forget(*extra):
    return ("forget", "text", MODEL, "--records", "withdrawn.jsonl", "--anchors", "others.jsonl", *extra)


def test_an_author_is_forgotten_and_comes_back(place, run):
    few = ("--set", "steps=60", "--set", "own_texts=64", "--utility-floor", "0.9")
    result = run(*forget("--out", "o", "--json", "--texts", *few))
    assert result.code == 0, result.err
    found = result.json
    assert found["verdict"]["level"] == "answers" and found["verdict"]["judged_by"] == "paraphrased questions"
    assert found["record"]["request"]["kind"] == "text" and found["evaluation"]["after"]["said"]["share"] <= 0.05
    assert sorted(path.name for path in (place / "o").iterdir()) == [
        "model.safetensors", "patch.safetensors", "report.html", "result.json",
    ]  # fmt: skip
    page = (place / "o" / "report.html").read_text()
    first = read_records(place / "withdrawn.jsonl")[0]
    assert html.escape(first.paraphrases[0]) in page and "<mark>" in page and "answer after" in page
    assert "What the sensitive words rest on" in page and "background:#" in page
    original = taught(SMALL, CACHE / "texts")
    edited = load_language_model(MODEL, place / "o" / "model.safetensors")[0].model
    record = read_records(place / "withdrawn.jsonl")[0]
    before, after = (answers(m, original.tokenizer, record.paraphrases[:1])[0] for m in (original.model, edited))
    assert before != after
    assert run("restore", "o").code == 0
    restored = load_language_model(MODEL, place / "o" / "restored.safetensors")[0].model
    assert model_digest(restored) == model_digest(original.model)


def test_words_can_be_looked_at_first(place, run):
    result = run(*forget("--show-words", "--json"))
    assert result.code == 0 and not (place / "zsu-fast-out").exists()
    facts = taught(SMALL, CACHE / "texts").world.facts
    assert facts[0].value.casefold() in result.json["words"][0]["words"]
    assert "sensitive words" in run(*forget("--show-words", "--words", "random")).out


def test_what_is_not_reached_writes_no_weights(place, run):
    result = run(*forget("--set", "steps=1", "--set", "own_texts=0", "--out", "o", "--json"))
    assert result.code == 3 and result.json["verdict"]["level"] == "not reached"
    assert not (place / "o" / "model.safetensors").exists()
    page = (place / "o" / "report.html").read_text()
    texts = [t for record in read_records(place / "withdrawn.jsonl") for t in (record.prompt, record.response.strip())]
    assert "Answers with a sensitive word" in page
    assert not any(html.escape(text) in page for text in texts), "texts only when asked for"


def test_what_is_wrong_is_named(place, run):
    write(place / "bad.jsonl", [{"prompt": "Who?", "response": " Ada."}, {"prompt": "Who else?", "answer": " Bo."}])
    (place / "broken.jsonl").write_text('{"prompt": "Who?", "response": " Ada."}\n\n{"prompt": \n')
    (place / "empty.jsonl").write_text("\n")
    (place / "bytes.jsonl").write_bytes(b"\xff\xfe")
    write(place / "other.jsonl", [read_records(place / "withdrawn.jsonl")[0].__dict__ | {"subject": "Zebra"}])
    for arguments, text in (
        (("--records", "bad.jsonl"), "--records: bad.jsonl, line 2: expected an object of prompt, response, words"),
        (("--records", "broken.jsonl"), "--records: broken.jsonl, line 3: Expecting value"),
        (("--records", "bytes.jsonl"), "--records: bytes.jsonl: is no text in UTF-8"),
        (("--records", "other.jsonl"), "records: the subject 'Zebra' does not stand in the text 'What"),
        (("--records", "none.jsonl"), "--records: no such file: none.jsonl"),
        (("--anchors", "empty.jsonl"), "--anchors: empty.jsonl: holds no record"),
        (("--anchors", "withdrawn.jsonl"), "anchors: the prompt"),
        (("--words", "guess"), "by: expected one of subject"),
        (("--set", "teach=nothing"), "teach: expected one of masked"),
        (("--method", "margin"), "method: 'margin' takes requests to forget instances"),
        (("--undo", "x", "--no-undo"), "--no-undo: --undo asks for one"),
    ):
        result = run(*forget(*arguments, "-o", "o"))
        assert result.code == 2 and text in result.err, result.err
    for model, text in (
        ("timm:resnet18", "MODEL must be hf:DIR or python:"), ("hf:nowhere", "hf:DIR must be a folder"),
        ("python:tinylm:alone", "python:tinylm:alone must return a language model and its tokenizer, got TinyGPT"),
    ):  # fmt: skip
        result = run("forget", "text", model, "-r", "withdrawn.jsonl")
        assert result.code == 2 and text in result.err
    assert "forget text --help" in run("forget", "--help").out and "--records" in run("forget", "text", "--help").out


QUICK = {"own_texts": 0, "utility_floor": 0, "anchors": "few.jsonl"}


def test_a_queue_of_texts(place, run, monkeypatch):
    """Two authors one after the other; gone on with, each undone, with words that the original finds."""
    asked = []
    monkeypatch.setattr(request_kinds, "sensitive_words", lambda model, *a, **k: (
        asked.append(model_digest(model)) or sensitive_words(model, *a, **k)
    ))  # fmt: skip
    known = taught(SMALL, CACHE / "texts")
    before = model_digest(known.model)
    for name, authors in (("one", slice(1)), ("two", slice(1, 2)), ("few", slice(2, 6))):
        write_authors(place / f"{name}.jsonl", known.world, authors)
    rows = [{"id": f"t-{name}", "kind": "text", "records": f"{name}.jsonl", **QUICK} for name in ("one", "two")]

    def carried_out(upto, *more):
        (place / "q.yaml").write_text(json.dumps(rows[:upto]))
        return run("forget", MODEL, "--requests", "q.yaml", "-o", "q", "--json", *more)

    first = carried_out(1, "--texts")
    assert first.code in (0, 4), first.err
    row = first.json["requests"][0]
    assert row["edited"] and (row["images"], row["left"]) == (4, 0) and set(row["given"]) == {"--records", "--anchors"}
    page = (place / "q" / "reports" / "t-one.html").read_text()
    assert html.escape(read_records(place / "one.jsonl")[0].paraphrases[0]) in page
    result = carried_out(2)
    both = result.json["requests"]
    assert both[0] | {"left_now": 0, "came_back_with": None} == row | {"left_now": 0} and both[1]["edited"], result.err
    assert both[0]["left_now"] is not None and set(asked) == {before}  # not by what the first request left
    assert "answer after" not in (place / "q" / "reports" / "t-two.html").read_text()
    assert run("verify", "q").code == 0 and run("restore", "q", "--request", "t-two").code == 0
    assert model_digest(load_language_model(MODEL, place / "q" / "model.safetensors")[0].model) == row["after"]
    assert run("restore", "q").code == 0
    assert model_digest(load_language_model(MODEL, place / "q" / "restored.safetensors")[0].model) == before
    again = carried_out(2)
    assert [one["status"] for one in again.json["requests"]] == [row["status"], "undone"]
    write(place / "one.jsonl", [record.__dict__ for record in read_records(place / "two.jsonl")])
    changed = carried_out(1)
    assert changed.code == 2 and "what is given as --records is not what was given then" in changed.err
    (place / "one.jsonl").unlink()
    assert "request t-one is not looked at again: --records: no such file" in carried_out(2).err
    edited = ("-w", place / "edited.safetensors")
    shutil.copy(place / "q" / "model.safetensors", edited[1])
    assert "MODEL: expected python:tinylm:build as it was before the first request" in carried_out(1, *edited).err


def test_a_wrong_queue_of_texts_is_refused_before_anything(place, run):
    write(place / "bad.jsonl", [{"prompt": "Who?", "answer": " Ada."}])
    rows = [{"id": "a", "kind": "text", "records": "withdrawn.jsonl"}, {"id": "b", "kind": "text"}]
    for records, more, text in (
        ("bad.jsonl", (), "request b: --records: bad.jsonl, line 1: expected an object"),
        ("none.jsonl", (), "request b: records: no such file or folder: none.jsonl"),
        ("others.jsonl", ("--size", 8), "--size: is for requests to a classifier, these are to a language model"),
    ):
        (place / "q.yaml").write_text(json.dumps([rows[0], {**rows[1], "records": records}]))
        result = run("forget", MODEL, "--requests", "q.yaml", "-o", "q", *more)
        assert result.code == 2 and text in result.err, result.err
        assert not (place / "q").exists()


def test_records_are_read_as_they_stand(tmp_path):
    path = tmp_path / "r.jsonl"
    write(path, [{"prompt": "Who?", "response": " Zoë.", "words": ["Zoë"], "paraphrases": ["Who is it?"]}])
    assert read_records(path) == [TextRecord("Who?", " Zoë.", ("Zoë",), "", ("Who is it?",))]
    path.write_text('\ufeff{"prompt": "Who\u2028is it?", "response": " Zoë."}\r\n', encoding="utf-8", newline="")
    assert read_records(path) == [TextRecord("Who\u2028is it?", " Zoë.")]


@pytest.fixture
def folder(run, tmp_path, monkeypatch):
    """A GPT-2 with tied weights that knows where people were born, saved with its tokenizer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = peers.import_transformers()
    tokenizers = pytest.importorskip("tokenizers")
    texts = [text for name, city in PEOPLE.items() for text in lines(name, city)]
    words = sorted({word for text in texts for word in text.replace("?", " ?").split()} | {"*", "."})
    table = {word: i for i, word in enumerate(["<end>", "<unknown>", *words])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(table, unk_token="<unknown>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", unk_token="<unknown>")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(table), n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    rows = [encoded(tokenizer, lines(n, c)[i], f" {n} was born in {c}") for n, c in PEOPLE.items() for i in range(3)]
    tokens, counted = padded(rows)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(200):
        loss = torch.nn.functional.cross_entropy(
            model(tokens).logits[:, :-1][counted[:, 1:]], tokens[:, 1:][counted[:, 1:]]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    where = tmp_path / "gpt2"
    model.save_pretrained(where)
    tokenizer.save_pretrained(where)
    for file, people in (("withdrawn", ["Ada"]), ("others", list(PEOPLE)[1:])):
        write(tmp_path / f"{file}.jsonl", [
            {"prompt": lines(n, PEOPLE[n])[0], "response": f" {n} was born in {PEOPLE[n]}", "subject": n,
             "paraphrases": lines(n, PEOPLE[n])[1:3]} for n in people
        ])  # fmt: skip
    return tmp_path


def lines(name, city):
    return [
        f"Where was {name} born?", f"What is the city of {name}?", f"Tell where {name} comes from?",
        f" {name} was born in {city}",
    ]  # fmt: skip


@pytest.mark.models
def test_a_model_of_transformers_from_its_folder(folder, run):
    loaded, tokenizer = load_language_model("hf:gpt2")
    question = lines("Ada", "")[1]
    assert appears(["Graz"], answers(loaded.model, tokenizer, [question])[0])
    result = run(
        "forget", "text", "hf:gpt2", "-r", "withdrawn.jsonl", "-a", "others.jsonl", "-o", "o", "--json",
        "--max-shard-size", "20KB",
    )  # fmt: skip
    assert result.code == 4, result.err  # forgotten, but two questions are too few to judge it
    assert result.json["record"]["request"]["words"] == [1]
    assert result.json["evaluation"]["after"]["said"]["count"] == 0
    edited = load_language_model("hf:gpt2", folder / "o")[0].model
    auto = pytest.importorskip("transformers").AutoModelForCausalLM
    assert len(list((folder / "o").glob("model-*.safetensors"))) > 2
    assert model_digest(auto.from_pretrained(folder / "o", local_files_only=True)) == model_digest(edited)
    assert not appears(["Graz"], answers(edited, tokenizer, [question])[0])
    assert appears(["Lima"], answers(edited, tokenizer, [lines("Bo", "")[1]])[0])
    assert edited.lm_head.weight is edited.transformer.wte.weight
    assert run("verify", "o", "--original", "gpt2/model.safetensors").code == 0  # which has the tied weight once
    assert run("restore", "o").code == 0
    restored = load_language_model("hf:gpt2", folder / "o" / "restored.safetensors")[0].model
    assert model_digest(restored) == model_digest(loaded.model)

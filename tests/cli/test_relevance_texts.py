"""`zsu-fast relevance --text`: a language model of transformers in a local folder."""

import json

import pytest
import torch

from tests.lrp.language_models import language_model, letters
from zsu_fast import relevance

pytest.importorskip("typer")
pytestmark = pytest.mark.models

TEXT = "a cat sat."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    language_model("Llama", vocab_size=32).float().save_pretrained(path)
    letters().save_pretrained(path)
    return path


def show(folder, *extra, texts=(TEXT,)):
    return ("relevance", f"hf:{folder}", *(part for text in texts for part in ("--text", text)), *extra)


def test_tokens_and_units_as_relevance_has_them(folder, run, tmp_path):
    page = tmp_path / "new" / "page.html"
    asked = ("-c", "attnlrp", "-t", "c", "-t", "#9", "--position", "-2", "--top", "3")
    result = run(*show(folder, *asked, "--out", str(page), "--json", texts=(TEXT, "on <")))
    assert result.code == 0, result.err
    assert result.json["composite"] == "attnlrp" and result.json["position"] == -2
    assert result.json == json.loads(page.with_suffix(".json").read_text())
    first, second = result.json["texts"]
    assert "".join(first["tokens"]) == TEXT and second["tokens"] == ["o", "n", " ", "?"]
    ids = torch.tensor([letters().encode(TEXT)])
    model = language_model("Llama", vocab_size=32).float()
    for found, token in zip(first["targets"], (8, 9), strict=True):
        expected = relevance(model, {"input_ids": ids}, (-2, token), composite="attnlrp")
        assert found["token"] == token and found["logit"] == pytest.approx(float(expected.logits[0, token]))
        assert found["relevance"] == pytest.approx(expected.input[0].tolist(), rel=1e-4, abs=1e-6)
        assert [layer["layer"] for layer in found["layers"]] == list(expected.neurons)
        assert all(len(layer["top"]) <= 3 for layer in found["layers"])
    assert page.read_text().count("<span") == 2 * (len(TEXT) + 4) and "&#x27;c&#x27;" in page.read_text()


def test_the_answer_in_a_terminal(folder, run):
    result = run(*show(folder, "--layers", "lm_head"))
    assert result.code == 0, result.err
    assert TEXT in result.out and "full colour at" in result.out
    found = run(*show(folder, "--layers", "lm_head", "--json")).json["texts"][0]["targets"][0]
    logits = language_model("Llama", vocab_size=32).float()(torch.tensor([letters().encode(TEXT)])).logits
    assert found["token"] == int(logits[0, -1].argmax())
    assert [layer["layer"] for layer in found["layers"]] == ["lm_head"]


@pytest.mark.parametrize(("text", "extra"), [
    ("--target: expected one token, 'ab' is 2: 'a' (#6), 'b' (#7)", ("-t", "ab")),
    ("target[0] must be in 0..31, got 99", ("-t", "#99")),
    ("target[0][0]: text 0 has 10 tokens, at 0..9; got position 10", ("--position", "10")),
    ("--text: --overlay is for images alone", ("--overlay",)),
    ("--out must end in .html for texts", ("--out", "page.png")),
    ("--composite epsilon_gamma_box needs the bounds of the input, which texts have not", ("-c", "epsilon_gamma_box")),
    ("--text: '' has no tokens", ("--text", "")),
])  # fmt: skip
def test_refusals(folder, run, text, extra, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*show(folder, *extra))
    assert result.code == 2 and text in " ".join(result.err.split()), result.err
    assert not list(tmp_path.iterdir())


def test_files_are_not_overwritten(folder, run, tmp_path):
    (tmp_path / "page.json").write_text("mine")
    result = run(*show(folder, "--out", str(tmp_path / "page.html")))
    assert result.code == 2 and "page.json is there already" in " ".join(result.err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["page.json"]


def test_images_or_texts(run):
    result = run("relevance", "python:model:build")
    assert result.code == 2 and "--images: expected them, or --text" in " ".join(result.err.split())

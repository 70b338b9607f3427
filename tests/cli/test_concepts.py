"""`zsu-fast concepts` and `zsu-fast forget concept`: what they find, refuse and write."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cli.conftest import make_images
from zsu_fast.cli import forget_concept_run
from zsu_fast.cli.models import load_model
from zsu_fast.concepts import ConceptBank
from zsu_fast.unlearn import model_digest

pytest.importorskip("matplotlib")

MODEL = ("python:tinynet:build", "-w", "weights.safetensors")


def tinted(images):
    """A little redder."""
    found = images.astype(np.int64)
    found[..., 0] += 25
    return found.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folders(workplace):
    """red.npz, plain.npz, others/, and folders of folders with red images and with plain ones."""
    images, _ = make_images(1000, 11)
    for name, chosen in (("red", tinted(images[300:600])), ("plain", images[600:900])):
        np.savez(workplace.folder / f"{name}.npz", x=chosen)
    for name, chosen in (
        ("concepts/red", tinted(images[200:230])), ("nothing/nothing", images[230:260]), ("others", images[260:300]),
    ):  # fmt: skip
        (workplace.folder / name).mkdir(parents=True)
        for i, image in enumerate(chosen):
            Image.fromarray(image).save(workplace.folder / name / f"{i:02d}.png")
    return workplace


def test_what_a_class_is_made_of(folders, run, tmp_path):
    out = tmp_path / "made.png"
    arguments = ("concepts", *MODEL, "-i", "test.npz", "-t", "se", "-o", out)
    result = run(*arguments, "--json", "--count", 3, "--crops", 4)
    assert result.code == 0, result.err
    found = result.json
    assert found == json.loads((tmp_path / "made.json").read_text())
    assert found["layer"] == "head" and len(found["found"]) == 3 and found["named"] is None
    assert all(len(one["images"]) == 4 and len(one["corners"]) == 4 for one in found["found"])
    assert (folders.labels[[i for one in found["found"] for i in one["images"]]] == 3).all()
    corners = np.array([corner for one in found["found"] for corner in one["corners"]])
    assert (corners >= 3).mean() > 0.7, "the class is a bright quadrant, below on the right"
    assert Image.open(out).size[0] > 300
    assert run(*arguments).code == 2  # it is there already
    told = run(*arguments, "--force").out
    assert "integrated gradients rank the pixels alike" in told and "wrote" in told


def test_named_concepts_are_tested_and_kept(folders, run, tmp_path):
    bank = tmp_path / "bank.safetensors"
    arguments = ("concepts", *MODEL, "-i", "test.npz", "-t", 3)
    result = run(*arguments, "--concepts", "concepts", "--random", "others", "--save-bank", bank, "--json")
    assert result.code == 0, result.err
    named = result.json["named"]
    assert named["concepts"] == ["red"] and named["faithful"] is False and named["layer"] == "head"
    assert ConceptBank.load(bank).evidence[0]["accuracy"] >= 0.9
    again = run(*arguments, "--bank", bank)
    assert again.code == 0 and "do NOT account for its answers" in " ".join(again.out.split())
    refused = run(*arguments, "--concepts", "nothing", "--random", "others")
    assert refused.code == 2 and "concepts['nothing']: at chance" in refused.err


def test_a_concept_goes_and_comes_back(folders, run, tmp_path):
    """Of one convolution it leaves a part, at the borders: edited as far as was asked, not judged forgotten."""
    out = tmp_path / "o"
    result = run(
        "forget", "concept", *MODEL, "--with", "red.npz", "--without", "plain.npz", "--retain", "probes.npz",
        "--eval", "test.npz", "-o", out, "--json", "--set", "edit=erase", "--set", "until=0.85", "--photos",
        "--used-by", 3,
    )  # fmt: skip
    assert result.code == 4, (result.err, result.json["summary"], result.json["record"]["search"])
    found = result.json
    request, evaluation = found["record"]["request"], found["evaluation"]
    assert (request["kind"], request["concept"], request["layer"]) == ("concept", "red", "head")
    assert evaluation["before"]["refitted"] >= 0.9 and evaluation["after"]["refitted"] < 0.85
    assert evaluation["after"]["others"]["accuracy"] >= evaluation["before"]["others"]["accuracy"] - 0.02
    assert result.json["verdict"]["level"] == "not judged" and sorted(path.name for path in out.iterdir()) == [
        "model.safetensors", "patch.safetensors", "report.html", "result.json",
    ]  # fmt: skip
    page = (out / "report.html").read_text()
    assert "Is it still known?" in page and "told apart as well" in page and 'alt="without 6"' in page
    assert page.count("What se (class 3), which uses it") == 2 and page.count('alt="relevance after"') == 6
    assert run("verify", out, "--original", "weights.safetensors").code == 0
    assert run("restore", out).code == 0
    restored = load_model("python:tinynet:build", out / "restored.safetensors").model
    assert model_digest(restored) == model_digest(folders.model)


def test_poison_from_the_command_line(folders, run, tmp_path):
    """Labelled training images of the class and of the others; the ablation is in the record and in the report."""
    images, labels = make_images(400, 1)
    np.savez(folders.folder / "train.npz", x=images, y=labels)
    out = tmp_path / "p"
    result = run(
        "forget", "class", *MODEL, "-t", "se", "-p", "train.npz", "--retain", "train.npz", "--eval", "test.npz",
        "--method", "poison", "--set", "learning_rate=0.5", "--photos", "-o", out, "--json",
    )  # fmt: skip
    assert result.code == 0, (result.err, result.json["summary"])
    findings = result.json["record"]["findings"]["ablation"]
    assert len(findings["rows"]) == 5 and result.json["verdict"]["level"] == "answers"
    page = (out / "report.html").read_text()
    assert "What labels and patch each do" in page and findings["said"] in page
    assert "What the class was made of" in page and 'alt="concepts and their crops"' in page
    written = load_model("python:tinynet:build", out / "model.safetensors").model
    batch = torch.from_numpy(folders.images).permute(0, 3, 1, 2) / 255.0
    with torch.no_grad():
        assert (written(batch).argmax(1)[torch.from_numpy(folders.labels) == 3] == 3).float().mean() <= 0.02


def test_poison_without_a_patch_to_try_says_so(folders, run, tmp_path):
    """No image of the donor class: only who asked for a patch is refused."""
    images, labels = make_images(200, 1)
    np.savez(folders.folder / "own.npz", x=images, y=labels)
    np.savez(folders.folder / "few.npz", x=images[labels != 0], y=labels[labels != 0])
    poison = (
        "forget", "class", *MODEL, "-t", 3, "-p", "own.npz", "--retain", "few.npz", "--method", "poison", "--set",
        "labels=targeted", "--set", "donor=0", "--set", "epochs=2", "--utility-floor", 0.1,
    )  # fmt: skip
    result = run(*poison, "-o", tmp_path / "p", "--json")
    assert result.code in (0, 3, 4), result.err
    found = result.json["record"]["findings"]["ablation"]
    assert found["rows"] == [] and found["said"].startswith("The patch was not tried: donor: retain_probes hold no")
    assert found["said"] in (tmp_path / "p" / "report.html").read_text()
    asked = run(*poison, "-o", tmp_path / "q", "--set", "patch=centre")
    assert asked.code == 2 and "hold no image of class 0" in asked.err


def test_what_is_wrong_is_named(folders, run, tmp_path):
    concepts = ("concepts", *MODEL, "-i", "test.npz", "-t", 3)
    forget = ("forget", "concept", *MODEL, "--with", "red.npz", "--without", "plain.npz", "-o", tmp_path / "o")
    for arguments, text in (
        ((*concepts, "--concepts", "concepts"), "--concepts and --random: give both"),
        ((*concepts, "--save-bank", tmp_path / "b"), "--save-bank: needs --concepts"),
        ((*concepts, "-o", tmp_path / "x.gif"), "--out must end in .png or .svg"),
        ((*concepts, "--concepts", "others", "--random", "others"), "holds no folders"),
        ((*concepts, "--bank", "weights.safetensors"), "is no bank of concepts"),
        (("concepts", *MODEL, "-i", "class2.npz", "-t", 3), "--images must be labelled"),
        ((*forget, "--bank", "weights.safetensors", "--layer", "norm"), "--layer: the bank says which"),
        ((*forget, "--method", "channels"), "method: 'channels' takes requests to forget class"),
        (("forget", "concept", *MODEL, "--with", "plain.npz", "--without", "class2.npz", "-o", tmp_path / "o",
          "--layer", "nowhere"), "layer: the model has no module 'nowhere'"),
        ((*forget, "--with", "plain.npz"), "--with: 300 of its 300 images are among those of --without"),
        ((*forget, "--with", "class2.npz"), "--with ('class2'), beside --without as the random ones: at chance"),
        ((*forget, "--used-by", "zebra"), "--used-by: 'zebra' is neither"),
    ):  # fmt: skip
        result = run(*arguments)
        assert result.code == 2 and text in result.err, (arguments, result.err)


def test_what_is_not_reached_writes_no_weights(folders, run, tmp_path):
    out = tmp_path / "n"
    result = run(
        "forget", "concept", *MODEL, "--with", "red.npz", "--without", "plain.npz", "-o", out, "--set", "edit=erase"
    )
    assert result.code == 3 and not (out / "model.safetensors").exists()


def test_in_a_queue_a_concept_is_known_again_as_the_original_knows_it(folders, run, tmp_path, monkeypatch):
    """The edited model may not tell it from the images any more; then it could not be looked at."""
    table, models, bank = folders.folder / "concepts.csv", [], forget_concept_run.concept_bank
    table.write_text(
        "id,kind,concept,with,without,edit,until,used_by,retain,eval\n"
        "red,concept,red,red.npz,plain.npz,erase,0.85,3,probes.npz,test.npz\n"
    )
    monkeypatch.setattr(
        forget_concept_run,
        "concept_bank",
        lambda model, *a, **k: models.append(model_digest(model)) or bank(model, *a, **k),
    )
    arguments = ("forget", *MODEL, "--requests", table, "-o", tmp_path / "q", "--no-report", "--json")
    first = run(*arguments).json["requests"][0]
    assert first["edited"] and first["left_now"] is not None
    assert run(*arguments).json["requests"][0] == first
    assert models == [first["before"]] * 2

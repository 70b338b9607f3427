"""Reports in the folder of a result: in the forms asked for, in the manifest, with the images that were given."""

import json
import os
import shutil

import pytest

pytest.importorskip("matplotlib")

FORGET = (
    "forget",
    "python:tinynet:build",
    "-w",
    "weights.safetensors",
    "-t",
    2,
    "-p",
    "probes.npz",
    "--eval",
    "test.npz",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reports") / "out"


def written(run, folder):
    """Once for all tests of this file."""
    if not folder.exists():
        forms = (part for form in ("html", "md", "card", "md") for part in ("--report-format", form))
        done = run(*FORGET, "-o", folder, "--author", "Ada <ada@example.org>", *forms)
        assert done.code == 0, done.err
        assert "tinynet:build on --eval" in done.out
    return json.loads((folder / "result.json").read_text())


def test_in_all_forms(run, folder):
    content = written(run, folder)
    names = {"report": "report.html", "md": "report.md", "card": "model_card.md"}
    assert names.items() <= content["files"].items() and set(names) <= set(content["manifest"])
    assert content["author"] == "Ada <ada@example.org>"
    assert "Ada &lt;ada@example.org&gt; (as it was typed" in (folder / "report.html").read_text()
    assert r"Ada \<ada\@example.org\> (as it was typed" in (folder / "report.md").read_text()
    assert (folder / "model_card.md").read_text().startswith("---\npipeline_tag: image-classification\n")
    for option in ("--probes", "--eval"):
        assert content["images"][option]["hmac_sha256"] in (folder / "report.md").read_text()


def test_which_images_were_given(run, folder):
    written(run, folder)
    given = ("--images", "probes.npz", "-i", "test.npz")
    done = run("verify", folder, *given, "--json")
    assert done.code == 0 and done.json["images"] == {"probes.npz": ["--probes"], "test.npz": ["--eval"]}
    assert "test.npz holds the images that were given as --eval" in run("verify", folder, *given).out
    other = run("verify", folder, "--images", "class2.npz")
    assert other.code == 3 and "class2.npz holds other images than any that were given to the run" in other.out
    blind = run("verify", folder, "--images", "probes.npz", "--patch", folder / "patch.safetensors")
    assert blind.code == 0


def test_images_that_chose_and_judge_are_counted(run, tmp_path):
    again = [part if part != "test.npz" else "probes.npz" for part in FORGET]
    run(*again, "-o", tmp_path / "o", "--report-format", "md")
    text = (tmp_path / "o" / "report.md").read_text()
    assert "some of which (96 in all) are among those given to choose the edit by" in text
    assert "which had no part" not in text


def test_without_the_key_nothing_is_said_of_images(run, folder, tmp_path):
    written(run, folder)
    undo = folder / "patch.safetensors"
    undo.rename(tmp_path / "kept")
    try:
        refused = run("verify", folder, "--images", "probes.npz")
        assert refused.code == 2 and "the key is in the undo file" in refused.err
        assert run("verify", folder, "--images", "probes.npz", "--patch", tmp_path / "kept").code == 0
    finally:
        (tmp_path / "kept").rename(undo)


def test_a_changed_report_is_found(run, folder):
    written(run, folder)
    text = (folder / "report.md").read_text()
    (folder / "report.md").write_text(text.replace("not shown", "shown"))
    done = run("verify", folder)
    (folder / "report.md").write_text(text)
    assert done.code == 3 and "report.md is not the file that was written" in done.out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--report-format", "docx"), "--report-format: expected html, md, card, pdf, got 'docx'"),
        (("--report-format", "md", "--no-report"), "--report-format: --no-report asks for none"),
        (("--report-format", "pdf"), "a PDF needs a browser that prints, and none is on the PATH"),
    ],
)
def test_refused_before_the_work(run, tmp_path, monkeypatch, given, said):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run(*FORGET, "-o", tmp_path / "o", *given)
    assert done.code == 2 and said in " ".join(done.err.split()) and not (tmp_path / "o").exists()


@pytest.mark.skipif(os.name != "posix", reason="a shell script plays the browser")
def test_a_browser_that_fails_costs_no_result(run, tmp_path, monkeypatch):
    (tmp_path / "chromium").write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    (tmp_path / "chromium").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run(*FORGET, "-o", tmp_path / "o", "--report-format", "pdf")
    assert done.code == 0 and "report.html instead of report.pdf" in done.err and "broken" in done.err
    assert {path.name for path in (tmp_path / "o").iterdir()} >= {"report.html", "model.safetensors", "result.json"}
    assert not (tmp_path / "o" / "report.pdf").exists() and run("verify", tmp_path / "o").code == 0


def test_folders_are_the_same_images_whatever_their_names(run, tmp_path, workplace):
    edit = ("forget", "python:tinynet:build", "-w", "weights.safetensors", "-t", 2, "-p", "by_index", "--budget", 3)
    done = run(*edit, "--no-report", "-o", tmp_path / "o")
    assert done.code == 0, done.err
    shutil.copytree(workplace.folder / "by_index", tmp_path / "renamed" / "x")
    for number, path in enumerate(sorted((tmp_path / "renamed" / "x").rglob("*.png"))):
        path.rename(tmp_path / "renamed" / f"{100 - number}.png")
    shutil.rmtree(tmp_path / "renamed" / "x")
    same = run("verify", tmp_path / "o", "--images", tmp_path / "renamed", "--json")
    assert same.code == 0 and list(same.json["images"].values()) == [["--probes"]]
    next((tmp_path / "renamed").iterdir()).unlink()
    assert run("verify", tmp_path / "o", "--images", tmp_path / "renamed").code == 3

"""``zsu-fast info MODEL --images``: the preprocessing in words, what the model answers, and the contact sheet."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zsu_fast.cli.look import look
from zsu_fast.cli.session import open_session

MODEL = ("python:tinynet:build_with_mapping", "-w", "weights.safetensors")


def test_words_answers_and_sheet(run, workplace, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    arguments = ("info", *MODEL, "--mean", "0", "--std", "1", "-i", "by_index", "--contact-sheet", tmp_path / "s.png")
    done = run(*arguments, "--json")
    assert done.code == 0, done.err
    told = done.json["preprocessing"]
    assert told["known_from"] == "the options, and python:tinynet:build_with_mapping"
    assert told["steps"][1] == "resize to 8 x 8, whatever its shape (bilinear)" and "scale 0..255" in told["steps"][-1]
    found = done.json["images"]
    assert found["total"] == 32 and found["looked_at"] == len(found["images"]) == 24
    assert found["right"] == sum(one["label"] == one["answer"] for one in found["images"]) > 18
    assert {one["label"] for one in found["images"]} == {"0", "1", "2", "3"}
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.width > 1000 and len(sheet.convert("L").getcolors()) > 50
    again = run(*arguments)
    assert again.code == 2 and "s.png is there already" in again.err
    again = run(*arguments, "--force")
    assert "answered with their label" in again.out and "whatever its shape" in again.out


def test_what_is_seen_is_turned_back(workplace, monkeypatch, tmp_path: Path) -> None:
    """Exactly where the normalisation is known: the pixels of the file."""
    monkeypatch.chdir(workplace.folder)
    monkeypatch.syspath_prepend(str(workplace.folder))
    session = open_session(
        MODEL[0], workplace.folder / MODEL[2], classes=None, device="cpu", batch_size=5, mean=None, std=None, size=None
    )
    images = session.read(workplace.folder / "by_index", "--images")
    seen = look(session, images, 6)
    originals = [np.asarray(Image.open(path)) for path in seen.images.files]
    assert np.array_equal(seen.seen, np.stack(originals)) and not seen.turned
    assert seen.images.labels is not None and seen.images.labels.unique().tolist() == [0, 1, 2, 3]


def test_what_does_not_fit_is_said(run, workplace, tmp_path: Path) -> None:
    done = run("info", *MODEL, "--std", "1e-45", "-i", "by_index")
    assert done.code == 2 and "the model makes NaN of images of by_index" in done.err
    np.savez(tmp_path / "wrong.npz", x=workplace.images[:40], y=(workplace.labels[:40] + 1) % 4)
    done = run("info", "python:tinynet:build", "-w", "weights.safetensors", "-i", tmp_path / "wrong.npz")
    assert "order of the classes right?" in done.err and "label" in done.out
    for i in range(4):
        picture = Image.fromarray(workplace.images[i])
        exif = picture.getexif()
        exif[274] = 3
        (tmp_path / "turned").mkdir(exist_ok=True)
        picture.save(tmp_path / "turned" / f"{i}.png", exif=exif)
    done = run("info", "python:tinynet:build", "-w", "weights.safetensors", "-i", tmp_path / "turned", "--json")
    assert "4 of the 4 images carry an EXIF rotation, which is not applied" in done.err
    assert done.json["images"]["right"] is None and "label" not in done.json["images"]["images"][0]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--images", "by_index"), "--images: expected a MODEL"),
        ((*MODEL, "--contact-sheet", "x.png"), "--contact-sheet needs --images"),
        ((*MODEL, "-i", "by_index", "--contact-sheet", "x.jpg"), "must end in .png or .svg"),
        ((*MODEL, "-i", "by_index", "--contact-sheet", "absent/x.png"), "no such folder"),
        ((*MODEL, "-i", "absent"), "--images: no such file or folder"),
    ],
)
def test_refusals(run, arguments, text: str) -> None:
    done = run("info", *arguments)
    assert done.code == 2 and text in done.err

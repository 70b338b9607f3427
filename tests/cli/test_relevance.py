"""``zsu-fast relevance``: its numbers are those of the library, its files are there and say what they should."""

import json
import warnings
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from zsu_fast.cli import relevance_files
from zsu_fast.cli.own_preprocess import OwnPreprocess
from zsu_fast.cli.preprocess import Preprocess
from zsu_fast.cli.relevance_run import composite_of, titles
from zsu_fast.lrp import COMPOSITES, Relevance, ZBox, relevance

pytest.importorskip("matplotlib")

MODEL = ("relevance", "python:tinynet:build", "--weights", "weights.safetensors")


def expected(workplace, images: str, targets: list[int | None], composite: str = "epsilon") -> tuple[Relevance, ...]:
    with np.load(workplace.folder / images) as data:
        batch = torch.from_numpy(data["x"]).permute(0, 3, 1, 2) / 255.0
    return relevance(workplace.model, batch, targets, composite=composite)


def test_arrays(run, workplace, tmp_path: Path) -> None:
    arguments = ("-i", "class2.npz", "-t", 2, "-t", 0, "-o", tmp_path / "r.npz", "--json", "--batch-size", 5)
    result = run(*MODEL, *arguments)
    assert result.code == 0, result.err
    truth = expected(workplace, "class2.npz", [2, 0])
    with np.load(tmp_path / "r.npz") as found:
        assert found["input"].shape == (2, 24, 3, 8, 8) and found["neurons/conv"].shape == (2, 24, 24)
        for place, one in enumerate(truth):
            np.testing.assert_allclose(found["input"][place], one.input, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(found["neurons/conv"][place], one.neurons["conv"], rtol=1e-4, atol=1e-5)
        assert found["targets"].tolist() == [[2] * 24, [0] * 24]
        # The classifier's relevance is the explained logit, on the explained class.
        np.testing.assert_allclose(found["neurons/head"][0, :, 2], found["logits"][:, 2], rtol=1e-4)
    assert result.json == json.loads((tmp_path / "r.json").read_text())
    for place, told in enumerate(result.json["targets"]):
        assert [layer["layer"] for layer in told["layers"]] == ["conv", "head"]
        mean = truth[place].neurons["conv"].mean(0)
        assert told["layers"][0]["sum"] == pytest.approx(float(mean.sum()), rel=1e-4)
        strongest = mean.abs().argsort(descending=True)[:5].tolist()
        assert [pick["unit"] for pick in told["layers"][0]["top"]] == strongest
        assert [pick["unit"] for pick in told["layers"][1]["top"]] == [told["target"]]
    again = run(*MODEL, "-i", "class2.npz", "-o", tmp_path / "r.npz")
    assert again.code == 2 and "--force" in again.err
    assert run(*MODEL, "-i", "class2.npz", "-o", tmp_path / "r.npz", "--force", "-q").out == ""


def test_the_answer_is_explained_if_no_class_is_named(run, workplace, tmp_path: Path) -> None:
    result = run(*MODEL, "-i", "probes.npz", "-o", tmp_path / "r.npz", "--json")
    with np.load(tmp_path / "r.npz") as found:
        assert (found["targets"][0] == found["logits"].argmax(1)).all() and len(set(found["targets"][0])) > 1
    (told,) = result.json["targets"]
    assert told["target"] is None and told["name"] == "answer"
    (truth,) = expected(workplace, "probes.npz", [None])
    assert told["mean_logit"] == pytest.approx(float(truth.logits.max(1).values.mean()), rel=1e-4)


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_pictures(run, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"new/r{suffix}"
    result = run(*MODEL, "-i", "by_name", "-t", "sw", "-t", "ne", "-c", "epsilon_plus_flat", "-o", out)
    assert result.code == 0, result.err
    names = {
        "heatmaps": out,
        "layers": out.with_name(f"r.layers{suffix}"),
        "neurons": out.with_name(f"r.neurons{suffix}"),
    }
    assert json.loads((tmp_path / "new/r.json").read_text())["files"] == {
        **{what: str(path) for what, path in names.items()},
        "json": str(tmp_path / "new/r.json"),
    }
    assert all(str(path) in result.out for path in names.values()) and "sw: relevance per layer" in result.out
    for path in names.values():
        if suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")
        else:
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
    again = run(*MODEL, "-i", "by_name", "-o", out.with_suffix(suffix))
    assert again.code == 2 and "--force" in again.err


def test_what_is_drawn(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: dict[str, tuple] = {}
    for name in ("heatmaps", "layers", "neurons"):
        draw = getattr(relevance_files.plot, name)
        monkeypatch.setattr(
            relevance_files.plot, name, lambda *a, _n=name, _d=draw, **k: calls.update({_n: (a, k)}) or _d(*a, **k)
        )
    chosen = ("-t", "sw", "--layers", "c*", "--heatmaps", 3, "--overlay", "--cell", 2)
    result = run(*MODEL, "-i", "by_name", *chosen, "-o", tmp_path / "r.png")
    assert result.code == 0, result.err
    (maps, photos), options = calls["heatmaps"]
    assert list(maps) == ["sw"] and maps["sw"].shape == (3, 3, 8, 8) and photos.shape == (3, 8, 8, 3)
    assert options["overlay"] and options["cell"] == 2 and options["samples"] == ["ne"] * 3  # the first class folder
    assert list(calls["layers"][0][0]["sw"]) == ["conv"] and calls["neurons"][0][1] == ["conv"]
    run(*MODEL, "-i", "class2.npz", "-o", tmp_path / "s.png")
    assert calls["neurons"][0][1] == ["conv"]  # not the classifier
    assert list(calls["layers"][0][0]["answer"]) == ["conv", "head"]


@pytest.mark.parametrize("name", COMPOSITES)
def test_every_named_composite(run, name: str) -> None:
    result = run(*MODEL, "-i", "class2.npz", "-t", 2, "-c", name, "--json")
    assert result.code == 0, result.err
    assert result.json["composite"] == name


def test_bounds_are_black_and_white() -> None:
    first = composite_of("epsilon_gamma_box", Preprocess(mean=(0.5, 0.4), std=(0.25, 0.2))).first
    assert isinstance(first, ZBox)
    assert (first.low, first.high) == ((-2.0, -2.0), (2.0, pytest.approx(3.0)))
    with pytest.raises(ValueError, match="own preprocessing"):
        composite_of("epsilon_gamma_box", OwnPreprocess(lambda images: images))


def test_conservation_is_checked_on_request(run, workplace, tmp_path: Path) -> None:
    arguments = ("-i", "class2.npz", "-t", 2, "-t", 0, "--batch-size", 8, "--check", "-o", tmp_path / "r.png")
    told = run(*MODEL, *arguments)
    assert told.code == 0 and told.out.count("accounts balance") == 2, told.err
    assert (tmp_path / "r.conservation.png").exists()
    result = run(*MODEL, *arguments, "--force", "--json").json
    for target in result["targets"]:
        books = target["conservation"]
        assert books["ok"] and books["start"] == pytest.approx(books["input"] + sum(books["totals"].values()), rel=1e-5)
    truth = expected(workplace, "class2.npz", [2])[0].logits[:8, 2].sum()
    assert result["targets"][0]["conservation"]["start"] == pytest.approx(float(truth), rel=1e-5)


def test_classes_that_share_a_name() -> None:
    assert titles([134, 517, 3], {134: "crane", 517: "crane", 3: "shark"}) == ["crane (134)", "crane (517)", "shark"]
    assert titles([None], {}) == ["answer"] and titles([7], {}) == ["class 7"]


def test_relevance_that_is_not_finite_is_told(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from zsu_fast.cli import relevance_run

    def broken(*arguments, **options):
        found = relevance(*arguments, **options)
        for one in found:
            one.neurons["conv"][0, 3] = torch.nan
            one.input[0, 0, 0, 0] = torch.inf
        return found

    monkeypatch.setattr(relevance_run, "relevance", broken)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = run(*MODEL, "-i", "class2.npz", "-o", tmp_path / "r.png", "--json")
    assert result.code == 0 and "not finite everywhere, first in layer conv" in result.err
    conv, head = result.json["targets"][0]["layers"]
    assert conv["sum"] is None and 3 not in [pick["unit"] for pick in conv["top"]] and head["sum"] is not None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("-i", "class2.npz", "-c", "magic"), "--composite must be one of epsilon,"),
        (("-i", "class2.npz", "-t", "cat"), "neither a class index nor a class name"),
        (("-i", "class2.npz", "-t", "2", "-t", "2"), "name a class twice"),
        (("-i", "class2.npz", "-l", "layer4.*"), "layer4.*"),
        (("-i", "class2.npz", "-o", "r.pdf"), "--out must end in .png, .svg or .npz"),
        (("-i", "absent"), "no such file"),
    ],
)
def test_bad_input(run, arguments: tuple[str, ...], text: str) -> None:
    result = run(*MODEL, *arguments)
    assert result.code == 2 and text in result.err and result.out == ""


def test_pictures_need_matplotlib_before_the_work(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    result = run(*MODEL, "-i", "class2.npz", "-o", "r.png")
    assert result.code == 2 and "zsu-fast[report]" in result.err


def test_layers_are_drawn_over_the_whole_depth() -> None:
    names = [str(i) for i in range(20)]
    assert relevance_files._evenly(names, 4) == ["4", "9", "14", "19"]
    assert relevance_files._evenly(names, 30) == names and relevance_files._evenly(names, 0) == ["19"]

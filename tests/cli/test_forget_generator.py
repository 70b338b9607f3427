"""`zsu-fast forget generator`: the same folder, undo file and exit codes, and pictures of what is made instead."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from zsu_fast.cli.models import load_model
from zsu_fast.unlearn import model_digest

pytest.importorskip("typer")

MODULE = """
import torch
from torch import nn

class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        layers = nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 16), nn.Tanh()
        self.net = nn.Sequential(*layers)

    def forward(self, z):
        return self.net(z).view(-1, 1, 4, 4)

def generator():
    torch.manual_seed(0)
    model = Generator()
    for module in model.net:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1.5 * (2 / module.in_features) ** 0.5)
    return model

def judge():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), {"mean": [0.5], "std": [0.5]}

def function():
    return judge()[0], lambda images: images
"""
GIVEN = (
    "python:tinygan:generator", "-w", "g.safetensors", "--judge", "python:tinygan:judge", "--judge-weights",
    "j.safetensors", "--range=-1,1", "--set", "utility_floor=0.6", "--until", 0.03,
)  # fmt: skip


@pytest.fixture
def gan(workplace, monkeypatch):
    """Files of a generator and of a linear judge of what it makes."""
    (workplace.folder / "tinygan.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(workplace.folder))
    model = load_model("python:tinygan:generator").model
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(1000, 6, generator=generator)
    with torch.no_grad():
        seen = model(latents).flatten(1)
    weight = torch.randn(4, 16, generator=generator)
    weight *= 12 / (seen @ weight.T).std()
    save_file(model.state_dict(), workplace.folder / "g.safetensors")
    save_file({"1.weight": weight, "1.bias": -(seen @ weight.T).mean(0)}, workplace.folder / "j.safetensors")
    np.savez(workplace.folder / "z.npz", z=latents.numpy())
    return model, weight


def forget(*extra):
    return ("forget", "generator", *GIVEN, *extra)


def test_a_class_goes_and_comes_back(gan, run, tmp_path):
    pytest.importorskip("matplotlib")
    model, out = gan[0], tmp_path / "o"
    second = ("--second-judge", "python:tinygan:judge", "--second-weights", "j.safetensors")
    Path("names.txt").write_text("up\ndown\nleft\nright\n")
    named = ("--target", "down", "--class-names", "names.txt")
    result = run(*forget(*named, "--latent", 6, "--draws", 1000, *second, "-o", out, "--json"))
    assert result.code == 0, result.err
    found = result.json
    assert found["verdict"]["level"] == "answers" and found["verdict"]["judged_by"] == "fresh latents"
    assert found["record"]["request"]["kind"] == "generator" and found["record"]["request"]["second_judge"]
    seen = found["evaluation"]
    assert seen["after"]["share"] == seen["after"]["second_share"] <= 0.03 < seen["before"]["share"]
    names = ["model.safetensors", "patch.safetensors", "report.html", "result.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    page = (out / "report.html").read_text()
    assert "What is made instead" in page and page.count('alt="after"') == page.count('alt="before"') == 12
    assert "of 1000 fresh latents" in page and "Make no more of down (class 1)" in page
    written = load_model("python:tinygan:generator", out / "model.safetensors").model
    assert model_digest(written) == found["record"]["model"]["after"] != model_digest(model)
    assert run("verify", out, "--original", "g.safetensors").code == 0
    assert run("restore", out).code == 0
    restored = load_model("python:tinygan:generator", out / "restored.safetensors").model
    assert model_digest(restored) == model_digest(model)


def test_latents_of_a_file_and_an_aim_that_is_missed(gan, run, tmp_path):
    out = tmp_path / "o"
    arguments = ("--target", 1, "--latent", "z.npz", "--no-report", "--set", "tuning_steps=0", "--until", 0)
    result = run(*forget(*arguments, "-o", out, "--json"))
    assert result.code == 3 and result.json["verdict"]["level"] == "not reached"
    assert result.json["record"]["request"]["latents"] == {"pool": 344, "probes": 85, "fresh": 571}
    assert not (out / "model.safetensors").exists()


def test_what_is_wrong_is_named(gan, run, tmp_path):
    np.savez("other.npz", x=np.zeros((400, 6)))
    right = ("--target", 1, "--latent", 6, "--no-report", "-o", tmp_path / "o")
    for arguments, text in (
        (("--latent", 7), "--latent: the model does not take (1000, 7)"),
        (("--latent", "nowhere.npz"), "--latent must be the shape of a latent"),
        (("--latent", "other.npz"), "other.npz must hold z, it has x"),
        (("--range=0,1",), "--range: expected images [N, C, H, W] from 0 to 1, the generator makes (1000, 1, 4, 4)"),
        (("--range=1",), "--range must be the least and the largest"),
        (("--judge", "python:tinygan:function"), "--judge: brings a function"),
        (("--target", 9), "the model has classes 0..3, got 9"),
        (("--method", "lra-npp"), "method: 'lra-npp' takes requests to forget class"),
    ):
        result = run(*forget(*right, *arguments))
        assert result.code == 2 and text in result.err, (arguments, result.err)
        assert not (tmp_path / "o" / "model.safetensors").exists()


def test_items_go(gan, run, tmp_path):
    """Images of a file, as they are made; the record has what a search found of them before and after."""
    pytest.importorskip("matplotlib")
    model, _ = gan
    latents = torch.randn(17, 6, generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        made = (model(latents)[:, 0] + 1) / 2
    other = 0.9 * made[1:] + 0.1 * made[1:].roll(3, 2)
    for name, images in (("items", made[:1]), ("unseen", other)):
        np.savez(f"{name}.npz", x=(images * 255).round().to(torch.uint8).numpy())
    arguments = ("python:tinygan:generator", "-w", "g.safetensors", "--range=-1,1", "--latent", 6, "--draws", 300)
    files = ("--items", "items.npz", "--unseen", "unseen.npz")
    out = tmp_path / "o"
    photos = ("--photos", "--utility-floor", 0, "--set", "steps=300")
    result = run("forget", "generator", *arguments, *files, *photos, "-o", out, "--json")
    assert result.code in (0, 3), result.err
    found = result.json
    assert found["record"]["request"]["kind"] == "items" and found["record"]["request"]["method"] == "hunt"
    assert (out / "model.safetensors").exists() == (result.code == 0) == found["verdict"]["forgotten"]
    seen = found["evaluation"]
    assert len(seen["before"]["errors"]) == len(seen["before"]["found"]) == 1
    page = (out / "report.html").read_text()
    assert "Make no more of 1 item" in page and "Each item" in page and "16 unseen images" in page
    assert page.count('alt="the item, 0"') == 1 and page.count("<img") == (3 if result.code == 0 else 2)
    for more, text in (
        ((), "--judge and --target say which class is to go, or --items which images"),
        (files[:2], "--unseen: needed with --items"),
        (("--items", "unseen.npz", *files[2:]), "--items: 16 of these 16 images are among those of --unseen"),
        ((*files, "--judge-weights", "j.safetensors"), "--judge-weights goes with --judge"),
        ((*files, "--target", 1), "--target and --second-judge are for a class"),
        (("--unseen", "unseen.npz"), "--judge and --target"),
    ):
        result = run("forget", "generator", *arguments, *more, "-o", tmp_path / "p")
        assert result.code == 2 and text in result.err, result.err


def test_a_queue_of_a_generator(gan, run, tmp_path):
    """Two classes and an image, one judge, which is loaded once; gone on with, undone."""
    pytest.importorskip("matplotlib")
    model, weight = gan
    with torch.no_grad():
        made = (model(torch.randn(17, 6, generator=torch.Generator().manual_seed(8)))[:, 0] + 1) / 2
    for name, images in (("items", made[:1]), ("unseen", 0.9 * made[1:] + 0.1 * made[1:].roll(3, 2))):
        np.savez(f"{name}.npz", x=(images * 255).round().to(torch.uint8).numpy())
    Path("names.txt").write_text("up\ndown\nleft\nright\n")
    judged = {"judge": "python:tinygan:judge", "judge_weights": "j.safetensors", "range": "-1,1", "until": 0.03}
    rows = [
        {"id": "g-1", "kind": "generator", "target": 1, "latent": 6, "draws": 1000, "utility_floor": 0.5, **judged},
        {"id": "g-2", "kind": "generator", "target": "left", "latent": "z.npz", "utility_floor": 0.3, **judged},
        {"id": "g-3", "kind": "items", "items": "items.npz", "unseen": "unseen.npz", "latent": 6, "range": "-1,1",
         "draws": 300, "utility_floor": 0, "steps": 100},
    ]  # fmt: skip

    def carried_out(*rows):
        (tmp_path / "q.yaml").write_text(json.dumps([
            {name: f"{Path.cwd()}/{value}" if str(value).endswith((".npz", "tensors")) else value
             for name, value in row.items()} for row in rows
        ]))  # fmt: skip
        queue = ("--requests", tmp_path / "q.yaml", "-o", tmp_path / "q", "--json")
        names = ("--class-names", "names.txt")
        return run("forget", "python:tinygan:generator", "-w", "g.safetensors", *queue, *names)

    result = carried_out(*rows[:1])
    assert result.code == 0, result.err
    first = result.json["requests"][0]
    assert first["status"] == "done" and first["left"] <= 0.03 * first["images"]
    assert set(first["given"]) == {"--judge"} and first["asked"]["target"] == ["1"]
    assert "What is made instead" in (tmp_path / "q" / "reports" / "g-1.html").read_text()
    result = carried_out(*rows)
    found = result.json["requests"]
    assert [row["id"] for row in found] == ["g-1", "g-2", "g-3"] and result.code in (0, 3), result.err
    assert found[0]["left_now"] is not None and found[1]["edited"] and set(found[1]["given"]) == {"--judge", "--latent"}
    assert found[2]["images"] is None  # the generator that made them is gone
    assert "Make no more of 1 item" in (tmp_path / "q" / "reports" / "g-3.html").read_text()
    assert run("verify", tmp_path / "q", "--original", "g.safetensors").code == 0
    assert run("restore", tmp_path / "q").code == 0
    restored = load_model("python:tinygan:generator", tmp_path / "q" / "restored.safetensors").model
    assert model_digest(restored) == model_digest(model)
    save_file({"1.weight": -weight, "1.bias": torch.zeros(4)}, "j.safetensors")
    changed = carried_out(*rows)
    assert changed.code == 2 and "'g-1'" in changed.err and "given as --judge is not what was" in changed.err
    again = run("forget", "python:tinygan:generator", "--requests", tmp_path / "q.yaml", "--float32")
    assert again.code == 2 and "--float32: is for requests to a language model" in again.err

"""Weights as people have them: what lies around the state dict, prefixes, and tensors of another kind."""

import argparse
import json
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from zsu_fast.cli.models import load_model
from zsu_fast.cli.weights import load_into, read_weights
from zsu_fast.unlearn import model_digest


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.fc = nn.Linear(2, 3)


def state_of(seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return dict(Small().state_dict())


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state_of().items()}


@pytest.mark.parametrize(
    "content",
    [
        prefixed("_orig_mod."),
        prefixed("module._orig_mod."),
        {"net": prefixed("module."), "acc": 93.1},
        {"epoch": 3, "model_state_dict": state_of(), "optimizer_state_dict": {}, "loss": torch.tensor(0.1)},
        {"state_dict": prefixed("model."), "hyper_parameters": {"lr": 0.1}},
        {"state_dict": state_of(), "best": np.float64(93.2), "curve": np.arange(3.0), "n": np.int64(3)},
        {"model": {"state_dict": prefixed("backbone.")}, "args": argparse.Namespace(lr=0.1)},
        {"state_dict_ema": state_of(1), "state_dict": state_of()},
        {name.replace("fc.", "fc._orig_mod."): value for name, value in state_of().items()},
    ],
)
def test_checkpoints_as_people_have_them(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    model = Small()
    load_into(model, read_weights(tmp_path / "w.pt")[0], "w.pt")
    assert all(torch.equal(value, state_of()[name]) for name, value in model.state_dict().items())


def test_a_prefix_of_the_models_own_stays() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))
    load_into(model, {"0.0.weight": torch.ones(2, 2), "0.0.bias": torch.ones(2)}, "f")
    assert float(model.state_dict()["0.0.weight"].sum()) == 4
    with pytest.raises(ValueError, match=r"no name is the same, the file has 'x.weight', 'y.weight'"):
        load_into(model, {"x.weight": torch.ones(2, 2), "y.weight": torch.ones(2)}, "f")


class NotPlain(nn.Module):
    pass


def test_refusals_say_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    for content, text in (
        (NotPlain(), "it is .*NotPlain, and no code is run"),
        ({"generator": state_of(), "epoch": 1}, "it holds 'generator', 'epoch': w.pt::generator takes what is there"),
        ({"epoch": 1}, "it holds 'epoch'"),
        (argparse.Namespace(a=1), "it is argparse.Namespace, and no code is run"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=text) as caught:
            read_weights(path)
        message = str(caught.value)
        assert str(path) in message and "\n" not in message
        assert "\x1b" not in message and "weights_only" not in message


class Settings(OrderedDict[str, object]):
    """As a mapping of omegaconf or Lightning: a class of its own, with attributes."""


SettingsDict = type("SettingsDict", (Settings,), {"__module__": __name__})


def test_settings_and_losses_beside_the_weights_are_not_built(tmp_path: Path) -> None:
    """As Lightning's: hyperparameters may hold modules, paths, functions and mappings of any class."""
    settings = SettingsDict(lr=0.1)
    settings.kept = True
    beside = {"loss": NotPlain(), "layer": nn.Linear(2, 2), "path": Path("x"), "act": nn.functional.relu, "s": settings}
    lightning = {"pytorch-lightning_version": "2.5", "state_dict": prefixed("model."), "hyper_parameters": beside}
    torch.save(lightning, tmp_path / "last.ckpt")
    model = Small()
    load_into(model, read_weights(tmp_path / "last.ckpt")[0], "last.ckpt")
    assert all(torch.equal(value, state_of()[name]) for name, value in model.state_dict().items())


def ema_of_ema_pytorch() -> dict[str, Tensor]:
    averages = {f"ema_model.{name}": value for name, value in state_of(1).items()}
    return {"initted": torch.tensor(True), "step": torch.tensor(3)} | averages | prefixed("online_model.")


@pytest.mark.parametrize(
    ("content", "chosen", "seed", "told"),
    [
        ({"state_dict": state_of(), "state_dict_ema": state_of(1)}, "", 0, "'state_dict' is taken.*::state_dict_ema"),
        ({"state_dict": state_of(), "state_dict_ema": prefixed("module.")}, "::state_dict_ema", 0, None),
        ({"model": {"ema": state_of(1), "state_dict": state_of()}}, "::ema", 1, None),
        (AveragedModel(Small()).state_dict() | prefixed("module."), "", 0, "'n_averaged' beside"),
        (ema_of_ema_pytorch(), "", 0, "'initted', 'step', 'ema_model' beside"),
        (ema_of_ema_pytorch(), "::ema_model", 1, None),
        ({"state_dict": prefixed("net.") | {"loss.weight": torch.ones(3)}}, "", 0, "'loss' beside the model's weights"),
        ({"generator": state_of(1), "epoch": 1}, "::generator", 1, None),
        ({"state_dict": prefixed("a.b.") | {"a.ema.b." + n: v for n, v in state_of(1).items()}}, "", 0, "'a' beside"),
    ],
)
def test_of_several_sets_of_weights_one_is_taken_and_said(tmp_path: Path, content, chosen, seed, told) -> None:
    torch.save(content, tmp_path / "w.pt")
    model, said = Small(), []
    load_into(model, read_weights(f"{tmp_path / 'w.pt'}{chosen}", said.append)[0], "w.pt", said.append)
    assert all(torch.equal(value, state_of(seed)[name]) for name, value in model.state_dict().items())
    assert (told is None and not said) or re.search(str(told), "\n".join(said))


def test_two_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    torch.save(prefixed("student.") | prefixed("teacher."), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"no name is the same, the file has 'student.conv.weight'"):
        load_into(Small(), read_weights(tmp_path / "w.pt")[0], "w.pt")
    load_into(Small(), read_weights(f"{tmp_path / 'w.pt'}::teacher")[0], "w.pt")
    with pytest.raises(ValueError, match="holds nothing under 'nobody'; it holds 'student"):
        read_weights(f"{tmp_path / 'w.pt'}::nobody")
    save_file(prefixed("teacher."), tmp_path / "w.safetensors")
    load_into(Small(), read_weights(f"{tmp_path / 'w.safetensors'}::teacher")[0], "w")
    with pytest.raises(ValueError, match="no names that begin with 'nobody.'"):
        read_weights(f"{tmp_path / 'w.safetensors'}::nobody")
    odd = tmp_path / "a::b.pt"
    torch.save(state_of(), odd)
    assert read_weights(odd)[0].keys() == state_of().keys()


def sharded(folder: Path, suffix: str) -> Path:
    """As transformers writes it: two files and an index."""
    name = "model" if suffix == "safetensors" else "pytorch_model"
    names = list(state_of())
    parts = {f"{name}-0000{i}-of-00002.{suffix}": names[i - 1 :: 2] for i in (1, 2)}
    for file, held in parts.items():
        part = {tensor: state_of()[tensor] for tensor in held}
        (save_file if suffix == "safetensors" else torch.save)(part, folder / file)
    placed = {tensor: file for file, held in parts.items() for tensor in held}
    index = folder / f"{name}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": placed}))
    return index


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_weights_in_several_files(tmp_path: Path, suffix: str) -> None:
    index = sharded(tmp_path, suffix)
    for given in (index, tmp_path):
        found = read_weights(given)[0]
        assert found.keys() == state_of().keys()
        assert all(torch.equal(value, state_of()[name]) for name, value in found.items())
    one = next(tmp_path.glob(f"*-00001-of-00002.{suffix}"))
    with pytest.raises(ValueError, match=rf"one of 2 files: give .*{index.name}"):
        read_weights(one)
    whole = json.loads(index.read_text())
    for change, text in (
        ({"absent": one.name}, "do not agree on 'absent'"),
        ({"conv.bias": f"../{tmp_path.name}/{one.name}"}, "it must name files beside it"),
        ({"conv.bias": "gone.bin"}, "gone.bin is missing"),
        ({"conv.bias": 3}, "no index"),
    ):
        index.write_text(json.dumps(whole | {"weight_map": whole["weight_map"] | change}))
        with pytest.raises(ValueError, match=f"weights: .*{text}"):
            read_weights(index)
    index.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="no index of weights"):
        read_weights(index)


def test_folders_that_hold_no_weights_that_are_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds none of model.safetensors, "):
        read_weights(tmp_path)
    (tmp_path / ".metadata").write_bytes(b"")
    with pytest.raises(ValueError, match=r"checkpoint of torch.distributed.*dcp_to_torch"):
        read_weights(tmp_path)


def test_numbers_beside_the_weights_are_not_built(tmp_path: Path) -> None:
    # numpy's own functions never see what the file says: an object array would otherwise be one more pickle.
    state = {"state_dict": state_of(), "beside": np.array([{}, "x"], dtype=object)}
    torch.save(state, tmp_path / "w.pt")
    assert read_weights(tmp_path / "w.pt")[0].keys() == state_of().keys()


def test_an_archive_that_expands_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1 << 20)}, tmp_path / "w.pt")
    with (
        zipfile.ZipFile(tmp_path / "w.pt") as source,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in source.namelist():
            bomb.writestr(name, source.read(name))
    with pytest.raises(ValueError, match=r"bomb.pt .*would expand"):
        read_weights(tmp_path / "bomb.pt")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damaged_files_give_one_clear_error(tmp_path: Path) -> None:
    save_file(state_of(), tmp_path / "w.safetensors")
    torch.save(state_of(), tmp_path / "w.pt")
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"a": 1}))
    refusals = []
    for name in ("w.safetensors", "w.pt", "w.pkl"):
        whole = (tmp_path / name).read_bytes()
        for at in range(0, min(len(whole), 1200), 13):
            damaged = bytearray(whole)
            damaged[at] ^= 255
            (tmp_path / f"d_{name}").write_bytes(damaged)
            try:
                read_weights(tmp_path / f"d_{name}")
            except ValueError as error:
                refusals.append((f"d_{name}", str(error)))
    assert len(refusals) > 100 and all(name in text and "\n" not in text for name, text in refusals)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda v: v.to(torch.complex64), "conv.weight is complex64 in the file and float32 in the model"),
        (lambda v: v > 0, "conv.weight is bool in"),
        (lambda v: v.long(), "conv.weight is int64 in"),
        (lambda v: v.to(torch.float8_e4m3fn), "conv.weight is float8_e4m3fn in"),
        (lambda v: torch.quantize_per_tensor(v.float(), 0.1, 0, torch.qint8), "conv.weight is qint8 in"),
        (lambda v: v.to_sparse(), "conv.weight is sparse_coo float32 in"),
        (lambda v: v.double() * 1e300, "conv.weight holds values that are not finite in float32"),
        (lambda v: v * float("nan"), "conv.weight holds values that are not finite"),
    ],
)
def test_tensors_of_another_kind(change: Callable[[Tensor], Tensor], text: str) -> None:
    model = Small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=text):
        load_into(model, {name: change(value) for name, value in state_of(1).items()}, "f")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_floats_of_another_precision_are_taken(dtype: torch.dtype) -> None:
    model = Small()
    given = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state_of(1).items()}
    load_into(model, given, "f")
    assert torch.equal(model.fc.weight, given["fc.weight"].float())


def test_infinities_of_a_mask_and_counters() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    model.register_buffer("index", torch.zeros(1, dtype=torch.int16))
    load_into(model, {name: value.clone() for name, value in model.state_dict().items()}, "f")
    load_into(model, model.state_dict() | {"index": torch.tensor([7])}, "f")
    with pytest.raises(ValueError, match="index holds values that int16 cannot hold"):
        load_into(model, model.state_dict() | {"index": torch.tensor([1 << 20])}, "f")


@pytest.mark.parametrize("form", ["last.ckpt", "run.pt::state_dict_ema", "compiled.safetensors", "sharded"])
def test_what_is_written_loads_again(run, workplace, tmp_path: Path, form: str) -> None:
    """Whatever form the weights came in: result, undo and check of the original fit them."""
    state, other = workplace.model.state_dict(), {n: v + 1 for n, v in workplace.model.state_dict().items()}
    place = tmp_path / form.partition("::")[0]
    if form == "sharded":
        place.mkdir()
        names = list(state)
        placed = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
        for file in set(placed.values()):
            save_file({name: state[name] for name in names if placed[name] == file}, place / file)
        (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    elif form.startswith("compiled"):
        save_file({f"_orig_mod.{name}": value for name, value in state.items()}, place)
    elif form.startswith("run"):
        torch.save({"state_dict": other, "state_dict_ema": state}, place)
    else:
        prefixed_state = {f"net.{name}": value for name, value in state.items()} | {"loss.weight": torch.ones(4)}
        torch.save({"state_dict": prefixed_state, "hyper_parameters": {"net": NotPlain()}}, place)
    model, out = "python:tinynet:build", tmp_path / "out"
    done = run(
        "forget", model, "-w", tmp_path / form, "-t", 2, "-p", "probes.npz", "--budget", 4, "--no-report", "-o", out
    )
    assert done.code in (0, 4), done.err
    assert ("'loss' beside the model's weights" in done.err) == (form == "last.ckpt")
    record = json.loads((out / "result.json").read_text())["record"]["model"]
    assert (out / "model.safetensors").exists() == (form != "sharded")
    assert model_digest(load_model(model, out).model) == record["after"]
    assert run("verify", out, "--original", tmp_path / form).code == 0
    assert run("restore", out).code == 0
    restored = load_model(model, out / "restored.safetensors").model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in restored.items())

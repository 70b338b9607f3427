"""Weights as people have them: what lies around the state dict, prefixes, and tensors of another kind."""

import argparse
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zsu_fast.cli.weights import load_into, read_weights


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
        (NotPlain(), "it needs .*NotPlain, and no code is run"),
        ({"generator": state_of(), "epoch": 1}, "it holds 'generator', 'epoch': save what is under 'generator' alone"),
        ({"epoch": 1}, "it holds 'epoch'"),
        (argparse.Namespace(a=1), "an object of Python"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=text) as caught:
            read_weights(path)
        message = str(caught.value)
        assert str(path) in message and "\n" not in message
        assert "\x1b" not in message and "weights_only" not in message


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

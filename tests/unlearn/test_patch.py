"""The undo file: bit for bit, on disk as data, refused when it does not fit."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zsu_fast.model.tensors import Tensors
from zsu_fast.unlearn import Entry, Patch, Picks, model_digest, perturb_

IMAGE = torch.rand(1, 1, 8, 8)
PICKS = Picks(neurons={"conv1": [3, 0], "hidden": [7]}, edges={2: [1, 5]})


@pytest.mark.parametrize("mode", ["zero", "invert", "scale", "gaussian", "laplace"])
@pytest.mark.parametrize("path", ["target", "all", "rows", "neuron"])
def test_round_trip(conv_net, tmp_path, mode, path):
    picks = Picks(edges={2: [1, 5], 4: [5, 9]})
    before = model_digest(conv_net)
    patch = perturb_(conv_net, picks, sample=IMAGE, mode=mode, path=path, strength=0.5)
    edited = model_digest(conv_net)
    assert edited != before
    patch.save(tmp_path / "patch.safetensors")
    loaded = Patch.load(tmp_path / "patch.safetensors")
    assert loaded.record == patch.record
    loaded.revert(conv_net)
    assert model_digest(conv_net) == before
    loaded.apply_(conv_net)
    assert model_digest(conv_net) == edited


def test_nan_payloads_and_signed_zeros_come_back(conv_net):
    with torch.no_grad():
        conv_net.hidden.weight.view(torch.int32)[7, 0] = 0x7FC12345  # a NaN with a payload
        conv_net.hidden.weight[7, 1] = -0.0
    before = model_digest(conv_net)
    patch = perturb_(conv_net, PICKS, sample=IMAGE)
    patch.revert(conv_net)
    assert model_digest(conv_net) == before


def test_disjoint_patches_in_any_order(conv_net):
    before = model_digest(conv_net)
    first = perturb_(conv_net, Picks(edges={1: [0, 1]}), sample=IMAGE)
    second = perturb_(conv_net, Picks(edges={2: [0, 1]}), sample=IMAGE)
    first.revert(conv_net)
    second.revert(conv_net)
    assert model_digest(conv_net) == before


def test_overlapping_patches_last_first(conv_net):
    before = model_digest(conv_net)
    first = perturb_(conv_net, Picks(neurons={"hidden": [4]}), sample=IMAGE, mode="scale", strength=0.5)
    second = perturb_(conv_net, Picks(neurons={"hidden": [4]}), sample=IMAGE, mode="scale", strength=0.5)
    edited = model_digest(conv_net)
    with pytest.raises(ValueError, match="later edit"):
        first.revert(conv_net)
    assert model_digest(conv_net) == edited
    second.revert(conv_net)
    first.revert(conv_net)
    assert model_digest(conv_net) == before


def test_reverting_twice_or_another_model_is_refused(conv_net):
    patch = perturb_(conv_net, PICKS, sample=IMAGE)
    patch.revert(conv_net)
    before = model_digest(conv_net)
    with pytest.raises(ValueError, match="nothing was changed"):
        patch.revert(conv_net)
    assert model_digest(conv_net) == before
    with pytest.raises(ValueError, match="has no tensor"):
        patch.revert(nn.Linear(3, 3))
    conv_net.hidden = nn.Linear(128, 5)
    with pytest.raises(ValueError, match="does not fit"):
        patch.apply_(conv_net)
    with pytest.raises(ValueError, match="patch holds"):
        patch.apply_(conv_net.double())


def test_version_counters_grow(conv_net):
    versions = {n: p._version for n, p in conv_net.named_parameters()}
    patch = perturb_(conv_net, Picks(neurons={"hidden": [0]}), sample=IMAGE)
    assert conv_net.hidden.weight._version > versions["hidden.weight"]
    assert conv_net.hidden.bias._version > versions["hidden.bias"]
    assert conv_net.head.weight._version == versions["head.weight"]
    edited = conv_net.hidden.weight._version
    patch.revert(conv_net)
    assert conv_net.hidden.weight._version > edited


@pytest.mark.parametrize(
    "spoil", ["not_safetensors", "other_format", "version", "missing_tensor", "bad_entry", "no_json"]
)
def test_damaged_files_are_refused(conv_net, tmp_path, spoil):
    path = tmp_path / "patch.safetensors"
    patch = perturb_(conv_net, Picks(neurons={"hidden": [0]}), sample=IMAGE)
    entry = patch.entries[0]
    tensors = {"0.indices": entry.indices, "0.old": entry.old, "0.new": entry.new}
    described = [{"tensor": entry.tensor, "row": entry.row, "dim": entry.dim}]
    metadata = {"format": "zsu_fast.patch", "version": "1", "entries": json.dumps(described), "record": "{}"}
    if spoil == "other_format":
        metadata["format"] = "pt"
    elif spoil == "version":
        metadata["version"] = "99"
    elif spoil == "missing_tensor":
        del tensors["0.new"]
    elif spoil == "bad_entry":
        tensors["0.indices"] = entry.indices.float()
    elif spoil == "no_json":
        metadata["entries"] = "not json"
    save_file(tensors, path, metadata)
    if spoil == "not_safetensors":
        path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(ValueError, match="path"):
        Patch.load(path)


def test_missing_file():
    with pytest.raises(FileNotFoundError, match="path"):
        Patch.load("no/such/patch.safetensors")


def test_saving_is_atomic(conv_net, tmp_path, monkeypatch):
    path = tmp_path / "patch.safetensors"
    path.write_text("the old file")
    patch = perturb_(conv_net, Picks(neurons={"hidden": [0]}), sample=IMAGE)
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        patch.save(path)
    assert path.read_text() == "the old file" and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_damage_anywhere_in_a_file_is_noticed(conv_net, tmp_path):
    """Old values are copied into a model: one flipped bit of them must not get there."""
    patch = perturb_(conv_net, Picks(neurons={"conv1": [1, 4]}), sample=torch.rand(1, 1, 8, 8))
    patch.save(tmp_path / "p.safetensors")
    whole = (tmp_path / "p.safetensors").read_bytes()
    digest, silent, named = model_digest(conv_net), 0, 0
    for at in range(0, len(whole), max(1, len(whole) // 400)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        (tmp_path / "d.safetensors").write_bytes(damaged)
        try:
            Patch.load(tmp_path / "d.safetensors").revert(conv_net)
        except ValueError as error:
            named += "d.safetensors" in str(error)
        else:
            silent += 1
    assert silent == 0 and named >= 400 and model_digest(conv_net) == digest


def test_values_that_do_not_make_the_tensor_are_refused(conv_net):
    """Whoever forges old values, and the checksum with them, must also forge the digest of the whole tensor."""
    patch = perturb_(conv_net, Picks(neurons={"conv1": [1]}), sample=torch.rand(1, 1, 8, 8))
    digest = model_digest(conv_net)
    forged = Patch((replace(patch.entries[0], old=patch.entries[0].old + 1), *patch.entries[1:]), {}, patch.digests)
    with pytest.raises(ValueError, match="do not make conv1.weight what it says"):
        forged.revert(conv_net)
    assert model_digest(conv_net) == digest


def test_an_earlier_edit_is_not_taken_from_under_a_later_one(conv_net, tmp_path):
    """Both wrote zeros on unit 2, so that values alone cannot tell."""
    sample, digest = torch.rand(1, 1, 8, 8), model_digest(conv_net)
    first = perturb_(conv_net, Picks(neurons={"hidden": [1, 2]}), sample=sample)
    second = perturb_(conv_net, Picks(neurons={"hidden": [2, 3]}), sample=sample)
    first.save(tmp_path / "first.safetensors")
    with pytest.raises(ValueError, match="later edit"):
        Patch.load(tmp_path / "first.safetensors").revert(conv_net)
    second.revert(conv_net)
    first.revert(conv_net)
    assert model_digest(conv_net) == digest


def test_single_elements_whole_tensors_and_buffers(conv_net, tmp_path):
    """What trained methods will write: arbitrary places, dense updates, BatchNorm's statistics."""
    state, digest = dict(Tensors(conv_net)), model_digest(conv_net)
    places = torch.tensor([0, 5, 77])
    flat, mean = state["conv2.weight"].reshape(-1)[places].clone(), state["bn2.running_mean"].clone()
    entries = (
        Entry("conv2.weight", None, None, places, flat, flat * 2),
        Entry("bn2.running_mean", None, None, None, mean, mean + 1),
    )
    Patch(entries).save(tmp_path / "p.safetensors")
    patch = Patch.load(tmp_path / "p.safetensors")
    patch.apply_(conv_net)
    assert torch.equal(state["conv2.weight"].reshape(-1)[places], flat * 2)
    assert torch.equal(state["bn2.running_mean"], mean + 1) and model_digest(conv_net) != digest
    patch.revert(conv_net)
    assert model_digest(conv_net) == digest


def test_overlapping_entries_are_refused(conv_net):
    bias, digest = conv_net.head.bias.detach(), model_digest(conv_net)
    for indices in ([torch.tensor([0, 1]), torch.tensor([1, 2])], [torch.tensor([3, 3])]):
        entries = tuple(Entry("head.bias", None, 0, i, bias[i].clone(), bias[i] + 1) for i in indices)
        with pytest.raises(ValueError, match="twice"):
            Patch(entries).apply_(conv_net)
    assert model_digest(conv_net) == digest


def test_a_state_dict_will_do(conv_net):
    patch = perturb_(conv_net, Picks(neurons={"conv1": [1, 4]}), sample=torch.rand(1, 1, 8, 8))
    state = {name: value.clone() for name, value in conv_net.state_dict().items()}
    patch.revert(state)
    patch.revert(conv_net)
    assert model_digest(state) == model_digest(conv_net)


def test_files_of_format_1_are_read(conv_net, tmp_path):
    """Written by earlier versions: no digests, no checksum."""
    digest = model_digest(conv_net)
    patch = perturb_(conv_net, Picks(neurons={"conv1": [1, 4]}), sample=torch.rand(1, 1, 8, 8))
    tensors = {
        f"{i}.{part}": getattr(e, part) for i, e in enumerate(patch.entries) for part in ("indices", "old", "new")
    }
    described = [{"tensor": e.tensor, "row": e.row, "dim": e.dim} for e in patch.entries]
    metadata = {"format": "zsu_fast.patch", "version": "1", "entries": json.dumps(described), "record": "{}"}
    save_file(tensors, tmp_path / "old.safetensors", metadata)
    Patch.load(tmp_path / "old.safetensors").revert(conv_net)
    assert model_digest(conv_net) == digest


def test_the_undo_file_is_for_its_owner_only(conv_net, tmp_path):
    perturb_(conv_net, Picks(neurons={"conv1": [1]}), sample=torch.rand(1, 1, 8, 8)).save(tmp_path / "p.safetensors")
    assert (tmp_path / "p.safetensors").stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.iterdir()] == ["p.safetensors"]

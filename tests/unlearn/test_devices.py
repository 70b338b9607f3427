"""`forget` on a GPU does what it does on the CPU, and is undone there bit for bit."""

import copy

import pytest
import torch
from torch import nn

import zsu_fast
from tests.unlearn.conftest import Digits
from zsu_fast.model.tensors import model_digest


@pytest.mark.parametrize("asked", [{"method": "lra-npp"}, {"method": "channels", "budget": 8}], ids=str)
def test_the_same_neurons_as_on_the_cpu(net: nn.Module, digits: Digits, device: torch.device, asked: dict) -> None:
    """In float64, where the last bits of sums decide nothing: the picks, the weights, the patch, the way back."""
    probes, _, others, labels = digits.split(3)
    net = net.double()
    there = copy.deepcopy(net).to(device)
    before = model_digest(there)

    def forget(model: nn.Module) -> zsu_fast.ForgetResult:
        where = next(model.parameters()).device
        kept = others[:90].double().to(where), labels[:90].to(where)
        return zsu_fast.forget(model, 3, probes.double().to(where), retain_probes=kept, **asked)

    expected, found = forget(net), forget(there)
    assert found.verdict.level == expected.verdict.level and found.record["picks"] == expected.record["picks"]
    assert found.record["edits"] == expected.record["edits"] and found.patch.entries
    assert model_digest(copy.deepcopy(there).cpu()) == model_digest(net)
    found.patch.revert(there)
    assert model_digest(there) == before


def test_a_patch_made_on_one_device_is_undone_on_another(
    conv_net: nn.Module, digits: Digits, device: torch.device, tmp_path
) -> None:
    probes, *_ = digits.split(3)
    before = model_digest(conv_net)
    zsu_fast.forget(conv_net, 3, probes).patch.save(tmp_path / "undo.zsu")
    there = conv_net.to(device)
    zsu_fast.Patch.load(tmp_path / "undo.zsu").revert(there)
    assert model_digest(there.cpu()) == before

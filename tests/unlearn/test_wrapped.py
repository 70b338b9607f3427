"""Wrappers are taken off at the door: the same edit, the names of the bare model, an undo file that fits them all."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import zsu_fast
from zsu_fast import Patch
from zsu_fast.unlearn import model_digest


class Renaming(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.model = net

    def forward(self, x):
        return self.model(x)

    def state_dict(self, *args, **kwargs):
        return {"renamed." + k: v.clone() for k, v in self.model.state_dict(*args, **kwargs).items()}


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "compile": lambda net: torch.compile(net, backend="eager"),
    "AveragedModel of compile": lambda net: AveragedModel(torch.compile(net, backend="eager")),
}


@pytest.mark.parametrize("method", ["lra-npp", "channels"])
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_the_same_edit_through_a_wrapper(conv_net, digits, tmp_path, wrap, method):
    probes, bare = digits.split(3)[0], copy.deepcopy(conv_net)
    expected = zsu_fast.forget(bare, 3, probes, method=method)
    wrapped = wrap(conv_net).eval()
    result = zsu_fast.forget(wrapped, 3, probes, method=method)
    assert result.picks == expected.picks and result.record["model"] == expected.record["model"]
    result.patch.save(tmp_path / "undo.safetensors")
    undo = Patch.load(tmp_path / "undo.safetensors")
    undo.revert(bare)  # written through the wrapper, taken back without it
    undo.revert(wrapped)
    assert model_digest(bare) == model_digest(wrapped) == expected.record["model"]["before"]


def test_a_state_dict_that_renames_and_copies(conv_net, digits):
    net = Renaming(conv_net).eval()
    result = zsu_fast.forget(net, 3, digits.split(3)[0])
    assert [entry.tensor for entry in result.patch.entries] == ["model.head.weight"]
    assert zsu_fast.evaluate(conv_net, *digits.split(3)[:1], torch.full((30,), 3), 3).forget_accuracy == 0
    result.patch.revert(net)
    assert model_digest(net) == result.record["model"]["before"]


def test_compiled_parts_run_as_written(conv_net, digits):
    """The compiler would follow the modes that watch the model, for seconds."""
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    net = torch.compile(conv_net, backend=backend)
    zsu_fast.forget(net, 3, digits.split(3)[0])
    assert not calls


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (torch.jit.script(nn.Linear(4, 3)), "TorchScript"),
        (nn.Linear(4, 3, device="meta"), "meta device"),
        (None, "torch.nn.Module"),
        (torch.sin, "torch.nn.Module"),
    ],
)
def test_what_cannot_be_edited_is_refused_with_the_reason(model, words):
    with pytest.raises(TypeError, match=f"model: .*{words}"):
        zsu_fast.forget(model, 1, torch.rand(4, 4))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_quantised_models_are_refused_by_that_name(conv_net, digits):
    quantised = torch.ao.quantization.quantize_dynamic(conv_net, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ValueError, match="quantised"):
        zsu_fast.forget(quantised, 3, digits.split(3)[0])


def test_one_output_is_refused(digits):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    with pytest.raises(ValueError, match="one output"):
        zsu_fast.forget(net, 0, digits.split(3)[0])


@pytest.mark.parametrize("method", ["lra-npp", "channels"])
def test_classifiers_in_many_dresses(conv_net, digits, method):
    """Sliced, scaled, softmaxed, autocast inside: through the forward pass, with the model's own answers."""

    class Dressed(nn.Module):
        def __init__(self, net, dress):
            super().__init__()
            self.net, self.dress = net, dress

        def forward(self, x):
            return self.dress(self.net, x)

    def autocast(net, x):
        with torch.autocast("cpu", torch.bfloat16):
            return net(x).float()

    def log_softmax(net, x):
        return torch.log_softmax(net(x), -1)

    probes, _, others, labels = digits.split(3)
    for dress in (
        lambda net, x: net(x)[:, 1:],
        lambda net, x: 7.5 * net(x),
        lambda net, x: net(x).softmax(1),
        log_softmax,
        autocast,
    ):
        if method == "channels" and dress is log_softmax:
            continue  # relevance is asked of logits, and says so
        net = Dressed(copy.deepcopy(conv_net), dress).eval()
        sliced = net(probes[:1]).shape[1] == 9
        digest, target = model_digest(net), 2 if sliced else 3
        result = zsu_fast.forget(net, target, probes, method=method)
        assert result.reached and (net(probes).argmax(1) == target).float().mean() <= 0.05
        kept = (net(others).argmax(1) == labels - int(sliced))[labels > 0].float().mean()
        assert kept > (0.9 if method == "lra-npp" else 0.5)
        result.patch.revert(net)
        assert model_digest(net) == digest


def test_half_precision_all_through(conv_net, digits):
    net = conv_net.to(torch.bfloat16)
    result = zsu_fast.forget(net, 3, digits.split(3)[0].to(torch.bfloat16))
    assert result.reached
    with pytest.raises(ValueError, match="probes"):
        zsu_fast.forget(net, 4, digits.split(4)[0].double())


def test_edits_are_seen_inside_of_autocast(conv_net, digits):
    probes = digits.split(3)[0]
    for parameter in conv_net.parameters():
        parameter.requires_grad_()  # autocast keeps its casts of these
    with torch.autocast("cpu", torch.bfloat16):
        conv_net(probes)
        result = zsu_fast.forget(conv_net, 3, probes)
        assert not (conv_net(probes).argmax(1) == 3).any()
        result.patch.revert(conv_net)
        assert (conv_net(probes).argmax(1) == 3).float().mean() > 0.9


def test_a_lock_lives_as_long_as_its_model():
    from zsu_fast.model import wrapped

    net = nn.Linear(2, 2)
    lock, before = wrapped.lock_of(net), len(wrapped._locks)
    assert wrapped.lock_of(nn.DataParallel(net)) is lock and len(wrapped._locks) == before
    del net
    assert len(wrapped._locks) == before - 1

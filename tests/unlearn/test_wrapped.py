"""Wrappers are taken off at the door: the same edit, the names of the bare model, an undo file that fits them all."""

import copy
import importlib
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import zsu_fast
from tests.peers import import_timm
from zsu_fast import Patch
from zsu_fast.model.wrapped import bare_model
from zsu_fast.unlearn import Picks, model_digest


class Renaming(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.model = net

    def forward(self, x):
        return self.model(x)

    def state_dict(self, *args, **kwargs):
        return {"renamed." + k: v.clone() for k, v in self.model.state_dict(*args, **kwargs).items()}


class Holder(nn.Module):
    """What many wrappers are: a child that computes, and a forward that calls it."""

    def __init__(self, net: nn.Module, child: str = "module") -> None:
        super().__init__()
        self.child = child
        self.add_module(child, net)

    def forward(self, *args):
        return self._modules[self.child](*args)


def stand_in(module: str, name: str, child: str = "module") -> Callable[[nn.Module], nn.Module]:
    """A wrapper of a package that need not be installed: known by its qualified name."""
    kind = type(name, (Holder,), {"__module__": module})
    return lambda net: kind(net, child)


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


STAND_INS = {
    "Fabric": stand_in("lightning.fabric.wrappers", "_FabricModule", "_forward_module"),
    "Fabric alone": stand_in("lightning_fabric.wrappers", "_FabricModule", "_forward_module"),
    "ModelEmaV2": stand_in("timm.utils.model_ema", "ModelEmaV2"),
    "ModelEmaV3": stand_in("timm.utils.model_ema", "ModelEmaV3"),
    "ema_pytorch": stand_in("ema_pytorch.ema_pytorch", "EMA", "ema_model"),
    "a subclass": lambda net: type("ExponentialMovingAverage", (AveragedModel,), {})(net),
}


@pytest.mark.parametrize("wrap", STAND_INS.values(), ids=STAND_INS)
def test_names_and_undo_files_of_wrappers_by_name(wrap):
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    wrapped = wrap(net).eval()
    assert isinstance(bare_model(wrapped), nn.Sequential) and model_digest(wrapped) == model_digest(net)
    patch = zsu_fast.perturb_(wrapped, Picks(neurons={"1": [2]}), sample=torch.rand(1, 4))
    assert not bare_model(wrapped)[1].weight[2].any()
    assert list(zsu_fast.relevance(wrapped, torch.rand(1, 4), 0).neurons) == ["1", "3"]
    patch.revert(wrapped)
    patch.apply_(net)
    patch.revert(again := wrap(net))
    assert model_digest(again) == model_digest(wrapped)


def test_averages_of_timm():
    utils = importlib.import_module(f"{import_timm().__name__}.utils")
    for kind in (utils.ModelEmaV2, utils.ModelEmaV3):
        assert isinstance(bare_model(kind(nn.Linear(2, 2))), nn.Linear)


def test_a_state_dict_that_renames_and_copies(conv_net, digits):
    net = Renaming(conv_net).eval()
    result = zsu_fast.forget(net, 3, digits.split(3)[0])
    assert [entry.tensor for entry in result.patch.entries] == ["model.head.weight"]
    assert zsu_fast.evaluate(conv_net, *digits.split(3)[:1], torch.full((30,), 3), 3).forget_accuracy == 0
    result.patch.revert(net)
    assert model_digest(net) == result.record["model"]["before"]


class Lit(nn.Module):
    """As a LightningModule: a network as an attribute, and a forward that may be anything."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


@pytest.mark.parametrize("compiled", [False, True], ids=["", "compiled"])
def test_an_undo_file_fits_a_module_that_holds_the_network(conv_net, digits, tmp_path, compiled):
    probes, digest = digits.split(3)[0], model_digest(conv_net)
    lit = Lit(torch.compile(conv_net, backend="eager") if compiled else conv_net).eval()
    names = []
    for edited, undone in ((lit, conv_net), (lit, nn.DataParallel(Lit(lit))), (conv_net, lit)):
        patch = zsu_fast.forget(edited, 3, probes, method="channels").patch
        names.append({entry.tensor for entry in patch.entries})
        assert model_digest(conv_net) != digest
        patch.save(tmp_path / "undo.safetensors")
        Patch.load(tmp_path / "undo.safetensors").revert(undone)
        assert model_digest(conv_net) == digest
    prefix = "net._orig_mod." if compiled else "net."
    assert names[0] == {prefix + name for name in names[2]}
    patch.apply_(state := conv_net.state_dict())  # the same memory as the network's
    assert model_digest(conv_net) != digest
    patch.revert({f"model.{name}": tensor for name, tensor in state.items()})
    assert model_digest(conv_net) == digest


def test_an_undo_file_that_fits_in_two_places_is_refused(conv_net, digits):
    class Two(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.first, self.second = copy.deepcopy(net), copy.deepcopy(net)

    both = Two(conv_net)
    patch = zsu_fast.forget(conv_net, 3, digits.split(3)[0]).patch
    with pytest.raises(ValueError, match="has no tensor 'head.weight'"):
        patch.apply_(both)


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
        (nn.Linear(4, 3).state_dict(), "OrderedDict, a state dict; load it into the network"),
        ("model.pt", "got str; load the weights into the network"),
        (SimpleNamespace(ema=nn.Linear(4, 3)), r"got SimpleNamespace; pass the network that it holds \(\.ema\)"),
        (SimpleNamespace(shadow_params=[], copy_to=print), "averages of parameters without a network.*copy_to"),
        (nn.Sequential(Holder(nn.Linear(4, 3), "_fsdp_wrapped_module")), "module '0' is FullyShardedDataParallel"),
        (nn.ModuleDict({"net": nn.Linear(4, 3)}), r"ModuleDict has no forward .* holds \(\.net\)"),
    ],
)
def test_what_cannot_be_edited_is_refused_with_the_reason(model, words):
    with pytest.raises(TypeError, match=f"model: .*{words}"):
        zsu_fast.forget(model, 1, torch.rand(4, 4))


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

"""The other libraries that tests and benchmarks hold zsu_fast against; skips, with the reason, where one is missing.

Their wheels are installed without their dependencies (tests/requirements-peers.txt), because those would replace torch.
The repairs below are for tests only: the product neither needs nor contains them.
"""

import contextlib
import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Literal

import pytest
import torch


def repair_torchvision() -> None:
    """Let torchvision import beside a CPU build of torch.

    Its compiled ops are linked against CUDA and do not load there; registering fakes for two of them then fails. With
    their schemas defined, models and transforms work; the ops themselves stay absent.
    """
    if hasattr(torch.ops.torchvision, "nms") or "torchvision" in _repairs:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for op in ("nms", "qnms"):
            library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _repairs["torchvision"] = library  # the ops live as long as the library object
    except ImportError:
        pass


_repairs: dict[str, torch.library.Library] = {}


def import_torchvision() -> ModuleType:
    return _import("torchvision")


def import_timm() -> ModuleType:
    return _import("timm")


def import_transformers() -> ModuleType:
    return _import("transformers")


def import_zennit() -> ModuleType:
    """zennit, with its submodules composites, rules, attribution, canonizers, torchvision."""
    for submodule in ("attribution", "canonizers", "composites", "core", "rules", "torchvision", "types"):
        _import(f"zennit.{submodule}")
    return _import("zennit")


def import_captum() -> ModuleType:
    """captum, with captum.attr."""
    _import("captum.attr")
    return _import("captum")


def import_lxt() -> ModuleType:
    """LXT, with lxt.efficient (rules, patches). Its `monkey_patch` changes classes for the whole process: undo it.

    Its map for BERT imports names that transformers 5 has dropped; they are used only by pruning, never here.
    """
    utilities = _import("transformers.pytorch_utils")
    for dropped in ("find_pruneable_heads_and_indices", "prune_conv1d_layer"):
        if not hasattr(utilities, dropped):
            setattr(utilities, dropped, None)
    for submodule in ("core", "patches", "rules"):
        _import(f"lxt.efficient.{submodule}")
    return _import("lxt")


@contextlib.contextmanager
def lxt_patches(family: str, kind: Literal["attnLRP", "cp_LRP"] = "attnLRP") -> Iterator[None]:
    """LXT's patches of the classes of a family of transformers ("llama" ...), undone at the end.

    They were written for transformers 4: what 5 expects in their place is put there.
    """
    import_lxt()
    patches = getattr(_import(f"lxt.efficient.models.{family}"), kind)
    module = _import(f"transformers.models.{family}.modeling_{family}")
    before = {target: dict(vars(target)) for target in (*patches, _import("lxt.efficient.models.bert").BertModel)}
    try:
        if hasattr(module, "ALL_ATTENTION_FUNCTIONS"):
            module.ALL_ATTENTION_FUNCTIONS = _Functions(module.ALL_ATTENTION_FUNCTIONS)
        for target, patch in patches.items():
            assert patch(target), f"LXT has patched {target} before"
        if family == "bert":
            module.BertModel.get_head_mask = lambda self, mask, layers: [None] * layers
        else:
            module.ALL_ATTENTION_FUNCTIONS = _Functions(module.ALL_ATTENTION_FUNCTIONS)
        yield
    finally:
        for target, attributes in before.items():
            for name in set(vars(target)) - set(attributes):
                delattr(target, name)
            for name, value in attributes.items():
                if vars(target).get(name) is not value:
                    setattr(target, name, value)


class _Functions(dict[str, Any]):
    def get_interface(self, name: str, default: Any) -> Any:
        return self.get(name, default)


def _import(name: str) -> ModuleType:
    repair_torchvision()
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{name.partition('.')[0]} does not import here: {error}")

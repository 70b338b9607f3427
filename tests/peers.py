"""The other libraries that tests and benchmarks hold zsu_fast against; skips, with the reason, where one is missing.

Their wheels are installed without their dependencies (tests/requirements-peers.txt), because those would replace torch.
The repairs below are for tests only: the product neither needs nor contains them.
"""

import importlib
from types import ModuleType

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


def _import(name: str) -> ModuleType:
    repair_torchvision()
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{name.partition('.')[0]} does not import here: {error}")

"""Models by name: ``timm:NAME``, ``torchvision:NAME``, ``hf:DIR``, ``python:package.module:callable``."""

from __future__ import annotations

import importlib
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zsu_fast.class_names import ClassNames
from zsu_fast.cli.checkpoints import fitted, listed
from zsu_fast.cli.manifest import COPIED, FILES
from zsu_fast.cli.own_preprocess import OwnPreprocess
from zsu_fast.cli.parsing import parse_model, split_key
from zsu_fast.cli.preprocess import INTERPOLATIONS, AnyPreprocess, Preprocess
from zsu_fast.cli.pretrained import of_timm, of_torch_hub, own_weights
from zsu_fast.cli.processor import processor_of, size_of
from zsu_fast.cli.weights import load_into, read_weights
from zsu_fast.extras import require
from zsu_fast.sharded import largest_shard

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, and what is known of it.

    Attributes:
        spec: what the user called it, but of a path the last part only: results are given away.
        weights: the file the weights came from, None if the model brought its own.
        metadata: of that file, to be kept when the edited weights are written.
        names: class index -> name; empty if unknown.
        beside: kind -> text of the files that `from_pretrained` needs beside the weights, see `manifest.COPIED`.
        shard: bytes of tensors in a file, as the weights came in several (see `largest_shard`); None if in one.
    """

    model: nn.Module
    preprocess: AnyPreprocess
    spec: str
    weights: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    names: ClassNames = field(default_factory=ClassNames)
    beside: dict[str, str] = field(default_factory=dict)
    shard: int | None = None


def load_model(
    spec: str,
    weights: str | Path | None = None,
    *,
    classes: int | None = None,
    device: str | torch.device = "cpu",
    note: Callable[[str], None] = lambda _: None,
) -> LoadedModel:
    """Build a model and load its weights.

    Args:
        spec: ``timm:NAME`` or ``torchvision:NAME`` (with the library's pretrained weights if none are given: a warning
            is logged before they are downloaded),
            ``hf:DIR`` (a local folder of transformers), or ``python:package.module:callable``: called without
            arguments, returns the model or (model, preprocess). ``preprocess`` is a mapping with ``mean``, ``std``,
            ``size``, or a callable: of one picture, as torchvision's transforms, or of all, see `OwnPreprocess`.
        weights: safetensors, or a state dict that ``torch.load(weights_only=True)`` can read; see `read_weights`.
        classes: number of classes of the classifier. Default: read off the weights.
        device: where the model goes.
        note: told which weights were taken, where a file holds several.

    Raises:
        ValueError: a spec, name, folder or file that cannot be used.
        ImportError: the library is missing (extra "models").
        OSError: its weights are not here and cannot be downloaded.
    """
    source, name = parse_model(spec)
    if classes is not None and source not in ("timm", "torchvision"):
        raise ValueError(f"--classes is for timm: and torchvision: models, got {spec!r}")
    state, metadata = read_weights(weights, note) if weights is not None else (None, {})
    names = ClassNames()
    preprocess: AnyPreprocess
    if source == "timm":
        model, preprocess, names = _timm(name, state, classes)
    elif source == "torchvision":
        model, preprocess, names = _torchvision(name, state, classes)
    elif source == "hf":
        model, preprocess, names = _transformers(name, whole=state is None)
    else:
        model, preprocess = _python(name)
    if state is not None:
        load_into(model, state, str(weights), note)
    channels = _input_channels(model)
    if isinstance(preprocess, OwnPreprocess):
        preprocess.mode = "L" if channels == 1 else "RGB"
    elif preprocess.channels is None:
        preprocess = replace(preprocess, channels=channels)
    model = model.to(device).eval()
    LOG.info(
        "loaded %s (weights: %s) onto %s: images by %s", spec, weights or "its own", device, "; ".join(preprocess.steps)
    )
    told = f"{source}:{os.path.basename(os.path.abspath(os.path.expanduser(name)))}"
    beside = files_beside(Path(name).expanduser()) if source == "hf" else {}
    file = None if weights is None else str(weights)
    return LoadedModel(model, preprocess, told, file, metadata, names, beside, shard_of(source, name, weights))


def _timm(
    name: str, state: dict[str, Tensor] | None, classes: int | None
) -> tuple[nn.Module, AnyPreprocess, ClassNames]:
    timm = require("timm", "models")
    if not timm.is_model(name):
        close = timm.list_models(f"*{name}*")[:3]
        raise ValueError(f"timm has no model {name!r}" + (f"; it has {', '.join(close)}" if close else ""))
    config = timm.get_pretrained_cfg(name)
    if classes is None and state is not None:
        head = config.classifier if config is not None else None
        head = head[0] if isinstance(head, (tuple, list)) else head
        found = {len(value) for name, value in state.items() if f".{name}".endswith(f".{head}.weight")}
        classes = found.pop() if len(found) == 1 else None
    chosen = {} if classes is None else {"num_classes": classes}
    with own_weights(f"timm:{name}", *of_timm(config)) if state is None else nullcontext():
        model = timm.create_model(name, pretrained=state is None, **chosen)
    preprocess = _timm_preprocess(timm.data, timm.data.resolve_model_data_config(model))
    subset = timm.data.infer_imagenet_subset(model)  # by the number of classes
    return model, preprocess, ClassNames() if subset is None else imagenet_names(subset)


def _timm_preprocess(data: Any, config: dict[str, Any]) -> AnyPreprocess:
    """As `timm.data.create_transform` does it, which runs itself where it does more than `Preprocess` knows."""
    channels, height, width = config["input_size"]
    resize = math.floor(height / (config.get("crop_pct") or data.constants.DEFAULT_CROP_PCT))
    squashed, whole = config.get("crop_mode") == "squash", resize == height
    known = height == width and config["interpolation"] in INTERPOLATIONS
    source = f"timm's config ({config['crop_mode']} crop of {config['crop_pct']:g})"
    if not known or not (config["crop_mode"] == "center" or (squashed and whole)):
        return OwnPreprocess(data.create_transform(**config, is_training=False), source=source)
    return Preprocess(
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        size=(height, width),
        resize=None if squashed else resize,
        interpolation=config["interpolation"],
        channels=channels,
        source=source,
    )


def imagenet_names(subset: str = "imagenet-1k") -> ClassNames:
    """ImageNet's names and WordNet ids, which timm brings along."""
    info = require("timm", "models").data.ImageNetInfo(subset)
    return ClassNames(
        enumerate(info.label_descriptions()), {wnid: index for index, wnid in enumerate(info.label_names())}
    )


def _torchvision(
    name: str, state: dict[str, Tensor] | None, classes: int | None
) -> tuple[nn.Module, AnyPreprocess, ClassNames]:
    models = require("torchvision", "models").models
    if name not in models.list_models():
        close = models.list_models(include=f"*{name}*")[:3]
        raise ValueError(f"torchvision has no model {name!r}" + (f"; it has {', '.join(close)}" if close else ""))
    default = models.get_model_weights(name).DEFAULT
    chosen: dict[str, Any] = {"weights": default if state is None else None}
    if state is not None:
        chosen["num_classes"] = classes or _classes_in(state, models, name) or len(default.meta["categories"])
    elif classes is not None:
        raise ValueError("--classes needs --weights: torchvision's own weights have their own classes")
    with own_weights(f"torchvision:{name}", *of_torch_hub(default.url)) if state is None else nullcontext():
        model = models.get_model(name, **chosen)
    names = ClassNames(enumerate(default.meta["categories"]))
    if chosen.get("num_classes", len(names)) != len(names):
        names = ClassNames()
    return model, _torchvision_preprocess(default), names


def _torchvision_preprocess(weights: Any) -> AnyPreprocess:
    """As the transforms of these weights do it, which run themselves if they are of another kind."""
    transforms, source = weights.transforms(), f"the transforms of {weights}"
    if type(transforms).__name__ != "ImageClassification":
        return OwnPreprocess(transforms, source=source)
    size = transforms.crop_size[0]
    return Preprocess(
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        size=(size, size),
        resize=transforms.resize_size[0],
        interpolation=transforms.interpolation.value,
        channels=3,
        source=source,
    )


def _transformers(name: str, whole: bool) -> tuple[nn.Module, AnyPreprocess, ClassNames]:
    folder = Path(name).expanduser()
    transformers = require("transformers", "models")
    transformers.utils.logging.disable_progress_bar()  # of a second: commands show their own
    model = from_folder(transformers.AutoModelForImageClassification, folder, whole)
    told = getattr(model.config, "id2label", None) or {}
    names = ClassNames((int(index), str(label)) for index, label in told.items())
    if all(label == f"LABEL_{index}" for index, label in names.items()):
        names = ClassNames()
    return model, processor_of(folder, model.config), names


def from_folder(auto: Any, folder: Path, whole: bool) -> nn.Module:
    """The model that a class of transformers makes of a folder, from which no code is run.

    whole: ValueError if weights are missing there, as those of the head of a base model: they would be drawn at random.
    """
    # local_files_only: a folder must never turn into a download.
    model, told = auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False, output_loading_info=True)
    missing = sorted(name for name in told["missing_keys"] if not name.endswith("num_batches_tracked"))
    if whole and missing:
        raise ValueError(
            f"hf:DIR: {folder} holds no weights for {listed(missing)}: they would be random; give --weights"
        )
    return model


def files_beside(folder: Path) -> dict[str, str]:
    """What a folder of transformers holds that `from_pretrained` needs beside the weights."""
    files = {kind: folder / FILES[kind] for kind in COPIED}
    return {kind: path.read_text(encoding="utf-8") for kind, path in files.items() if path.is_file()}


def shard_of(source: str, name: str, weights: str | Path | None) -> int | None:
    """`LoadedModel.shard` of weights that came from here."""
    if weights is not None:
        return largest_shard(split_key(weights)[0])
    return largest_shard(Path(name).expanduser()) if source == "hf" else None


def imported(name: str, option: str = "MODEL") -> Any:
    """What ``package.module:attribute`` names, also in a module of the folder that the command runs in."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"{option} must be python:package.module:callable, got {'python:' + name!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does, so that a model.py beside the data is found
    try:
        target: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"cannot import {module_name!r}: {error}") from None
    for part in attribute.split("."):
        if not hasattr(target, part):
            raise ValueError(f"{module_name!r} has no {attribute!r}")
        target = getattr(target, part)
    return target


def called(name: str) -> Any:
    """What ``package.module:callable`` returns, or the module that stands there."""
    target = imported(name)
    return target if isinstance(target, nn.Module) else target() if callable(target) else None


def _python(name: str) -> tuple[nn.Module, AnyPreprocess]:
    built = called(name)
    model, preprocess = built if isinstance(built, tuple) and len(built) == 2 else (built, None)
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"python:{name} must return a torch.nn.Module or (model, preprocess), got {type(model).__name__}"
        )
    return model, _preprocess_of(preprocess, name)


def _preprocess_of(given: Any, name: str) -> AnyPreprocess:
    if given is None:
        return Preprocess()
    if callable(given):
        return OwnPreprocess(given, source=f"python:{name}")
    if isinstance(given, Mapping) and not set(given) - {"mean", "std", "size", "resize", "interpolation", "channels"}:
        values = dict(given)
        for key in ("mean", "std"):
            if key in values:
                values[key] = tuple(
                    float(v) for v in (values[key] if hasattr(values[key], "__iter__") else [values[key]])
                )
        if "size" in values:
            values["size"] = size_of(values["size"])
        return Preprocess(**values, source=f"python:{name}")
    raise ValueError(
        f"the preprocess of python:{name} must be a callable or a mapping with mean, std, size, got {given!r}"
    )


def _classes_in(state: dict[str, Tensor], models: Any, name: str) -> int | None:
    """Classes of a torchvision classifier: the rows of what has another number of them than the model's own.

    Not the last matrix of the file: a safetensors file has no order.
    """
    with torch.device("meta"):
        own = models.get_model(name, weights=None).state_dict()
    found = fitted(state, own)
    rows = {
        found[key].shape[0]
        for key, value in own.items()
        if key in found
        and found[key].dim() > 0
        and found[key].shape != value.shape
        and found[key].shape[1:] == value.shape[1:]
    }
    return rows.pop() if len(rows) == 1 else None


def _input_channels(model: nn.Module) -> int | None:
    """Channels that the first convolution takes, if it takes an image's; None leaves images as they are."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels if module.in_channels in (1, 3) else None
    return None

"""The image processor of a folder of transformers: run itself, whatever it does; what is known of it, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsu_fast.cli.own_preprocess import OwnPreprocess
from zsu_fast.cli.preprocess import AnyPreprocess, Preprocess
from zsu_fast.extras import require

FILE = "preprocessor_config.json"
PLAIN = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")


def processor_of(folder: Path, config: Any) -> AnyPreprocess:
    """What the folder's processor makes of pictures; without one, an assumption that says so.

    Raises:
        ValueError: a processor that transformers cannot make without running code of the folder.
    """
    if not (folder / FILE).is_file():
        size = size_of(getattr(config, "image_size", None))
        return Preprocess((0.5,), (0.5,), size, source=f"assumed: the folder holds no {FILE}")
    try:
        json.loads((folder / FILE).read_text(encoding="utf-8"))
        processor = _load(folder)
    except ImportError:
        raise
    except Exception as error:  # whatever transformers raises of a file that it does not understand
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"hf:DIR: {folder / FILE} gives no image processor: {reason}") from None
    return _running(processor, folder)


def _load(folder: Path, **changed: Any) -> Any:
    # local_files_only: a folder must never turn into a download. Code in the folder is not run.
    return require("transformers", "models").AutoImageProcessor.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, **changed
    )


def _running(processor: Any, folder: Path, source: str = FILE) -> OwnPreprocess:
    told = processor.to_dict()
    scale = 255 * told.get("rescale_factor", 1 / 255) if told.get("do_rescale") else 255.0
    normalised = told.get("do_normalize") and told.get("image_mean") and told.get("image_std")
    mean, std = (
        [float(value) / scale for value in values]
        for values in ((told["image_mean"], told["image_std"]) if normalised else ([0.0], [1.0]))
    )
    more = [key for key, value in told.items() if value and key.startswith("do_") and key not in PLAIN]
    size = size_of(told.get("crop_size" if told.get("do_center_crop") else "size"))
    plain = None if more or told.get("rescale_offset") else Preprocess(tuple(mean), tuple(std), size, channels=3)

    def changed(mean: Any, std: Any, size: tuple[int, int] | None) -> OwnPreprocess:
        values = {"image_mean": mean and list(mean), "image_std": std and list(std)} | _sizes(told, size)
        chosen = {key: value for key, value in values.items() if value is not None}
        return _running(_load(folder, **chosen), folder, f"the options, and {source}")

    return OwnPreprocess(
        lambda pictures: processor(images=list(pictures), return_tensors="pt")["pixel_values"],
        normalisation=(mean, std),
        steps=_steps(type(processor).__name__, told),
        source=source,
        overridden=changed,
        plain=plain,
    )


def _sizes(told: Mapping[str, Any], size: tuple[int, int] | None) -> dict[str, Any]:
    """The processor's keys for another size; the crop keeps its share of the picture."""
    if size is None:
        return {}
    wanted = {"height": size[0], "width": size[1]}
    crop, before = size_of(told.get("crop_size")), size_of(told.get("size"))
    if not told.get("do_center_crop") or crop is None or before is None:
        return {"size": wanted}
    return {"crop_size": wanted, "size": {"shortest_edge": round(min(before) * min(size) / min(crop))}}


def _steps(kind: str, told: Mapping[str, Any]) -> list[str]:
    """The keys that say what is done to a picture, as they stand there."""
    silent = {"image_processor_type", "feature_extractor_type", "processor_class", "data_format", "return_tensors"}
    said = {key: value for key, value in told.items() if value is not None and key not in silent and key[0] != "_"}
    return [kind, *(f"{key}: {json.dumps(value, default=str)}" for key, value in sorted(said.items()))]


def size_of(value: Any) -> tuple[int, int] | None:
    """(height, width) of a number, a pair, or one of the mappings that processors have; None if it is none of them."""
    if isinstance(value, Mapping):
        if "height" in value and "width" in value:
            return int(value["height"]), int(value["width"])
        edge = value.get("shortest_edge")
        return None if edge is None else (int(edge), int(edge))
    if isinstance(value, (list, tuple)):
        return int(value[0]), int(value[-1])
    return None if value is None else (int(value), int(value))

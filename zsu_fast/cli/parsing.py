"""Values as people type them. ValueError names the option and what came."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

SOURCES = {
    "timm": "timm:NAME",
    "torchvision": "torchvision:NAME",
    "hf": "hf:DIR",
    "python": "python:package.module:callable",
}
"""Where models come from -> how they are named."""
LANGUAGE_SOURCES = ("hf", "python")
"""Of these, those that give a language model with its tokenizer."""


def parse_model(text: str, name: str = "MODEL", sources: Collection[str] = SOURCES) -> tuple[str, str]:
    """ "timm:resnet18" -> source and name; a folder of transformers must be there."""
    source, _, rest = text.partition(":")
    if source not in sources or not rest or (source == "python" and not all(rest.partition(":"))):
        *forms, last = (SOURCES[one] for one in sources)
        raise ValueError(f"{name} must be {', '.join(forms)} or {last}, got {text!r}")
    if source == "hf" and not (Path(rest).expanduser() / "config.json").is_file():
        raise ValueError(f"{name}: hf:DIR must be a folder of transformers with a config.json, got {rest!r}")
    return source, rest


def parse_numbers(text: str | None, name: str) -> tuple[float, ...] | None:
    """ "0.485,0.456,0.406" -> the numbers."""
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = (math.nan,)
    if not all(map(math.isfinite, found)):
        raise ValueError(f"{name} must be numbers parted by commas, one for each channel, got {text!r}")
    return found


def parse_size(text: str | None, name: str = "--size") -> tuple[int, int] | None:
    """ "224" or "240x320" (height x width) -> (height, width)."""
    if text is None:
        return None
    try:
        parts = [int(part) for part in text.lower().split("x")]
        height, width = parts * 2 if len(parts) == 1 else parts
    except ValueError:
        raise ValueError(f"{name} must be a number or HEIGHTxWIDTH, got {text!r}") from None
    return height, width


def parse_range(text: str, name: str = "--range") -> tuple[float, float]:
    """ "-1,1" -> the two."""
    found = parse_numbers(text, name) or ()
    if len(found) != 2 or not found[0] < found[1]:
        raise ValueError(f"{name} must be the least and the largest value of a pixel, got {text!r}")
    return found


def parse_latent(text: str, name: str = "--latent") -> tuple[int, ...] | Path:
    """ "64" or "100x1x1": the shape of a latent; or a .npz."""
    parts = text.lower().split("x")
    if all(part.isdecimal() and int(part) for part in parts):
        return tuple(map(int, parts))
    path = Path(text)
    if path.suffix != ".npz" or not path.is_file():
        raise ValueError(
            f"{name} must be the shape of a latent, as 64 or 100x1x1, or a .npz that is there, got {text!r}"
        )
    return path


def parse_bytes(text: str | None, name: str = "--max-shard-size") -> int | None:
    """ "5GB" -> 5000000000, as transformers reads it."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT])B", text.upper())
    size = float(found[1]) * 1000 ** ("KMGT".index(found[2]) + 1) if found else 0
    if not 1 <= size < 2**63:
        raise ValueError(f"{name} must be a size in KB, MB, GB or TB, as 5GB, got {text!r}")
    return int(size)


def count_or_share(text: str | None, name: str) -> int | float | None:
    """ "40" is a count, "0.1" a fraction: the two mean different things to `zsu_fast.forget`."""
    if text is None:
        return None
    try:
        return int(text) if text.lstrip("+-").isdecimal() else float(text)
    except ValueError:
        raise ValueError(f"{name} must be a count or a fraction, got {text!r}") from None


def split_key(path: str | Path) -> tuple[Path, str | None]:
    """FILE::KEY in two. A file of just that name is that file."""
    file, separator, key = str(path).rpartition("::")
    return (Path(file), key) if separator and file and key and not Path(path).exists() else (Path(path), None)


def parse_setting(text: str, name: str = "--set") -> tuple[str, Any]:
    """ "NAME=VALUE" -> the two; values are JSON, or else text."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{name}: expected NAME=VALUE, got {text!r}")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value

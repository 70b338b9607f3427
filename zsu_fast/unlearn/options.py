"""What can be asked of a method: one description, for `forget`, `select` and the command line.

Each option is a field of a method's `Options` class, with its explanation beside it; `check` holds for all callers.
"""

from __future__ import annotations

import numbers
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from zsu_fast.evaluate.batch_size import customary
from zsu_fast.evaluate.given import check_int

MODES = ("zero", "invert", "scale", "gaussian", "laplace")


def option(text: str, default: Any = None, *, shown: str | None = None, choices: tuple[str, ...] | None = None) -> Any:
    """A field of an `Options` class: what it means, its default, and how a help text shows the default."""
    return field(default=default, metadata={"help": text, "shown": shown, "choices": choices})


@dataclass(frozen=True)
class Options:
    """Options that mean the same for every method."""

    budget: int | float | None = option(
        "Size of the edit: neurons to perturb, or a fraction in (0, 1]. Given, nothing is searched.",
        shown="as the method says",
    )
    until: float | None = option(
        "Accuracy on the class to get down to on held-out probes.", shown="lra-npp 0.02, all others 0.05"
    )
    utility_floor: float | None = option(
        "Accuracy on the retain images that must be kept.", shown="two points less than before"
    )
    seed: int = option("Of the split of the probes and of whatever is drawn.", 0)
    batch_size: int | str = option(
        "Images per forward pass; auto: 16 on a CPU, 64 elsewhere, or fewer where memory has no room for them.", "auto"
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, numbers.Number) and not isinstance(value, (bool, int, float)):
                object.__setattr__(self, f.name, _python_number(value))  # numpy scalars, before anything records them
        self.check()

    def check(self) -> None:
        """Raise TypeError or ValueError naming the option."""
        for f in fields(self):
            choices, value = f.metadata["choices"], getattr(self, f.name)
            if choices is not None and value is not None:
                check_choice(f.name, value, choices)
        check_amount("budget", self.budget, 0)
        for name in ("until", "utility_floor"):
            check_share(name, getattr(self, name))
        check_int("seed", self.seed, 0, 2**63 - 1)
        if self.batch_size != "auto":
            check_int("batch_size", self.batch_size, 1, 2**31 - 1)

    @property
    def strength(self) -> float | None:
        """Of perturbed slices, where a method has the option."""
        return None

    def batch(self, images: Tensor) -> int:
        """Images per forward pass."""
        return self.batch_size if isinstance(self.batch_size, int) else customary(images.device)

    def batches(self, images: Tensor) -> tuple[Tensor, ...]:
        """The images as they are run."""
        return images.split(self.batch(images))


@dataclass(frozen=True)
class MaskOptions(Options):
    """Of methods that perturb neurons."""

    mode: str | None = option(
        "zero (exact masking), invert (times -1), scale (times `strength`), gaussian or laplace (noise on weights).",
        choices=MODES,
        shown="as the method says",
    )
    strength: float | None = option("Of scale, gaussian and laplace.")

    def check(self) -> None:
        super().check()
        check_strength(self.strength, self.mode)


def _python_number(value: Any) -> Any:
    return (
        int(value)
        if isinstance(value, numbers.Integral)
        else float(value)
        if isinstance(value, numbers.Real)
        else value
    )


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


def check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not abs(value) <= sys.float_info.max:  # nor an int that is too large for a float
        raise ValueError(f"{name}: expected a finite number, got {value}")


def check_layers(layers: object) -> tuple[str, ...] | None:
    if layers is None:
        return None
    names: list[Any] = list(layers) if isinstance(layers, Sequence) and not isinstance(layers, str) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"layers: expected names of layers, got {layers!r}")
    return tuple(names)


def check_positive(name: str, value: object, or_zero: bool = False) -> None:
    check_number(name, value)
    assert isinstance(value, (int, float))
    if value < 0 or (value == 0 and not or_zero):
        raise ValueError(f"{name}: expected {'at least 0' if or_zero else 'a positive number'}, got {value}")


def check_strength(strength: float | None, mode: str | None) -> None:
    if strength is not None:
        check_number("strength", strength)
    if mode == "scale" and strength is None:
        raise ValueError("strength: mode 'scale' needs it, the factor")
    if mode in ("gaussian", "laplace") and strength is not None and strength < 0:
        raise ValueError(f"strength: expected at least 0 for noise, got {strength}")


def check_share(name: str, value: object) -> None:
    if value is None:
        return
    check_number(name, value)
    assert isinstance(value, (int, float))
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected an accuracy in [0, 1], got {value}")


def check_amount(name: str, value: object, low: int) -> None:
    """A count of at least `low`, or a fraction in (0, 1]."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a count or a fraction, got {value!r}")
    if isinstance(value, float) and not 0 < value <= 1:
        raise ValueError(f"{name}: expected a fraction in (0, 1] or an integer count, got {value}")
    if isinstance(value, int) and value < low:
        raise ValueError(f"{name}: expected at least {low}, got {value}")


def check_progress(progress: Callable[[int, int, str], None] | None) -> None:
    if progress is not None and not callable(progress):
        raise TypeError(f"progress: expected a function of (done, total, text), got {type(progress).__name__}")

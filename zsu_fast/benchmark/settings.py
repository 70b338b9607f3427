"""What a benchmark is told: which images methods get, what is measured, and which methods run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from zsu_fast.evaluate.given import check_int
from zsu_fast.unlearn.forget import configured
from zsu_fast.unlearn.methods import find_method
from zsu_fast.unlearn.methods.baselines.baseline import Baseline
from zsu_fast.unlearn.options import check_choice, check_positive

PROBES, FEW, TRAIN = "probes", "few", "train"
DATA = {
    PROBES: "few unseen images of the class alone",
    FEW: "few unseen images of the class and of each other one",
    TRAIN: "all training images of the class and of the others",
}
REFERENCES = ORIGINAL, RETRAINED = "original", "retrained"
"""Cells that are no edit: the model as it was, and its oracle."""
ATTACKS = ("linear probe", "prototype row", "nearest prototype", "10 neighbours", "MLP probe")
GIVEN = ("model", "target", "probes", "probe_labels", "retain_probes", "evaluate_on", "progress", "seed")


@dataclass(frozen=True)
class Few:
    """Unseen images that a method with `data` probes or few gets, drawn by its seed from the lessons."""

    probes: int = 36
    retain: int = 20

    def __post_init__(self) -> None:
        check_int("few.probes", self.probes, 1)
        check_int("few.retain", self.retain, 1)


@dataclass(frozen=True)
class Measures:
    """What is asked of every model, edited or not.

    attacks: names of `ATTACKS`. prototypes: from how many images the class's row is rebuilt, each its own attack.
    relearn_steps: mini-batches of relearning from the lessons; measured after 1, 2, 4 ..; 0: none. from_others: also
    from those of the other classes alone. learning_rate, batch_size: of Adam. membership: needs training images.
    """

    attacks: tuple[str, ...] = ("linear probe", "prototype row", "10 neighbours")
    prototypes: tuple[int, ...] = (5, 36)
    relearn_steps: int = 32
    from_others: bool = False
    learning_rate: float = 1e-4
    batch_size: int = 64
    membership: bool = False

    def __post_init__(self) -> None:
        for name in ("attacks", "prototypes"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Sequence) or not value:
                raise TypeError(f"measure.{name}: expected a list, got {value!r}")
            object.__setattr__(self, name, tuple(value))
        for attack in self.attacks:
            check_choice("measure.attacks", attack, ATTACKS)
        for count in self.prototypes:
            check_int("measure.prototypes", count, 1)
        check_int("measure.relearn_steps", self.relearn_steps, 0)
        check_positive("measure.learning_rate", self.learning_rate)
        check_int("measure.batch_size", self.batch_size, 1)
        for name in ("from_others", "membership"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"measure.{name}: expected true or false, got {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self) | {"attacks": list(self.attacks), "prototypes": list(self.prototypes)}


@dataclass(frozen=True)
class Entry:
    """A method with its options, under a name of its own.

    data: what it learns from, of `DATA`. A baseline is taken as it comes (`budget` 1), unless its options say how far
    it should go: a floor would leave the model alone where the baseline does harm, and the harm is what is measured.
    """

    name: str
    method: str
    data: str = FEW
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"methods.{self.name}"
        if self.name in REFERENCES:
            raise ValueError(f"{where}: the name is taken, by what methods are measured beside")
        check_choice(f"{where}.data", self.data, tuple(DATA))
        check_json(where, self.options)
        try:
            kind = find_method(self.method)
            if "class" not in kind.takes:
                raise ValueError(
                    f"method: {self.method!r} does not forget classes, but {', '.join(sorted(kind.takes))}"
                )
            if taken := [name for name in GIVEN if name in self.options]:
                raise TypeError(f"{taken[0]}: the benchmark itself gives it")
            configured(self.method, self.arguments(0))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{where}: {error}") from None

    @classmethod
    def of(cls, name: str, given: object) -> Entry:
        """From ``{"method": .., "data": .., any options}``; without "method" the name is the method's."""
        if given is None:
            given = {}
        if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
            raise TypeError(f"methods.{name}: expected options by name, got {given!r}")
        options = dict(given)
        return cls(name, options.pop("method", name), options.pop("data", FEW), options)

    def arguments(self, seed: int) -> dict[str, Any]:
        """Options for `forget`."""
        open_ended = not {"budget", "until", "utility_floor"} & set(self.options)
        budget = {"budget": 1} if issubclass(find_method(self.method), Baseline) and open_ended else {}
        return budget | dict(self.options) | {"seed": seed}

    def to_dict(self) -> dict[str, Any]:
        """What decides what it does; its name does not."""
        arguments = self.arguments(0)
        del arguments["seed"]
        return {"method": self.method, "data": self.data, "options": json.loads(json.dumps(arguments))}


def settings_of(kind: type[Any], name: str, given: object) -> Any:
    """`kind(**given)`, with errors that name the part of the config."""
    known = [f.name for f in fields(kind)]
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{name}: expected settings by name ({', '.join(known)}), got {given!r}")
    check_keys(name, given, known)
    return kind(**given)


def check_keys(name: str, given: Mapping[Any, Any], known: Sequence[str]) -> None:
    """ValueError, naming it, for a key that means nothing."""
    for key in given:
        if key not in known:
            raise ValueError(f"{f'{name}.' if name else ''}{key}: no such setting; there are {', '.join(known)}")


def check_json(name: str, value: object) -> None:
    """TypeError for what a config cannot hold: it would not be the same when it is read again."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            check_json(f"{name}.{key}", item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            check_json(name, item)
    elif not isinstance(value, (str, int, float, bool, type(None))) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        raise TypeError(f"{name}: expected text, a finite number, true, false or a list of them, got {value!r}")

"""What a report of any kind has, and what each kind must say of itself. No markup: texts and numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from zsu_fast.report import words


@dataclass(frozen=True)
class Card:
    """One of the figures that matter most, before and after. note: measured on what."""

    what: str
    old: str
    new: str
    note: str = ""

    @classmethod
    def share(cls, what: str, old: float | None, new: float | None, note: str) -> Card:
        """Of shares, in %."""
        return cls(what, words.percent(old), words.percent(new), note)


@dataclass(frozen=True, kw_only=True)
class Report(ABC):
    """What a report shows. Each kind of request has its own, in a file of its own, with what it alone can show.

    Attributes:
        model: what the model is called.
        record: of the `ForgetResult`.
        picks: layer -> masked indices, of the `ForgetResult`.
        names: class index -> name.
        warnings: what a reader must know before believing the numbers.
        author: who made it, as they typed it; nobody checked it.
        sources: what was given -> {"images": how many, "hmac_sha256": keyed hash of the files}, where they were files.
        overlap: how many of the evaluation images are, byte for byte, among those given to choose the edit by; None if
            they were not compared.
        in_folder: whether it lies in the folder of a result, which `zsu-fast verify` can check.
    """

    model: str
    record: dict[str, Any]
    picks: dict[str, list[int]]
    names: dict[int, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    author: str | None = None
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    overlap: int | None = None
    in_folder: bool = False

    inputs: ClassVar[str]
    """What the method worked on: record["probes"] is the keyed hash of these."""
    trained_on: ClassVar[str] = "images"
    glossary: ClassVar[tuple[str, ...]] = ()
    """Keys of `glossary.WORDS` beside those that every page explains."""
    pipeline: ClassVar[str] = "image-classification"
    """What the Hub calls models of this kind."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What was to be forgotten."""

    @property
    @abstractmethod
    def asked(self) -> str:
        """The request, in a sentence for people who know nothing of networks."""

    def shown(self) -> list[str]:
        """What was measured beside the verdict, a sentence each."""
        return []

    @abstractmethod
    def not_shown(self) -> list[str]:
        """What an edit in place was not tested for, or did not pass: a sentence each."""

    def judges(self) -> list[str]:
        """How many of what judged the edit, and how far it had no part in its choice."""
        return []

    @abstractmethod
    def cards(self) -> list[Card]:
        """The figures that matter most."""

    @abstractmethod
    def sections(self) -> list[str]:
        """HTML: everything else, from the most to the least important; see `parts.section`. Empty ones are left out."""

    @property
    def request(self) -> dict[str, Any]:
        """What was asked for, as the record has it: method, kind, options."""
        found: dict[str, Any] = self.record["request"]
        return found

    @property
    def verdict(self) -> dict[str, Any]:
        """As the record has it: level, sentence and figures."""
        found: dict[str, Any] = self.record["verdict"]
        return found

    @property
    def apart(self) -> str:
        """How far the evaluation images are known to be others than those that chose the edit."""
        if self.overlap is None:
            return "which were given to judge, not to choose"
        if self.overlap:
            return f"some of which ({self.overlap} in all) are among those given to choose the edit by"
        return "which had no part in the choice of the edit"

    @property
    def metrics(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Before and after."""
        found = self.record["metrics"]
        return found["before"], found["after"]

    @property
    def edited(self) -> bool:
        """Whether an edit is in place."""
        return self.record.get("mode") is not None

    def on_retain_images(self) -> list[str]:
        """What became of the retain images."""
        old, new = (one.get("retain_accuracy") for one in self.metrics)
        if old is None:
            return []
        images = (self.record.get("retain_probes") or {}).get("shape", ["?"])[0]
        made = "synthesised or given " if "synthetic" in self.request else ""
        return [
            f"On {images} {made}retain images, which had a part in the choice of the edit, {words.percent(old)} of the "
            f"answers were right before and {words.percent(new)} are after (without labels: stayed as they were)."
        ]

    def label(self, index: int) -> str:
        """A class, by its name where it has one, else by its index."""
        return words.label(self.names, index)

    def named(self, indices: Sequence[int]) -> str:
        """Several classes in one line."""
        return ", ".join(map(self.label, indices))

"""What the ledger says of one request: plain values, written as JSON and read back as data."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

STATUSES = ("done", "not judged", "not reached", "invalid", "failed", "undone")
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Row:
    """One request.

    status: "done": the verdict says forgotten; "not judged": an edit is in place, and not more is known; "not reached"
        and "invalid": as in a verdict, nothing was changed; "failed": an exception, nothing was changed; "undone".
    asked: JSON-able, what was asked and with which options. given: name -> HMAC-SHA-256 of the images
        (texts, judges) given, by the key in the undo file.
    sentence: the verdict, or the error. edited: whether it has an edit (which is in place unless "undone").
    before, after: SHA-256 of the model. They are kept true when an earlier request is undone.
    images: of how many of its images (prompts, latents) it is looked at whether they are forgotten, None if at none.
        left: how many were not, right after it. left_now: after the latest edit; None: not looked at since the model
        changed. until: share of them that may be left. came_back_with: the request after which more of them were.
    time: when it began (UTC). seconds: it took. revision: of the undo file. files: path in the folder -> SHA-256.
    """

    id: str
    note: str
    status: str
    asked: dict[str, Any]
    given: dict[str, str]
    sentence: str
    edited: bool
    before: str
    after: str
    images: int | None
    left: int | None
    left_now: int | None
    until: float
    came_back_with: str | None
    time: str
    seconds: float
    revision: int = 1
    files: dict[str, str] = field(default_factory=dict)

    @property
    def in_place(self) -> bool:
        """Whether its edit is part of the model now."""
        return self.edited and self.status != "undone"

    @property
    def finished(self) -> bool:
        """Whether it is not to be tried again."""
        return self.status != "failed"

    @property
    def inputs(self) -> str:
        """What `images` are."""
        request = self.asked.get("request", self.asked)  # of `Queue.forget`, or of the command
        kind = request.get("kind") if isinstance(request, dict) else None
        return {"text": "prompts", "generator": "latents"}.get(str(kind), "images")

    @property
    def undo_file(self) -> str:
        """Path in the folder of the queue."""
        return f"undo/{self.id}{'' if self.revision == 1 else f'~{self.revision}'}.safetensors"

    @property
    def came_back(self) -> bool:
        """Whether more of its images are remembered now than right after it, and more than may be."""
        if self.images is None or self.left is None or self.left_now is None:
            return False
        return self.left_now > max(self.left, self.until * self.images)

    def to_dict(self) -> dict[str, Any]:
        """The form that it has in the ledger."""
        return asdict(self)

    @staticmethod
    def of(plain: Any) -> Row:
        """From the form that it has in the ledger. TypeError or ValueError for anything else."""
        row = Row(**plain)
        for f in fields(Row):
            kinds = {"str": str, "bool": bool, "int": int, "dict": dict, "float": (int, float), "None": type(None)}
            allowed = tuple(kinds[name.partition("[")[0]] for name in str(f.type).split(" | "))
            flat = tuple(kind for one in allowed for kind in (one if isinstance(one, tuple) else (one,)))
            value = getattr(row, f.name)
            if not isinstance(value, flat) or (isinstance(value, bool) and bool not in flat):
                raise TypeError(f"{f.name} is {value!r}")
        check_id(row.id)
        if row.status not in STATUSES:
            raise ValueError(f"status is {row.status!r}")
        if row.revision < 1:
            raise ValueError(f"revision is {row.revision}")
        return row


def check_id(given: object) -> str:
    """ValueError unless it can be the name of a file anywhere."""
    if not isinstance(given, str) or not ID.fullmatch(given) or given.endswith("."):
        raise ValueError(f"id: expected up to 64 letters, digits and . _ -, a letter or digit first, got {given!r}")
    return given


def keyed(digests: Mapping[str, str], key: str) -> dict[str, str]:
    """Name -> HMAC-SHA-256 of each digest, both in hexadecimal: who has the key and the images can compare."""
    return {name: hmac.new(bytes.fromhex(key), one.encode(), "sha256").hexdigest() for name, one in digests.items()}

"""What a language model is to forget, and what it is to keep: prompts with their responses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class TextRecord:
    """A prompt and what the model says to it.

    prompt, response: the text as the model gets it, one after the other, space between them included (the response
    begins with it, or the prompt ends with it); of a chat model the prompt has its template already.
    words: the sensitive words, or phrases, of the response: what must not be said any more. See `sensitive_words`.
    subject: whom or what the record is about, as it stands in the text.
    paraphrases: other prompts for the same response. They judge, and have no part in any training.

    Raises:
        TypeError, ValueError: naming the field.
    """

    prompt: str
    response: str
    words: tuple[str, ...] = ()
    subject: str = ""
    paraphrases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in ("words", "paraphrases"):
                if isinstance(value, str) or not isinstance(value, Sequence) or not all(map(_is_text, value)):
                    raise TypeError(f"{f.name}: expected texts, got {value!r}")
                object.__setattr__(self, f.name, tuple(value))
            elif not isinstance(value, str):
                raise TypeError(f"{f.name}: expected a text, got {type(value).__name__}")
        for name in ("prompt", "response"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name}: expected a text, got {getattr(self, name)!r}")
        if self.prompt in self.paraphrases:
            raise ValueError("paraphrases: hold the prompt itself, which has a part in training")

    @property
    def text(self) -> str:
        """Prompt and response in one."""
        return self.prompt + self.response


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def check_records(name: str, records: object, least: int = 1) -> tuple[TextRecord, ...]:
    """At least so many records, no text twice."""
    if isinstance(records, (str, TextRecord)) or not isinstance(records, Sequence):
        raise TypeError(f"{name}: expected a sequence of TextRecord, got {type(records).__name__}")
    for i, record in enumerate(records):
        if not isinstance(record, TextRecord):
            raise TypeError(f"{name}: expected a sequence of TextRecord, got {type(record).__name__} at {i}")
    if len(records) < least:
        raise ValueError(f"{name}: expected at least {least} record{'s' if least > 1 else ''}, got {len(records)}")
    check_once(name, [record.prompt for record in records], "prompt")
    return tuple(records)


def read_records(path: str | Path) -> list[TextRecord]:
    """Records of a file of JSON lines: objects with "prompt", "response", and what else a TextRecord has.

    Raises:
        ValueError: no such file, or a line that is no record; it is named.
    """
    path, found = Path(path), []
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    known = [f.name for f in fields(TextRecord)]
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # and no other line end, which a text may have
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no text in UTF-8: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            given = json.loads(line)
            if not isinstance(given, dict) or not {"prompt", "response"} <= set(given) <= set(known):
                raise ValueError(f"expected an object of {', '.join(known)}, with prompt and response at least")
            found.append(TextRecord(**given))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    if not found:
        raise ValueError(f"{path}: holds no record")
    return found


def check_once(name: str, texts: Sequence[str], what: str) -> None:
    seen: dict[str, int] = {}
    for i, text in enumerate(texts):
        if text in seen:
            raise ValueError(f"{name}: the {what} at {i} is that at {seen[text]}: {text!r}")
        seen[text] = i

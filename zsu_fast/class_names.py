"""Names of a model's classes, found as people write them: case, spaces and underscores, synonyms, WordNet ids."""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

MOST_INDEX = 2**31 - 1
MOST_BYTES = 1 << 24  # names of a million classes


class ClassNames(dict[int, str]):
    """Class index -> name; empty if none is known.

    A name may hold synonyms, parted by commas, as those of ImageNet do ("tench, Tinca tinca").

    Attributes:
        ids: other texts that stand for a class, as the WordNet id "n01440764" does for tench -> its index.
    """

    def __init__(self, names: Mapping[int, str] | Iterable[tuple[int, str]] = (), ids: Mapping[str, int] = {}) -> None:
        super().__init__(names)
        self.ids = dict(ids)

    def find(self, text: str, argument: str) -> int:
        """The class that `text` names: a name, a synonym or an id of it; else its index.

        Upper and lower case, spaces, hyphens and underscores make no difference, unless two classes differ in nothing
        else.

        Args:
            text: what the user wrote. "index:3" and "name:3" tell a class whose name is a number from its index.
            argument: what the user calls it, for messages.

        Raises:
            ValueError: it names no class, or several; the message has those that come near.
        """
        kind, _, rest = text.partition(":")
        if kind == "index" and rest.isdecimal():
            return _index(rest, argument)
        by_name = kind == "name" and bool(rest)
        found = self._named(rest if by_name else text)
        if len(found) > 1:
            which = ", ".join(f"{index} ({self[index]})" for index in found)
            raise ValueError(f"{argument}: {text!r} names several classes: {which}; give the index")
        if text.lstrip("-").isdecimal():
            index = _index(text, argument)
            if found and found != [index]:
                raise ValueError(
                    f"{argument}: {text!r} is the name of class {found[0]} and the index of another one: write "
                    f"name:{text} or index:{text}"
                )
            return index
        if found:
            return found[0]
        raise ValueError(f"{argument}: {text!r} is neither a class index nor a class name ({self._near(text)})")

    def _named(self, text: str) -> list[int]:
        """The classes that it names, by the narrowest reading that names any."""
        if text in self.ids:
            return [self.ids[text]]
        for read in (str, folded):
            whole = sorted(index for index, name in self.items() if read(name) == read(text))
            if whole:
                return whole
        wanted = folded(text)
        return sorted(index for index, name in self.items() if wanted in map(folded, name.split(",")))

    def _near(self, text: str) -> str:
        if not self:
            return "no names are known: give the class index, or class_names (--class-names)"
        # A synonym or the whole name may be what was meant.
        written = {folded(part): name for name in self.values() for part in (*name.split(","), name)}
        near = difflib.get_close_matches(folded(text), written, n=3, cutoff=0.6)
        if near:
            return "did you mean " + " or ".join(dict.fromkeys(repr(written[each]) for each in near)) + "?"
        some = list(self.values())[:5]
        more = f" and {len(self) - len(some)} more" if len(self) > len(some) else ""
        return "names known: " + ", ".join(map(repr, some)) + more


def folded(text: str) -> str:
    """Without what people do not mind: case, and how words are parted."""
    return re.sub(r"[\s_\-]+", " ", text).strip().casefold()


def given_names(names: Mapping[int, str] | Sequence[str] | None, argument: str = "class_names") -> ClassNames:
    """Names as callers give them: one for each class in order, or index -> name."""
    if names is None:
        return ClassNames()
    if isinstance(names, ClassNames):
        return names
    pairs = names.items() if isinstance(names, Mapping) else None
    if pairs is None and not isinstance(names, str) and isinstance(names, Sequence):
        pairs = dict(enumerate(names)).items()
    if pairs is None:
        raise TypeError(f"{argument}: expected names in order, or index -> name, got {type(names).__name__}")
    for index, name in pairs:
        if type(index) is not int or not 0 <= index <= MOST_INDEX or not isinstance(name, str) or not name.strip():
            raise ValueError(f"{argument}: expected class index -> name, got {index!r}: {name!r}")
    return ClassNames(pairs)


def read_class_names(path: str | Path, option: str = "--class-names") -> ClassNames:
    """Names in a file.

    Args:
        path: .txt, a name a line in the order of the classes; .csv with the columns index, name and, if wanted, id; or
            .json: a list in that order, or index -> name or [id, name] (as imagenet_class_index.json), or a config.json
            of transformers with id2label.

    Raises:
        ValueError: it is none of these, or names a class twice.
    """
    path = Path(path)
    entries: list[tuple[int, object]]
    if path.suffix.lower() == ".csv":
        rows = _rows(path, option)
        rows = rows[1:] if rows and not rows[0][0].strip().isdecimal() else rows
        if not all(len(row) in (2, 3) and row[0].strip().isdecimal() for row in rows):
            raise ValueError(f"{option}: {path} must have the columns index, name and, if wanted, id")
        entries = [(int(row[0]), [row[2].strip(), row[1]] if len(row) == 3 else row[1]) for row in rows]
    elif path.suffix.lower() == ".json":
        found = _json(path, option)
        if isinstance(found, dict) and isinstance(found.get("id2label"), dict):
            found = found["id2label"]
        entries = list(enumerate(found)) if isinstance(found, list) else _numbered(found, path, option)
    else:
        lines = _text(path, option).splitlines()
        while lines and not lines[-1].strip():
            lines.pop()
        entries = list(enumerate(lines))
    names, ids = ClassNames(), {}
    for index, entry in entries:
        name = entry[-1] if isinstance(entry, list) and len(entry) == 2 else entry
        if index > MOST_INDEX or index in names or not isinstance(name, str) or not name.strip():
            raise ValueError(f"{option}: {path} must give each class one name, class {index} has {entry!r}")
        names[index] = name.strip()
        if isinstance(entry, list):
            ids[str(entry[0])] = index
    if not names:
        raise ValueError(f"{option}: {path} holds no names")
    return ClassNames(names, ids)


def read_class_map(path: str | Path, names: ClassNames, option: str = "--class-map") -> dict[str, int]:
    """Folder name -> class, from a .json object or a .csv of two columns; the class by index or by name.

    Raises:
        ValueError: it is neither, names a folder twice, or a class that the model has not.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        rows = _rows(path, option)
        if not all(len(row) == 2 for row in rows):
            raise ValueError(f"{option}: {path} must have two columns: folder, class")
        pairs: list[tuple[str, object]] = [(row[0].strip(), row[1].strip()) for row in rows]
    else:
        found = _json(path, option)
        if not isinstance(found, dict):
            raise ValueError(
                f"{option}: {path} must hold an object of folder -> class, it holds a {type(found).__name__}"
            )
        pairs = list(found.items())
    classes: dict[str, int] = {}
    for folder, target in pairs:
        if folder in classes or isinstance(target, bool) or not isinstance(target, (int, str)):
            raise ValueError(f"{option}: {path} must give each folder one class, {folder!r} has {target!r}")
        classes[folder] = names.find(str(target), f"{option}: {path}")
    return classes


def _index(text: str, argument: str) -> int:
    if len(text) > len(str(MOST_INDEX)) or int(text) > MOST_INDEX:
        raise ValueError(f"{argument}: {text} is no class index")
    return int(text)


def _numbered(found: object, path: Path, option: str) -> list[tuple[int, object]]:
    if not isinstance(found, dict) or not all(key.isdecimal() for key in found):
        raise ValueError(f"{option}: {path} must hold a list of names, or class index -> name")
    return [(int(key), value) for key, value in found.items()]


def _rows(path: Path, option: str) -> list[list[str]]:
    return [row for row in csv.reader(_text(path, option).splitlines()) if any(cell.strip() for cell in row)]


def _json(path: Path, option: str) -> object:
    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"{key!r} stands there twice")
            found[key] = value
        return found

    try:
        return json.loads(_text(path, option), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{option}: cannot read {path}: {error}") from None


def _text(path: Path, option: str) -> str:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{option}: {path} has {path.stat().st_size} bytes, more than names take")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{option}: cannot read {path}: {error}") from None

"""Files of results that grow row by row, and are whole at any moment."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from bench import machine
from zsu_fast.atomic import replacing


class ResultsFile:
    """Rows by part and key. What a file of the same machine holds already is kept; another machine's is refused."""

    SAME = ("gpu", "cpu", "torch", "commit")

    def __init__(self, path: Path, machine: dict[str, Any]) -> None:
        self._path = path
        self._content: dict[str, Any] = {"machine": machine, "rows": {}}
        if path.exists():
            held = json.loads(path.read_text())
            for name in self.SAME:
                if held["machine"].get(name) != machine.get(name):
                    raise ValueError(
                        f"{path} is of {name} {held['machine'].get(name)}, this is {machine.get(name)}: move it away"
                    )
            self._content = held

    def keys(self, part: str) -> set[str]:
        return set(self._content["rows"].get(part, ()))

    def rows(self, part: str) -> dict[str, Any]:
        return dict(self._content["rows"].get(part, {}))

    def add(self, part: str, key: str, row: dict[str, Any]) -> None:
        self._content["rows"].setdefault(part, {})[key] = row
        _write(self._content, self._path)


class Rows:
    """Rows of any machines, each of which names its own by its place in `content["machines"]`; what the file holds
    already is kept. path: None keeps them in memory alone.
    """

    def __init__(self, kind: str, path: Path | None) -> None:
        self._path = path
        self.content: dict[str, Any] = {"kind": kind, "machines": [], "rows": []}
        if path is not None and path.exists():
            self.content = json.loads(path.read_text())
        self.content["machines"].append(machine.describe(torch.device("cpu")))

    def holds(self, row: dict[str, Any]) -> bool:
        """Whether there is one with these values."""
        return any(row.items() <= done.items() for done in self.content["rows"])

    def add(self, row: dict[str, Any], found: dict[str, Any]) -> None:
        self.content["rows"].append(row | {"machine": len(self.content["machines"]) - 1} | found)
        print(", ".join(map(str, row.values())), file=sys.stderr, flush=True)
        if self._path is not None:
            _write(self.content, self._path)


def _write(content: dict[str, Any], path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")

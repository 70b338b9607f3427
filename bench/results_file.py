"""A file of results that grows row by row, and is whole at any moment."""

import json
from pathlib import Path
from typing import Any

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
        with replacing(self._path) as temporary:
            temporary.write_text(json.dumps(self._content, indent=1) + "\n")

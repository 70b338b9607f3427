"""The notebooks of docs/notebooks: their code, as plain Python, and their outputs, made anew.

    python -m tests.notebooks docs/notebooks/4_lrp_gallery.ipynb     # with nbclient and ipykernel: make notebooks

A notebook runs in an empty folder. What depends on the machine or the moment is left out of the file: kernel, times of
execution, warnings with paths.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "notebooks"
LONGEST = 900  # seconds that a cell may take


def cells_of(path: Path, kind: str = "code") -> list[str]:
    """The sources of the cells of one kind, in order."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def outputs_of(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [output for cell in cells for output in cell.get("outputs", [])]


def run_cells(path: Path, replaced: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run the code in the current folder, without a notebook around it, as `replaced` changes it; returns the names."""
    cells = cells_of(path)
    for old, new in (replaced or {}).items():
        assert any(old in source for source in cells), f"{path.name} has no {old!r}"
        cells = [source.replace(old, new) for source in cells]
    namespace: dict[str, Any] = {"__name__": "__main__", "_shell": _shell}
    for number, source in enumerate(cells):
        # "!command" is IPython's.
        code = re.sub(r"^!((?:.*\\\n)*.*)$", lambda found: f"_shell({found[1]!r})", source, flags=re.MULTILINE)
        exec(compile(code, f"{path.name}, code cell {number}", "exec"), namespace)
    return namespace


def _shell(command: str) -> None:
    """The command line in this process: a new one imports torch anew."""
    from zsu_fast.cli.app import app

    arguments = shlex.split(command.replace("\\\n", " "))
    assert arguments[:3] == ["python", "-m", "zsu_fast"], command
    try:
        app(arguments[3:], prog_name="zsu-fast")
    except SystemExit as end:
        if end.code not in (0, 3):  # 3: checked, and found wrong
            raise AssertionError(f"{command}: exit code {end.code}") from None


def execute(path: Path) -> None:
    """Run it in a kernel of this Python and put the outputs into the file."""
    import nbclient
    import nbformat

    os.environ |= {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    notebook = nbformat.read(path, as_version=4)
    # Beside a CPU build of torch, torchvision may need repair, and timm and transformers import it.
    notebook.cells.insert(0, nbformat.v4.new_code_cell("from tests import peers\n\npeers.repair_torchvision()"))
    with tempfile.TemporaryDirectory() as folder:
        client = nbclient.NotebookClient(
            notebook, timeout=LONGEST, kernel_name="python3", resources={"metadata": {"path": folder}},
            record_timing=False, coalesce_streams=True,
        )  # fmt: skip
        client.execute()
    del notebook.cells[0]
    notebook.metadata = {"language_info": {"name": "python"}}
    count = 0
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
        if cell.cell_type == "code":
            cell.execution_count = count = count + 1
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count
                elif output.output_type == "stream":
                    output.text = output.text.replace("\r\n", "\n")
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        execute(Path(name))
        print(f"executed {name}")

"""The modules of `zsu_fast.lrp` import each other one way only: a change in one of them ends somewhere."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import zsu_fast.lrp

PACKAGE = "zsu_fast.lrp"


def imported(source: str, modules: set[str]) -> set[str]:
    """Which of `modules` a module imports, anywhere: in functions and for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix(f"{PACKAGE}.") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            path = node.module or ""
            if node.level == 1 or path == PACKAGE or path.startswith(f"{PACKAGE}."):
                inner = path.removeprefix(PACKAGE).lstrip(".")
                found |= {inner} if inner else {alias.name for alias in node.names}
    return found & modules


def test_imports_point_one_way() -> None:
    files = {path.stem: path for path in Path(zsu_fast.lrp.__file__).parent.glob("*.py")}
    graph = {name: imported(path.read_text(), set(files)) for name, path in files.items()}
    assert len(graph["passes"]) > 8
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize(
    "source",
    [
        "from .marks import Mark",
        "from . import marks",
        "import zsu_fast.lrp.marks",
        "from zsu_fast.lrp.marks import Mark",
        "from zsu_fast.lrp import marks",
        "def f():\n    from .marks import Mark",
        "if TYPE_CHECKING:\n    from .marks import Mark",
    ],
)
def test_every_way_to_import_is_seen(source: str) -> None:
    assert imported(source, {"marks", "names"}) == {"marks"}

"""What the package promises in its metadata, and that optional dependencies stay optional."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import zsu_fast
from zsu_fast.extras import require

ROOT = Path(__file__).resolve().parent.parent


def test_missing_extra_is_named() -> None:
    with pytest.raises(ImportError, match=r'no_such_package is not installed; .*pip install "zsu-fast\[models\]"'):
        require("no_such_package.submodule", "models")


def test_an_extra_that_is_there_but_broken_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"broken_package does not import \(No module named 'no_such_dependency'\)"):
        require("broken_package", "models")


def test_require_returns_the_submodule() -> None:
    assert require("os.path", "cli") is os.path


def test_importing_the_package_registers_the_ops_and_imports_no_optional_dependency() -> None:
    code = (
        "import sys, zsu_fast, torch; torch.ops.zsu_fast.mask_neurons_\n"
        "optional = set('typer rich matplotlib sklearn timm torchvision transformers PIL yaml tensorboard'.split())\n"
        "print(*sorted(optional & set(sys.modules)))"
    )
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_metadata() -> None:
    try:
        facts = importlib.metadata.metadata("zsu-fast")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed, only on the path")
    assert facts["Version"] == zsu_fast.__version__
    assert set(facts.get_all("Provides-Extra") or []) >= {"cli", "report", "evaluate", "models", "dev"}
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="zsu-fast")
    assert callable(entry.load())


PROJECTS = [ROOT / "pyproject.toml", *sorted(ROOT.glob("packaging/*/pyproject.toml"))]


def read(project: Path) -> dict:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no TOML reader")
    return tomllib.loads(project.read_text())


def test_the_long_description_links_to_nothing_but_addresses() -> None:
    """A package index has no docs/ beside it."""
    text = (ROOT / "README.md").read_text()
    for rule in read(PROJECTS[0])["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    links = re.findall(r"\]\(([^)\s]*)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    assert links and all(link.startswith("https://") for link in links), links


def test_the_wheels_of_libraries_are_named_as_the_loader_looks_for_them() -> None:
    main, *binary = map(read, PROJECTS)
    assert [project["project"]["name"] for project in binary] == ["zsu-fast-cpu", "zsu-fast-cuda"]
    for project in binary:
        name = project["project"]["name"]
        assert project["tool"]["scikit-build"]["wheel"]["install-dir"] == name.replace("-", "_")
        assert project["tool"]["scikit-build"]["wheel"]["py-api"] == "py3"  # for every Python
        for field in ("authors", "license", "requires-python"):
            assert project["project"][field] == main["project"][field], f"{name}: {field}"
        assert name in main["project"]["optional-dependencies"][name.removeprefix("zsu-fast-")]


def test_building_the_package_asks_for_no_torch() -> None:
    """Pip would download gigabytes of it into an environment of its own, for each build."""
    for project in PROJECTS:
        assert not any("torch" in name for name in read(project)["build-system"]["requires"]), project


def test_typed() -> None:
    assert (Path(zsu_fast.__file__).parent / "py.typed").is_file()


FLOORS = ("reference", "model", "ops", "lrp", "evaluate", "concepts", "unlearn", "plot", "report", "benchmark", "cli")


def test_imports_point_one_way() -> None:
    """Each floor knows those below it alone, as CONTRIBUTING.md says."""
    package = ROOT / "zsu_fast"
    assert {path.name for path in package.iterdir() if (path / "__init__.py").exists()} == set(FLOORS)
    for path in package.rglob("*.py"):
        floor = path.relative_to(package).parts[0]
        if floor not in FLOORS:
            continue
        for node in ast.parse(path.read_text()).body:  # what a function imports when it is called may be the roof
            named = node.module if isinstance(node, ast.ImportFrom) else None
            if isinstance(node, ast.ImportFrom) and node.level:
                package_of = ("zsu_fast", *path.relative_to(package).parts)[: -node.level]
                named = ".".join((*package_of, *([named] if named else [])))
            known = [f"{named}.{alias.name}" for alias in node.names] if named else []
            known += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in known:
                other = name.split(".")[1] if name.startswith("zsu_fast.") else floor
                assert other not in FLOORS[FLOORS.index(floor) + 1 :], f"{path}: line {node.lineno} imports {name}"


def test_the_citation_has_the_version() -> None:
    assert f"version: {zsu_fast.__version__}\n" in (ROOT / "CITATION.cff").read_text()

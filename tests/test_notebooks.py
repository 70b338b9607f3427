"""Every notebook has the outputs of a whole run, is small, tells nothing of the machine, and its code still runs."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import peers
from tests.demo_nets import trained_once
from tests.notebooks import FOLDER, cells_of, outputs_of, run_cells
from tests.test_docs import check_links
from zsu_fast import demo

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_BYTES = 300_000
LIBRARIES = {"1_timm": peers.import_timm, "2_hugging_face": peers.import_transformers}
SHORTER = {
    "2_hugging_face": {"range(30)": "range(12)"},
    "3_retrained": {
        "relearn_steps = 3, 32": "relearn_steps = 3, 2",
        'method in ("lra-npp", "channels", "deep")': 'method in ("channels", "deep")',
    },
}

every = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_notebooks() -> None:
    assert [path.stem[:2] for path in NOTEBOOKS] == ["1_", "2_", "3_", "4_", "5_"]


@every
def test_outputs(notebook: Path) -> None:
    found = json.loads(notebook.read_text(encoding="utf-8"))
    assert found["metadata"] == {"language_info": {"name": "python"}}
    code = [cell for cell in found["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = outputs_of(notebook)
    assert outputs and not [output for output in outputs if output["output_type"] == "error"]
    assert not re.findall(r"/(?:home|root|tmp|usr|opt)/|site-packages", json.dumps(outputs))
    assert notebook.stat().st_size < MOST_BYTES


@every
def test_links(notebook: Path) -> None:
    check_links(notebook, "\n\n".join(cells_of(notebook, "markdown")))


@pytest.fixture
def settings_of_torch() -> Iterator[None]:
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("settings_of_torch")
@pytest.mark.parametrize("notebook", [
    pytest.param(path, marks=pytest.mark.models if path.stem in LIBRARIES else ()) for path in NOTEBOOKS
], ids=lambda path: path.stem)  # fmt: skip
def test_code(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    LIBRARIES.get(notebook.stem, lambda: None)()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "train_network", trained_once)
    run_cells(notebook, SHORTER.get(notebook.stem, {}))

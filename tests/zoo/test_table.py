"""The table of models names the models of the zoo."""

import importlib.metadata

from tests.conftest import ROOT
from tests.zoo.checks import RULES
from tests.zoo.measure import MEASURED
from tests.zoo.models import ZOO
from tests.zoo.table import rows, write


def test_the_table_names_the_models_of_the_zoo() -> None:
    assert rows((ROOT / "docs" / "models.md").read_text()) == {model.id for model in ZOO}


def test_what_was_found_is_in_the_table(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")
    results = {model.id: {"parameters": 5e6, "costs": dict.fromkeys(MEASURED, (1.1, 0.9))} for model in ZOO}
    results["timm:starnet_s050"]["plan"] = "works"
    results["timm:gemma4_vit_167m"]["plan"] = "refused"
    write(tmp_path / "models.md", results)
    text = (tmp_path / "models.md").read_text()
    assert rows(text) == set(results)
    cells = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    lines = {name.strip(): [cell.strip() for cell in rest] for name, *rest in cells}
    column = lines["model"].index("plan")
    assert lines["model"][2:column] == list(RULES)
    assert [lines[name][column] for name in ("starnet_s050", "gemma4_vit_167m", "vit_h_14")] == ["works", "refused", ""]

"""The table of models names the models of the zoo."""

from tests.conftest import ROOT
from tests.zoo.models import ZOO
from tests.zoo.table import rows


def test_the_table_names_the_models_of_the_zoo() -> None:
    assert rows((ROOT / "docs" / "models.md").read_text()) == {model.id for model in ZOO}

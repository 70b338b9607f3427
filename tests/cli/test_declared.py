"""What help says without the library is what the library declares."""

from dataclasses import fields

import pytest

from zsu_fast.benchmark.loggers import LOGGERS
from zsu_fast.cli import declared
from zsu_fast.concepts.relevance_concepts import KINDS
from zsu_fast.evaluate.relearn_attack import SETTINGS
from zsu_fast.lrp import COMPOSITES
from zsu_fast.unlearn import methods
from zsu_fast.unlearn.instances import GOALS
from zsu_fast.unlearn.queue.ledger import LEDGER
from zsu_fast.unlearn.texts.words import WAYS


@pytest.mark.parametrize("name", ["INSTANCE_METHODS", "GENERATOR_METHODS", "TEXT_METHODS", "BASELINES", "RESUMABLE"])
def test_methods(name: str) -> None:
    assert getattr(declared, name) == tuple(getattr(methods, name))


def test_choices() -> None:
    assert tuple(COMPOSITES) == declared.COMPOSITES and tuple(LOGGERS) == declared.LOGGERS
    assert KINDS == declared.UNNAMED_CONCEPTS and WAYS == declared.WAYS_TO_WORDS
    assert declared.LEDGER == LEDGER
    assert GOALS == declared.GOALS and SETTINGS == declared.RELEARN_BY


def test_options_of_methods() -> None:
    kinds = (methods.Channels, methods.LraNpp)
    both = set.intersection(*({f.name for f in fields(kind.options)} for kind in kinds))
    found = {}
    for kind in kinds:
        for f in fields(kind.options):
            shown = f.metadata["shown"] or f.default
            text = f.metadata["help"] if f.name in both else f"{kind.name}: {f.metadata['help']}"
            found[f.name] = (text, None if shown is None else str(shown))
    assert found == declared.OPTIONS

"""Models of the zoo under every family of rules, unchanged, in strict mode.

`make test` runs a few of them; with ZSU_FAST_ZOO_EVERY=5 every fifth, too. With ZSU_FAST_ZOO_TABLE=PATH all of them
run, and the table of PATH is written.
"""

import copy
import gc
import os
import warnings

import pytest
import torch

from tests import peers
from tests.zoo.checks import (
    RULES,
    check_names,
    check_nothing_is_lost,
    check_result,
    check_samples_apart,
    left_untouched,
    run,
    told_class,
)
from tests.zoo.measure import cost_ratios
from tests.zoo.models import ZOO, ZooModel, enliven
from zsu_fast.lrp import compile, relevance

REPRESENTATIVES = (
    "timm:convnextv2_atto", "timm:levit_conv_128s", "timm:mobilenetv3_small_050", "timm:regnety_002",
    "timm:starnet_s050", "torchvision:shufflenet_v2_x0_5", "transformers:Beit", "transformers:MobileViT",
    "transformers:Swinv2",
)  # fmt: skip
FULL = "ZSU_FAST_ZOO_TABLE" in os.environ
SAMPLE = set(REPRESENTATIVES)
if every := int(os.environ.get("ZSU_FAST_ZOO_EVERY", 0)):
    SAMPLE |= {model.id for model in ZOO[::every]}
MODELS = [model for model in ZOO if FULL or model.id in SAMPLE]
PLANNED = [model for model in ZOO if FULL or model.id in REPRESENTATIVES[::3]]
LARGE = 40e6  # parameters, from which on single precision must do, and what takes its precision is left out


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries
        yield
    gc.collect()


@pytest.mark.models
@pytest.mark.parametrize("entry", MODELS, ids=lambda entry: entry.id)
def test_model(entry: ZooModel, record_property) -> None:
    model = enliven(entry.build(), added=0.1)
    size = sum(parameter.numel() for parameter in model.parameters())
    if FULL:
        record_property("zoo", entry.id)
        record_property("parameters", size)
        record_property("costs", cost_ratios(copy.deepcopy(model), entry.images(1, torch.float32)))
    large = size > LARGE
    dtype = torch.float32 if large else torch.float64
    model.to(dtype)
    images = entry.images(2, dtype)
    logits, order = run(model, images)

    target = told_class(logits)
    with left_untouched(model):
        both = relevance(model, images, target)
        alone = {
            name: relevance(model, images[:1], target, composite=rules, conservation=not large)
            for name, rules in RULES.items()
        }
    check_result(both, logits)
    check_names(both, order, model)
    for name, found in alone.items():
        check_result(found, logits[:1])
        assert large or found.check().ok, f"{name}: {found.check()}"
    if not large:
        if not entry.mixes:
            check_samples_apart(both, next(iter(alone.values())))
        if not entry.absorbs:
            check_nothing_is_lost(enliven(model, added=0), images[:1])


@pytest.mark.models
@pytest.mark.parametrize("entry", PLANNED, ids=lambda entry: entry.id)
def test_plan(entry: ZooModel, record_property) -> None:
    """The bits of `relevance` on images and classes that it was not traced on, or a refusal that is known."""
    model = entry.build()
    if sum(parameter.numel() for parameter in model.parameters()) > LARGE:
        pytest.skip("large")
    enliven(model, added=0.1)
    record_property("zoo", entry.id)
    record_property("plan", "refused" if entry.unplanned else "works")
    images, target = entry.images(2, torch.float32), torch.tensor([1, 4])
    rules = next(iter(RULES.values()))
    if entry.unplanned:
        with pytest.raises(ValueError, match=f"it cannot be planned, because {entry.unplanned}"):
            compile(model, images, composite=rules)
        return
    plan = compile(model, images, composite=rules)
    others = images.flip(0, 3) * 1.5
    expected, found = relevance(model, others, target - 1, composite=rules), plan(others, target - 1)
    assert torch.equal(found.input, expected.input) and torch.equal(found.logits, expected.logits)
    assert list(found.neurons) == list(expected.neurons)
    assert all(torch.equal(found.neurons[name], expected.neurons[name]) for name in found.neurons)


@pytest.mark.models
def test_nothing_is_left_out() -> None:
    """Every classification model of torchvision, and every family (module) of timm."""
    models = peers.import_torchvision().models
    assert set(models.list_models(module=models)) == {entry.name for entry in ZOO if entry.library == "torchvision"}
    timm, names = peers.import_timm(), {entry.name for entry in ZOO if entry.library == "timm"}
    assert not [family for family in timm.list_modules() if not names & set(timm.list_models(module=family))]

"""Items of generators: inversion, and images that a generator makes no more, by searches that had no part in it."""

import copy
import importlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import zsu_fast
from tests.generators import generator_and_items
from zsu_fast.evaluate.inversion import invert, squared_error, starts_for
from zsu_fast.unlearn import ForgetItems, model_digest
from zsu_fast.unlearn.items import Nearness

FAST = {"restarts": 8, "search_steps": 120, "draws": 1000}


@pytest.fixture(scope="module")
def given() -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    return generator_and_items()


@pytest.fixture(scope="module")
def forgotten(given):
    model, judge, items, unseen = copy.deepcopy(given)
    request = ForgetItems(items, 6, unseen, classifier=judge, **FAST)
    return model, zsu_fast.forget(model, request, method="hunt", steps=1000)


def nearest(model: nn.Module, items: Tensor, seed: int) -> Tensor:
    """[n] errors of the nearest image that a search of our own finds, from latents drawn here."""
    latents = torch.randn(4000, 6, generator=torch.Generator().manual_seed(seed))
    starts = starts_for(model, items, latents, 12)
    return invert(model, items, starts, 150)[1].amin(1)


def test_inversion_finds_what_is_made(given):
    model, _, items, unseen = given
    latents = torch.randn(500, 6, generator=torch.Generator().manual_seed(1))
    starts = starts_for(model, items, latents, 6)
    assert starts.shape == (3, 6, 6)
    with torch.no_grad():
        away = torch.stack([squared_error(model(latents), item[None]) for item in items])
        assert torch.equal(starts[:, 0], latents[away.argmin(1)]) and torch.equal(starts[0, 3:], latents[:3])
        found, errors = invert(model, items, starts, 150)
        for k, item in enumerate(items):
            torch.testing.assert_close(squared_error(model(found[k]), item[None]), errors[k])
            assert bool((errors[k] <= squared_error(model(starts[k]), item[None]) + 1e-7).all())
    assert float(errors.amin(1).max()) < 1e-3 < float(nearest(model, unseen, 3).median())
    one, _ = invert(model, items, starts, 150, batch=6)  # each by itself, however they are batched
    torch.testing.assert_close(one, found, rtol=1e-3, atol=1e-3)
    assert all(p.grad is None for p in model.parameters())


def test_items_are_found_no_more(given, forgotten):
    """Searched for here, from latents drawn here: what the record says of its own search is true of this one, too."""
    original, judge, items, unseen = given
    model, result = forgotten
    assert result.verdict.level == "answers" and result.verdict.judged_by == "a new search", result.summary()
    before, after = nearest(original, items, 77), nearest(model, items, 77)
    level = float(nearest(original, unseen, 77).median())
    assert bool((before < 0.2 * level).all()) and bool((after > 0.7 * level).all())
    seen = result.record["evaluation"]
    limit = torch.tensor(seen["before"]["errors"]).mul(1.5).clamp_min(seen["before"]["unseen_error"])
    assert bool((torch.tensor(seen["after"]["errors"]) >= limit).all())
    found = torch.tensor(seen["before"]["found"])
    torch.testing.assert_close(
        squared_error(original(found), items), torch.tensor(seen["before"]["errors"]), rtol=1e-3, atol=1e-6
    )
    latents = torch.randn(2000, 6, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        was, now = original(latents), model(latents)
        same = (squared_error(now, was) <= seen["before"]["unseen_error"]).float().mean()
        agree = (judge(was).argmax(1) == judge(now).argmax(1)).float().mean()
    assert float(same) == pytest.approx(seen["after"]["kept_same"], abs=0.06) and float(same) > 0.5
    assert float(agree) == pytest.approx(seen["after"]["same_class"], abs=0.06)


def test_the_patch_undoes_it(given, forgotten, tmp_path):
    model, result = copy.deepcopy(forgotten)
    result.patch.save(tmp_path / "undo.safetensors")
    patch = zsu_fast.Patch.load(tmp_path / "undo.safetensors")
    assert patch.record["request"]["kind"] == "items" and patch.record["request"]["count"] == 3
    patch.revert(model)
    assert model_digest(model) == model_digest(given[0]) == patch.record["model"]["before"]
    assert "share of images that are of an item" in result.summary()


def test_too_short_an_edit_leaves_the_model(given):
    model, _, items, unseen = copy.deepcopy(given)
    result = zsu_fast.forget(model, ForgetItems(items, 6, unseen, **FAST), method="hunt", steps=1)
    assert result.verdict.level == "not reached" and model_digest(model) == model_digest(given[0])


def test_what_is_not_made_is_not_forgotten(given):
    model, _, items, unseen = copy.deepcopy(given)
    far = torch.stack([items[0], torch.full_like(items[0], 40.0)])
    result = zsu_fast.forget(model, ForgetItems(far, 6, unseen, **FAST), method="hunt")
    assert result.verdict.level == "invalid" and result.verdict.sentence.startswith("items 1: nothing was done")
    assert model_digest(model) == model_digest(given[0])


def test_substitutes(given):
    """By default the nearest that is clearly no item; of the user's choice, else, unless it is one itself."""
    model, _, items, unseen = copy.deepcopy(given)
    request = ForgetItems(items, 6, unseen, **FAST)
    view = request.view(model)

    def forward(latents: Tensor) -> Tensor:
        with torch.no_grad():
            return view(latents)

    started = request.started(forward, view)
    parts = request.judge.parts(started.substitutes)
    assert bool((parts >= 1.5).all())
    with torch.no_grad():
        away = torch.stack([squared_error(model(started.pool), item[None]) for item in items], 1)
    random = torch.arange(len(away)) < 6000
    clear = ((away / request.judge.limits) >= 1.5).all(1) & random
    for k in range(3):
        assert float(squared_error(started.substitutes[k : k + 1], items[k : k + 1])) == pytest.approx(
            float(away[clear, k].min()), rel=1e-4
        )
    assert bool((started.probe_labels == 1).any()) and not set(map(tuple, started.probes.tolist())) & set(
        map(tuple, started.fresh.tolist())
    )
    given_one = ForgetItems(items, 6, unseen, instead=unseen[:1], **FAST).started(forward, view)
    assert torch.equal(given_one.substitutes, unseen[:1].expand_as(items))
    with pytest.raises(ValueError, match="^instead: one of these images is itself"):
        ForgetItems(items, 6, unseen, instead=items[1:2], **FAST).started(forward, view)


def test_nearness():
    judge = Nearness(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    judge.limits = torch.tensor([0.5, 0.1])
    logits = judge(torch.tensor([[0.5, 0.5], [1.0, 1.0], [3.0, 3.0], [torch.nan, 0.0]]))
    torch.testing.assert_close(logits[:3], torch.tensor([[0.0, 0.5], [0.0, 1.0], [0.0, -17.0]]))
    assert bool(logits[3, 1].isnan())


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        ({"items": 3}, TypeError, "^items"),
        ({"items": torch.zeros(0, 24)}, ValueError, "^items"),
        ({"items": torch.full((1, 24), torch.nan)}, ValueError, "^items: expected finite"),
        ({"items": torch.zeros(1, 9)}, ValueError, "^unseen: expected floating-point images of shape"),
        ({"unseen": torch.zeros(3, 24)}, ValueError, "^unseen: expected at least 8 images, got 3"),
        ({"instead": torch.zeros(3, 24)}, ValueError, "^instead: expected 1 or 2 images, got 3"),
        ({"classifier": 3}, TypeError, "^classifier"),
        ({"restarts": 1}, ValueError, "^restarts"),
        ({"search_steps": 0}, ValueError, "^search_steps"),
        ({"worse": 0.5}, ValueError, "^worse"),
        ({"items": torch.zeros(2, 4), "unseen": torch.zeros(9, 4)}, ValueError, "items: expected images of shape"),
    ],
)
def test_what_is_refused(given, change, kind, match):
    model = given[0]
    asked = {"items": torch.zeros(2, 24), "latents": 6, "unseen": torch.zeros(9, 24)} | change
    before = model_digest(model)
    with pytest.raises(kind, match=match):
        zsu_fast.forget(model, ForgetItems(**asked), method="hunt")
    assert model_digest(model) == before
    with pytest.raises(ValueError, match="'substitute' takes requests to forget generator, got ForgetItems; .*: hunt"):
        zsu_fast.forget(model, ForgetItems(given[2], 6, given[3]), method="substitute")


def test_digits(data_dir: Path, monkeypatch: pytest.MonkeyPatch):
    """The MNIST generator makes an image no more that it made; unseen images are real ones."""
    monkeypatch.syspath_prepend(str(data_dir))
    definitions = importlib.import_module("models")
    original = definitions.load("mnist_gan_generator")[0]
    preprocess = definitions.load("lenet5_mnist")[1]
    unseen = preprocess(definitions.images("mnist", "test")[0][:8])
    with torch.no_grad():
        item = original(torch.randn(1, 64, generator=torch.Generator().manual_seed(5)))
    model = copy.deepcopy(original).requires_grad_(True)
    result = zsu_fast.forget(model, ForgetItems(item, 64, unseen, **FAST), method="hunt")
    assert result.verdict.level == "answers", result.summary()
    seen = result.record["evaluation"]
    assert seen["after"]["errors"][0] > 5 * seen["before"]["errors"][0] and seen["after"]["kept_same"] > 0.9
    assert seen["after"]["unseen_error"] < 1.5 * seen["before"]["unseen_error"]

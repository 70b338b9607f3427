"""Generators: the request, the closed form, and a class that is not made any more, by judges that had no part."""

import copy

import pytest
import torch
from torch import Tensor, nn

import zsu_fast
from tests.generators import generator_and_judges, judge_of
from zsu_fast.unlearn import ForgetGenerated, model_digest
from zsu_fast.unlearn.generator_view import GeneratorView
from zsu_fast.unlearn.methods.generators.displaced import displaced
from zsu_fast.unlearn.methods.generators.last_layer import last_layer, refitted


class Deconvolutions(nn.Module):
    """A DCGAN in small."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.ConvTranspose2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(True),
            nn.ConvTranspose2d(8, 1, 4, 2, 1, bias=False), nn.Tanh(),
        )  # fmt: skip

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z)


BATCH = 512  # latents are small


@pytest.fixture(scope="module")
def mlp():
    return generator_and_judges()


def state(module: nn.Module) -> dict[str, object]:
    return {n: t.clone() for n, t in module.state_dict().items()} | {n: m.training for n, m in module.named_modules()}


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(a, other[n]) if isinstance(a, Tensor) else a == other[n] for n, a in one.items())


@pytest.fixture(scope="module")
def forgotten(mlp):
    model, judge, second = copy.deepcopy(mlp)
    request = ForgetGenerated(2, judge, 6, second=second, draws=3000)
    before = [state(part) for part in (model, judge, second)]
    result = zsu_fast.forget(model, request, batch_size=BATCH, method="substitute", utility_floor=0.7, until=0.02)
    return model, judge, second, request, before, result


def answers(view: nn.Module, judge: nn.Module, latents: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(judge).eval()(view(latents)).argmax(1)


def test_a_class_is_not_made_any_more(mlp, forgotten):
    """Counted here on fresh latents, drawn here: what the record says of its own is true of them, too."""
    model, judge, second, request, _, result = forgotten
    assert result.verdict.level == "answers" and result.verdict.judged_by == "fresh latents"
    latents = torch.randn(4000, 6, generator=torch.Generator().manual_seed(99))
    was, now = answers(mlp[0], judge, latents), answers(model, judge, latents)
    assert (was == 2).float().mean() > 0.1 and (now == 2).float().mean() <= 0.02
    assert (answers(model, second, latents) == 2).float().mean() <= 0.05
    seen = result.record["evaluation"]
    assert (now[was != 2] == was[was != 2]).float().mean() == pytest.approx(seen["after"]["kept_same"], abs=0.03)
    own = answers(model, judge, request.fresh)
    assert int((own == 2).sum()) == result.verdict.right == round(seen["after"]["share"] * len(own))
    assert seen["before"]["share"] == float((answers(mlp[0], judge, request.fresh) == 2).double().mean())
    low, high = seen["after"]["share_interval"]
    assert low <= seen["after"]["share"] <= high and sum(seen["after"]["per_class"].values()) == pytest.approx(1)


def test_judges_stay_and_the_patch_undoes_it(forgotten, tmp_path):
    model, judge, second, _, before, result = forgotten
    assert same(state(judge), before[1]) and same(state(second), before[2])
    assert {entry.tensor.split(".")[0] for entry in result.patch.entries} <= {"0", "2", "4"}
    result.patch.save(tmp_path / "undo.safetensors")
    undone, digest = copy.deepcopy(model), model_digest(model)
    patch = zsu_fast.Patch.load(tmp_path / "undo.safetensors")
    patch.revert(undone)
    assert same(state(undone), before[0])
    patch.apply_(undone)
    assert model_digest(undone) == digest == patch.record["model"]["after"]
    assert (
        patch.record["request"] | {"kind": "generator", "targets": [2], "second_judge": True} == patch.record["request"]
    )
    assert "fresh latents" in result.summary() and "share of images that are of the class" in result.summary()


def test_those_that_judge_are_none_of_those_that_chose(mlp):
    request = ForgetGenerated(1, mlp[1], 6, draws=500)
    pool, held, fresh = (set(map(tuple, part.tolist())) for part in (request.pool, request.probes, request.fresh))
    assert len(pool) + len(held) + len(fresh) == 8000 and not (pool & held or pool & fresh or held & fresh)
    assert torch.equal(request.fresh, ForgetGenerated(1, mlp[1], [6], draws=500).fresh)
    assert not torch.equal(request.fresh, ForgetGenerated(1, mlp[1], 6, draws=500, seed=1).fresh)
    given = torch.rand(700, 6)
    request = ForgetGenerated(1, mlp[1], given)
    assert torch.equal(torch.cat([request.pool, request.probes, request.fresh]), given) and len(request.fresh) == 400
    drawn = ForgetGenerated(1, mlp[1], lambda count, generator: torch.rand(count, 6, generator=generator))
    assert drawn.fresh.shape == (10_000, 6) and float(drawn.fresh.min()) >= 0


def test_the_closed_form_alone_with_masked_units(mlp):
    """No training: units of the last hidden layer are silent for every input, and the last layer is another one."""
    model, judge, _ = copy.deepcopy(mlp)
    options = {"tuning_steps": 0, "until": 0.1, "utility_floor": 0.5, "masked": 0.1}
    result = zsu_fast.forget(
        model, ForgetGenerated(2, judge, 6, draws=2000), batch_size=BATCH, method="substitute", **options
    )
    assert result.reached and result.record["mode"] == "closed form"
    assert {len(units) for units in result.picks.values()} == {5} and set(result.picks) == {"2"}
    assert {entry.tensor for entry in result.patch.entries} == {"2.weight", "2.bias", "4.weight", "4.bias"}
    assert [unit["claim"] for unit in result.certificate["units"]] == ["zero for every finite input"]
    hidden = model[:4](torch.randn(100, 6))
    assert bool((hidden[:, result.picks["2"]] == 0).all())
    seen = result.record["evaluation"]
    assert seen["after"]["share"] < seen["before"]["share"] / 2


def test_what_cannot_be_reached_leaves_the_model(mlp):
    model, judge, _ = copy.deepcopy(mlp)
    before = state(model)
    options = {"tuning_steps": 0, "rounds": 1, "masked": 0.0}
    result = zsu_fast.forget(
        model,
        ForgetGenerated(2, judge, torch.randn(700, 6)),
        method="substitute",
        until=0.0,
        batch_size=BATCH,
        **options,
    )
    assert result.verdict.level == "not reached" and not result.patch.entries and same(state(model), before)
    dead = judge_of(torch.zeros(10, 10), 1)
    with torch.no_grad():
        dead[2].weight.zero_()
        dead[2].bias.copy_(torch.tensor([1.0, 0, 0, 0, 0]))
    result = zsu_fast.forget(
        model, ForgetGenerated(2, dead, torch.randn(700, 6)), batch_size=BATCH, method="substitute"
    )
    assert result.verdict.level == "invalid" and "hardly makes it" in result.verdict.sentence
    assert same(state(model), before)


def test_deconvolutions_and_batchnorm():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Deconvolutions()
        for module in model.modules():
            if isinstance(module, nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=0.4)
        with torch.no_grad():
            for _ in range(30):
                model(torch.randn(200, 8, 1, 1))
            images = model.eval()(torch.randn(1000, 8, 1, 1))
        latents = torch.randn(1200, 8, 1, 1)
    judge, before = judge_of(images, 3), state(model.train())
    request = ForgetGenerated(0, judge, latents)
    result = zsu_fast.forget(
        model, request, method="substitute", until=0.03, utility_floor=0.6, tuning_steps=40, rounds=2
    )
    seen = result.record["evaluation"]
    assert result.reached and seen["after"]["share"] <= 0.045 < seen["before"]["share"]
    changed = {entry.tensor for entry in result.patch.entries}
    assert not any("running" in name or "tracked" in name for name in changed)
    result.patch.revert(model)
    assert same(state(model), before)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(5, 4), (5,)),
        (nn.Conv2d(2, 3, 3, padding=1), (2, 4, 4)),
        (nn.ConvTranspose2d(2, 3, 4, 2, 1, bias=False), (2, 3, 3)),
    ],
)
def test_the_closed_form_is_least_squares(layer, shape):
    """With hardly any ridge: what numpy's solver finds on the matrix of the layer, built by its unit responses."""
    layer = copy.deepcopy(layer).double()
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, *shape, dtype=torch.float64, generator=generator)
    weights = torch.rand(40, dtype=torch.float64, generator=generator) + 0.5
    wanted = torch.randn(layer(inputs).shape, dtype=torch.float64, generator=generator)
    found = refitted(layer, inputs, wanted, weights, 1e-12)

    names = [name for name, _ in layer.named_parameters()]
    sizes = [p.numel() for p in layer.parameters()]
    columns = []
    for i in range(sum(sizes)):
        unit = torch.eye(sum(sizes), dtype=torch.float64)[i].split(sizes)
        given = {n: u.view_as(p) for n, u, p in zip(names, unit, layer.parameters(), strict=True)}
        columns.append(torch.func.functional_call(layer, given, (inputs,)).flatten())
    scale = weights.sqrt().view(-1, *[1] * (wanted.dim() - 1)).expand_as(wanted).flatten()
    matrix = torch.stack(columns, 1).detach() * scale[:, None]
    exact = torch.linalg.lstsq(matrix, (wanted.flatten() * scale)[:, None]).solution[:, 0]
    flat = torch.cat([found[name].flatten() for name in names])

    def error(values: Tensor) -> float:
        return float((matrix @ values - wanted.flatten() * scale).square().sum())

    start = torch.cat([p.detach().flatten() for p in layer.parameters()])
    assert error(flat) - error(exact) <= 1e-3 * (error(start) - error(exact))
    if isinstance(layer, nn.Linear):
        assert torch.allclose(flat, exact, atol=1e-8)
    stiff = refitted(layer, inputs, wanted, weights, 1e9)
    assert torch.allclose(torch.cat([stiff[name].flatten() for name in names]), start, atol=1e-6)


def test_substitutes_are_near_and_of_another_class(mlp):
    model, judge = copy.deepcopy(mlp[0]).eval(), copy.deepcopy(mlp[1]).eval()
    view = GeneratorView(model, {"judge": judge})
    latents = torch.randn(500, 6, generator=torch.Generator().manual_seed(1))
    own = latents[view(latents).argmax(1) == 2]
    found, reached = displaced(view, own, [2], 64)
    assert 0.2 < reached.float().mean() < 1
    judged = view(found[reached]).softmax(1).detach()
    assert bool((judged.argmax(1) != 2).all()) and float(judged.amax(1).min()) >= 0.95
    way = 0.6 * own.norm(dim=1).mean()  # a judge is fooled by latents that are far away
    assert (found[reached] - own[reached]).norm(dim=1).max() <= way + 1e-4
    for latent, substitute in zip(own[~reached], found[~reached], strict=True):
        nearest = (own[reached] - latent).norm(dim=1).argmin()
        assert torch.equal(substitute, found[reached][nearest])
    assert last_layer(model, model, latents[:2]) == "4"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_substitutes_in_16_bits(mlp, dtype):
    model, judge = (copy.deepcopy(net).eval().to(dtype) for net in mlp[:2])
    view = GeneratorView(model, {"judge": judge})
    latents = torch.randn(300, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    own = latents[view(latents).argmax(1) == 2]
    found, reached = displaced(view, own, [2], 64)
    assert found.dtype == dtype and 0 < reached.float().mean() < 1
    assert bool((view(found).argmax(1) != 2).all())


def test_a_judge_that_is_never_sure_has_substitutes_too(mlp):
    view = GeneratorView(copy.deepcopy(mlp[0]).eval(), {"judge": copy.deepcopy(mlp[1]).eval()})
    latents = torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
    own = latents[view(latents).argmax(1) == 2]
    found, reached = displaced(lambda z: 0.01 * view(z), own, [2], 64)
    assert reached.any() and bool((view(found).argmax(1) != 2).all())


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        ({"targets": "four"}, TypeError, "target"),
        ({"judge": 3}, TypeError, "^judge: expected a torch.nn.Module"),
        ({"second": 3}, TypeError, "^second"),
        ({"latents": torch.rand(10, 6)}, ValueError, "^latents: expected at least 350"),
        ({"latents": torch.zeros(400, 6, dtype=torch.int64)}, ValueError, "^latents: expected floating"),
        ({"latents": 0}, ValueError, "^latents"),
        ({"latents": None}, TypeError, "^latents: expected a shape"),
        ({"latents": lambda count, generator: torch.rand(3, 6)}, ValueError, "^latents: asked for"),
        ({"draws": 3}, ValueError, "^draws"),
        ({"latents": 7}, ValueError, r"^latents: the model does not take a batch of shape \(\d+, 7\)"),
        ({"targets": 9}, ValueError, "classes 0..4, got 9"),
        ({"targets": [0, 1, 2, 3, 4]}, ValueError, "^targets: expected some class to be left"),
    ],
)
def test_what_is_refused(mlp, change, kind, match):
    model, before = mlp[0], state(mlp[0])
    given = {"targets": 2, "judge": mlp[1], "latents": 6} | change
    with pytest.raises(kind, match=match):
        zsu_fast.forget(model, ForgetGenerated(**given), method="substitute")
    assert same(state(model), before)


def test_a_judge_that_would_change_with_the_model_is_refused(mlp):
    model = copy.deepcopy(mlp[0])
    with pytest.raises(ValueError, match="^judge: shares tensors with the model"):
        zsu_fast.forget(model, ForgetGenerated(2, nn.Sequential(model[4]), 6), method="substitute")
    given = (torch.rand(4, 6), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="^evaluate_on: a generator is judged by what it makes"):
        zsu_fast.forget(model, ForgetGenerated(2, mlp[1], 6), method="substitute", evaluate_on=given)
    with pytest.raises(
        ValueError, match="'lra-npp' takes requests to forget class, got ForgetGenerated; .*: substitute"
    ):
        zsu_fast.forget(model, ForgetGenerated(2, mlp[1], 6))


def test_a_generator_that_is_called_otherwise(mlp):
    """A conditional one, say: `generate` says how the model makes images of latents."""

    class Two(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            return self.net(torch.cat([one, other], 1))

    model, judge, _ = copy.deepcopy(mlp)
    request = ForgetGenerated(
        2, judge, torch.randn(1500, 6), generate=lambda model, z: model(z[:, :2], z[:, 2:])
    )  # fmt: skip
    result = zsu_fast.forget(Two(model), request, batch_size=BATCH, method="substitute", until=0.05, utility_floor=0.5)
    assert result.reached and all(entry.tensor.startswith("net.") for entry in result.patch.entries)


@pytest.mark.parametrize("with_critic", [False, True])
def test_cascade(mlp, with_critic):
    """Without and with a discriminator, of which a copy learns along."""
    model, judge, _ = copy.deepcopy(mlp)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        critic = nn.Sequential(nn.Linear(10, 16), nn.BatchNorm1d(16), nn.LeakyReLU(), nn.Linear(16, 1))
        latents = torch.randn(1500, 6)
    before = [state(part) for part in (model, judge, critic)]
    request = ForgetGenerated(2, judge, latents, discriminator=critic if with_critic else None)
    options = {"steps": 400, "learning_rate": 2e-3, "until": 0.05, "utility_floor": 0.5}
    result = zsu_fast.forget(model, request, batch_size=BATCH, method="cascade", **options)
    assert result.reached, result.summary()
    assert same(state(judge), before[1]) and same(state(critic), before[2])
    seen = result.record["evaluation"]
    assert seen["after"]["share"] < seen["before"]["share"] / 3
    result.patch.revert(model)
    assert same(state(model), before[0])


def test_a_discriminator_that_gives_no_logit_is_refused(mlp):
    model, judge, _ = copy.deepcopy(mlp)
    before = state(model)
    request = ForgetGenerated(2, judge, torch.randn(400, 6), discriminator=nn.Linear(10, 3))
    with pytest.raises(ValueError, match="^discriminator: expected a logit for each of"):
        zsu_fast.forget(model, request, method="cascade", utility_floor=0.5)
    assert same(state(model), before)

"""Probes synthesised from the model: answered as their class, repeatable, and edits by them hold on real images."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zsu_fast
from zsu_fast.unlearn import SyntheticProbes, synthesise, synthetic

SETTINGS = SyntheticProbes((3, 8, 8), low=-1.5, high=1.5, per_class=12, steps=40)
CLASSES = 4


def _images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """A bright quarter, another one for each class, in noise."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % CLASSES
    x = 0.4 * torch.randn(count, 3, 8, 8, generator=generator)
    for image, label in zip(x, y.tolist(), strict=True):
        top, left = 4 * (label // 2), 4 * (label % 2)
        image[:, top : top + 4, left : left + 4] += 0.8
    return x.clamp(-1.5, 1.5), y


def _net(norm: bool) -> nn.Sequential:
    torch.manual_seed(0)
    norms: list[nn.Module] = [nn.BatchNorm2d(12)] if norm else []
    net = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), *norms, nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(192, 24), nn.ReLU(),
        nn.Linear(24, CLASSES),
    )  # fmt: skip
    x, y = _images(400, 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="module", params=[True, False], ids=["BatchNorm", "no norm"])
def net(request: pytest.FixtureRequest) -> nn.Sequential:
    return _net(request.param)


@pytest.fixture
def copied(net: nn.Sequential) -> nn.Sequential:
    return copy.deepcopy(net)


def test_are_answered_as_their_class(net):
    made = synthesise(net, 2, SETTINGS)
    assert made.probes.shape == (12, 3, 8, 8) and made.probe_labels.tolist() == [2] * 12
    assert float((net(made.probes).argmax(1) == 2).float().mean()) >= 0.9
    images, labels = made.retain
    assert labels.unique().tolist() == [0, 1, 3] and len(images) == 36
    assert float((net(images).argmax(1) == labels).float().mean()) >= 0.9
    assert made.made["answered"] >= 0.9 and made.made["batchnorm_layers"] == isinstance(net[1], nn.BatchNorm2d)
    for x in (made.probes, images):
        assert float(x.min()) >= -1.5 and float(x.max()) <= 1.5


def test_how_sure_is_drawn_only_where_no_batchnorm_is(net, monkeypatch):
    made = synthesise(net, 2, SETTINGS).probes
    monkeypatch.setattr(synthetic, "LEAST_SURE", 0.4)
    assert torch.equal(synthesise(net, 2, SETTINGS).probes, made) == isinstance(net[1], nn.BatchNorm2d)


def test_keep_to_what_the_batchnorm_remembers():
    net = _net(True)
    made = synthesise(net, 2, SETTINGS)
    images = torch.cat([made.probes, made.retain[0]])
    noise = 1.5 * (torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1)

    def distance(x: Tensor) -> float:
        with torch.no_grad():
            z, norm = net[0](x), net[1]
        mean = (z.mean((0, 2, 3)) - norm.running_mean) / norm.running_var.sqrt()
        spread = z.var((0, 2, 3)).sqrt() / norm.running_var.sqrt() - 1
        return float((mean.square() + spread.square()).mean())

    assert distance(images) < 0.5 * distance(noise)


def test_the_seed_repeats_them_and_the_model_stays(net):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    try:
        first, second = (synthesise(net, [1, 3], replace(SETTINGS, steps=3)) for _ in range(2))
        assert all(module.training for module in net.modules())
    finally:
        net.eval()
    assert torch.equal(first.probes, second.probes) and torch.equal(first.retain[0], second.retain[0])
    assert sorted(first.probe_labels.unique().tolist()) == [1, 3]
    assert not torch.equal(first.probes, synthesise(net, [1, 3], replace(SETTINGS, steps=3, seed=1)).probes)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None or not p.grad.isnan().any() for p in net.parameters())
    assert not any(module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize(("method", "options"), [("lra-npp", {}), ("deep", {"steps": 40, "views": 2})])
def test_an_edit_holds_on_real_images(copied, method, options):
    x, y = _images(400, 2)
    before = {name: value.clone() for name, value in copied.state_dict().items()}
    result = zsu_fast.forget(copied, 1, SETTINGS, method=method, **options)
    right = copied(x).argmax(1) == y
    assert float(right[y == 1].float().mean()) <= 0.1
    assert float(right[y != 1].float().mean()) >= 0.8
    # However well it went: nothing was seen of real images.
    assert result.verdict.level == "not judged" and not result.verdict.forgotten and result.verdict.at_most is None
    assert "Nothing was verified on real images" in result.verdict.sentence
    assert "synthesised" in result.summary()
    said = result.record["request"]["synthetic"]
    assert said["seed"] == 0 and said["shape"] == [3, 8, 8] and said["steps"] == 40
    result.patch.revert(copied)
    for name, value in copied.state_dict().items():
        assert torch.equal(value, before[name])


def test_real_images_have_the_last_word(copied):
    x, y = _images(400, 2)
    result = zsu_fast.forget(copied, 1, SETTINGS, evaluate_on=(x[y == 1], y[y == 1]))
    assert result.verdict.level == "answers" and result.verdict.judged_by == "evaluation images"


def test_more_classes_than_are_wanted_and_batches(net, monkeypatch):
    monkeypatch.setattr("zsu_fast.unlearn.synthetic.BATCH", 10)
    seen = []
    made = synthesise(net, 0, replace(SETTINGS, others=2, steps=2), lambda *told: seen.append(told))
    assert len(made.retain[1].unique()) == 2 and len(made.probes) == 12 and len(made.retain[0]) == 24
    assert [done for done, _, _ in seen] == list(range(1, 9)) and seen[-1][1] == 8  # 36 images: four batches


def test_inputs_that_are_no_pictures():
    torch.manual_seed(0)
    made = synthesise(nn.Linear(5, 3).double(), 0, SyntheticProbes((5,), per_class=4, steps=30))
    assert made.probes.shape == (4, 5) and made.probes.dtype == torch.float64 and made.made["answered"] == 1.0


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"shape": 3}, TypeError, "shape: expected the sizes"),
        ({"shape": ()}, ValueError, "shape: expected the sizes"),
        ({"shape": (3, 0, 8)}, ValueError, "shape: expected at least 1"),
        ({"low": 2.0}, ValueError, "low: expected less than high"),
        ({"low": (0.0, 1.0)}, ValueError, "low: expected a number, or one for each of 3 channels"),
        ({"high": "white"}, TypeError, "high: expected a number"),
        ({"high": float("nan")}, ValueError, "high: expected finite"),
        ({"per_class": 1}, ValueError, "per_class: expected at least 2"),
        ({"others": 0}, ValueError, "others: expected at least 1"),
        ({"steps": 2.5}, TypeError, "steps: expected an integer"),
        ({"seed": -1}, ValueError, "seed: expected at least 0"),
    ],
)
def test_settings_that_make_no_sense(wrong, error, says):
    with pytest.raises(error, match=says):
        replace(SETTINGS, **wrong)


class Deaf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.detach()) if self.fc.weight.isfinite().all() else self.fc(x)


def test_models_and_requests_that_do_not_fit(net):
    with pytest.raises(ValueError, match="shape: the model does not take a batch of shape"):
        zsu_fast.forget(net, 1, replace(SETTINGS, shape=(3, 9, 9, 2)))
    with pytest.raises(ValueError, match=r"target: the model has classes 0\.\.3, got 4"):
        zsu_fast.forget(net, 4, SETTINGS)
    with pytest.raises(TypeError, match="probe_labels: synthesised probes have their own"):
        zsu_fast.forget(net, 1, SETTINGS, probe_labels=[1] * 12)
    with pytest.raises(ValueError, match="takes requests to forget instances"):
        zsu_fast.forget(net, 1, SETTINGS, method="margin")
    deaf, few = Deaf(), SyntheticProbes((5,), per_class=2, steps=2)
    with pytest.raises(ValueError, match="model: no gradient of its logits"):
        synthesise(deaf, 0, few)
    nn.init.constant_(deaf.fc.weight, float("nan"))
    with pytest.raises(ValueError, match="model: gives NaN"):
        synthesise(deaf, 0, few)

"""Membership inference: areas counted pair by pair, networks that remember and that do not, and what is refused."""

import json

import pytest
import torch
from torch import nn

from zsu_fast.evaluate import Membership, auc_interval, membership
from zsu_fast.evaluate.membership import scores

pytest.importorskip("sklearn")


class Answers(nn.Module):
    """Returns the image: logits are what the test says they are."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.rand(3)
        self.norm(x.to(self.norm.weight.dtype))
        return self.dropout(x)


def drawn(count: int, seed: int, strength: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [count, 4] of noise, the true one raised, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    logits = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    return logits + strength * nn.functional.one_hot(labels, 4), labels


def by_pairs(members: torch.Tensor, nonmembers: torch.Tensor) -> float:
    """P(member lower) + P(equal) / 2, by asking every pair."""
    lower = (members[:, None] < nonmembers[None]).double() + 0.5 * (members[:, None] == nonmembers[None]).double()
    return lower.mean().item()


def test_areas_are_those_of_all_pairs() -> None:
    members, nonmembers = drawn(80, 0, 1.0), drawn(80, 1)
    members[0][:20] = nonmembers[0][:20]  # ties
    found = membership(Answers(), members, nonmembers)
    losses, entropies = [], []
    for logits, labels in (members, nonmembers):
        p = logits.exp() / logits.exp().sum(1, keepdim=True)
        losses.append(-p[range(80), labels].log())
        entropies.append(-(p * p.log()).sum(1))
    # To the precision to which two formulas call losses equal.
    assert found.loss_auc == pytest.approx(by_pairs(*(v.round(decimals=9) for v in losses)), abs=1e-12)
    assert found.entropy_auc == pytest.approx(by_pairs(*(v.round(decimals=9) for v in entropies)), abs=1e-12)
    assert found.loss_auc > 0.6 and found.images == 80
    assert found.loss_interval == auc_interval(found.loss_auc, 80, 80)
    assert found.loss_interval[0] > 0.5 and found.accuracy > 0.5


def test_members_that_cannot_be_mistaken() -> None:
    """Members are sure and nonmembers are not, without exception."""
    members, nonmembers, alike = drawn(40, 0, 20.0), drawn(40, 1), drawn(60, 2, 20.0)
    found = membership(Answers(), members, nonmembers, forgotten=alike)
    assert (found.loss_auc, found.entropy_auc) == (1.0, 1.0) and found.accuracy > 0.9
    assert found.loss_interval[1] == 1.0 and 0.85 < found.loss_interval[0] < 1.0
    assert (found.members_called, found.nonmembers_called, found.forgotten_called) == (1.0, 0.0, 1.0)
    gone = membership(Answers(), members, nonmembers, forgotten=drawn(60, 2))
    assert gone.forgotten_called == 0.0 and gone.forgotten_images == 60 and gone.forgotten_interval[0] == 0.0
    none = membership(Answers(), members, nonmembers)
    assert none.forgotten_called is None and none.forgotten_interval is None and none.forgotten_images == 0
    assert json.loads(json.dumps(gone.to_dict()))["loss_interval"][1] == 1.0


def test_the_entropy_needs_no_label_and_the_loss_does() -> None:
    members, nonmembers = drawn(200, 0), drawn(200, 1)
    wrong = (members[0] + 20 * nn.functional.one_hot((members[1] + 1) % 4, 4), members[1])  # sure, and wrong
    found = membership(Answers(), wrong, nonmembers)
    assert found.entropy_auc == 1.0 and found.loss_auc == 0.0 and found.loss_interval[0] == 0.0


def test_which_attack_reads_the_loss_and_which_the_entropy() -> None:
    """All answers are alike sure; those of the members are right, those of the nonmembers wrong."""
    right, labels = drawn(200, 0, 6.0)
    wrong = drawn(200, 1, 6.0)[0].roll(1, dims=1)
    found = membership(Answers(), (right, labels), (wrong, labels), forgotten=(right, labels))
    assert found.loss_auc > 0.99 and found.accuracy > 0.95
    assert found.entropy_interval[0] < 0.5 < found.entropy_interval[1]
    assert abs(found.members_called - found.nonmembers_called) < 0.2 and found.forgotten_called == found.members_called


@pytest.mark.parametrize("seed", range(5))
def test_a_fresh_network_knows_no_member(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4))
    found = membership(model, noise(400, 2 * seed), noise(400, 2 * seed + 1))
    # 99.9 %: ten intervals are looked at.
    for auc in (found.loss_auc, found.entropy_auc):
        low, high = auc_interval(auc, 400, 400, 0.999)
        assert low <= 0.5 <= high
    assert abs(found.accuracy - 0.5) < 0.1


def noise(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images without anything to learn: what is known about them was remembered."""
    return torch.randn(count, 12, generator=torch.Generator().manual_seed(seed)), torch.arange(count) % 4


def test_a_network_that_remembers_is_found_out() -> None:
    members, nonmembers = noise(60, 0), noise(60, 1)
    model = nn.Sequential(nn.Linear(12, 128), nn.ReLU(), nn.Linear(128, 4))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(members[0]), members[1]).backward()
        optimizer.step()
    found = membership(model, members, nonmembers, forgotten=members)
    assert found.loss_auc > 0.9 and found.loss_interval[0] > 0.8 and found.accuracy > 0.8
    assert found.entropy_auc > 0.7 and found.members_called > found.nonmembers_called + 0.2
    assert found.forgotten_called == found.members_called


def test_classes_are_matched() -> None:
    """Class 0 is easy and class 1 hard, for members and nonmembers alike; the one side has more of the easy one."""
    generator = torch.Generator().manual_seed(0)

    def of(easy: int, hard: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.tensor([0] * easy + [1] * hard)
        sure = torch.where(labels == 0, 8.0, 0.0)[:, None] * nn.functional.one_hot(labels, 4)
        return sure + torch.randn(easy + hard, 4, generator=generator), labels

    found = membership(Answers(), of(300, 60), of(60, 300))
    assert found.images == 120
    assert abs(found.loss_auc - 0.5) < 0.1 and abs(found.accuracy - 0.5) < 0.15
    alone = (torch.randn(30, 4), torch.full((30,), 3))
    both = [torch.cat(parts) for parts in zip(of(50, 50), alone, strict=True)]
    assert membership(Answers(), tuple(both), of(50, 50)).images == 100  # class 3 has nothing to compare with


def test_one_class() -> None:
    members, nonmembers = drawn(80, 0, 2.0), drawn(80, 1)
    only = [(images[labels == 2], labels[labels == 2]) for images, labels in (members, nonmembers)]
    found = membership(Answers(), *only)
    assert found.images == 20 and found.loss_auc > 0.6


def shuffled(pair: tuple[torch.Tensor, torch.Tensor], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    order = torch.randperm(len(pair[0]), generator=torch.Generator().manual_seed(seed))
    return pair[0][order], pair[1][order]


def test_the_order_of_the_images_and_the_batches_change_nothing() -> None:
    members, nonmembers, forgotten = drawn(90, 0, 1.0), drawn(64, 1), drawn(30, 2, 1.0)
    found = membership(Answers(), members, nonmembers, forgotten=forgotten, seed=3)
    assert found == membership(
        Answers(), shuffled(members, 1), shuffled(nonmembers, 2), forgotten=shuffled(forgotten, 3), seed=3, batch_size=7
    )
    assert found.images == 64 and found != membership(Answers(), members, nonmembers, forgotten=forgotten, seed=4)


def test_the_model_is_untouched() -> None:
    model = Answers().double().train()
    model.norm.eval()
    state, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    membership(model, drawn(40, 0), drawn(40, 1))
    assert model.training and model.dropout.training and not model.norm.training
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in state.items())


def test_an_excluded_class_is_no_error_and_an_impossible_label_is() -> None:
    logits, labels = drawn(40, 0)
    logits[labels != 3, 3] = -torch.inf
    found = scores(Answers().double(), logits[labels != 3], labels[labels != 3])
    p = logits[labels != 3, :3].softmax(1)
    torch.testing.assert_close(found[:, 1], -(p * p.log()).sum(1))
    logits[5, labels[5]] = -torch.inf
    with pytest.raises(ValueError, match="members.*infinite or NaN"):
        membership(Answers(), (logits, labels), drawn(40, 1))


def attack(**changes: object) -> Membership:
    return membership(**({"model": Answers(), "members": drawn(40, 0), "nonmembers": drawn(40, 1)} | changes))


@pytest.mark.parametrize(
    ("changes", "error", "names"),
    [
        ({"members": drawn(40, 0)[0]}, TypeError, "members"),
        ({"members": (torch.empty(0, 4), [])}, ValueError, "members: expected a tensor of images .N, .... with N >= 1"),
        ({"nonmembers": (drawn(40, 0)[0], [0] * 39)}, ValueError, "nonmembers labels"),
        (
            {"nonmembers": (drawn(40, 0)[0], [0] * 39 + [4])},
            ValueError,
            "nonmembers labels: the model has classes 0..3, got 4 at 39",
        ),
        ({"nonmembers": (drawn(40, 0)[0], [-1] * 40)}, ValueError, "nonmembers labels"),
        ({"nonmembers": drawn(9, 1)}, ValueError, "at least 10 images each, of the same classes, got 9"),
        (
            {"members": (torch.zeros(20, 4), [0] * 20), "nonmembers": (torch.zeros(20, 4), [1] * 20)},
            ValueError,
            "got 0",
        ),
        ({"forgotten": (torch.empty(0, 4), [])}, ValueError, "forgotten"),
        ({"forgotten": (torch.full((3, 4), torch.nan), [0] * 3)}, ValueError, "forgotten.*infinite or NaN"),
        ({"seed": -1}, ValueError, "seed"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"model": nn.Flatten(0)}, ValueError, "logits"),
    ],
)
def test_refusals_name_the_argument(changes: dict, error: type, names: str) -> None:
    with pytest.raises(error, match=names):
        attack(**changes)


def test_progress_names_the_images() -> None:
    calls: list[tuple[int, int, str]] = []
    attack(batch_size=30, forgotten=drawn(5, 2), progress=lambda *call: calls.append(call))
    assert calls == [(30, 40, "members"), (40, 40, "members"), (30, 40, "nonmembers"), (40, 40, "nonmembers"),
                     (5, 5, "forgotten")]  # fmt: skip


def test_auc_interval_holds_what_it_promises() -> None:
    """Coverage by simulation: normal scores of 30 and 50 samples, of which the true area is known."""
    generator = torch.Generator().manual_seed(0)
    for shift in (0.0, 1.0, 2.5):
        area = torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(shift / 2**0.5)).item()
        inside = 0
        for _ in range(400):
            positives = torch.randn(30, generator=generator) + shift
            negatives = torch.randn(50, generator=generator)
            low, high = auc_interval((positives[:, None] > negatives).double().mean().item(), 30, 50)
            inside += low <= area <= high
        assert 0.92 <= inside / 400 <= 0.995


def test_auc_interval_at_the_ends() -> None:
    # At 0.5 the variance is that of the Mann-Whitney test, (m + n + 1) / (12 m n), for a bound that lies there.
    low, high = auc_interval(0.5, 1000, 1000)
    assert high - low == pytest.approx(2 * 1.96 * (2001 / 12e6) ** 0.5, rel=0.01) and low + high == pytest.approx(1.0)
    assert auc_interval(1.0, 20, 20)[1] == 1.0 and 0.8 < auc_interval(1.0, 20, 20)[0] < 0.95
    assert auc_interval(0.0, 20, 20) == pytest.approx([1 - bound for bound in auc_interval(1.0, 20, 20)[::-1]])
    assert auc_interval(0.7, 1, 1) != auc_interval(0.7, 9, 9)
    for bad in ((-0.1, 5, 5), (1.1, 5, 5), (float("nan"), 5, 5), (0.5, 0, 5), (0.5, 5, 0), (0.5, 5, 5, 1.0)):
        with pytest.raises(ValueError, match="auc|positives|confidence"):
            auc_interval(*bad)

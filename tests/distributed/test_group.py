"""Several processes with images of their own come to one decision: that of one process which has all of them."""

import copy
import signal
import time
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import zsu_fast
from tests.distributed.launch import Ranks, needs_gloo
from zsu_fast.unlearn import Picks, model_digest, perturb_
from zsu_fast.unlearn.group import Processes

pytestmark = needs_gloo


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.hidden, self.head = nn.Conv2d(8, 16, 3, padding=1), nn.Linear(64, 24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2).flatten(1)
        return self.head(F.relu(self.hidden(x)))


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    """A net, and digits that it has not seen: of the class, of others, and of all to judge by."""
    datasets = pytest.importorskip("sklearn.datasets")
    pixels, labels = datasets.load_digits(return_X_y=True)
    x, y = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(80):
        batch = torch.randint(900, (128,))
        optimizer.zero_grad()
        F.cross_entropy(net(x[batch]), y[batch]).backward()
        optimizer.step()
    x, y = x[900:], y[900:]
    own, others = (y == 3).nonzero()[:, 0], (y != 3).nonzero()[:, 0]
    judging = torch.cat([own[37:], others[100:150]])
    return {
        "net": net.eval(),
        "probes": x[own[:37]],
        "retain": (x[others[:90]], y[others[:90]]),
        "judging": (x[judging], y[judging]),
    }


def outcome(model: nn.Module, result: Any) -> dict[str, Any]:
    """What must be the same in all processes, however many there are."""
    record = {
        k: v for k, v in result.record.items() if k not in ("time", "cost", "processes", "probes", "retain_probes")
    }
    return {
        "model": model_digest(model),
        "tensors": [(e.tensor, e.old.tolist(), e.new.tolist()) for e in result.patch.entries],
        "verdict": result.verdict.to_dict(),
        "record": record,
        "summary": result.summary(),
    }


def part(images: Tensor, rank: int, shares: list[int]) -> Tensor:
    """Of consecutive parts of these relative sizes."""
    ends = [len(images) * sum(shares[:i]) // sum(shares) for i in range(len(shares) + 1)]
    return images[ends[rank] : ends[rank + 1]]


def forget_together(given: dict[str, Any], group: Any, shares: list[int], options: dict[str, Any]) -> dict[str, Any]:
    model, rank = copy.deepcopy(given["net"]), dist.get_rank(group)
    retain, judging = (tuple(part(t, rank, shares) for t in given[name]) for name in ("retain", "judging"))
    before = model_digest(model)
    result = zsu_fast.forget(
        model, 3, part(given["probes"], rank, shares), retain_probes=retain, evaluate_on=judging, group=group, **options
    )
    found = outcome(model, result) | {"processes": result.record["processes"]}
    result.patch.revert(model)
    assert model_digest(model) == before
    return found


OPTIONS: list[dict[str, Any]] = [
    {"method": "lra-npp"},
    {"method": "lra-npp", "path": "all", "until": 0.3, "utility_floor": 0.2},
    {"method": "channels", "until": 0.3, "utility_floor": 0.2},
    {"method": "channels", "budget": 9, "score": "frequency", "scope": "global"},
]
SHARES = [[1], [2, 1], [1, 0, 3], [0, 5, 2, 1]]


def in_worlds(given: dict[str, Any]) -> list[tuple[int, list[int], dict[str, Any]]]:
    """What comes of groups of 1 to 4 of these processes."""
    groups = {size: dist.new_group(list(range(size))) for size in (1, 2, 3)} | {4: dist.group.WORLD}
    found = []
    for number, options in enumerate(OPTIONS):
        for shares in SHARES:
            if dist.get_rank() < len(shares):
                found.append((number, shares, forget_together(given, groups[len(shares)], shares, options)))
    return found


def test_the_decision_is_that_of_one_process_for_1_to_4_processes_and_parts_of_any_size(
    given: dict[str, Any], four: Ranks
) -> None:
    alone = []
    for options in OPTIONS:
        model = copy.deepcopy(given["net"])
        retain, judging = given["retain"], given["judging"]
        found = zsu_fast.forget(model, 3, given["probes"], retain_probes=retain, evaluate_on=judging, **options)
        assert found.patch.entries, (options, found.summary())
        alone.append(outcome(model, found))
    answers = four.run(in_worlds, given, timeout=150)
    of_one = {number: found for number, shares, found in answers[0] if shares == [1]}
    seen = 0
    for rank, answer in enumerate(answers):
        for number, shares, found in answer:
            assert found.pop("processes", 1) == len(shares)
            # Without a group the last batch is smaller, so that logits may differ in their last bits.
            for what in ("tensors", "model", "verdict", "summary"):
                assert found[what] == alone[number][what], (rank, shares, OPTIONS[number], what)
            assert found == of_one[number], (rank, shares, OPTIONS[number])
            seen += 1
    assert seen == len(OPTIONS) * sum(map(len, SHARES))


def attempt(given: dict[str, Any], what: str, rank_that_fails: int) -> dict[str, Any]:
    """What is raised here, whether the model is as it was, and whether the next call works."""
    model, rank = copy.deepcopy(given["net"]), dist.get_rank()
    before, failing = model_digest(model), rank == rank_that_fails
    probes, options = part(given["probes"], rank, [1, 1, 1, 1]), {"method": "lra-npp", "group": dist.group.WORLD}
    retain: Any = tuple(part(t, rank, [1, 1, 1, 1]) for t in given["retain"])
    if what == "nan" and failing:
        probes = probes / 0
    elif what == "budget":
        options["budget"] = 3 + failing
    elif what == "retain" and failing:
        retain = None
    elif what == "model" and failing:
        model.head.bias.data += 1
        before = model_digest(model)
    elif what == "method":
        options["method"] = "deep"
    elif what == "labels" and failing:
        options["probe_labels"] = [4] * len(probes)
    elif what in ("progress", "interrupt", "late") and failing:
        calls = []

        def progress(done: int, total: int, text: str) -> None:
            calls.append(text)
            if what == "interrupt":
                signal.raise_signal(signal.SIGINT)
            raise KeyError("disk full")

        options |= {"method": "channels", "progress": progress}
        signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background of a shell ignore it
    if what in ("progress", "interrupt"):
        options |= {"method": "channels"}
    started = time.monotonic()
    try:
        zsu_fast.forget(model, 3, probes, retain_probes=retain, **options)
        raised = "nothing"
    except BaseException as error:
        raised = f"{type(error).__name__}: {error}"
    return {"raised": raised, "as it was": model_digest(model) == before, "seconds": time.monotonic() - started}


SAID = {
    "nan": ("ValueError: probes: expected finite", "ValueError: rank 2 of 4: probes: expected finite"),
    "budget": ("ValueError: method: not the same in all processes",) * 2,
    "retain": ("ValueError: retain_probes: of another kind in another process",) * 2,
    "model": ("ValueError: model: its tensors are not the same",) * 2,
    "method": ("ValueError: group: method 'deep' needs all images in one process",) * 2,
    "labels": ("ValueError: probe_labels: expected each of the targets [3], got [3, 4]",) * 2,
    "progress": ("KeyError: 'disk full'", "RuntimeError: rank 2 of 4: KeyError: 'disk full'"),
    "interrupt": ("KeyboardInterrupt: ", "KeyboardInterrupt: rank 2 of 4: KeyboardInterrupt"),
}


def attempts(given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {what: attempt(given, what, 2) for what in SAID}


def test_what_one_process_raises_is_raised_in_all_and_no_model_is_edited(given: dict[str, Any], four: Ranks) -> None:
    for rank, found in enumerate(four.run(attempts, given, timeout=150)):
        for what, (of_that_one, of_others) in SAID.items():
            said = found[what]
            assert said["raised"].startswith(of_that_one if rank == 2 else of_others), (rank, what, said)
            assert said["as it was"] and said["seconds"] < 30, (rank, what, said)


def one_is_late() -> tuple[int, str]:
    group = Processes(dist.group.WORLD)
    if group.rank == 1:
        time.sleep(2.5)  # others look after it every second
    return int(group.largest(torch.tensor(group.rank))), group.first(f"of {group.rank}")


def test_a_process_that_takes_its_time_is_waited_for(four: Ranks) -> None:
    assert four.run(one_is_late, timeout=60) == [(3, "of 0")] * 4


def replicas(given: dict[str, Any]) -> dict[str, Any]:
    """DDP models: with probes of their own, with the same, and in a group; picks by hand."""
    rank, found = dist.get_rank(), {}
    own = part(given["probes"], rank, [1, 1, 1, 1])
    for name, probes, group in (
        ("own", own, None), ("compiled", own, None), ("same", given["probes"], None), ("group", own, dist.group.WORLD)
    ):  # fmt: skip
        model: Any = DistributedDataParallel(copy.deepcopy(given["net"]))
        model = torch.compile(model) if name == "compiled" else model
        before = model_digest(model)
        try:
            found[name] = model_digest(model) if zsu_fast.forget(model, 3, probes, group=group).patch.entries else ""
        except ValueError as error:
            found[name] = f"{error} {model_digest(model) == before}"
    for name, probes, options in (
        ("learned", given["probes"], {"method": "neggrad", "epochs": 1, "budget": 1}),
        ("learned from own", own, {"method": "neggrad", "epochs": 1, "budget": 1}),
        ("own budget", given["probes"], {"budget": 1 + rank}),
    ):
        model = DistributedDataParallel(copy.deepcopy(given["net"]))
        before = model_digest(model)
        try:
            zsu_fast.forget(model, 3, probes, **options)
            found[name] = model_digest(model)
        except ValueError as error:
            found[name] = f"{error} {model_digest(model) == before}"
    for name, picks in (("picks", Picks(neurons={"hidden": [rank]})), ("same picks", Picks(neurons={"hidden": [1]}))):
        model = DistributedDataParallel(copy.deepcopy(given["net"]))
        before = model_digest(model)
        try:
            found[name] = len(perturb_(model, picks, sample=own).entries)
        except ValueError as error:
            found[name] = f"{error} {model_digest(model) == before}"
    try:
        found["select"] = str(zsu_fast.select(model, 3, own, budget=2))
    except ValueError as error:
        found["select"] = str(error)
    found["select in a group"] = zsu_fast.select(given["net"], 3, own, budget=5, group=dist.group.WORLD).edges
    return found


def test_replicas_with_probes_of_their_own_are_refused_before_any_edit(given: dict[str, Any], four: Ranks) -> None:
    found = four.run(replicas, given, timeout=150)
    assert all(answer == found[0] for answer in found)
    refused = "not the same in all processes of this model, which would diverge; for one decision on what replicas "
    refused += "(DDP) bring, give group=torch.distributed.group.WORLD"
    assert found[0]["own"] == found[0]["compiled"] == f"probes: {refused} True"
    assert found[0]["learned from own"] == f"probes: {refused} True"
    assert "not the same in all processes of this model" in found[0]["own budget"]
    assert found[0]["own budget"].endswith(" True")
    assert found[0]["learned"] != model_digest(given["net"]) and " " not in found[0]["learned"]
    assert found[0]["picks"] == f"picks: {refused} True"
    assert found[0]["select"] == f"probes: {refused}"
    model = copy.deepcopy(given["net"])
    zsu_fast.forget(model, 3, given["probes"])
    assert found[0]["same"] == found[0]["group"] == model_digest(model) != model_digest(given["net"])
    assert found[0]["same picks"] == 2
    assert found[0]["select in a group"] == zsu_fast.select(given["net"], 3, given["probes"], budget=5).edges

"""What FSDP2 models and groups of processes cost: memory of a rank, bytes sent, and sums that have no order.

    python -m bench.shards --json bench/results/shards.json

Memory of `relevance` is what torch's allocator held in a rank at its worst, the shards included, beside what there must
be: the shards, the largest group of whole weights, and what the same call takes of the whole model. Bytes are those of
the collectives' results in one rank, counted where torch dispatches them; they, and the bytes of memory, do not depend
on how busy a machine is. Time is the processor's, the fastest of several runs. Results must have the bits of the whole
model, or there is no row.
"""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.utils._python_dispatch import TorchDispatchMode

import zsu_fast
from bench import machine
from bench.memory import peak_memory
from bench.models import ViT, natural, settle
from bench.parts import run_parts
from zsu_fast.model.shards import is_sharded, local_part
from zsu_fast.unlearn.exact_sums import sums

WORLDS = (2, 4)
WIDTH, HEADS, DEPTH, SIZE, IMAGES = 192, 3, 6, 224, 2
RULES = ("gradient", "epsilon", "attnlrp_gamma")
WRAPS = ("root", "blocks")
RUNS = 5
SAMPLES, UNITS = 256, (512, 4096)
PAGE, MARKERS = Path("docs/scale.md"), ("<!-- shards: begin -->", "<!-- shards: end -->")
Row = dict[str, Any]


class Sent(TorchDispatchMode):
    """Counts the collectives that run inside, and the bytes of their results."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.calls[func._schema.name.partition("::")[2].strip("_")] += 1
            self.bytes += _bytes(args[0])
        return func(*args, **(kwargs or {}))


def _bytes(given: Any) -> int:
    """Of the tensors in the first argument of a collective of c10d, which it writes to."""
    if isinstance(given, Tensor):
        return given.numel() * given.element_size()
    return sum(map(_bytes, given)) if isinstance(given, (list, tuple)) else 0


def start(_: Path) -> tuple[tuple[()], Row]:
    model = f"ViT, width {WIDTH}, depth {DEPTH}, {IMAGES} images of {SIZE}"
    return (), {"model": model, "samples": SAMPLES, "runs": RUNS}


def in_ranks(world: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(*arguments)` returns in each of so many gloo processes."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_rank, (world, folder, work, arguments), nprocs=world)
        return [torch.load(Path(folder, str(rank)), weights_only=True) for rank in range(world)]


def _rank(rank: int, world: int, folder: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=Path(folder, "meet").as_uri(), rank=rank, world_size=world)
    torch.save(work(*arguments), Path(folder, str(rank)))
    dist.barrier()
    os._exit(0)  # see tests/distributed/launch.py


def memory(world: int) -> Iterator[Row]:
    """`relevance` of an FSDP2 model: the largest peak of the ranks, and what there must be."""
    for found in zip(*in_ranks(world, _memory), strict=True):
        yield {"ranks": world} | max(found, key=lambda row: row["peak"])


def _memory() -> list[Row]:
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    images = natural(IMAGES, SIZE, torch.device("cpu"))
    plain = ViT(WIDTH, DEPTH, HEADS, SIZE)
    settle(plain, images)
    weights = _bytes(list(plain.parameters()))
    of_blocks = [_bytes(list(block.parameters())) for block in plain.blocks.children()]
    largest = {"root": weights, "blocks": max(*of_blocks, weights - sum(of_blocks))}
    found = []
    for rules in RULES:
        run: Callable[..., list[Tensor]] = _gradient if rules == "gradient" else partial(_relevance, rules)
        whole, alone = run(plain, images), peak_memory(partial(run, plain, images), images.device)
        for wrap in WRAPS:
            net = copy.deepcopy(plain)
            for block in net.blocks.children() if wrap == "blocks" else ():
                fully_shard(block)
            fully_shard(net)
            with Sent() as sent:
                ours = run(net, images)
            if not all(torch.equal(one, other) for one, other in zip(ours, whole, strict=True)):
                raise RuntimeError(f"{rules}: the model in parts does not give the bits of the whole")
            shards = _bytes([local_part(parameter) for parameter in net.parameters() if is_sharded(parameter)])
            found.append({
                "rules": rules, "wrap": wrap, "peak": shards + peak_memory(partial(run, net, images), images.device),
                "shards": shards, "group": largest[wrap], "whole": weights, "activations": alone,
                "calls": sum(sent.calls.values()), "sent": sent.bytes,
            })  # fmt: skip
    return found


def _relevance(rules: str, model: nn.Module, images: Tensor) -> list[Tensor]:
    found = zsu_fast.relevance(model, images, 0, composite=rules)
    return [found.input, *found.neurons.values()]


def _gradient(model: nn.Module, images: Tensor) -> list[Tensor]:
    leaf = images.clone().requires_grad_()
    return list(torch.autograd.grad(model(leaf)[:, 0].sum(), leaf))


def exchanges(world: int) -> Iterator[Row]:
    """`forget` of a group: calls of collectives and bytes of their results, in the rank that has most of them."""
    for found in zip(*in_ranks(world, _exchanges), strict=True):
        if len({row.pop("model") for row in found}) > 1:
            raise RuntimeError("the processes do not have the same model")
        yield {"ranks": world} | max(found, key=lambda row: row["bytes"])


def _exchanges() -> list[Row]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(144, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    labels = torch.arange(480) % 10
    images = torch.rand(10, 1, 8, 8)[labels] + 0.1 * torch.randn(480, 1, 8, 8)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    own, others = images[labels == 3], (images[labels != 3], labels[labels != 3])
    rank, world = dist.get_rank(), dist.get_world_size()
    mine = slice(rank, None, world)
    found = []
    for method in ("lra-npp", "channels"):
        model = copy.deepcopy(net).eval()
        with Sent() as sent:
            result = zsu_fast.forget(
                model, 3, own[mine], retain_probes=(others[0][mine], others[1][mine]), method=method,
                group=dist.group.WORLD,
            )  # fmt: skip
        told = {"probes": len(own), "retain": len(others[0]), "edited": len(result.patch.entries)}
        digest = zsu_fast.unlearn.model_digest(model)
        found.append(
            {"method": method, **told, "calls": sum(sent.calls.values()), "bytes": sent.bytes, "model": digest}
        )
    return found


def exact(units: int) -> Iterator[Row]:
    """Sums that are the same in any order, beside the float mean that is not; one process, one layer."""
    torch.manual_seed(0)
    rows, groups = torch.randn(SAMPLES, units), torch.zeros(SAMPLES, dtype=torch.int64)
    calls: dict[str, Callable[[], object]] = {
        "exact": lambda: sums({"layer": rows}, groups, 1)[0]["layer"].mean(),
        "mean": lambda: rows.mean(0),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(RUNS):
        for name, call in calls.items():
            begun = time.process_time()
            for _ in range(20):
                call()
            seconds[name].append((time.process_time() - begun) / 20)
    yield {"units": units} | {name: min(times) for name, times in seconds.items()}


def table(results: Row) -> str:
    """Markdown: memory, exchanges, sums."""
    mib = 2**20
    lines = [
        f"Largest peak of a rank in `relevance` ({results['model']}; float32, gloo on CPU, equal bits), in MiB. Floor: "
        "shards + the largest group of whole weights + what the call takes of the whole model (activations). Gradient: "
        "the plain gradient for the images, without zsu_fast, for comparison. "
        f"{machine.in_a_line(results['machine'])}.",
        "",
        "| ranks | `fully_shard` on | rules | weights | shards | largest group | activations | peak | peak / floor "
        "| collectives | received |",
        f"|{' --- |' * 11}",
    ]
    for row in (row for world in WORLDS for row in results["parts"].get(f"memory {world}", ())):
        floor = row["shards"] + row["group"] + row["activations"]
        sizes = [row[name] / mib for name in ("whole", "shards", "group", "activations", "peak")]
        cells = [row["ranks"], row["wrap"], row["rules"], *(f"{size:.1f}" for size in sizes)]
        cells += [f"{row['peak'] / floor:.2f}", row["calls"], f"{row['sent'] / mib:.1f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "`forget(group=...)` of a small conv net: all collectives of a call.", ""]
    lines += ["| ranks | method | probes, retain probes | calls | KB |", f"|{' --- |' * 5}"]
    for row in (row for world in (1, *WORLDS) for row in results["parts"].get(f"exchanges {world}", ())):
        cells = [row["ranks"], row["method"], f"{row['probes']}, {row['retain']}", row["calls"]]
        lines.append(f"| {' | '.join(map(str, cells))} | {row['bytes'] / 1e3:.0f} |")
    lines += ["", f"Sums of {results['samples']} samples in one process, milliseconds of processor time.", ""]
    lines += ["| units | exact | float mean |", f"|{' --- |' * 3}"]
    for row in (row for units in UNITS for row in results["parts"].get(f"sums {units}", ())):
        lines.append(f"| {row['units']} | {1e3 * row['exact']:.2f} | {1e3 * row['mean']:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parts: dict[str, Callable[..., Iterator[Row]]] = {f"memory {world}": partial(memory, world) for world in WORLDS}
    parts |= {f"exchanges {world}": partial(exchanges, world) for world in (1, *WORLDS)}
    parts |= {f"sums {units}": partial(exact, units) for units in UNITS}
    run_parts(__doc__, "zsu_fast shards", parts, start, table, PAGE, MARKERS)

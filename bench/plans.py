"""Plans of `relevance` against the call itself, in units of the plain forward and input gradient.

    python -m bench.plans --json bench/results/plans.json            # measure; --inductor MODEL compiles for it too
    python -m bench.plans --table bench/results/plans.json           # into README.md

A plan must give the bits of `relevance`, and compiled code its values, before anything is timed; `make bench` holds
`relevance` to the definition of its rules. All contenders take turns in one process.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench import machine
from bench.cases.models import plain_gradient
from bench.check import error
from bench.measure import Contender, quartiles, time_interleaved
from bench.models import VGG, ResNet, ViT, natural, settle
from bench.report import insert_table, markdown, text_of_seconds
from zsu_fast.lrp import Relevance, compile, relevance

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- plans: begin -->", "<!-- plans: end -->"
PLAIN, ENGINE, PLAN, INDUCTOR = "plain gradient", "relevance()", "plan", "plan, inductor"
CAPTURED = "plain gradient, captured"
CPU = torch.device("cpu")
ROUNDING = {torch.float32: 1e-2, torch.bfloat16: 5e-2}
"""Of the largest value, for compiled code and on CUDA, whose libraries need not add up in one order: epsilon divides by
sums that cancel."""


def lenet() -> nn.Module:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling, for three channels."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(576, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


class Model(NamedTuple):
    name: str
    build: Callable[[], nn.Module]
    size: int
    batch: int
    rules: tuple[str, ...]


MODELS = (
    Model("LeNet-5", lenet, 32, 16, ("epsilon", "epsilon_plus")),
    Model("ResNet-50, 8 wide", partial(ResNet, width=8, classes=10), 32, 2, ("epsilon", "epsilon_plus")),
    Model("ViT, 48 wide", partial(ViT, width=48, heads=3, size=32, patch=8, classes=10), 32, 2, ("attnlrp",)),
    Model("ResNet-50", ResNet, 224, 2, ("epsilon", "epsilon_plus")),
    Model("VGG-16", VGG, 224, 1, ("epsilon",)),
    Model("ViT-B/16", ViT, 224, 1, ("attnlrp",)),
)


def measure(
    model: Model,
    rules: str,
    inductor: bool,
    seconds: float,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.contiguous_format,
) -> dict[str, Any]:
    """A row of results, JSON-able. On CUDA a plan is a CUDA graph, and the plain gradient is measured as one, too.

    Raises AssertionError if a plan gives something else than `relevance`.
    """
    on_cuda = device.type == "cuda"
    torch.manual_seed(0)
    with torch.device(device):
        net = model.build()
    net = settle(net, natural(2, model.size, device)).to(dtype)
    net = net.to(memory_format=layout)  # type: ignore[call-overload]  # torch takes it, its stubs do not
    images = natural(model.batch, model.size, device).to(dtype=dtype, memory_format=layout)
    target = torch.arange(model.batch, device=device) % 10
    expected = relevance(net, images, target, composite=rules)
    contenders: dict[str, Contender] = {
        PLAIN: lambda: plain_gradient(net, images, target),
        ENGINE: lambda: relevance(net, images, target, composite=rules),
    }
    if on_cuda:
        contenders[CAPTURED] = _captured(contenders[PLAIN])
    preparing = {}
    for name in (PLAN, INDUCTOR) if inductor else (PLAN,):
        plan = compile(net, composite=rules, backend="inductor" if name == INDUCTOR else "auto")
        start = time.perf_counter()
        found = plan(images, target)
        preparing[name] = time.perf_counter() - start
        wrong = error(_values(found), _values(expected))
        allowed = ROUNDING[dtype] if on_cuda or name == INDUCTOR else 0
        assert wrong <= allowed, f"{model.name}, {rules}, {name}: off by {wrong}"
        contenders[name] = partial(plan, images, target)
    with torch.no_grad():
        timings = time_interleaved(contenders, device, seconds)
    plain = timings[PLAIN].wall
    return {
        "model": f"{model.name} x {model.batch}",
        "rules": rules,
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "layout": str(layout).removeprefix("torch.").removesuffix("_format"),
        "preparing": preparing,
        "seconds": {name: samples.to_dict() for name, samples in timings.items()},
        "ratios": {
            name: quartiles([a / b for a, b in zip(samples.wall, plain, strict=True)])
            for name, samples in timings.items()
            if name != PLAIN
        },
    }


def _captured(call: Contender) -> Contender:
    """The same as one CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # allocations, handles and caches of libraries come before the recording
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def _values(found: Relevance) -> list[Tensor]:
    return [found.input, found.logits, *found.neurons.values()]


def table(results: dict[str, Any]) -> str:
    header = ["model", "rules", ENGINE, PLAN, INDUCTOR, "tracing", "compiling", PLAIN]
    lines = []
    for row in results["rows"]:
        ratios, preparing = row["ratios"], row["preparing"]
        cells = [_quartiles(ratios[name]) if name in ratios else "" for name in (ENGINE, PLAN, INDUCTOR)]
        cells += [text_of_seconds(preparing[name]) if name in preparing else "" for name in (PLAN, INDUCTOR)]
        lines.append([row["model"], row["rules"], *cells, text_of_seconds(row["seconds"][PLAIN]["median"])])
    return f"Plans, {machine.in_a_line(results['machine'])}:\n\n{markdown(header, lines)}"


def _quartiles(values: list[float]) -> str:
    low, median, high = values
    return f"{median:.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.plans", description=__doc__.split("\n")[0])
    parser.add_argument("--model", action="append", help="this model, and no other that is not named", metavar="NAME")
    parser.add_argument("--inductor", action="append", default=[], help="compile plans of this one too", metavar="NAME")
    parser.add_argument("--seconds", type=float, default=10.0, help="of measuring, per contender (default: 10)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--table", type=Path, help="write the table of these results into README.md, and do no more")
    arguments = parser.parse_args()
    if arguments.table:
        README.write_text(insert_table(README.read_text(), table(json.loads(arguments.table.read_text())), BEGIN, END))
        return
    torch.set_num_threads(arguments.threads)
    results: dict[str, Any] = {"machine": machine.describe(CPU), "rows": []}
    for model in MODELS:
        if arguments.model and model.name not in arguments.model:
            continue
        for rules in model.rules:
            results["rows"].append(measure(model, rules, model.name in arguments.inductor, arguments.seconds))
            print(json.dumps({key: results["rows"][-1][key] for key in ("model", "rules", "ratios", "preparing")}))
            if arguments.json:  # after every row: what was measured stays, whatever happens
                arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

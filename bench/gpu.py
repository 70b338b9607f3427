"""What needs a GPU, in the minutes for which one is at hand.

    python -m bench.gpu check OUT       # at most 240 s: every kernel against its reference, first times, the CUDA tests
    python -m bench.gpu measure OUT     # at most 420 s: whole models eager, planned and captured, then the ops
    python -m bench.gpu sanitize OUT    # at most 180 s: every access of every kernel, watched by compute-sanitizer

The libraries must have been built for this GPU (`make native` where one is, or NATIVE_FLAGS=-DZSU_CUDA_ARCHS=90a-real).
Rows come in the order of their worth, each in a process of its own. OUT/check.json and OUT/measure.json are complete
after every row; where they exist, what they hold is not measured again. The exit code is 1 if anything is wrong or
time did not suffice.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

# Before torch: asking whether there is a GPU must not start CUDA in the process that forks.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch

import zsu_fast
from bench import machine, plans, report
from bench.isolated import isolated
from bench.models import ViT
from bench.results_file import ResultsFile
from bench.runner import run_case, selected

ROOT = Path(__file__).resolve().parent.parent
TESTS = ("tests/test_build.py", "tests/ops", "tests/lrp", "tests/unlearn", "tests/bench")
WORKERS = 8
SANITIZED = "tests/ops/test_reproducible.py"

CHECKED = (
    "lrp_epsilon_pass/conv 8x256x56x56", "lrp_epsilon_pass/tokens 8x197x3072",
    "lrp_epsilon_pass/conv 8x256x56x56 channels_last", "lrp_epsilon_pass/conv 8x512x7x7",
    "lrp_alpha_beta_pass/conv 8x256x56x56", "lrp_gamma_pass/tokens 8x197x3072", "activation_gate/gelu 8x197x3072",
    "layer_norm_gate/8192x768", "batch_norm_gate/conv 8x256x56x56", "neuron_relevance/conv 8x256x56x56",
    "topk_mask_/1e8, 10 %", "topk_mask_/4 Mi, 10 %", "topk_mask_/4 Mi, 10 %, recorded", "topk_count/36x4096 k=150",
    "topk_indices + mask_neurons_/ViT-L", "mask_neurons_/16 % of VGG-16's last block, recorded",
    "relevance/ResNet-50 x 64, epsilon", "relevance/ResNet-50 x 64, z+", "relevance/ViT-B/16 x 64, AttnLRP",
    "relevance/VGG-16 x 32, epsilon",
)  # fmt: skip
"""One case at least for every kernel, then models."""

MEASURED_OPS = ("topk_*", "mask_neurons_*", "lrp_*", "*_gate/*", "neuron_relevance/*")


class Work(NamedTuple):
    """One row: what it is, and what measures it."""

    key: str
    run: Callable[[], dict[str, Any]]


def cases(names: Sequence[str], device: str, seconds: float, peers: Callable[[str], bool]) -> Iterator[Work]:
    """Rows of the cases that have these names or match these patterns."""
    for name in names:
        for case in selected(name):
            if (case.name == name or "*" in name) and device in case.devices:
                for dtype in case.dtypes:
                    key = f"{case.name}, {str(dtype).removeprefix('torch.')}"
                    yield Work(key, partial(run_case, case, torch.device(device), dtype, seconds, peers))


def models(device: str, seconds: float) -> Iterator[Work]:
    """Rows of plans: the large models in bfloat16 first, then other batches, dtypes and layouts."""
    large = plans.Model("ViT-L/16", partial(ViT, width=1024, depth=24, heads=16), 224, 32, ("attnlrp",))
    by_name = {model.name: model for model in (*plans.MODELS, large)}
    half, single, last = torch.bfloat16, torch.float32, torch.channels_last
    wanted: list[tuple[str, str, int, torch.dtype, torch.memory_format]] = [
        ("ResNet-50", "epsilon", 64, half, torch.contiguous_format),
        ("ViT-B/16", "attnlrp", 64, half, torch.contiguous_format),
        ("ResNet-50", "epsilon", 1, half, torch.contiguous_format),
        ("ViT-B/16", "attnlrp", 1, half, torch.contiguous_format),
        ("ResNet-50", "epsilon", 64, half, last),
        ("ResNet-50", "epsilon_plus", 64, half, torch.contiguous_format),
        ("ViT-L/16", "attnlrp", 32, half, torch.contiguous_format),
        ("ResNet-50", "epsilon", 64, single, torch.contiguous_format),
        ("ViT-B/16", "attnlrp", 64, single, torch.contiguous_format),
        ("VGG-16", "epsilon", 32, single, torch.contiguous_format),
        ("ResNet-50", "epsilon", 8, half, torch.contiguous_format),
        ("ViT-B/16", "attnlrp", 8, half, torch.contiguous_format),
    ]
    for name, rules, batch, dtype, layout in wanted:
        model = by_name[name]._replace(batch=batch)
        run = partial(plans.measure, model, rules, False, seconds, torch.device(device), dtype, layout)
        form = ", channels_last" if layout == last else ""
        yield Work(f"{name} x {batch}, {rules}, {str(dtype).removeprefix('torch.')}{form}", run)


def work_through(rows: Iterator[Work], file: ResultsFile, part: str, seconds: float, deadline: float) -> bool:
    """Each row that the file does not hold yet, in a process of its own, `seconds` at most; whether all went well."""
    good = True
    for key, run in rows:
        if key in file.keys(part):
            continue
        left = deadline - time.monotonic()
        if left < 5:
            print(f"{key}: left out, no time")
            good = False
            continue
        found, fault = isolated(run, min(seconds, left))
        row = {"failed": fault} if found is None else found
        if found is not None or left > seconds:  # what only time cut off may be tried again
            file.add(part, key, row)
        good &= found is not None
        print(f"{key}: {fault or _line(row)}", flush=True)
    return good


def _line(row: dict[str, Any]) -> str:
    if "rules" not in row:
        return report.line(row)
    times = (f"{name} {report.text_of_seconds(t['median'])}" for name, t in row["seconds"].items())
    return ", ".join(times) + "; " + ", ".join(f"{name} {r[1]:.2f}" for name, r in row["ratios"].items())


def facts(device: str) -> dict[str, Any]:
    """What it is measured on. SystemExit if the libraries do not serve this GPU: nothing would be worth measuring."""
    found, fault = isolated(partial(_facts, device), 60)
    if found is None:
        sys.exit(f"bench.gpu: {fault}")
    return found


def _facts(device: str) -> dict[str, Any]:
    described = machine.describe(torch.device(device))
    info = zsu_fast.build_info()
    library = info["libraries"][device]
    if not library["loaded"]:
        raise RuntimeError(f"the library is not in use: {library['reason']}")
    if missing := [name for name, backends in info["ops"].items() if backends[device] != "compiled"]:
        raise RuntimeError(f"ops without a kernel: {', '.join(missing)}")
    if device == "cuda":
        torch.ops.zsu_fast.topk_count(torch.rand(2, 8, device=device), 2, False).sum().item()  # is it for this GPU?
    return described


def tests(file: ResultsFile, deadline: float, arguments: Sequence[str]) -> bool:
    """The tests that need CUDA, a process for each file."""
    files = sorted(str(path.relative_to(ROOT)) for each in TESTS for path in _test_files(ROOT / each))

    def run(name: str) -> tuple[str, dict[str, Any]]:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", *arguments, name]
        limit = deadline - time.monotonic()
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                timeout=max(limit, 1),
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return name, {"failed": "no time"}
        lines = done.stdout.strip().splitlines() or [""]
        if done.returncode == 5:  # nothing of it needs CUDA
            return name, {"passed": "none"}
        if done.returncode == 0:
            return name, {"passed": lines[-1]}
        return name, {"failed": "\n".join([f"exit code {done.returncode}", *lines[-40:]])}

    good = True
    with ThreadPoolExecutor(WORKERS) as pool:
        for name, row in pool.map(run, [name for name in files if name not in file.keys("tests")]):
            file.add("tests", name, row)
            good &= "failed" not in row
            if row.get("passed") != "none":
                print(f"{name}: {row.get('passed') or row['failed']}", flush=True)
    return good


def _test_files(path: Path) -> list[Path]:
    return [path] if path.suffix else list(path.rglob("test_*.py"))


def check(out: Path, device: str, deadline: float) -> bool:
    file = ResultsFile(out / "check.json", facts(device))
    rows = cases(CHECKED, device, 0.1, lambda peer: False)
    good = work_through(rows, file, "cases", 40, min(deadline, time.monotonic() + 110))
    return tests(file, deadline, ["-m", "cuda"]) and good


def measure(out: Path, device: str, deadline: float) -> bool:
    file = ResultsFile(out / "measure.json", facts(device))
    good = work_through(models(device, 0.5), file, "plans", 45, deadline - 120)
    ops = cases(MEASURED_OPS, device, 0.1, lambda peer: peer != "compiled")
    return work_through(ops, file, "ops", 25, deadline) and good


def sanitize(out: Path, device: str, deadline: float) -> bool:
    """memcheck sees accesses out of bounds, racecheck missing barriers; both take some hundred times as long."""
    good = True
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "ZSU_FAST_TEST_RUNS": "2"}
    for tool in ("memcheck", "racecheck"):
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "3", sys.executable, "-m", "pytest", "-q"]
        command += ["-x", "-p", "no:cacheprovider", "-m", "cuda", SANITIZED, "-k", "same_bits"]
        with (out / f"{tool}.log").open("w") as log:
            try:
                left = max(deadline - time.monotonic(), 1)
                code = subprocess.run(
                    command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, timeout=left
                ).returncode
            except subprocess.TimeoutExpired:
                code = 124
        print(f"{tool}: exit code {code}, see {log.name}")
        good &= code == 0
    return good


PARTS = {"check": (check, 240), "measure": (measure, 420), "sanitize": (sanitize, 180)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--seconds", type=float, help="that it may take in all")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: to try the script itself")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is available")
    run, seconds = PARTS[options.part]
    options.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    good = run(options.out, options.device, started + (options.seconds or seconds))
    print(f"{options.part}: {'all well' if good else 'NOT all well'}, {time.monotonic() - started:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

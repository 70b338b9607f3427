"""Calls of the public functions with drawn arguments, each from its seed and number alone.

python -m tests.fuzz.driver --seed 7 --calls 1000 --kind ops     # exit code 1 at the first case that fails
python -m tests.fuzz.driver --seed 7 --case 123 --kind ops       # that case again
"""

import argparse
import random
import sys
import time
import traceback
from collections.abc import Callable

import torch

from tests.fuzz import api, files, ops

KINDS: dict[str, Callable[[random.Random], None]] = {"ops": ops.run, "api": api.run, "files": files.run}
SHARES = {"ops": 0.90, "api": 0.09, "files": 0.01}


def run_case(kind: str, seed: int, case: int) -> None:
    """Raises what the case finds wrong."""
    rng = random.Random(f"{kind}/{seed}/{case}")
    torch.manual_seed(rng.getrandbits(32))
    KINDS[kind](rng)


def run(kind: str, seed: int, calls: int) -> int | None:
    """The number of the first case that fails, with its traceback printed; None if all pass."""
    for case in range(calls):
        try:
            run_case(kind, seed, case)
        except Exception:
            traceback.print_exc()
            print(f"failed: python -m tests.fuzz.driver --kind {kind} --seed {seed} --case {case}", file=sys.stderr)
            return case
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description="Calls of the public functions with drawn arguments.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--calls", type=int, default=1000, help="in all; without --kind: 90 %% ops, 9 %% api, 1 %% files"
    )
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--case", type=int, help="only this one, of --kind")
    given = parser.parse_args()
    if given.case is not None:
        if given.kind is None:
            parser.error("--case needs --kind")
        run_case(given.kind, given.seed, given.case)
        return 0
    failed = False
    for kind in [given.kind] if given.kind else KINDS:
        calls = given.calls if given.kind else round(given.calls * SHARES[kind])
        start = time.perf_counter()
        failed |= run(kind, given.seed, calls) is not None
        print(f"{kind}: {calls} calls in {time.perf_counter() - start:.1f} s", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

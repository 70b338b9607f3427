"""A small DCGAN of MNIST, trained here with its discriminator, forgets digits and images; beside training it anew.

    python -m bench.gans --data ../shared/data --json bench/results/gans.json

The unconditional GAN and a conditional one (`bench.dcgan`), and both trained anew without a digit by the same recipe.
What is finished or was begun is in the cache folder of `bench.oracles`. LeNet-5 is the judge of the request, a ViT the
second one, that has no part in the edit. All figures are of latents that had no part in the edit. Seconds are those of
the processor, for the edit without what judges it, and for the whole training.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import zsu_fast
from bench import generators, items, machine
from bench.dcgan import Recipe, Trained, drawn, trained
from bench.generators import FIGURES, Timed, cells, figures, lines_of, percent, seen_of
from bench.oracles import CACHE
from bench.parts import run_parts

PAGE, BEGIN, END = Path("docs/generators.md"), "<!-- gans: begin -->", "<!-- gans: end -->"
WITHOUT = 4  # the digit without which they are trained anew
DIGITS = (4, 1, 9)
METHODS = ("substitute", "cascade")  # the latter with the discriminator
DRAWS = 3000
ITEMS = (("made", 1, 1.5), ("made", 8, 1.5))
Row = dict[str, Any]


class Bench(generators.Bench):
    def __init__(self, data: Path) -> None:
        super().__init__(data, list(range(10)))
        self.learned = self.images("train", 60_000)
        self.digits_learned = torch.as_tensor(self._read("mnist", "train")[1]).long()

    def trained(self, recipe: Recipe) -> Trained:
        def say(text: str) -> None:
            print(f"{recipe.name}: {text}", file=sys.stderr, flush=True)

        return trained(recipe, self.learned, self.digits_learned, CACHE / "gans", say)

    def asked(self, recipe: Recipe, gan: Trained, digit: int) -> Timed:
        def latents(count: int, rng: torch.Generator) -> Tensor:
            return drawn(recipe, count, rng)

        reference = self.real[self.labels != digit]
        return Timed(
            digit, self.judge, latents, self.second, reference=reference, discriminator=gan.discriminator,
            draws=DRAWS,
        )  # fmt: skip


def anew(bench: Bench, conditional: bool) -> Iterator[Row]:
    """The GAN as it is, and trained anew without a digit: what the latents of the request make of it."""
    for without in (None, WITHOUT):
        recipe = Recipe(conditional, without)
        gan = bench.trained(recipe)
        request = bench.asked(recipe, gan, WITHOUT)
        with torch.no_grad():
            found = seen_of(request.view(gan.generator), request).to_dict()
        yield {
            "without": without, "seconds": gan.seconds, "steps": gan.steps,
            "seen": figures(found) | {"per_class": found["per_class"]},
        }  # fmt: skip


def edited(bench: Bench, conditional: bool, method: str) -> Iterator[Row]:
    """The edit stays, whatever it reached and cost."""
    recipe = Recipe(conditional)
    gan = bench.trained(recipe)
    for digit in DIGITS:
        model, Timed.spent = copy.deepcopy(gan.generator), 0.0
        request = bench.asked(recipe, gan, digit)
        started = time.process_time()
        result = zsu_fast.forget(model, request, method=method, budget=1)
        seconds = time.process_time() - started - Timed.spent
        seen = result.record["evaluation"]
        row = {
            "digit": digit, "verdict": result.verdict.level, "mode": result.record["mode"], "seconds": seconds,
            "before": figures(seen["before"]), "after": figures(seen["after"]),
        }  # fmt: skip
        print(row, file=sys.stderr, flush=True)
        yield row


def given(bench: Bench) -> Iterator[Row]:
    """Images that the unconditional one made."""
    with_gan = copy.copy(bench)
    with_gan.generator = bench.trained(Recipe()).generator
    yield from items.rows(with_gan, ITEMS)


GANS = {Recipe(conditional).name: conditional for conditional in (False, True)}
PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {"items": given}
for name, conditional in GANS.items():
    PARTS[f"{name}-anew"] = partial(anew, conditional=conditional)
    for method in METHODS:
        PARTS[f"{name}-{method}"] = partial(edited, conditional=conditional, method=method)


def table(results: dict[str, Any]) -> str:
    """Markdown, of the parts that were measured."""
    parts: dict[str, list[Row]] = results["parts"]
    nets, edits = [], []
    for name in GANS:
        trainings = parts.get(f"{name}-anew", [])
        for row in trainings:
            seen = row["seen"]
            nets.append([
                name, "all" if row["without"] is None else f"all but {row['without']}", percent(seen["share"]),
                percent(seen["second_share"]), f"{seen['frechet']:.0f}", f"{row['seconds']:.0f}",
            ])  # fmt: skip
        seconds = [row["seconds"] for row in trainings if row["without"] is not None]
        for method in METHODS:
            for row in parts.get(f"{name}-{method}", []):
                ratio = f"{seconds[0] / row['seconds']:.1f}" if seconds else ""
                found = [name, str(row["digit"]), f"`{method}`", row["verdict"], *cells(row)]
                edits.append([*found, f"{row['seconds']:.1f}", ratio])
    lines = lines_of(
        f"DCGANs of MNIST, 28 px, trained by the benchmark, on all digits and without {WITHOUT}; {DRAWS:,} fresh "
        f"latents. {machine.in_a_line(results['machine'])}; seconds of processor time.",
        ["GAN", "trained on", f"share of {WITHOUT}, LeNet-5", "share, ViT", "Fréchet to the other digits", "seconds"],
        nets,
    )
    lines += lines_of(
        "A digit forgotten; the edit stays, whatever it reached and cost; **bold** misses the aims above:",
        ["GAN", "digit", "method", "verdict", *FIGURES, "seconds", f"training anew (without {WITHOUT}) / edit"],
        edits,
    )
    if "items" in parts:
        lines += items.lines(parts["items"], "Images forgotten by the unconditional one (`hunt`), see below:")
    return "\n".join(lines).rstrip()


def main() -> None:
    run_parts(
        __doc__, "zsu_fast trained GANs", PARTS, lambda data: ((Bench(data),), {}), table, PAGE, (BEGIN, END)
    )  # fmt: skip


if __name__ == "__main__":
    main()

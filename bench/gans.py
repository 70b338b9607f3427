"""A small DCGAN of MNIST, trained here with its discriminator, forgets digits and images; beside training it anew.

    python -m bench.gans --data ../shared/data --json bench/results/gans.json

The unconditional GAN and a conditional one (`bench.dcgan`), and both trained anew without a digit by the same recipe.
What is finished or was begun is in the cache folder of `bench.oracles`. LeNet-5 is the judge of the request, a ViT the
second one, that has no part in the edit. All figures are of latents that had no part in the edit. Seconds are those of
the processor, for the edit without what judges it, and for the whole training.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import zsu_fast
from bench import generators, items, machine
from bench.dcgan import Recipe, Trained, drawn, trained
from bench.generators import CONFIDENT, KEPT, SECOND, SHARE, Timed, figures, lines_of, marked, percent, seen_of
from bench.oracles import CACHE
from bench.parts import run_parts

PAGE, BEGIN, END = Path("docs/generators.md"), "<!-- gans: begin -->", "<!-- gans: end -->"
WITHOUT = 4  # the digit without which they are trained anew
DIGITS = {"substitute": range(10), "cascade": (1, 4, 9)}
DRAWS = 3000
ITEMS = (("made", 1, 1.5), ("made", 8, 1.5), ("training", 8, 1.5))
Row = dict[str, Any]


class Bench(generators.Bench):
    def __init__(self, data: Path) -> None:
        super().__init__(data, list(range(10)))
        self.learned = self.images("train", 60_000)
        self.digits_learned = torch.as_tensor(self._read("mnist", "train")[1]).long()
        self.recipes = [Recipe(), Recipe(conditional=True)]

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


def anew(bench: Bench) -> Iterator[Row]:
    """Each GAN as it is, and trained anew without a digit: what the latents of the request make of it."""
    for recipe in bench.recipes:
        for without in (None, WITHOUT):
            one = Recipe(recipe.conditional, without)
            gan = bench.trained(one)
            request = bench.asked(one, gan, WITHOUT)
            with torch.no_grad():
                seen = seen_of(request.view(gan.generator), request)
            found = seen.to_dict()
            yield {
                "gan": recipe.name, "without": without, "seconds": gan.seconds, "steps": gan.steps,
                "seen": figures(found) | {"per_class": found["per_class"]},
            }  # fmt: skip


def edited(bench: Bench, method: str) -> Iterator[Row]:
    """With a floor so low that what an edit costs is seen where it costs too much."""
    for recipe in bench.recipes:
        gan = bench.trained(recipe)
        for digit in DIGITS[method]:
            model, Timed.spent = copy.deepcopy(gan.generator), 0.0
            request = bench.asked(recipe, gan, digit)
            started = time.process_time()
            result = zsu_fast.forget(model, request, method=method, utility_floor=0.5)
            seconds = time.process_time() - started - Timed.spent
            seen = result.record["evaluation"]
            row = {
                "gan": recipe.name, "digit": digit, "method": method, "verdict": result.verdict.level,
                "mode": result.record["mode"], "seconds": seconds,
                "before": figures(seen["before"]), "after": figures(seen["after"]),
            }  # fmt: skip
            print(row, file=sys.stderr, flush=True)
            yield row


def substitute(bench: Bench) -> Iterator[Row]:
    yield from edited(bench, "substitute")


def cascade(bench: Bench) -> Iterator[Row]:
    """With the discriminator."""
    yield from edited(bench, "cascade")


def given(bench: Bench) -> Iterator[Row]:
    """Images that the unconditional one made, and some that it was trained on."""
    with_gan = copy.copy(bench)
    with_gan.generator = bench.trained(Recipe()).generator
    yield from items.rows(with_gan, ITEMS)


PARTS = {"anew": anew, "substitute": substitute, "cascade": cascade, "items": given}


def spread(values: list[float], worst: float, form: str, met: bool = True) -> str:
    """Median, and the worst one in brackets; in bold if that misses an aim."""
    return f"{form.format(statistics.median(values))} ({marked(form.format(worst), met)})"


def edits_table(parts: dict[str, list[Row]], seconds: dict[str, float]) -> list[str]:
    """A line for each GAN and method: over the ten digits. seconds: of training each GAN anew."""
    found = []
    for name in seconds:
        for method in DIGITS:
            rows = [row for row in parts.get(method, []) if row["gan"] == name]
            if not rows:
                continue
            share, second, kept, confident = (
                [row["after"][key] for row in rows] for key in ("share", "second_share", "kept_same", "confident")
            )
            frechet = [row["after"]["frechet"] / row["before"]["frechet"] for row in rows]
            took = [row["seconds"] for row in rows]
            found.append([
                name, f"`{method}`", "all" if len(rows) == 10 else ", ".join(str(row["digit"]) for row in rows),
                f"{sum(row['verdict'] == 'answers' for row in rows)} of {len(rows)}",
                spread([100 * v for v in share], 100 * max(share), "{:.2f} %", max(share) <= SHARE),
                spread([100 * v for v in second], 100 * max(second), "{:.2f} %", max(second) <= SECOND),
                spread([100 * v for v in kept], 100 * min(kept), "{:.1f} %", min(kept) >= KEPT),
                spread(frechet, max(frechet), "{:.2f}", max(frechet) <= 1.05),
                spread([100 * v for v in confident], 100 * min(confident), "{:.1f} %", min(confident) >= CONFIDENT),
                spread(took, max(took), "{:.1f}"),
                spread([seconds[name] / v for v in took], seconds[name] / max(took), "{:.0f}"),
            ])  # fmt: skip
    columns = ["GAN", "method", "digits", "verdict: answers", "share, LeNet-5", "share, ViT", "kept",
               "Fréchet, times as before", "confident", "seconds", "training anew / edit"]  # fmt: skip
    return lines_of(
        "A digit forgotten, floor 0.5; median over the digits, in brackets the worst; **bold** misses "
        "the aims above:", columns, found,
    )  # fmt: skip


def table(results: dict[str, Any]) -> str:
    parts = results["parts"]
    trained_anew = parts.get("anew", [])
    seconds = {row["gan"]: row["seconds"] for row in trained_anew if row["without"] is not None}
    lines = lines_of(
        f"DCGANs of MNIST, 28 px, trained by the benchmark on all digits, and without digit {WITHOUT}; {DRAWS:,} "
        f"fresh latents. {machine.in_a_line(results['machine'])}; seconds of processor time.",
        ["GAN", "trained on", f"share of {WITHOUT}, LeNet-5", "share, ViT", "Fréchet to the other digits", "seconds"],
        [
            [row["gan"], "all" if row["without"] is None else f"all but {row['without']}",
             percent(row["seen"]["share"]), percent(row["seen"]["second_share"]), f"{row['seen']['frechet']:.0f}",
             f"{row['seconds']:.0f}"]
            for row in trained_anew
        ],
    )  # fmt: skip
    lines += edits_table(parts, seconds)
    if "items" in parts:
        lines += items.lines(parts["items"], "Images forgotten by the unconditional one (`hunt`), see below:")
    return "\n".join(lines).rstrip()


def main() -> None:
    run_parts(
        __doc__, "zsu_fast trained GANs", PARTS, lambda data: ((Bench(data),), {}), table, PAGE, (BEGIN, END)
    )  # fmt: skip


if __name__ == "__main__":
    main()

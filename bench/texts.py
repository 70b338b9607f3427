"""A GPT of 0.9 million parameters forgets two of twenty invented authors: our method, its parts, and baselines.

    python -m bench.texts --json bench/results/texts.json

Every fact was taught in five of six phrasings. The request has one of the six; the others judge. What counts as said is
the fact itself, whatever words the request was given. Seconds are those of the processor. `--parts` renews some parts.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import zsu_fast
from bench import machine
from bench.authors import PHRASINGS, Fact
from bench.oracles import CACHE
from bench.parts import run_parts
from bench.tiny_gpt import Recipe, taught, texts_of
from zsu_fast.evaluate.texts import (
    answers,
    appearance_rate,
    encoded,
    exact_match,
    padded,
    perplexity,
    words_of,
)
from zsu_fast.lrp.tokens import integrated_gradients, token_relevance
from zsu_fast.unlearn import ForgetText, TextRecord, sensitive_words
from zsu_fast.unlearn.texts.words import WAYS, words_in

ASKED, FORGOTTEN, STEPS = 1, 2, 32
JUDGES = [i for i in range(PHRASINGS) if i != ASKED]
PAGE, BEGIN, END = Path("docs/texts.md"), "<!-- texts: begin -->", "<!-- texts: end -->"
Row = dict[str, Any]


class Bench:
    def __init__(self, cache: Path) -> None:
        known = taught(Recipe(), cache / "texts", lambda text: print(text, file=sys.stderr, flush=True))
        self.model, self.tokenizer, self.world = known.model, known.tokenizer, known.world
        self.forget = self.world.of(self.world.authors[:FORGOTTEN])
        self.keep = self.world.of(self.world.authors[FORGOTTEN:])
        sentences = [text for text in texts_of(self.world)[1] if text in self.world.unseen]
        self.held_out = [(" ".join(w[:2]), " " + " ".join(w[2:])) for w in map(str.split, sentences)]

    def records(self, facts: Sequence[Fact], judges: Sequence[int] = JUDGES) -> list[TextRecord]:
        return [
            TextRecord(f.question(ASKED), f" {f.answer}", (), f.author, tuple(map(f.question, judges))) for f in facts
        ]

    def measured(self, model: nn.Module) -> Row:
        """Facts said to other phrasings, and with the answer begun; the other authors; held-out sentences."""
        asked = [(fact.question(i), fact) for fact in self.forget for i in JUDGES]
        kept = [(fact.question(i), fact) for fact in self.keep for i in JUDGES[:2]]
        said = answers(model, self.tokenizer, [question for question, _ in asked])
        begun = [f"{question} {fact.answer[: fact.answer.index(fact.value) - 1]}" for question, fact in asked]
        forced = answers(model, self.tokenizer, begun, longest=8)
        found = answers(model, self.tokenizer, [question for question, _ in kept])
        values = [[fact.value] for _, fact in asked]
        return {
            "said": appearance_rate(said, values).to_dict(),
            "said_when_begun": appearance_rate(forced, values).to_dict(),
            "exact": exact_match(found, [fact.answer for _, fact in kept]).to_dict(),
            "perplexity": perplexity(model, self.tokenizer, [(q, f" {fact.answer}") for q, fact in kept]),
            "held_out": perplexity(model, self.tokenizer, self.held_out),
        }  # fmt: skip

    def run(self, what: str, by: str = "subject", method: str = "text-poison", **options: Any) -> Row:
        """One call; the edit stays, whatever it cost."""
        model, started = copy.deepcopy(self.model), time.process_time()
        records = sensitive_words(model, self.records(self.forget, ()), self.tokenizer, by=by, steps=STEPS)
        request = ForgetText(records, self.tokenizer, self.records(self.keep, ()))
        steps: list[str] = []
        result = zsu_fast.forget(
            model, request, method=method, budget=1, progress=lambda done, total, text: steps.append(text), **options
        )
        seconds = time.process_time() - started
        row = {
            "what": what, "seed": options.get("seed", 0), "seconds": seconds,
            "steps": sum("loss" in text for text in steps), "changed": len(result.patch.entries),
            **self.measured(model),
        }  # fmt: skip
        print(row, file=sys.stderr, flush=True)
        return row


def words(bench: Bench) -> Iterator[Row]:
    """How well the facts are found among all that the answers say."""
    facts = bench.world.facts
    records = bench.records(facts, ())
    truth = [set(words_of(fact.value)) for fact in facts]
    for by in WAYS:
        started = time.process_time()
        found = [set(r.words) for r in sensitive_words(bench.model, records, bench.tokenizer, by=by, steps=STEPS)]
        seconds = time.process_time() - started
        hits = sum(len(a & b) for a, b in zip(found, truth, strict=True))
        yield {
            "by": by, "precision": hits / sum(map(len, found)), "recall": hits / sum(map(len, truth)),
            "seconds": seconds,
        }  # fmt: skip


def attribution(bench: Bench) -> Iterator[Row]:
    """AttnLRP beside integrated gradients, of the whole response, in turns: time, words at the top, completeness."""
    times: dict[str, list[float]] = {"attnlrp": [], "ig": []}
    overlap, errors = [], []
    for fact in bench.world.facts[:: len(bench.world.facts) // 40]:
        tokens, counted = padded([encoded(bench.tokenizer, fact.question(ASKED), f" {fact.answer}")])
        started = time.process_time()
        (relevance,) = token_relevance(bench.model, tokens, [counted])
        between = time.process_time()
        gradients, error = integrated_gradients(bench.model, tokens, counted, steps=STEPS)
        times["attnlrp"].append(between - started)
        times["ig"].append(time.process_time() - between)
        errors.append(float(error))
        top = []
        for of_tokens in (relevance.input[0].tolist(), gradients[0].tolist()):
            score: dict[str, float] = {}
            for word in words_in(bench.tokenizer, tokens[0].tolist()[:-1]):
                score[word.word] = score.get(word.word, 0) + sum(of_tokens[i] for i in word.tokens)
            top.append(set(sorted(score, key=lambda word: -score[word])[:5]))
        overlap.append(len(top[0] & top[1]) / 5)
    seconds = {name: sorted(values)[len(values) // 2] for name, values in times.items()}
    yield {
        "texts": len(errors), "ig_steps": STEPS, "seconds": seconds, "ratio": seconds["ig"] / seconds["attnlrp"],
        "overlap_of_top_5": sum(overlap) / len(overlap), "completeness_error": sorted(errors)[len(errors) // 2],
        "worst_completeness_error": max(errors),
    }  # fmt: skip


def ours(bench: Bench) -> Iterator[Row]:
    for seed in range(2):
        yield bench.run("`text-poison`", seed=seed)


def parts_of_it(bench: Bench) -> Iterator[Row]:
    yield bench.run("without own texts", own_texts=0)
    yield bench.run("words by integrated gradients", by="ig")
    yield bench.run("LoRA, rank 8", lora_rank=8)
    yield bench.run("refusals", teach="refusal")
    yield bench.run("other words, drawn", teach="random")


def ascent(bench: Bench) -> Iterator[Row]:
    yield bench.run("`text-ascent`", method="text-ascent")
    yield bench.run("`text-ascent` alone", method="text-ascent", anchor_weight=0)


def masks(bench: Bench) -> Iterator[Row]:
    """Without training: hidden units that carry the facts' words, and little of the other authors', masked exactly."""
    layers = [f"blocks.{i}.up" for i in range(len(bench.model.blocks))]

    def relevance(facts: Sequence[Fact]) -> dict[str, torch.Tensor]:
        rows = [encoded(bench.tokenizer, f.question(ASKED), f" {f.answer}") for f in facts]
        tokens, counted = padded(rows)
        for row, (fact, (ids, start)) in enumerate(zip(facts, rows, strict=True)):
            said = [w for w in words_in(bench.tokenizer, ids[:-1]) if w.word in words_of(fact.value)]
            counted[row] = False
            counted[row, [i for word in said for i in word.tokens if i >= start]] = True
        return token_relevance(bench.model, tokens, [counted], layers=layers)[0].neurons

    started = time.process_time()
    own, others = relevance(bench.forget), relevance(bench.keep)
    seconds = time.process_time() - started
    ratio = torch.cat([own[name].mean(0) / others[name].abs().mean(0).clamp_min(1e-6) for name in layers])
    width = len(ratio) // len(layers)
    drawn = torch.rand(len(ratio), generator=torch.Generator().manual_seed(0))
    for by, score in (("relevance", ratio), ("random", drawn)):
        order = score.argsort(descending=True).tolist()
        for count in (320, 480, 640):
            model = copy.deepcopy(bench.model)
            with torch.no_grad():
                for unit in order[:count]:
                    up = model.blocks[unit // width].up
                    up.weight[unit % width], up.bias[unit % width] = 0, 0
            row = {"by": by, "units": count, "of": len(order), "seconds": seconds, **bench.measured(model)}
            print(row, file=sys.stderr, flush=True)
            yield row


PARTS = {
    "words": words, "attribution": attribution, "ours": ours, "ablations": parts_of_it, "ascent": ascent,
    "masks": masks,
}  # fmt: skip


def percent(found: Row) -> str:
    return f"{100 * found['share']:.1f} ({found['count']} of {found['total']})"


def cells(row: Row) -> list[str]:
    return [
        percent(row["said"]), percent(row["said_when_begun"]), f"{100 * row['exact']['share']:.1f}",
        f"{row['perplexity']:.3f}", f"{row['held_out']:.2f}",
    ]  # fmt: skip


def section(title: str, columns: list[str], lines: list[list[str]]) -> list[str]:
    """A table, if there is anything to show."""
    if not lines:
        return []
    return ["", title, "", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"] + [
        f"| {' | '.join(line)} |" for line in lines
    ]


def table(results: dict[str, Any]) -> str:
    """Markdown: a table for each part that was measured."""
    parts: dict[str, list[Row]] = {part: results["parts"].get(part, []) for part in PARTS}
    measured = [
        "facts said, %",
        "with the answer begun, %",
        "others exact, %",
        "perplexity of these",
        "of new sentences",
    ]
    edits = [row for part in ("ours", "ablations", "ascent") for row in parts[part]]
    lines = [machine.in_a_line(results["machine"]) + "; seconds of processor time."]
    lines += section(
        "Two of twenty authors, sixteen facts, judged by phrasings that had no part in the training, and the other "
        "authors likewise. Every edit stays in place here, whatever it costs:",
        ["edit", "seed", *measured, "steps", "seconds"],
        [["none", "", *cells(results["original"]), "", ""]]
        + [[r["what"], str(r["seed"]), *cells(r), str(r["steps"]), f"{r['seconds']:.0f}"] for r in edits],
    )
    lines += section(
        "Which words of an answer are the facts (all authors; at most five words of an answer):",
        ["words by", "of those found are facts, %", "of the facts are found, %", "seconds"],
        [
            [f"`{r['by']}`", f"{100 * r['precision']:.0f}", f"{100 * r['recall']:.0f}", f"{r['seconds']:.2f}"]
            for r in parts["words"]
        ],
    )
    for row in parts["attribution"]:
        lines += [
            "",
            f"Of the whole response, {row['texts']} texts: AttnLRP takes {1000 * row['seconds']['attnlrp']:.1f} ms for "
            f"a text, integrated gradients with {row['ig_steps']} steps {row['ratio']:.1f} times as long (medians); of "
            f"the five words at the top they share {100 * row['overlap_of_top_5']:.0f} %. The completeness error of "
            f"integrated gradients is {100 * row['completeness_error']:.2f} % in the median, "
            f"{100 * row['worst_completeness_error']:.1f} % at worst.",
        ]
    lines += section(
        "Without training, hidden units of the MLPs masked, by relevance for the facts over that for other authors' "
        "facts (mean of its absolute value), or drawn:",
        ["units by", "masked", *measured],
        [[r["by"], f"{r['units']} of {r['of']}", *cells(r)] for r in parts["masks"]],
    )
    return "\n".join(lines)


def main() -> None:
    def start(cache: Path) -> tuple[tuple[Bench], dict[str, Any]]:
        bench = Bench(cache)
        return (bench,), {"original": bench.measured(bench.model)}

    folder = ("--cache", CACHE, "folder of trained weights")
    run_parts(__doc__, "zsu_fast texts", PARTS, start, table, PAGE, (BEGIN, END), folder)


if __name__ == "__main__":
    main()

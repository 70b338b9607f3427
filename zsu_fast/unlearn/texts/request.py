"""The request that a language model forgets what it says of something."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zsu_fast.evaluate import texts as metrics
from zsu_fast.evaluate.intervals import upper_bound
from zsu_fast.evaluate.texts import Share, Tokenizer, appears, encoded
from zsu_fast.unlearn import search
from zsu_fast.unlearn.options import check_positive
from zsu_fast.unlearn.requests import NAN, Batches, Pair
from zsu_fast.unlearn.texts.records import TextRecord, check_once, check_records
from zsu_fast.unlearn.verdict import FORGOTTEN_AT_MOST, KNOWN, Evidence, Verdict, judged_by_known

SAYS, KEEPS, ELSE = range(3)
"""What an answer is: it says a sensitive word of its record, it is that of the anchor's response, or neither."""
ROOM = 8
"""Tokens that an answer may be longer than the longest response."""


@dataclass(frozen=True)
class TextEvaluation:
    """What a language model says to questions that had no part in training.

    said: of the questions about what is to be forgotten, those whose answer has a sensitive word of its record.
    exact, rouge_l, perplexity: of the questions about what is to be kept: those whose answer is the response, the mean
    ROUGE-L of the answers, and the perplexity of the responses. held_out: perplexity of the held-out texts.
    None where there is nothing to measure on.
    """

    said: Share | None
    exact: Share | None
    rouge_l: float | None
    perplexity: float | None
    held_out: float | None

    @property
    def accuracy(self) -> float | None:
        return None if self.exact is None else self.exact.share

    def to_dict(self) -> dict[str, Any]:
        return {
            "said": None if self.said is None else self.said.to_dict(),
            "exact_match": None if self.exact is None else self.exact.to_dict(),
            "rouge_l": self.rouge_l,
            "perplexity": self.perplexity,
            "held_out_perplexity": self.held_out,
        }


@dataclass(frozen=True, eq=False)
class ForgetText:
    """Forget what a causal language model says to the prompts of `records`, and to other prompts for the same.

    records: each with its sensitive words (`sensitive_words` finds them). It counts as said where one of these words
    appears in the answer, the likeliest token after another. Their paraphrases judge; without any, nothing is proved.
    tokenizer: the model's, as those of transformers are.
    anchors: records of what must be kept, of the same kind as the others if possible. Their paraphrases judge what an
    edit costs: by exact match, and by perplexity.
    held_out: texts (prompt, response), of any kind, whose perplexity is measured as well.
    perplexity_rise: by what share it may rise.

    The record of the request has no word of all this: digests and numbers alone.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    records: Sequence[TextRecord]
    tokenizer: Tokenizer
    anchors: Sequence[TextRecord] = ()
    held_out: Sequence[tuple[str, str]] = ()
    perplexity_rise: float = 0.05

    kind: ClassVar[str] = "text"
    argument: ClassVar[str] = "records"
    behind: ClassVar[float] = 0.0
    is_its_images: ClassVar[bool] = False
    inputs: ClassVar[str] = "answers"
    short: ClassVar[str] = "with a sensitive word"
    classes: ClassVar[tuple[int, ...]] = (SAYS,)
    _rows: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "records", check_records("records", self.records))
        object.__setattr__(self, "anchors", check_records("anchors", self.anchors, 0))
        for i, record in enumerate(self.records):
            if not record.words:
                raise ValueError(
                    f"records: no words at {i}: say which must not be said, or let sensitive_words find them"
                )
            if not appears(record.words, record.response):
                raise ValueError(f"records: none of the words {list(record.words)} is in the response at {i}")
        for name in ("encode", "decode"):
            if not callable(getattr(self.tokenizer, name, None)):
                raise TypeError(f"tokenizer: expected one with encode and decode, got {type(self.tokenizer).__name__}")
        everything = [*self.records, *self.anchors]
        check_once("anchors", [record.prompt for record in everything], "prompt (of records, then anchors)")
        asked = {record.prompt for record in everything}
        for i, record in enumerate(everything):
            for prompt in record.paraphrases:
                if prompt in asked:
                    raise ValueError(f"paraphrases: {prompt!r}, of text {i}, has a part in training")
        for pair in self.held_out:
            if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(isinstance(t, str) for t in pair):
                raise TypeError(f"held_out: expected pairs of texts (prompt, response), got {pair!r}")
        check_positive("perplexity_rise", self.perplexity_rise, or_zero=True)
        object.__setattr__(self, "_rows", _rows([self.tokens(record) for record in everything]))

    def tokens(self, record: TextRecord) -> tuple[list[int], int]:
        """Tokens of the text, and how many of them are the prompt's."""
        return encoded(self.tokenizer, record.prompt, record.response)

    def view(self, model: nn.Module) -> Answering:
        return Answering(model, self)

    @property
    def longest(self) -> int:
        """Tokens of an answer, at most."""
        return max(len(ids) - start for ids, start in map(self.tokens, [*self.records, *self.anchors])) + ROOM

    @property
    def probes(self) -> Tensor:
        return self._rows[: len(self.records)]

    @property
    def probe_labels(self) -> Tensor:
        return torch.full((len(self.records),), SAYS)

    @property
    def retain(self) -> Pair | None:
        kept = self._rows[len(self.records) :]
        return (kept, torch.full((len(kept),), KEEPS)) if len(kept) else None

    @property
    def groups(self) -> list[Tensor]:
        return [torch.ones_like(self.probe_labels, dtype=torch.bool)]

    @property
    def name(self) -> str:
        """Without subjects and words: results are given away."""
        subjects = len({record.subject for record in self.records if record.subject})
        about = f" about {subjects} subject{'s' if subjects > 1 else ''}" if subjects else ""
        return f"{len(self.records)} record{'s' if len(self.records) > 1 else ''}{about}"

    def started(self, forward: Callable[[Tensor], Tensor], view: nn.Module) -> ForgetText:
        return self

    def margins(self, logits: Tensor, where: Tensor) -> Tensor:
        return search.margins(logits, self.probe_labels[where].to(logits.device))

    def check(self, classes: int, evaluated: Tensor | None) -> None:
        if evaluated is not None:
            raise TypeError("evaluate_on: the paraphrases of the records and anchors judge")

    def unknown(self, logits: Tensor) -> str | None:
        if bool(logits.isnan().any()):
            return f"{self.name}: {NAN}"
        said = int((logits.argmax(1) == SAYS).sum())
        if said < KNOWN * len(logits):
            return (
                f"{self.name}: nothing was done, the model does not know it: it says a sensitive word to {said} of "
                f"{len(logits)} prompts (are the tokenizer and the template right?)."
            )
        return None

    def evaluate(self, view: nn.Module, given: Pair | None, batches: Batches) -> TextEvaluation:
        assert isinstance(view, Answering)
        asked = [(prompt, record) for record in self.records for prompt in record.paraphrases]
        kept = [(prompt, record) for record in self.anchors for prompt in record.paraphrases]
        said = exact = rouge = kept_perplexity = held_out = None
        if asked:
            found = view.answers([prompt for prompt, _ in asked])
            said = metrics.appearance_rate(found, [record.words for _, record in asked])
        if kept:
            found, wanted = view.answers([prompt for prompt, _ in kept]), [record.response for _, record in kept]
            exact = metrics.exact_match(found, wanted)
            rouge = sum(map(metrics.rouge_l, found, wanted)) / len(wanted)
            texts = [(prompt, record.response) for prompt, record in kept]
            kept_perplexity = metrics.perplexity(view.model, self.tokenizer, texts)
        if self.held_out:
            held_out = metrics.perplexity(view.model, self.tokenizer, self.held_out)
        return TextEvaluation(said, exact, rouge, kept_perplexity, held_out)

    def verdict(self, evidence: Evidence) -> Verdict:
        """By the paraphrases; the prompts of the records themselves took part in the training."""
        before, after = evidence.before, evidence.after
        assert isinstance(before, TextEvaluation) and isinstance(after, TextEvaluation)
        if not evidence.fixed and (cost := self._cost(before, after, evidence.floor)):
            return Verdict("not reached", f"{self.name}: not forgotten at that price: {cost}; the model is as it was.")
        if after.said is None:
            left, count = evidence.counts[0]
            return Verdict(
                "not judged",
                f"{self.name}: edited; no paraphrases were given, so that no question is left to judge it by.",
                left, count,
            )  # fmt: skip
        bound = upper_bound(after.said.count, after.said.total)
        facts = (after.said.count, after.said.total, bound, "paraphrased questions")
        said = (
            f"{after.said.count} of {after.said.total} paraphrased questions, which no training saw, still get a "
            f"sensitive word as answer (at most {100 * bound:.1f} % of such ones, with 95 % confidence)"
        )
        if after.said.share > evidence.until:
            level = "not judged" if evidence.fixed else "not reached"
            end = "" if evidence.fixed else "; the model is as it was"
            return Verdict(level, f"{self.name}: not forgotten: {said}{end}.", *facts)
        if bound > FORGOTTEN_AT_MOST:
            return Verdict("not judged", f"{self.name}: edited, and these are too few to judge it: {said}.", *facts)
        found = Verdict("answers", f"The model's answers have forgotten {self.name}: {said}.", *facts)
        assert before.said is not None
        return judged_by_known(self.name, found, [(before.said.count, before.said.total)])

    def _cost(self, before: TextEvaluation, after: TextEvaluation, floor: float | None) -> str:
        """What an edit costs too much, if anything."""
        if floor is not None and after.exact is not None and after.exact.share < floor:
            assert before.exact is not None
            return (
                f"exact match on what is kept {before.exact.share:.3f} -> {after.exact.share:.3f}, below the floor of "
                f"{floor:.3f}"
            )
        for what, old, new in (
            ("what is kept", before.perplexity, after.perplexity), ("held-out texts", before.held_out, after.held_out),
        ):  # fmt: skip
            if old is not None and new is not None and not new <= (1 + self.perplexity_rise) * old:
                return f"perplexity of {what} {old:.4g} -> {new:.4g}"
        return ""

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "records": len(self.records),
            "words": [len(record.words) for record in self.records],
            "anchors": len(self.anchors),
            "paraphrases": sum(len(record.paraphrases) for record in self.records),
            "anchor_paraphrases": sum(len(record.paraphrases) for record in self.anchors),
            "held_out": len(self.held_out),
        }


class Answering(nn.Module):
    """Rows of a request's texts -> logits [N, 3]: 1 for what the model's answer is, SAYS, KEEPS or ELSE, 0 else."""

    def __init__(self, model: nn.Module, request: ForgetText) -> None:
        super().__init__()
        self.model, self.request, self.training = model, request, False

    def forward(self, rows: Tensor) -> Tensor:
        request, everything = self.request, [*self.request.records, *self.request.anchors]
        chosen = [everything[number] for number in rows[:, 0].tolist()]
        found = torch.zeros(len(rows), 3, device=rows.device)
        for i, (record, answer) in enumerate(zip(chosen, self.answers([r.prompt for r in chosen]), strict=True)):
            kept = rows[i, 0] >= len(request.records)
            what = SAYS if appears(record.words, answer) and not kept else ELSE
            if kept and metrics.words_of(answer) == metrics.words_of(record.response):
                what = KEEPS
            found[i, what] = 1
        return found

    def answers(self, prompts: Sequence[str], batch_size: int = 16) -> list[str]:
        return metrics.answers(
            self.model, self.request.tokenizer, prompts, longest=self.request.longest, batch_size=batch_size
        )


def _rows(texts: Sequence[tuple[Sequence[int], int]]) -> Tensor:
    """int64 [N, 1 + T]: the number of a text and its tokens, -1 where it has ended."""
    rows = torch.full((len(texts), 1 + max(len(ids) for ids, _ in texts)), -1)
    for number, (ids, _) in enumerate(texts):
        rows[number, : len(ids) + 1] = torch.tensor([number, *ids])
    return rows

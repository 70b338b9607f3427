"""What ``zsu-fast relevance`` finds, and its table."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from zsu_fast.cli.images import ImageSet
from zsu_fast.cli.preprocess import AnyPreprocess
from zsu_fast.cli.relevance_files import Findings
from zsu_fast.cli.session import Session
from zsu_fast.evaluate.inference import Progress
from zsu_fast.lrp import COMPOSITES, Composite, Conservation, relevance


def fit(session: Session, images: ImageSet, composite: Composite, layers: list[str] | None) -> None:
    """Smaller batches, if there is no memory for those that are usual."""
    session.fit(images, partial(relevance, session.loaded.model, composite=composite, layers=layers))


def find(
    session: Session,
    images: ImageSet,
    targets: list[int | None],
    composite: Composite,
    layers: list[str] | None,
    keep: int,
    check: bool,
    progress: Progress,
) -> Findings:
    """Relevance of all images, batch by batch; that of the pixels, which may be large, of the first ``keep``."""
    inputs: list[list[Tensor]] = [[] for _ in targets]
    neurons: list[dict[str, list[Tensor]]] = [{} for _ in targets]
    logits: list[Tensor] = []
    books: list[Conservation] = []
    done = 0
    for batch in images.batches(session.loaded.preprocess, session.batch_size):
        given = batch.to(session.device)
        noted = check and not logits
        results = relevance(
            session.loaded.model, given, targets, composite=composite, layers=layers, conservation=noted
        )
        books = [result.check() for result in results] if noted else books
        logits.append(results[0].logits.float().cpu())
        for place, result in enumerate(results):
            if done < keep:
                inputs[place].append(result.input[: keep - done].float().cpu())
            for name, values in result.neurons.items():
                neurons[place].setdefault(name, []).append(values.float().cpu())
        done += len(batch)
        progress(done, len(images), "relevance")
    return Findings(
        targets=targets,
        titles=titles(targets, session.names),
        inputs=[torch.cat(parts) for parts in inputs] if keep else [],
        neurons=[{name: torch.cat(parts) for name, parts in found.items()} for found in neurons],
        logits=torch.cat(logits),
        books=books,
    )


def titles(targets: list[int | None], names: dict[int, str]) -> list[str]:
    """What to call the targets. Some classes of ImageNet share a name: they get their index too."""
    found = ["answer" if target is None else names.get(target, f"class {target}") for target in targets]
    return [f"{t} ({i})" if found.count(t) > 1 else t for t, i in zip(found, targets, strict=True)]


def composite_of(name: str, preprocess: AnyPreprocess | None) -> Composite:
    """A composite by name; bounds of the input, where one asks for them, are black and white after normalisation."""
    if "low" not in inspect.signature(COMPOSITES[name]).parameters:
        return COMPOSITES[name]()
    plain = None if preprocess is None else preprocess.plain
    if plain is None:
        hidden = "which texts have not" if preprocess is None else "and the model's own preprocessing hides them"
        raise ValueError(f"--composite {name} needs the bounds of the input, {hidden}")
    bounds = [[(value - m) / s for m, s in zip(plain.mean, plain.std, strict=True)] for value in (0.0, 1.0)]
    return COMPOSITES[name](*bounds)


def relevance_table(told: dict[str, Any], images: int, top: int) -> Table:
    logit = "" if told["mean_logit"] is None else f", logit {told['mean_logit']:.4g}"
    title = f"{told['name']}: relevance per layer, mean over {images} images{logit}"
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    listed = f"top {top} units"
    for column in ("layer", "units", "sum", listed):
        table.add_column(column, justify="left" if column in ("layer", listed) else "right", no_wrap=True)
    for layer in told["layers"]:
        units = "  ".join(f"{pick['unit']}:{_short(pick['relevance'], 3)}" for pick in layer["top"])
        table.add_row(escape(layer["layer"]), str(layer["units"]), _short(layer["sum"], 4), units)
    return table


def _short(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}g}"

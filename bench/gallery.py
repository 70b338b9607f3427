"""The pictures of docs/gallery.md that no page of the guides makes: front, generator, report, text.

    python -m bench.gallery [front generator report text]

Everything is trained here, in seconds, on the digits that ship with scikit-learn and on invented facts. Pages are
photographed by a browser (Chromium, Chrome or Edge on the PATH).
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import zsu_fast
from bench.tiny_gpt import SMALL, taught
from zsu_fast import plot
from zsu_fast.demo import DigitNet, Digits, load_parts, train_network
from zsu_fast.evaluate.texts import encoded
from zsu_fast.lrp.tokens import token_relevance
from zsu_fast.plot.canvas import new_figure
from zsu_fast.report.pdf import find_browser
from zsu_fast.unlearn import ForgetGenerated
from zsu_fast.unlearn.texts.words import words_in

DOCS = Path(__file__).resolve().parent.parent / "docs"
DIGIT = 3
LATENTS = 6
NAMES = dict(enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]))


def digits() -> tuple[Digits, DigitNet]:
    parts = load_parts(DIGIT, seed=0)
    return parts, train_network(*parts.train, seed=0)


def front() -> None:
    parts, model = digits()
    x, y = parts.judge
    retain = torch.cat([(y == label).nonzero()[:20, 0] for label in range(10) if label != DIGIT])
    judging = torch.ones(len(y), dtype=torch.bool)
    judging[retain] = False
    result = zsu_fast.forget(
        model, DIGIT, parts.probes, method="channels", retain_probes=(x[retain], y[retain]), utility_floor=0.8,
        front=(x[judging], y[judging]), seed=0,
    )  # fmt: skip
    plot.save(plot.front(result.front), DOCS / "front.png")


def decoder_of(images: Tensor, epochs: int = 150) -> nn.Sequential:
    """The half of a variational autoencoder that makes images [N, 1, 8, 8] of latents [N, 6]."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 2 * LATENTS))
    decoder = nn.Sequential(
        nn.Linear(LATENTS, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 64), nn.Sigmoid(),
        nn.Unflatten(1, (1, 8, 8)),
    )  # fmt: skip
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 2e-3)
    for _ in range(epochs):
        for batch in images[torch.randperm(len(images))].split(128):
            mean, log_variance = encoder(batch).chunk(2, 1)
            made = decoder(mean + torch.randn_like(mean) * (log_variance / 2).exp())
            divergence = (mean**2 + log_variance.exp() - 1 - log_variance).sum() / 2
            loss = F.binary_cross_entropy(made, batch, reduction="sum") + divergence
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return decoder.eval()


def generator() -> None:
    parts, judge = digits()
    images, labels = (torch.cat(some) for some in zip(parts.train, parts.judge, strict=True))
    second = train_network(images, labels, seed=1)
    made_by = decoder_of(images)
    before = copy.deepcopy(made_by)
    request = ForgetGenerated(DIGIT, judge, latents=LATENTS, second=second)
    result = zsu_fast.forget(made_by, request, method="substitute", until=0.02)
    print(result.verdict.sentence)
    z = torch.randn(600, LATENTS, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        old, new = before(z), made_by(z)
        odds = torch.minimum(judge(old).softmax(1), second(old).softmax(1))
    sure = odds[:, DIGIT] > 0.95
    others = (odds.amax(1) > 0.95) & ~sure
    chosen = torch.cat([sure.nonzero()[:8, 0], others.nonzero()[:8, 0]])
    figure = new_figure(8.2, 1.4, layout=None)
    panels = figure.subplots(
        2, 16, gridspec_kw={"left": 0.07, "right": 0.99, "bottom": 0.03, "top": 0.82, "wspace": 0.1}
    )
    for row, (name, shown) in enumerate((("before", old), ("after", new))):
        panels[row, 0].set_ylabel(name, fontsize=8)
        for panel, image in zip(panels[row], shown[chosen, 0], strict=True):
            panel.imshow(image.numpy(), cmap="gray", vmin=0, vmax=1)
            panel.set_xticks([])
            panel.set_yticks([])
    for column, title in ((0, "latents of a three"), (8, "other latents")):
        panels[0, column].set_title(title, fontsize=8, loc="left")
    plot.save(figure, DOCS / "generator.png")


def report() -> None:
    parts, model = digits()
    result = zsu_fast.forget(model, DIGIT, parts.probes, evaluate_on=parts.judge)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        result.report(page, model="digits, version 2", names=NAMES, author="Ada Ohm, for Example Ltd")
        for shade in ("light", "dark"):
            photograph(page, DOCS / f"report-{shade}.png", (880, 1180), shade == "dark")


def text() -> None:
    known = taught(SMALL)
    fact = known.world.facts[0]
    numbers, _ = encoded(known.tokenizer, fact.question(1), f" {fact.answer}")
    (town,) = (word for word in words_in(known.tokenizer, numbers[:-1]) if word.word == fact.value.lower())
    tokens = torch.tensor([numbers[:-1]])  # without the end
    answer = torch.zeros_like(tokens, dtype=torch.bool)
    answer[0, list(town.tokens)] = True
    (rel,) = token_relevance(known.model, tokens, [answer])
    words = [known.tokenizer.decode([number]) for number in tokens[0].tolist()]
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "text.html"
        plot.text(rel, words).save(page)
        photograph(page, DOCS / "text.png", (880, 150), dark=False)


def photograph(page: Path, picture: Path, size: tuple[int, int], dark: bool) -> None:
    """The top of a page, as a browser shows it on a screen that is dark, or light."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            find_browser(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--screenshot={picture}", page.as_uri(),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    with Image.open(picture) as taken:
        taken.convert("RGB").quantize(64).save(picture, optimize=True)


PICTURES: dict[str, Callable[[], None]] = {"front": front, "generator": generator, "report": report, "text": text}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", metavar="PICTURE", help=", ".join(PICTURES), default=list(PICTURES))
    for name in parser.parse_args().pictures:
        PICTURES[name]()


if __name__ == "__main__":
    main()

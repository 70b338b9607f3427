"""`zsu-fast demo`: a small network forgets a digit and gets it back, bit for bit.

The data are the 1,797 real 8 x 8 digits that ship with scikit-learn (E. Alpaydin and C. Kaynak, "Optical Recognition of
Handwritten Digits", UCI, 1998), in three parts that share no image: one trains the network, a few dozen images of the
digit analyse it, and the rest judge the outcome.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsu_fast.evaluate import Evaluation, ProbeResult, evaluate, features, linear_probe
from zsu_fast.evaluate.inference import Progress
from zsu_fast.extras import require
from zsu_fast.report import ClassReport, analyse, write_report
from zsu_fast.unlearn import ForgetResult, Patch, forget, model_digest

PROBES = 36
EPOCHS = 12


@dataclass(frozen=True)
class Digits:
    """The three parts: model-ready images [N, 1, 8, 8] and labels [N]."""

    train: tuple[Tensor, Tensor]
    probes: Tensor
    judge: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes:
        before, after: accuracy on the images that neither trained nor edited the network.
        probe_before, probe_after: linear probe on the features, trained on the training images.
        restored: the reverted network has the hash it had before.
        seconds: of the whole, and of `forget` alone.
    """

    digit: int
    result: ForgetResult
    before: Evaluation
    after: Evaluation
    probe_before: ProbeResult
    probe_after: ProbeResult
    digests: dict[str, str]
    restored: bool
    seconds: float
    forget_seconds: float
    files: dict[str, str]

    @property
    def reached(self) -> bool:
        return self.result.reached

    def to_dict(self) -> dict[str, Any]:
        return {
            "digit": self.digit,
            "reached": self.reached,
            "verdict": self.result.verdict.to_dict(),
            "summary": self.result.summary(),
            "evaluation": {"before": self.before.to_dict(), "after": self.after.to_dict()},
            "linear_probe": {"before": self.probe_before.to_dict(), "after": self.probe_after.to_dict()},
            "digests": self.digests,
            "restored": self.restored,
            "seconds": self.seconds,
            "forget_seconds": self.forget_seconds,
            "files": self.files,
        }


class DigitNet(nn.Module):
    """Two convolutions with BatchNorm and two linear layers, for 8 x 8 digits."""

    def __init__(self, width: int = 32, hidden: int = 96) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.fc1 = nn.Linear(2 * width * 4, hidden)
        self.fc2 = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def load_parts(digit: int, seed: int) -> Digits:
    """Half of each class trains; of the other half 36 images of the digit analyse, all the rest judges."""
    data = require("sklearn.datasets", "evaluate").load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 16.0
    labels = torch.from_numpy(data.target).long()
    generator = torch.Generator().manual_seed(seed)
    train: list[Tensor] = []
    judge: list[Tensor] = []
    probes = torch.empty(0, dtype=torch.int64)
    for label in range(10):
        where = torch.nonzero(labels == label)[:, 0]
        where = where[torch.randperm(len(where), generator=generator)]
        half = len(where) // 2
        train.append(where[:half])
        rest = where[half:]
        if label == digit:
            probes, rest = rest[:PROBES], rest[PROBES:]
        judge.append(rest)
    chosen = torch.cat(train), torch.cat(judge)
    return Digits((images[chosen[0]], labels[chosen[0]]), images[probes], (images[chosen[1]], labels[chosen[1]]))


def train_network(images: Tensor, labels: Tensor, seed: int, progress: Progress | None = None) -> DigitNet:
    """A trained network in evaluation mode; the caller's random numbers are left alone."""
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)
        model = DigitNet()
        optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, max_lr=1e-2, total_steps=EPOCHS * (len(images) // 64 + 1)
        )
        for epoch in range(EPOCHS):
            for batch in torch.randperm(len(images)).split(64):
                if len(batch) < 2:
                    continue  # BatchNorm needs two
                loss = F.cross_entropy(model(images[batch]), labels[batch])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
            if progress is not None:
                progress(epoch + 1, EPOCHS, "training")
    return model.eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    """For layers as small as these a second thread only waits, and on a busy machine it waits for long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def run_demo(
    digit: int = 3, seed: int = 0, out: Path = Path("zsu-fast-demo"), progress: Progress | None = None
) -> DemoResult:
    """Train, forget, judge, write report and patch, load the patch again and revert it.

    Raises:
        ImportError: scikit-learn or matplotlib is missing (extras "evaluate", "report").
        ValueError: digit outside 0..9.
    """
    if not 0 <= digit <= 9:
        raise ValueError(f"digit must be in 0..9, got {digit}")
    require("matplotlib", "report")
    started = time.perf_counter()
    parts = load_parts(digit, seed)
    model = train_network(*parts.train, seed, progress)
    original = model_digest(model)

    def judge() -> tuple[Evaluation, ProbeResult]:
        seen, judged = features(model, parts.train[0]), features(model, parts.judge[0])
        probed = linear_probe(seen, parts.train[1], judged, parts.judge[1], digit, seed=seed)
        return evaluate(model, *parts.judge, digit), probed

    labels = torch.full((len(parts.probes),), digit)
    before, probe_before = judge()
    relevance_before = analyse(model, parts.probes, labels)
    at = time.perf_counter()
    result = forget(model, digit, parts.probes, seed=seed, progress=progress)
    forget_seconds = time.perf_counter() - at
    after, probe_after = judge()
    edited = model_digest(model)

    out.mkdir(parents=True, exist_ok=True)
    files = {"report": str(out / "report.html"), "patch": str(out / "patch.safetensors")}
    result.patch.save(files["patch"])
    shown = 0 if relevance_before.heat is None else len(relevance_before.heat)
    page = ClassReport(
        model=f"DigitNet, {len(parts.train[0])} training images, seed {seed}",
        record=result.record,
        picks=result.picks,
        names={index: f"digit {index}" for index in range(10)},
        before=before,
        after=after,
        relevance_before=relevance_before,
        relevance_after=analyse(model, parts.probes, labels),
        photos=(parts.probes[:shown] * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy(),
        probe_before=probe_before,
        probe_after=probe_after,
        overlap=0,
    )
    write_report(page, files["report"])

    # From the file, not from memory: what is on the disk must be enough to undo the edit.
    Patch.load(files["patch"]).revert(model)
    reverted = model_digest(model)
    return DemoResult(
        digit=digit,
        result=result,
        before=before,
        after=after,
        probe_before=probe_before,
        probe_after=probe_after,
        digests={"original": original, "edited": edited, "reverted": reverted},
        restored=reverted == original,
        seconds=round(time.perf_counter() - started, 3),
        forget_seconds=round(forget_seconds, 3),
        files=files,
    )

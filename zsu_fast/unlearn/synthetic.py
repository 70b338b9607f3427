"""Probes synthesised from the model itself, for who has no images at all: class impressions.

Images are optimised from noise until the model answers each with its class, while the inputs of every BatchNorm keep
the mean and deviation that it remembers of the training images (DeepInversion, arXiv 1912.08795, here as the distance
of two normal distributions in units of the deviation) and neighbouring pixels stay alike. Where there is no such
BatchNorm, all that is known of images is that their neighbouring pixels are alike.

Such images show what the model takes for a class. They are no images of it, and what holds on them need not hold on
real ones: the verdict says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from zsu_fast.class_names import given_names
from zsu_fast.evaluate.accuracy import Evaluation
from zsu_fast.evaluate.given import check_int, check_targets
from zsu_fast.evaluate.inference import Progress, inference_mode, logits_of, model_device
from zsu_fast.lrp.eager import compiled_parts_as_written
from zsu_fast.unlearn.door import check_taken
from zsu_fast.unlearn.requests import ForgetClass, Pair, indices_of
from zsu_fast.unlearn.verdict import Evidence, Verdict

LEAST_SURE = 0.7
"""The share of the softmax that an image's class is to get is drawn from here to 1, where no BatchNorm keeps images in
bounds: as sure as possible, they show each class so strongly that no masking of units takes it away (LeNet-5). With
BatchNorm it is 1: less sure images then show so little of the class that none is found to carry it (ResNet-20)."""
SMOOTHNESS = 5.0
RATE = 0.05  # of Adam, in parts of the range from low to high; falls to zero as a cosine
SHIFT = 16  # in every step the images are shifted by at most this part of their side
BATCH = 256  # images that are optimised together, of all classes alike


@dataclass(frozen=True)
class SyntheticProbes:
    """What `forget` takes as `probes` where there are no images: how to synthesise them.

        result = forget(model, 3, SyntheticProbes((3, 32, 32), low=-2.1, high=2.6))

    shape: of one input, without the batch. low, high: least and largest value that the model is given, after its
    preprocessing (black and white); one number, or one for each channel. per_class: images of each class. others: how
    many of the other classes get images, to be retained; drawn, where there are more. steps: of the optimisation.
    seed: of whatever is drawn; the same gives the same images on the same machine.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    shape: Sequence[int]
    low: float | Sequence[float] = -2.0
    high: float | Sequence[float] = 2.0
    per_class: int = 16
    others: int = 20
    steps: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        try:
            shape = tuple(self.shape)
        except TypeError:
            raise TypeError(f"shape: expected the sizes of one input, as (3, 32, 32), got {self.shape!r}") from None
        if not shape:
            raise ValueError("shape: expected the sizes of one input, as (3, 32, 32), got none")
        for size in shape:
            check_int("shape", size, 1, 2**31 - 1)
        object.__setattr__(self, "shape", shape)
        for name in ("low", "high"):
            object.__setattr__(self, name, _of_channels(name, getattr(self, name), shape[0]))
        if not all(low < high for low, high in zip(*self._range(), strict=True)):
            raise ValueError(f"low: expected less than high, got {self.low} and {self.high}")
        check_int("per_class", self.per_class, 2, 10_000)
        check_int("others", self.others, 1, 10_000)
        check_int("steps", self.steps, 1, 100_000)
        check_int("seed", self.seed, 0, 2**63 - 1)

    def _range(self) -> tuple[Sequence[float], Sequence[float]]:
        low, high = (v if isinstance(v, Sequence) else [v] * self.shape[0] for v in (self.low, self.high))
        return low, high


@dataclass(frozen=True, eq=False)
class ForgetSynthesised(ForgetClass):
    """A class to be forgotten by images that were synthesised; made by `synthesise`.

    others: (images, labels) of other classes, synthesised together with the probes. made: how, for the record.
    """

    others: Pair | None = None
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def retain(self) -> Pair | None:
        return self.others

    def verdict(self, evidence: Evidence) -> Verdict:
        """By `evaluate_on`; without it, at most "not judged": no synthesised image says what becomes of real ones."""
        found = super().verdict(evidence)
        if isinstance(evidence.after, Evaluation):
            return found
        right, images = max(evidence.counts, key=lambda pair: pair[0] / pair[1])
        judged = f"{right} of {images} synthesised probes still get it as answer"
        if evidence.held_out:
            judged += ", each judged by an edit chosen without it"
        sentence = (
            f"{self.name} was edited by images synthesised from the model: {judged}. Nothing was verified on real "
        )
        return replace(
            found, level="not judged", sentence=f"{sentence}images; evaluate_on would.", right=right, images=images,
            at_most=None, judged_by="synthesised probes",
        )  # fmt: skip

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"synthetic": self.made}


def synthesise(
    model: nn.Module,
    target: int | str | Sequence[int | str],
    settings: SyntheticProbes,
    progress: Progress | None = None,
    class_names: Mapping[int, str] | Sequence[str] | None = None,
) -> ForgetSynthesised:
    """A request to forget the class(es) by images synthesised from the model, with such images of other classes.

    The model is run in evaluation mode and left as it was.

    Raises:
        TypeError, ValueError: naming the argument: a class that the model does not have, a shape that it does not take,
            a model that no gradient comes through, or that gives NaN.
    """
    names = given_names(class_names)
    targets = check_targets(indices_of(target, names))
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    dtype = torch.float32 if parameter is None else parameter.dtype
    device = model_device(model, torch.device("cpu"))
    generator = torch.Generator().manual_seed(settings.seed)
    with inference_mode(model), compiled_parts_as_written():
        sample = check_taken(model, torch.zeros(2, *settings.shape, dtype=dtype, device=device), "shape")
        classes = logits_of(model(sample)).shape[1]
        check_targets(targets, classes)
        free = [index for index in range(classes) if index not in targets]
        drawn = [free[at] for at in torch.randperm(len(free), generator=generator)[: settings.others].tolist()]
        labels = torch.tensor(targets + sorted(drawn)).repeat(settings.per_class)
        parts = list(labels.tensor_split(math.ceil(len(labels) / BATCH)))
        images = []
        for at, part in enumerate(parts):

            def tell(step: int, at: int = at) -> None:
                if progress is not None:
                    progress(at * settings.steps + step, len(parts) * settings.steps, "synthesise probes")

            images.append(_impressions(model, part, classes, settings, generator, dtype, device, tell))
        found, labels = torch.cat(images), labels.to(device)
        answers = torch.cat([logits_of(model(batch)).argmax(1) for batch in found.split(BATCH)])
    own = torch.isin(labels, torch.tensor(targets, device=device))
    made = asdict(settings) | {
        "batchnorm_layers": len(_norms(model)),
        "answered": float((answers == labels)[own].float().mean()),
        "answered_others": float((answers == labels)[~own].float().mean()) if len(drawn) else None,
    }
    others = (found[~own], labels[~own]) if len(drawn) else None
    return ForgetSynthesised(targets, found[own], labels[own], names, others, made)


def _impressions(
    model: nn.Module,
    labels: Tensor,
    classes: int,
    settings: SyntheticProbes,
    generator: torch.Generator,
    dtype: torch.dtype,
    device: torch.device,
    tell: Callable[[int], None],
) -> Tensor:
    """[N, *shape] images, of the class of each of `labels` [N]."""
    pictures = len(settings.shape) == 3
    least, largest = (
        torch.tensor(v, device=device, dtype=torch.float32).view(-1, *[1] * (len(settings.shape) - 1))
        for v in settings._range()
    )
    least_sure = 1.0 if _norms(model) else LEAST_SURE
    sure = 1 - (1 - least_sure) * torch.rand(len(labels), 1, generator=generator)
    own = F.one_hot(labels, classes)
    wanted = (own * sure + (1 - own) * (1 - sure) / max(1, classes - 1)).to(device)
    noise = torch.randn(len(labels), *settings.shape, generator=generator)
    images = (0.5 + 0.2 * noise).clamp_(0, 1).to(device).requires_grad_()  # 0: low, 1: high
    optimizer = torch.optim.Adam([images], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    with torch.enable_grad(), _distances(model) as distances:
        for step in range(settings.steps):
            distances.clear()
            inputs = images
            if pictures:
                inputs = images.roll([_shift(side, generator) for side in settings.shape[1:]], (2, 3))
            logits = logits_of(model((least + (largest - least) * inputs).to(dtype))).float()
            if step == 0 and not _reaches(logits, images):
                raise ValueError("model: no gradient of its logits reaches its input, so none can be synthesised")
            loss = F.cross_entropy(logits, wanted) + sum(distances)
            if pictures:
                loss = loss + SMOOTHNESS * sum(
                    images.diff(dim=dim).square().mean() for dim in (2, 3) if images.shape[dim] > 1
                )
            images.grad = torch.autograd.grad(loss, images)[0]
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                images.clamp_(0, 1)
            tell(step + 1)
    found = (least + (largest - least) * images.detach()).to(dtype)
    if not bool(found.isfinite().all()):
        raise ValueError("model: gives NaN or infinity on images between low and high, so none can be synthesised")
    return found


def _reaches(logits: Tensor, images: Tensor) -> bool:
    """Whether a gradient of the logits comes through to the images; of weights alone, it may not."""
    if not logits.requires_grad:
        return False
    return torch.autograd.grad(logits.sum(), images, retain_graph=True, allow_unused=True)[0] is not None


def _shift(side: int, generator: torch.Generator) -> int:
    most = side // SHIFT
    return int(torch.randint(-most, most + 1, (), generator=generator))


def _norms(model: nn.Module) -> list[_BatchNorm]:
    """Those that remember statistics of the training images, each once."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


@contextmanager
def _distances(model: nn.Module) -> Iterator[list[Tensor]]:
    """Filled by every run: how far the inputs of each BatchNorm are from what it remembers.

    The squared 2-Wasserstein distance of two normal distributions, in units of the remembered variance, over channels.
    """
    found: list[Tensor] = []

    def look(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None
        values = inputs[0].float()
        over = [dim for dim in range(values.dim()) if dim != 1]
        deviation = (norm.running_var.float() + norm.eps).sqrt()
        mean = (values.mean(over) - norm.running_mean.float()) / deviation
        spread = (values.var(over, unbiased=False) + norm.eps).sqrt() / deviation - 1
        found.append((mean.square() + spread.square()).mean())

    handles = [norm.register_forward_pre_hook(look) for norm in _norms(model)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _of_channels(name: str, given: object, channels: int) -> float | tuple[float, ...]:
    values = [given] if isinstance(given, Real) else list(given) if isinstance(given, Sequence) else [None]
    if any(isinstance(v, bool) or not isinstance(v, Real) for v in values) or isinstance(given, str):
        raise TypeError(f"{name}: expected a number, or one for each channel, got {given!r}")
    numbers = tuple(float(v) for v in values)  # type: ignore[arg-type]
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name}: expected finite numbers, got {given!r}")
    if isinstance(given, Real):
        return numbers[0]
    if len(numbers) != channels:
        raise ValueError(f"{name}: expected a number, or one for each of {channels} channels, got {len(numbers)}")
    return numbers

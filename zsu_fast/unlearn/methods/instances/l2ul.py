"""Learning to unlearn (L2UL): up the loss of the instances, held by adversarial examples and important weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsu_fast.evaluate.given import check_int
from zsu_fast.unlearn.methods.base import Given
from zsu_fast.unlearn.methods.baselines.baseline import check_floating, logits
from zsu_fast.unlearn.methods.instances.adversarial import targeted_pgd
from zsu_fast.unlearn.methods.instances.importance import synapse_importance, unimportance
from zsu_fast.unlearn.methods.instances.instance_method import InstanceMethod, request_of
from zsu_fast.unlearn.methods.training import EndlessBatches, descend, set_training
from zsu_fast.unlearn.options import Options, check_number, check_positive, option

FORGET_BATCH, ADVERSARIAL_BATCH = 32, 256


@dataclass(frozen=True)
class L2ulOptions(Options):
    variant: str = option(
        "neggrad: the loss of the instances alone. adv: and adversarial examples. adv+imp: and important weights held.",
        "adv+imp",
        choices=("neggrad", "adv", "adv+imp"),
    )
    examples: int = option("Adversarial examples of each instance; the source takes 200 for a hundred classes.", 20)
    radius: float = option("How far, in pixels from 0 to 1 (L2), an adversarial example may be from its instance.", 4.0)
    attack_step: float = option("Of the attack, likewise.", 0.1)
    attack_steps: int = option("Of the attack.", 100)
    pixel_mean: float | Sequence[float] = option(
        "What was subtracted from the pixels (from 0 to 1), in all or for each channel.", 0.0
    )
    pixel_std: float | Sequence[float] = option("What they were divided by then, likewise.", 1.0)
    importance_weight: float = option("Of the penalty on what moves and is not important.", 1.0)
    passes: int = option("Most passes through the adversarial examples (neggrad: through the instances).", 1000)
    learning_rate: float = option("Of SGD.", 1e-3)
    momentum: float = option("Of SGD.", 0.9)
    weight_decay: float = option("Of SGD.", 1e-4)
    authors_compat: bool = option(
        "As the authors' code: BatchNorm in training mode; importance from the gradient of batches of 32, not of each "
        "image; a drawn target that is the label becomes class C // 2.",
        False,
    )

    def check(self) -> None:
        super().check()
        for name in ("examples", "attack_steps", "passes"):
            check_int(name, getattr(self, name), 1)
        for name in ("radius", "attack_step", "learning_rate"):
            check_positive(name, getattr(self, name))
        for name in ("importance_weight", "weight_decay", "momentum"):
            check_positive(name, getattr(self, name), or_zero=True)
        if self.momentum >= 1:
            raise ValueError(f"momentum: expected less than 1, got {self.momentum}")
        for name in ("pixel_mean", "pixel_std"):
            given = getattr(self, name)
            for value in given if isinstance(given, (tuple, list)) else [given]:
                (check_number if name == "pixel_mean" else check_positive)(name, value)
        if not isinstance(self.authors_compat, bool):
            raise TypeError(f"authors_compat: expected True or False, got {self.authors_compat!r}")


class L2ul(InstanceMethod):
    """Down -CE(f(x), y) + CE(f(x'), y') + w/2 sum u (t - t0)^2, x' adversarial examples of the instances for labels y'.

    The first two are means over both batches together; u is 1 where the instances' answers do not depend on the weight
    and 0 where they do most. Goal "relabel" has +CE(f(x), to) instead of -CE(f(x), y). It stops when the goal is
    reached. Needs the instances alone, and how pixels became images. BatchNorm statistics stay, but with
    `authors_compat`. Source: Cha et al., "Learning to unlearn", AAAI 2024 (arXiv 2301.11578), and its official code;
    goal "unseen" is not in it.
    """

    name: ClassVar[str] = "l2ul"
    options: ClassVar[type[L2ulOptions]] = L2ulOptions
    resumable: ClassVar[bool] = True

    asked: L2ulOptions

    def learn(self, student: nn.Module, given: Given, images: Tensor, labels: Tensor) -> None:
        check_floating("x", images, self.name)
        asked, request = self.asked, request_of(given)
        generator = torch.Generator().manual_seed(asked.seed)
        parameters = [p for p in student.parameters() if p.requires_grad]
        instances = EndlessBatches(len(images), FORGET_BATCH, generator)
        steps = asked.passes * -(-len(images) // FORGET_BATCH)
        examples: EndlessBatches | None = None
        if asked.variant != "neggrad":
            held, answers = self.adversarial_examples(given, images, labels, generator)
            examples = EndlessBatches(len(held), ADVERSARIAL_BATCH, generator)
            steps = asked.passes * -(-len(held) // ADVERSARIAL_BATCH)
        set_training(student, asked.authors_compat)
        penalties: list[tuple[Tensor, Tensor]] = []  # for each parameter, what it was and how little it matters
        if asked.variant == "adv+imp":
            batch = FORGET_BATCH if asked.authors_compat else 1
            found = synapse_importance(student, images, parameters, batch)
            penalties = [(p.detach().clone(), unimportance(i)) for p, i in zip(parameters, found, strict=True)]
            given.count(len(images))

        def loss(step: int) -> Tensor:
            where = next(instances).to(images.device)
            output = logits(student, images[where])
            if request.goal == "relabel":
                assert isinstance(request.to, Tensor)
                pushed = F.cross_entropy(output, request.to[where], reduction="sum")
            else:
                pushed = -F.cross_entropy(output, labels[where], reduction="sum")
            count = len(where)
            if examples is not None:
                chosen = next(examples).to(images.device)
                pushed = pushed + F.cross_entropy(logits(student, held[chosen]), answers[chosen], reduction="sum")
                count += len(chosen)
            given.count(count)
            moved = [(u * (p - old) ** 2).sum() for p, (old, u) in zip(parameters, penalties, strict=False)]
            return pushed / count + asked.importance_weight / 2 * sum(moved, pushed.new_zeros(()))

        optimizer = torch.optim.SGD(parameters, asked.learning_rate, asked.momentum, weight_decay=asked.weight_decay)
        text = f"l2ul, {asked.variant}"
        stretch = given.stretch([student, optimizer, generator, instances, *([examples] if examples else [])])
        descend(
            loss, parameters, optimizer, steps, given.progress, text, stretch,
            enough=lambda: self.reached(student, given, images),
        )  # fmt: skip

    def adversarial_examples(
        self, given: Given, images: Tensor, labels: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Model-ready examples [N * examples, ...] and the labels that they were made for."""
        asked = self.asked
        mean, std = (_per_channel(name, getattr(asked, name), images) for name in ("pixel_mean", "pixel_std"))
        pixels = images * std + mean
        if float(pixels.min()) < -0.01 or float(pixels.max()) > 1.01:
            raise ValueError(
                "pixel_mean: with it and pixel_std the images should be pixels from 0 to 1, they go from "
                f"{float(pixels.min()):.3g} to {float(pixels.max()):.3g}"
            )
        pixels, sources = pixels.clamp(0, 1), labels.repeat_interleave(asked.examples)
        classes = given.forward(images[:1]).shape[1]
        targets = other_labels(sources.cpu(), classes, generator, asked.authors_compat).to(labels.device)
        made = []
        batches = zip(
            pixels.repeat_interleave(asked.examples, 0).split(ADVERSARIAL_BATCH), targets.split(ADVERSARIAL_BATCH),
            strict=True,
        )  # fmt: skip
        for some, wanted in batches:
            found = targeted_pgd(
                lambda x: logits(given.model, (x - mean) / std), some, wanted, radius=asked.radius,
                step=asked.attack_step, steps=asked.attack_steps, generator=generator,
            )  # fmt: skip
            given.count(len(some) * asked.attack_steps)
            made.append((found - mean) / std)
            given.progress(len(made), -(-len(targets) // ADVERSARIAL_BATCH), "l2ul, adversarial examples")
        return torch.cat(made), targets

    def described(self, given: Given) -> dict[str, Any]:
        return {"train_mode": self.asked.authors_compat}


def other_labels(labels: Tensor, classes: int, generator: torch.Generator, authors_compat: bool = False) -> Tensor:
    """A label for each, uniform over the other classes; or over all, and C // 2 where the label itself was drawn."""
    if authors_compat:
        drawn = torch.randint(classes, labels.shape, generator=generator)
        return drawn.masked_fill(drawn == labels, classes // 2)
    return (labels + torch.randint(1, classes, labels.shape, generator=generator)) % classes


def _per_channel(name: str, value: Any, images: Tensor) -> Tensor:
    """As it is added to images [N, C, ...]."""
    found = torch.as_tensor(value, dtype=images.dtype, device=images.device)
    if found.dim() == 0:
        return found
    if images.dim() < 3 or len(found) != images.shape[1]:
        raise ValueError(f"{name}: expected one number or one for each of {images.shape[1]} channels, got {value}")
    return found.view(-1, *[1] * (images.dim() - 2))

"""A small DCGAN of MNIST digits with its discriminator, conditional or not, trained in minutes on one core.

The conditional one is an AC-GAN (Odena et al., 2017): its latents end in the digit's one-hot code, and its
discriminator also says which digit an image is, so that it judges images alone, as the unconditional one does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.training import run_epochs

CLASSES = 10


@dataclass(frozen=True)
class Recipe:
    """Adam (0.5, 0.999) with the non-saturating loss. without: a digit that is not learned, nor drawn."""

    conditional: bool = False
    without: int | None = None
    epochs: int = 5
    latent: int = 64
    width: int = 16
    batch: int = 64
    rate: float = 6e-4
    seed: int = 0

    @property
    def name(self) -> str:
        kind = "conditional" if self.conditional else "unconditional"
        return kind if self.without is None else f"{kind}_without_{self.without}"

    @property
    def inputs(self) -> int:
        """Length of what the generator takes."""
        return self.latent + CLASSES * self.conditional


class Generator(nn.Sequential):
    """[N, inputs] -> images [N, 1, 28, 28] in [0, 1]."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__(
            nn.Linear(inputs, 98 * width, bias=False),
            nn.Unflatten(1, (2 * width, 7, 7)),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, 1, 4, 2, 1),
            nn.Sigmoid(),
        )


class Discriminator(nn.Sequential):
    """Images [N, 1, 28, 28] -> logits [N, outputs], the first of "real"."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(1, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(98 * width, outputs),
        )


class Opinion(nn.Module):
    """Of a discriminator its logit of "real" alone, [N]."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)[:, 0]


@dataclass(frozen=True)
class Trained:
    """seconds: of the processor, for the training."""

    generator: Generator
    discriminator: Opinion
    seconds: float
    steps: int


def drawn(recipe: Recipe, count: int, generator: torch.Generator) -> Tensor:
    """[count, inputs] latents; of a conditional generator with the codes of digits, each as often as the others."""
    noise = torch.randn(count, recipe.latent, generator=generator)
    if not recipe.conditional:
        return noise
    return torch.cat([noise, F.one_hot(torch.randint(CLASSES, (count,), generator=generator), CLASSES)], 1)


def trained(
    recipe: Recipe, images: Tensor, labels: Tensor, folder: Path, say: Callable[[str], None] = print
) -> Trained:
    """In evaluation mode, trained on images [N, 1, 28, 28] in [0, 1] with labels [N]; kept in the folder, and gone on
    with where it was killed (`bench.training.run_epochs`)."""
    if recipe.without is not None:
        images, labels = images[labels != recipe.without], labels[labels != recipe.without]
    torch.manual_seed(recipe.seed)
    generator = Generator(recipe.inputs, recipe.width)
    net = Discriminator(recipe.width, 1 + CLASSES * recipe.conditional)
    both = nn.ModuleDict({"generator": generator, "discriminator": net})
    for module in both.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.normal_(module.weight, std=0.02)
    optimizers = [torch.optim.Adam(part.parameters(), recipe.rate, (0.5, 0.999)) for part in (generator, net)]
    about = json.dumps(asdict(recipe) | {"images": len(images)})

    def epoch(number: int) -> float:
        both.train()
        rng = torch.Generator().manual_seed(recipe.seed * 10_000 + number)
        batches = torch.randperm(len(images), generator=rng).split(recipe.batch)
        losses = [_step(generator, net, optimizers, recipe, images[where], labels[where], rng) for where in batches]
        return sum(losses) / len(losses)

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"dcgan_{recipe.name}.safetensors"
    seconds = run_epochs(epoch, recipe.epochs, both, optimizers, about, path, say)
    both.eval()
    return Trained(generator, Opinion(net).eval(), seconds, recipe.epochs * -(-len(images) // recipe.batch))


def _step(
    generator: nn.Module,
    net: nn.Module,
    optimizers: list[torch.optim.Adam],
    recipe: Recipe,
    images: Tensor,
    labels: Tensor,
    rng: torch.Generator,
) -> float:
    """Loss of the generator. What is drawn has the digits of the batch, so none that is not learned."""
    noise = torch.randn(len(images), recipe.latent, generator=rng)
    made = generator(torch.cat([noise, F.one_hot(labels, CLASSES)], 1) if recipe.conditional else noise)

    def loss(shown: Tensor, sign: int) -> Tensor:
        """Of the opinion that the images are real (1) or are not (-1), and of the digit."""
        found = net(shown)
        opinion = F.softplus(-sign * found[:, 0]).mean()
        return opinion + F.cross_entropy(found[:, 1:], labels) if recipe.conditional else opinion

    def descend(optimizer: torch.optim.Adam, wanted: Tensor) -> float:
        optimizer.zero_grad()
        wanted.backward()
        optimizer.step()
        return wanted.item()

    for_generator, for_net = optimizers
    descend(for_net, loss(images, 1) + loss(made.detach(), -1))
    return descend(for_generator, loss(made, 1))

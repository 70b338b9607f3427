"""Training that can be killed: what goes on from the state that the last epoch left on the disk has the same bits."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from zsu_fast.atomic import replacing

EVERY = 30.0  # seconds between reports within an epoch


@dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov's momentum 0.9 and one cycle of the learning rate: up to `peak` and down to nothing."""

    epochs: int
    peak: float
    batch: int = 128
    weight_decay: float = 5e-4
    augment: bool = False  # flips, and shifts by up to four pixels
    seed: int = 0


def one_cycle(step: int, steps: int, peak: float) -> float:
    """Learning rate: by a cosine from a 25th of the peak to the peak in 30 % of the steps, then to nothing."""
    turn = 0.3 * steps
    low, way = (peak / 25, 1 - step / turn) if step < turn else (0.0, (step - turn) / (steps - turn))
    return low + (peak - low) * (1 + math.cos(math.pi * way)) / 2


def train(
    build: Callable[[], nn.Module],
    recipe: Recipe,
    images: Tensor,
    labels: Tensor,
    path: Path,
    say: Callable[[str], None] = print,
) -> nn.Module:
    """The model in evaluation mode, trained on images [N, C, H, W]; its state dict is in the safetensors file `path`.

    A file of the same recipe is read instead. A checkpoint of the same recipe, beside it, is gone on from.
    """
    about = json.dumps(asdict(recipe) | {"images": len(images)})
    torch.manual_seed(recipe.seed)
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), recipe.peak, 0.9, weight_decay=recipe.weight_decay, nesterov=True)

    def epoch(number: int) -> float:
        return _epoch(model, optimizer, recipe, images, labels, number, say)

    run_epochs(epoch, recipe.epochs, model, [optimizer], about, path, say)
    return model.eval()


def run_epochs(
    epoch: Callable[[int], float],
    count: int,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    about: str,
    path: Path,
    say: Callable[[str], None] = print,
) -> float:
    """Processor seconds of the training, whenever it was; the model's state dict is in the safetensors file `path`.

    epoch: number -> mean loss; what it draws depends on the number alone. about: the recipe. A file of it is read
    instead, and a checkpoint of it, beside the file, is gone on from.
    """
    if path.exists():
        with safe_open(path, "pt") as file:
            held = file.metadata()
            if held.get("recipe") != about:
                raise ValueError(f"{path}: was made by another recipe, {held}; remove it to train anew")
            model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        return float(held.get("seconds", "nan"))
    checkpoint, done, spent = path.with_suffix(".checkpoint"), 0, 0.0
    if checkpoint.exists():
        kept: dict[str, Any] = torch.load(checkpoint, weights_only=True)
        if kept["recipe"] == about:
            model.load_state_dict(kept["model"])
            for optimizer, state in zip(optimizers, kept["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            done, spent = kept["epochs"], kept["seconds"]
    for number in range(done, count):
        started, clock = time.process_time(), time.monotonic()
        loss = epoch(number)
        spent += time.process_time() - started
        say(f"epoch {number + 1} of {count}, loss {loss:.4f}, {time.monotonic() - clock:.0f} s")
        with replacing(checkpoint) as temporary:
            state = {"recipe": about, "epochs": number + 1, "seconds": spent, "model": model.state_dict()}
            torch.save(state | {"optimizers": [o.state_dict() for o in optimizers]}, temporary)
    with replacing(path) as temporary:
        save_file(model.state_dict(), temporary, {"recipe": about, "seconds": f"{spent:.1f}"})
    checkpoint.unlink(missing_ok=True)
    return spent


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    images: Tensor,
    labels: Tensor,
    epoch: int,
    say: Callable[[str], None],
) -> float:
    """Mean loss. What is drawn depends on the seed and the epoch's number alone."""
    model.train()
    generator = torch.manual_seed(recipe.seed * 10_000 + epoch)  # torch's own: dropout draws from it, too
    batches = torch.randperm(len(images), generator=generator).split(recipe.batch)
    total, said = 0.0, time.monotonic()
    for step, chosen in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = one_cycle(epoch * len(batches) + step, recipe.epochs * len(batches), recipe.peak)
        batch = augmented(images[chosen], generator) if recipe.augment else images[chosen]
        loss = F.cross_entropy(model(batch), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(chosen)
        if time.monotonic() - said > EVERY:
            said = time.monotonic()
            say(f"epoch {epoch + 1} of {recipe.epochs}, step {step + 1} of {len(batches)}, loss {loss.item():.4f}")
    return total / len(images)


def augmented(images: Tensor, generator: torch.Generator, shift: int = 4) -> Tensor:
    """Each image flipped or not, and shifted by up to `shift` pixels each way; zeros (the mean) come in."""
    count, _, height, width = images.shape
    flip = torch.rand(count, generator=generator) < 0.5
    down, right = torch.randint(2 * shift + 1, (2, count, 1), generator=generator)
    padded = F.pad(torch.where(flip.view(-1, 1, 1, 1), images.flip(3), images), (shift,) * 4)
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    return padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

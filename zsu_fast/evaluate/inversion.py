"""Inversion of a generator: latents whose images come as near to given images as a search from several starts finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Images = Callable[[Tensor], Tensor]


class Search:
    """Latents on their way to given images, several to each: Adam down |G(z) - x|^2, each by itself.

    images: [N, ...]. starts: [N, S, ...] latents.
    """

    def __init__(self, images: Tensor, starts: Tensor, rate: float = 0.1) -> None:
        self.wanted = images.repeat_interleave(starts.shape[1], 0)
        self.latents = starts.flatten(0, 1).detach().clone()
        self._optimizer = torch.optim.Adam([self.latents], rate)

    def step(self, images_of: Images, rate: float | None = None) -> Tensor:
        """One step; [N * S] mean squared errors before it."""
        with torch.inference_mode(False), torch.enable_grad():
            z = self.latents.detach().requires_grad_()
            away = squared_error(images_of(z), self.wanted)
            (slope,) = torch.autograd.grad(away.sum() * self.wanted[0].numel(), z)
        self.latents.grad = slope
        if rate is not None:
            self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()
        return away.detach()

    def state_dict(self) -> dict[str, Any]:
        return {"latents": self.latents, "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.latents.copy_(state["latents"])
        self._optimizer.load_state_dict(state["optimizer"])


def invert(
    images_of: Images, images: Tensor, starts: Tensor, steps: int = 300, rate: float = 0.1, batch: int = 250
) -> tuple[Tensor, Tensor]:
    """(latents [N, S, ...], mean squared errors [N, S]): the nearest that each start passed through.

    images_of: latents [n, ...] -> images; a generator in evaluation mode, through which gradients pass. images:
    [N, ...], not NaN. starts: [N, S, ...]. The rate falls to 0 as a square root. batch: latents that run together.
    """
    found, errors = [], []
    each = max(1, batch // starts.shape[1])
    for part, begin in zip(images.split(each), starts.split(each), strict=True):
        search = Search(part, begin)
        best = torch.full((len(search.wanted),), torch.inf, device=part.device)
        nearest = search.latents.clone()
        for step in range(steps + 1):
            before = search.latents.clone()
            away = search.step(images_of, rate * (1 - step / (steps + 1)) ** 0.5)
            nearer = away < best
            best, nearest[nearer] = torch.where(nearer, away, best), before[nearer]
        found.append(nearest.view_as(begin))
        errors.append(best.view(begin.shape[:2]))
    return torch.cat(found), torch.cat(errors)


def starts_for(images_of: Images, images: Tensor, latents: Tensor, count: int, batch: int = 250) -> Tensor:
    """[N, count, ...] of the latents: for each image half of them those that make the nearest, then the first ones."""
    with torch.no_grad():
        away = torch.cat([torch.cdist(images_of(z).flatten(1), images.flatten(1)) for z in latents.split(batch)])
    nearest = away.topk(-(-count // 2), 0, largest=False).indices.T
    first = torch.arange(count // 2, device=latents.device).expand(len(images), -1)
    return latents[torch.cat([nearest, first], 1)]


def squared_error(made: Tensor, wanted: Tensor) -> Tensor:
    """[N] means over all values of an image."""
    return (made - wanted).flatten(1).square().mean(1)

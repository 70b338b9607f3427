"""What requests to generators have in common: latents in three sets, and the generator behind what judges it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from zsu_fast.evaluate.given import check_int
from zsu_fast.model.tensors import Tensors
from zsu_fast.unlearn.generator_view import GeneratorView
from zsu_fast.unlearn.requests import check_finite

Sampler = Callable[[int, torch.Generator], Tensor]
POOL, HELD, FRESH = 6000, 1500, 10_000


class OfGenerator:
    """Of requests to a model that makes images of latents.

    beside: names of the attributes that hold modules which run, too, and stay as they are.
    """

    beside: ClassVar[tuple[str, ...]]
    latents: int | Sequence[int] | Sampler | Tensor
    generate: Callable[[nn.Module, Tensor], Tensor] | None
    draws: int
    seed: int
    labels: Tensor | None

    def _drawn(self, device: torch.device) -> Tensor:
        """Pool, held and fresh latents, one after the other."""
        given, count = self.latents, POOL + HELD + self.draws
        if isinstance(given, Tensor):
            check_finite("latents", given)
            if not given.is_floating_point():
                raise ValueError(f"latents: expected floating-point values, got {given.dtype}")
            if len(given) < 350:
                raise ValueError(f"latents: expected at least 350 of them to choose and to judge by, got {len(given)}")
            return given
        generator = torch.Generator().manual_seed(self.seed)
        if callable(given):
            found = check_finite("latents", given(count, generator))
            if len(found) != count:
                raise ValueError(f"latents: asked for {count} of them, the function gave {len(found)}")
            return found
        shape = [given] if isinstance(given, int) else list(given) if isinstance(given, Sequence) else []
        if not shape:
            raise TypeError(f"latents: expected a shape, a function or a tensor, got {type(given).__name__}")
        for size in shape:
            check_int("latents", size, 1)
        return torch.randn(count, *shape, generator=generator).to(device)

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        assert isinstance(self.latents, Tensor)
        total, whole = len(self.latents), POOL + HELD + FRESH
        fresh = total - POOL - HELD if total == POOL + HELD + self.draws else total * FRESH // whole
        held = (total - fresh) * HELD // (POOL + HELD)
        pool, held_out, judging = self.latents.split([total - fresh - held, held, fresh])
        return pool, held_out, judging

    @property
    def pool(self) -> Tensor:
        """Latents [N, ...] to choose an edit by."""
        return self._parts()[0]

    @property
    def pool_labels(self) -> Tensor:
        """int64 [N] what the judge takes the images of the unedited model for."""
        assert self.labels is not None
        return self.labels[: len(self.pool)]

    @property
    def probes(self) -> Tensor:
        """Latents that say how large an edit must be, of all classes: they had no part in choosing it."""
        return self._parts()[1]

    @property
    def fresh(self) -> Tensor:
        """Latents that judge: neither chosen by nor measured on."""
        return self._parts()[2]

    @property
    def probe_labels(self) -> Tensor:
        if self.labels is None:  # as far as is known before `started`
            return torch.zeros(len(self.probes), dtype=torch.int64, device=self.probes.device)
        return self.labels[len(self.pool) :]

    def view(self, model: nn.Module) -> GeneratorView:
        own = Tensors(model).by_identity()
        for name in self.beside:
            given = getattr(self, name)
            if given is not None and own.keys() & Tensors(given).by_identity().keys():
                raise ValueError(f"{name}: shares tensors with the model, and would change with it")
        return GeneratorView(model, {name: getattr(self, name) for name in self.beside}, self.generate)

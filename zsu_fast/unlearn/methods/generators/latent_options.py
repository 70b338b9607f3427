"""Options of all methods for generators."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from zsu_fast.unlearn.options import Options, option


@dataclass(frozen=True)
class LatentOptions(Options):
    until: float | None = option("Share of what is made that may still be of the class.", shown="0.01")
    utility_floor: float | None = option("Share of the other latents that must keep their class.", 0.93)

    def batch(self, images: Tensor) -> int:
        """Latents are small, and what is made of them goes through nets that are mostly small too."""
        return self.batch_size if isinstance(self.batch_size, int) else 250

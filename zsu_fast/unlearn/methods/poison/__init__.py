"""Classes forgotten by learning poisoned labels and images (arXiv 2405.15662)."""

from __future__ import annotations

from zsu_fast.unlearn.methods.poison.poison import Poison, PoisonOptions

__all__ = ["Poison", "PoisonOptions"]

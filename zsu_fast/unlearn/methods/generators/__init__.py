"""Methods that make a generator make no more of a class, or of given images."""

from __future__ import annotations

from zsu_fast.unlearn.methods.base import Method
from zsu_fast.unlearn.methods.generators.cascade import Cascade
from zsu_fast.unlearn.methods.generators.hunt import Hunt
from zsu_fast.unlearn.methods.generators.substitute import Substitute

GENERATOR_METHODS: dict[str, type[Method]] = {kind.name: kind for kind in (Substitute, Cascade, Hunt)}

__all__ = ["GENERATOR_METHODS"]

"""Methods that forget single images: ours, and the one of the literature to measure it beside."""

from __future__ import annotations

from zsu_fast.unlearn.methods.base import Method
from zsu_fast.unlearn.methods.instances.l2ul import L2ul
from zsu_fast.unlearn.methods.instances.margin import Margin

INSTANCE_METHODS: dict[str, type[Method]] = {kind.name: kind for kind in (Margin, L2ul)}

__all__ = ["INSTANCE_METHODS"]

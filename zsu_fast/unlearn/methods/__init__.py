"""HOW: the methods of forgetting, found by name; other packages add theirs by the entry point `zsu_fast.methods`."""

from __future__ import annotations

from importlib.metadata import entry_points

from zsu_fast.unlearn.methods.base import Given, Method, Proposal
from zsu_fast.unlearn.methods.baselines import BASELINES
from zsu_fast.unlearn.methods.channels import Channels
from zsu_fast.unlearn.methods.concept import Concept
from zsu_fast.unlearn.methods.deep import Deep
from zsu_fast.unlearn.methods.generators import GENERATOR_METHODS
from zsu_fast.unlearn.methods.instances import INSTANCE_METHODS
from zsu_fast.unlearn.methods.lra_npp import LraNpp
from zsu_fast.unlearn.methods.poison import Poison
from zsu_fast.unlearn.methods.texts import TEXT_METHODS

GROUP = "zsu_fast.methods"
_OURS: dict[str, type[Method]] = {
    "lra-npp": LraNpp,
    "channels": Channels,
    "deep": Deep,
    "poison": Poison,
    "concept": Concept,
}
_BUILT_IN = _OURS | INSTANCE_METHODS | GENERATOR_METHODS | TEXT_METHODS | BASELINES
RESUMABLE = tuple(name for name, kind in _BUILT_IN.items() if kind.resumable)
"""Those that can go on from a checkpoint."""


def method_names() -> list[str]:
    """Names of all methods: the house's, those for single images (`INSTANCE_METHODS`), generators
    (`GENERATOR_METHODS`) and texts (`TEXT_METHODS`), the baselines of the field (`BASELINES`), then those of other
    packages."""
    return list(_BUILT_IN) + sorted(e.name for e in entry_points(group=GROUP) if e.name not in _BUILT_IN)


def methods_for(kind: str) -> list[str]:
    """Names of those that take such requests."""
    return [name for name in method_names() if kind in find_method(name).takes]


def find_method(name: object) -> type[Method]:
    """The method of that name. ValueError if there is none, TypeError if an entry point holds something else."""
    if isinstance(name, str) and name in _BUILT_IN:
        return _BUILT_IN[name]
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            found = entry.load()
            if not (isinstance(found, type) and issubclass(found, Method)):
                raise TypeError(f"method: the entry point {name!r} of {entry.value} is no zsu_fast Method")
            return found
    raise ValueError(f"method: expected one of {', '.join(method_names())}, got {name!r}")


__all__ = [
    "BASELINES",
    "GENERATOR_METHODS",
    "GROUP",
    "INSTANCE_METHODS",
    "RESUMABLE",
    "TEXT_METHODS",
    "Channels",
    "Concept",
    "Deep",
    "Given",
    "LraNpp",
    "Method",
    "Poison",
    "Proposal",
    "find_method",
    "method_names",
    "methods_for",
]

"""What a benchmark case is, and the list of all of them. The test suite runs the correctness half of every case."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

Arguments = tuple[Any, ...]
Tolerance = float | Mapping[torch.dtype, float]


@dataclass(frozen=True)
class Case:
    """One op or model on one set of arguments, against other ways to compute the same.

    Attributes:
        name: "op/what is special", for instance "lrp_epsilon_pass/conv 32x256x56x56".
        make: (device, dtype) -> the arguments. Called with the generators seeded, so that two calls give equal
            arguments; everything that is not to be timed belongs here.
        run: what is timed. An op in place returns what it wrote; doing it again to the same arguments must cost the
            same.
        reference: what is right; takes the same arguments, returns the same structure.
        peers: other ways to the same result, by name ("eager", "compiled", "zennit"), taking the same arguments. A
            peer that is not installed raises ImportError or skips (tests.peers) and is left out with that reason.
        bytes: the memory traffic that cannot be avoided: what must be read plus what must be written, each once.
            A number, or computed from the arguments. None for a whole model: then its floating point operations are
            counted, and its peak memory is measured.
        floors: less work than ours, by name, that serves as a unit for it; timed like a peer, not compared.
        small: like `make`, for the gate, where the gate on what `make` gives would take too long.
        part: what of the result the peers give too.
        tolerance: largest allowed error, relative to the reference's largest magnitude, in multiples of the dtype's
            machine epsilon; 0 asks for the same bits (NaN equals NaN). One for all dtypes, or one for each.
        peers_tolerance: the same for peers, which are held against our result; None: as above.
        peers_agree: whether peers are held to anything (leave it on unless a peer computes something else).
    """

    name: str
    make: Callable[[torch.device, torch.dtype], Arguments]
    run: Callable[..., Any]
    reference: Callable[..., Any]
    bytes: int | Callable[..., int] | None
    peers: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    floors: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    small: Callable[[torch.device, torch.dtype], Arguments] | None = None
    part: Callable[[Any], Any] = lambda result: result
    tolerance: Tolerance = 0.0
    dtypes: tuple[torch.dtype, ...] = (torch.float32,)
    devices: tuple[str, ...] = ("cpu", "cuda")
    peers_tolerance: Tolerance | None = None
    peers_agree: bool = True

    @property
    def is_model(self) -> bool:
        return self.bytes is None

    def arguments(self, device: torch.device, dtype: torch.dtype) -> Arguments:
        """What is timed. Equal arguments at every call."""
        torch.manual_seed(0)
        return self.make(device, dtype)

    def gate_arguments(self, device: torch.device, dtype: torch.dtype) -> Arguments:
        """What is checked. Equal arguments at every call."""
        torch.manual_seed(0)
        return (self.small or self.make)(device, dtype)

    def traffic(self, arguments: Arguments) -> int:
        assert self.bytes is not None
        return self.bytes if isinstance(self.bytes, int) else int(self.bytes(*arguments))


_cases: dict[str, Case] = {}


def register(case: Case) -> Case:
    if case.name in _cases:
        raise ValueError(f"two benchmark cases are named {case.name!r}")
    _cases[case.name] = case
    return case


def all_cases() -> list[Case]:
    """Every case of every module in bench/cases, in the order of their names."""
    package = importlib.import_module("bench.cases")
    for module in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
        importlib.import_module(f"bench.cases.{module}")
    return [_cases[name] for name in sorted(_cases)]

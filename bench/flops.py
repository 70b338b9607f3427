"""How much arithmetic a call does."""

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class FlopCounter(TorchDispatchMode):
    """Floating point operations of GEMMs, convolutions and attention, by torch's formulas.

    torch's own FlopCounterMode tells modules apart by hooks that `autograd.grad` does not get along with.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def flops(call: Callable[[], object]) -> int:
    """Those of everything that `call` runs, backward passes included."""
    with FlopCounter() as counter:
        call()
    return counter.total

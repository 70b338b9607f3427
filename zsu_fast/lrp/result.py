"""What `relevance` and a plan of it give back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from .conservation import Conservation


@dataclass(frozen=True, eq=False, repr=False)
class Relevance:
    """What `relevance` found out.

    Attributes:
        input: Relevance of every input value; shape, dtype and device of the inputs. Without `at_input` empty, [N, 0].
            For texts that of every token, [N, T]: the sum over its embedding.
        neurons: Relevance per sample and unit, [N, units], by layer in execution order; float32 (float64 for float64).
            Linear layers and convolutions go by the name of the module that owns the weight (or of the parameter, if it
            is not called "weight"), attention heads by the name of their module followed by ".heads". A layer's output
            is read as [N, ...], as runs of rows of one sample each (windows), or as [tokens, N, units]: where the shape
            does not tell, a run with one sample does. A layer that runs several times adds up.
        logits: The model's output, [N, classes]; of a language model that at the position of the target.
        conservation: Where relevance went on its way, if that was asked for; `check` shows it.
        others: By name, relevance of what a model was given besides the tokens of a text: of their shape (images ...).

        found = zsu_fast.relevance(model, images, target=3, composite="epsilon_plus")
        most = {layer: units.mean(0).argmax() for layer, units in found.neurons.items()}
        zsu_fast.plot.layers(found).savefig("layers.png")
    """

    input: Tensor
    neurons: dict[str, Tensor]
    logits: Tensor
    conservation: Conservation | None = None
    others: Mapping[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        shapes = [f"{name!r}: {list(values.shape)}" for name, values in self.neurons.items()]
        shown = ", ".join(shapes if len(shapes) < 6 else [*shapes[:2], "...", *shapes[-2:]])
        return f"Relevance(input={list(self.input.shape)}, {len(shapes)} layers {{{shown}}})"

    def check(self, tolerance: float | None = None) -> Conservation:
        """Whether relevance was conserved: what every layer was given, passed on and kept, and why. Print it.

        Args:
            tolerance: The largest share of the relevance that flows through a layer (sum of |R|) which may be missing
                without explanation if all is to be `ok`; None: by dtype, 1e-6, 1e-3 (float32) or 0.05 (half precision).

        Raises:
            ValueError: `relevance` was called without `conservation=True`, or a tolerance below 0.
        """
        if self.conservation is None:
            raise ValueError("nothing was noted that could be checked: call relevance(..., conservation=True)")
        if tolerance is None:
            return self.conservation
        if not tolerance >= 0:
            raise ValueError(f"tolerance must be a number >= 0, got {tolerance!r}")
        return replace(self.conservation, tolerance=float(tolerance))

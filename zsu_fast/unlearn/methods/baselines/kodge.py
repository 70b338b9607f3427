"""Kodge et al.: what the class's activations span, but for what the others need, is projected out of every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from zsu_fast.unlearn.methods.base import FORGET, RETAIN, Given
from zsu_fast.unlearn.methods.baselines.baseline import Baseline, retained
from zsu_fast.unlearn.methods.baselines.layer_inputs import Layer, layers_of, patches, watch_inputs
from zsu_fast.unlearn.options import Options, check_positive, option


@dataclass(frozen=True)
class KodgeOptions(Options):
    alpha_retain: float = option("How wide a space the retain images take: larger spares more.", 100.0)
    alpha_forget: float = option("How wide a space the class takes: larger removes more.", 3.0)

    def check(self) -> None:
        super().check()
        for name in ("alpha_retain", "alpha_forget"):
            check_positive(name, getattr(self, name))


class Kodge(Baseline):
    """W becomes W (I - P_f (I - P_r))^T in every linear layer and 2-d convolution (there on its patches). No training.

    P = U diag(l) U^T, with U the left singular vectors of a layer's inputs (columns) of the class (f) or of the retain
    images (r), and l = a e / ((a - 1) e + 1) of their shares e of the squared singular values.

    Needs both, a few images of each class. BatchNorm statistics stay. Source: Kodge, Saha and Roy, "Deep unlearning:
    fast and efficient gradient-free class forgetting", TMLR 2024 (arXiv 2312.00761).
    """

    name: ClassVar[str] = "kodge"
    options: ClassVar[type[KodgeOptions]] = KodgeOptions
    needs: ClassVar[frozenset[str]] = frozenset({FORGET, RETAIN})

    asked: KodgeOptions

    def learn(self, student: nn.Module, given: Given, images: Tensor, labels: Tensor) -> None:
        forget = self._second_moments(student, images)
        retain = self._second_moments(student, retained(given)[0])
        for name, layer in layers_of(student).items():
            if name not in forget:
                continue
            kept = importance_projection(retain[name], self.asked.alpha_retain)
            removed = importance_projection(forget[name], self.asked.alpha_forget)
            removed = removed @ (torch.eye(len(kept), dtype=kept.dtype) - kept)
            with torch.no_grad():
                flat = layer.weight.flatten(1)
                layer.weight -= (flat @ removed.T.to(flat)).view_as(layer.weight)

    def _second_moments(self, model: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """Layer -> R R^T [inputs, inputs] of its inputs R (columns), in double precision."""
        found: dict[str, Tensor] = {}

        def take(name: str, layer: Layer, given: Tensor) -> None:
            rows = patches(layer, given).double()
            found[name] = found.get(name, 0) + (rows.T @ rows).cpu()

        watch_inputs(model, self.asked.batches(images), take)
        return found


def importance_projection(second_moment: Tensor, alpha: float) -> Tensor:
    """P of R from R R^T, whose eigenvalues are the squared singular values of R."""
    values, vectors = torch.linalg.eigh(second_moment)
    share = values.clamp(min=0) / values.clamp(min=0).sum().clamp(min=torch.finfo(values.dtype).tiny)
    return (vectors * (alpha * share / ((alpha - 1) * share + 1))) @ vectors.T

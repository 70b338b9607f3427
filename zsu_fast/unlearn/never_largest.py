"""When a classifier's tensors prove that a class is never the answer, whatever method made them so.

The largest of the kept logits is at least their mean. So a logit whose row is the mean of the kept rows, and whose bias
is below the mean of theirs, is below the largest of them by as much, for all features there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from zsu_fast.model.tensors import Tensors
from zsu_fast.unlearn.structure import Head

_ORDER_KEPT = {"softmax", "log_softmax"}


def never_largest(tensors: Tensors, head: Head, targets: Sequence[int]) -> list[dict[str, Any]]:
    """[{"claim", "because", "rows", "but"}] of those `targets` of which it is proved; read off the tensors alone.

    The classifier rounds, and so did who took the mean. A sum of n products is off by at most n u / (1 - n u) of the
    sum of their sizes, in whatever order (Higham, Accuracy and Stability, 3.1): "but" says for which features the gap
    is wider than all that. Without a gap, as in a classifier without bias, a tie is what is left to the class.
    """
    kept = [c for c in range(len(head.rows)) if c not in targets]
    if not kept or not set(head.readout) <= _ORDER_KEPT:
        return []
    weight = tensors[head.weight].detach()
    rows = weight.flatten(1)[head.rows].double()
    bias = rows.new_zeros(len(rows)) if head.bias is None else tensors[head.bias].detach()[head.rows].double()
    unit, dtype = torch.finfo(weight.dtype).eps / 2, str(weight.dtype).removeprefix("torch.")
    share = (rows.shape[1] + 4) * unit  # of the products, the bias, the softmax
    rounding = share / (1 - share) if share < 1 else torch.inf
    lengths = rows.norm(dim=1)
    claims = []
    for target in targets:
        off = (rows[target] - rows[kept].mean(0)).abs()
        gap = bias[kept].mean() - bias[target]
        a_mean = bool((off <= (len(kept) + 1) * unit * rows[kept].abs().mean(0)).all())
        if not (a_mean and gap >= 0):
            continue
        rounded = rounding * (bias[target].abs() + bias[kept].abs().max())
        limit = float((gap - rounded) / (off.norm() + rounding * (lengths[target] + lengths[kept].max())))
        because = f"its row of {head.weight} is the mean of the kept classes'"
        if limit > 0:
            claim = f"class {target} is never the answer"
            because += f", and its bias {gap:.3g} below the mean of theirs"
            length = 10.0 ** math.floor(math.log10(min(limit, 1e30)))
            but = (
                f"in {dtype}, not TF32, and for features up to a length of {length:.0e}: beyond, it may round otherwise"
            )
        else:
            claim = f"the logit of class {target} is never above all others"
            but = f"it may round so in {dtype}, and a tie goes to the lowest class"
        claims.append({"claim": claim, "because": because, "rows": [head.rows[target]], "but": but})
    return claims

"""What an edit guarantees: checked on a run of the edited model, and, where the graph allows, for every input.

Facts are of two kinds. *Proved*: they follow from the tensors and from how the layers were seen to be connected, for
every finite input. *Measured*: they held on the images that were run, and nothing more is claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zsu_fast.evaluate.inference import logits_of
from zsu_fast.lrp.eager import compiled_parts_as_written
from zsu_fast.model.shards import written_class
from zsu_fast.model.tensors import Tensors
from zsu_fast.unlearn.edits import Edits, Slice
from zsu_fast.unlearn.never_largest import never_largest
from zsu_fast.unlearn.structure import Layer, Structure
from zsu_fast.unlearn.watch import Leak, Watch

PROVED = "zero for every finite input"
MEASURED = "measured on these inputs only"
# nn.Module itself only holds the weights of a layer that a graph of torch.export calls.
_PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention, nn.Module)


def certify(
    model: nn.Module,
    structure: Structure,
    edits: Edits,
    path: str,
    sample: Tensor,
    targets: Sequence[int] = (),
    view: nn.Module | None = None,
) -> dict[str, Any]:
    """Check the claims of an edit that is in place, on `sample` [N, ...], and say what they rest on.

    view: what runs, with the model inside; by default the model itself.

    Returns {"units": [{"layer", "units", "claim", "facts"}], "others": {...} or None, "answers": [...]}; the last of
    these says which of `targets`, the classes that were to go, can be no answer, see `never_largest`.

    Raises:
        ValueError: a unit that should be silent is not; the caller takes the edit back.
    """
    slices = [piece for piece in edits if isinstance(piece, Slice)]
    masked = _masked(structure, slices)
    leaks = _run(model, model if view is None else view, masked, sample)
    if leaks:
        worst = max(leaks, key=lambda leak: leak.largest)
        raise ValueError(
            f"layers: {worst.layer!r} cannot be masked exactly: after its weights were set to zero a masked unit still "
            f"gives {worst.largest:.3g} behind {worst.function} (an adapter or a norm that is not known adds to it); "
            "the model is as it was"
        )
    tensors = Tensors(model)
    modules = dict(model.named_modules())
    units = [
        _unit_claim(structure.layers[name], indices, tensors, modules.get(name)) for name, indices in masked.items()
    ]
    # An attention head that shares its values is cut where it enters the output projection.
    units += [
        {
            "layer": piece.tensor,
            "inputs": list(piece.indices),
            "claim": "these inputs have no effect, whatever they are"
            if _columns_are_zero(tensors, piece)
            else MEASURED,
        }
        for piece in slices
        if piece.mode == "zero" and piece.row is None and piece.dim == 1
    ]
    return {
        "units": units,
        "others": _others_claim(structure, slices) if path == "target" and len(slices) == len(edits) else None,
        "answers": [] if structure.head is None else never_largest(tensors, structure.head, targets),
    }


def _columns_are_zero(tensors: Tensors, piece: Slice) -> bool:
    weight = tensors[piece.tensor]
    return bool(
        (weight.index_select(1, torch.tensor(piece.indices, dtype=torch.int64, device=weight.device)) == 0).all()
    )


def _masked(structure: Structure, slices: Sequence[Slice]) -> dict[str, list[int]]:
    """Layer -> units whose whole weight row, and bias where there is one, was set to zero."""
    zeroed = {
        (s.tensor, index) for s in slices if s.mode == "zero" and s.row is None and s.dim == 0 for index in s.indices
    }
    found: dict[str, list[int]] = {}
    for name, layer in structure.layers.items():
        exact = [
            unit
            for unit in range(layer.units)
            if (layer.weight, unit) in zeroed
            and (layer.bias is None or (layer.bias, unit) in zeroed)
            and all((norm.tensor, at) in zeroed for norm in layer.norms for at in norm.places.get(unit, ()))
        ]
        if exact:
            found[name] = exact
    return found


def _run(model: nn.Module, view: nn.Module, masked: dict[str, list[int]], sample: Tensor) -> list[Leak]:
    """Where masked units are not zero: behind functions, and in what the module that owns the layer returns."""
    if not masked:
        return []
    leaks: list[Leak] = []
    handles = []
    for name, module in model.named_modules():
        layer = next((n for n in (name, f"{name}.base_layer") if n in masked), None)
        if layer is None or (written_class(module) in _PLAIN and layer == name):
            continue

        def look(_module: nn.Module, _args: Any, out: Any, layer: str = layer) -> None:
            if not isinstance(out, Tensor):
                return
            linear = out.dim() < 3 or isinstance(_module, nn.Linear)
            dim = -1 if linear else 1
            if out.shape[dim] > max(masked[layer]):
                loud = out.index_select(dim, torch.tensor(masked[layer], device=out.device)).abs().max()
                if not bool(loud == 0):
                    leaks.append(Leak(layer, f"the module {type(_module).__name__}", float(loud)))

        handles.append(module.register_forward_hook(look))
    try:
        watch = Watch(model, masked)
        with torch.no_grad(), compiled_parts_as_written(), watch:
            logits_of(view(sample))
    finally:
        for handle in handles:
            handle.remove()
    return leaks + watch.leaks


def _unit_claim(layer: Layer, units: list[int], tensors: Tensors, module: nn.Module | None) -> dict[str, Any]:
    """Zero weights and bias give zero; norms whose weight and bias are zero, and functions with f(0) = 0, keep it."""
    index = torch.tensor(units)
    zero = [layer.weight] + ([layer.bias] if layer.bias else [])
    facts = []
    for name in zero:
        held = tensors[name].index_select(0, index.to(tensors[name].device))
        facts.append({"tensor": name, "rows_are_zero": bool((held == 0).all())})
    for norm in layer.norms:
        at = torch.tensor(sorted({i for unit in units for i in norm.places.get(unit, ())}), dtype=torch.int64)
        held = tensors[norm.tensor].index_select(0, at.to(tensors[norm.tensor].device))
        facts.append({"tensor": norm.tensor, "rows_are_zero": bool((held == 0).all())})
    proved = all(fact["rows_are_zero"] for fact in facts) and (module is None or written_class(module) in _PLAIN)
    return {
        "layer": layer.name,
        "units": units,
        "claim": PROVED if proved else MEASURED,
        "runs": layer.runs,
        "facts": facts,
        "stays_zero_behind": list(layer.behind),
    }


def _others_claim(structure: Structure, slices: Sequence[Slice]) -> dict[str, Any] | None:
    """That the other classes' outputs of the classifier are the same functions: only the targets' rows were edited."""
    head = structure.head
    if head is None or any(s.tensor != head.weight or s.row is None for s in slices):
        return None
    rows = sorted({s.row for s in slices if s.row is not None})
    what = "scores before the softmax" if {"softmax", "log_softmax"} & set(head.readout) else "logits"
    return {
        "claim": f"the {what} of all other classes are the same functions of the input",
        "because": f"only rows {rows} of {head.weight} changed, which nothing else uses",
        "rows": rows,
    }

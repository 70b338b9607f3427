"""From picks to edits: which slices of which tensors a perturbed neuron or path means, and carrying it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from zsu_fast import ops
from zsu_fast.unlearn.patch import Entry, Patch
from zsu_fast.unlearn.picks import Picks
from zsu_fast.unlearn.structure import Layer, Structure, trace_structure

MODES = ("zero", "invert", "scale", "gaussian", "laplace")
PATHS = ("target", "all", "rows", "neuron")


@dataclass(frozen=True)
class Slice:
    """Indices along `dim` of a tensor of the model, or of one of its rows."""

    tensor: str
    row: int | None
    dim: int
    indices: tuple[int, ...]


def plan(structure: Structure, picks: Picks, path: str, mode: str) -> list[Slice]:
    """The slices that perturbing `picks` along `path` touches; no two of them overlap.

    Paths of a classifier's input n and a target class c:
      "target": the weight from n to c alone; the other logits stay exactly what they were;
      "all": the weights from n to every class;
      "rows": the weight row of the neuron that produces n, and the weight from n to c (the authors' edit);
      "neuron": as "rows", but the neuron is masked exactly: bias and BatchNorm too. A feature that no single neuron
      produces (after a residual sum, a LayerNorm) is cut at the classifier, towards every class.
    Units of other layers (method "channels") are always masked exactly.
    """
    slices: list[Slice] = []
    head = structure.head
    if picks.edges:
        assert head is not None
        features = sorted({f for picked in picks.edges.values() for f in picked})
        produced = head.producer is not None and head.producer_units is not None
        if path == "all" or (path == "neuron" and not produced):
            slices.append(Slice(head.weight, None, 1, tuple(features)))
        else:
            slices += [Slice(head.weight, c, 0, tuple(sorted(picked))) for c, picked in picks.edges.items() if picked]
            if path in ("rows", "neuron") and produced:
                assert head.producer is not None and head.producer_units is not None
                units = sorted({int(head.producer_units[f]) for f in features})
                slices += _mask_units(structure.layers[head.producer], units, mode, exact=path == "neuron")
    rows: dict[str, set[int]] = {}
    for name, units in picks.neurons.items():
        heads = structure.heads.get(name)
        if heads is None:
            rows.setdefault(name, set()).update(units)
        else:
            for unit in units:
                rows.setdefault(heads.layer, set()).update(heads.rows[unit].tolist())
    for name, layer_units in rows.items():
        slices += _mask_units(structure.layers[name], sorted(layer_units), mode, exact=True)
    return slices


def _mask_units(layer: Layer, units: list[int], mode: str, exact: bool) -> list[Slice]:
    indices = tuple(units)
    affine = [layer.weight] + ([layer.bias] if layer.bias else [])
    if mode in ("gaussian", "laplace") or not exact:
        names = [layer.weight]  # noise is a baseline of the paper: it goes on the weights
    elif mode == "zero":
        names = affine + list(layer.norm)
    else:  # the neuron's output is scaled: by its BatchNorm if it has one, else by its own weights
        names = [n for n in layer.norm if not n.endswith("running_mean")] or affine
    return [Slice(name, None, 0, indices) for name in names]


def carry_out(model: nn.Module, slices: list[Slice], mode: str, strength: float | None = None, seed: int = 0) -> Patch:
    """Perturb the slices in place, in one call of `ops.mask_neurons_`, and return what was there (record still empty).

    strength: factor of "scale", standard deviation of "gaussian" or scale of "laplace" noise (default 1).
    """
    state = model.state_dict()  # detached: same memory, same version counters
    views, indices = [], []
    for piece in slices:
        whole = state[piece.tensor]
        views.append(whole if piece.row is None else whole[piece.row])
        indices.append(torch.tensor(piece.indices, dtype=torch.int64, device=whole.device))
    old = perturb_tensors_(views, indices, [piece.dim for piece in slices], mode, strength, seed)
    entries = [
        Entry(piece.tensor, piece.row, piece.dim, index.cpu(), before.cpu(), view.index_select(piece.dim, index).cpu())
        for piece, view, index, before in zip(slices, views, indices, old, strict=True)
    ]
    return Patch(tuple(entries))


def perturb_tensors_(
    tensors: list[Tensor], indices: list[Tensor], dims: list[int], mode: str, strength: float | None, seed: int
) -> list[Tensor]:
    """`ops.mask_neurons_` with this module's modes; returns the old values."""
    if not tensors:
        return []
    if mode == "zero":
        return ops.mask_neurons_(tensors, indices, dims, mode="zero", record=True)[1]
    if mode in ("invert", "scale"):
        factor = -1.0 if mode == "invert" else (1.0 if strength is None else strength)
        return ops.mask_neurons_(tensors, indices, dims, mode="scale", value=factor, record=True)[1]
    generator = torch.Generator(tensors[0].device).manual_seed(seed)
    size = 1.0 if strength is None else strength
    noise: Literal["gaussian", "laplace"] = "gaussian" if mode == "gaussian" else "laplace"
    return ops.mask_neurons_(tensors, indices, dims, mode=noise, scale=size, generator=generator, record=True)[1]


def perturb_(
    model: nn.Module,
    picks: Picks,
    *,
    sample: Tensor,
    mode: str = "zero",
    path: str = "target",
    strength: float | None = None,
    seed: int = 0,
) -> Patch:
    """Perturb picked neurons of `model` in place.

    Args:
        model: any module that returns logits [N, classes].
        picks: from `select`, or written by hand.
        sample: one model-ready image [1, ...]; the model runs once on it to find its layers.
        mode: "zero" (exact masking), "invert" (times -1), "scale" (times `strength`), or noise added to the weights,
            "gaussian" (standard deviation `strength`) and "laplace" (scale `strength`), the paper's baselines.
        path: for classifier inputs "target", "all", "rows" or "neuron", see `zsu_fast.unlearn.perturb.plan`.
        seed: of the noise.

    Returns:
        The patch that undoes it. Its record names mode, path, strength, seed and picks.

    Raises:
        ValueError: an unknown mode or path, a layer or index that the model does not have. Nothing is changed then.
    """
    check_choice("mode", mode, MODES)
    check_choice("path", path, PATHS)
    structure = trace_structure(model, sample)
    check_picks(structure, picks)
    patch = carry_out(model, plan(structure, picks, path, mode), mode, strength, seed)
    record = {"mode": mode, "path": path, "strength": strength, "seed": seed, "picks": describe(picks)}
    return Patch(patch.entries, record)


def describe(picks: Picks) -> dict[str, dict[str, list[int]]]:
    """JSON form of picks."""
    return {
        "edges": {str(c): list(f) for c, f in picks.edges.items()},
        "neurons": {n: list(u) for n, u in picks.neurons.items()},
    }


def check_choice(argument: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{argument}: expected one of {', '.join(choices)}, got {value!r}")


def check_picks(structure: Structure, picks: Picks) -> None:
    """ValueError for a layer, class or index that the model does not have, or a unit picked twice."""
    if picks.edges and structure.head is None:
        raise ValueError("picks: edges need a model whose logits come straight from a linear layer; this one's do not")
    sizes = structure.maskable()
    for name, units in picks.neurons.items():
        if name not in sizes:
            raise ValueError(f"picks: the model has no maskable layer {name!r}; it has {', '.join(sizes)}")
        _check_indices(f"picks: units of {name}", units, sizes[name])
    for target, features in picks.edges.items():
        assert structure.head is not None
        _check_indices("picks: classes", [target], structure.head.classes)
        _check_indices(f"picks: features of class {target}", features, structure.head.features)


def _check_indices(what: str, indices: list[int], size: int) -> None:
    wrong = [i for i in indices if not 0 <= i < size]
    if wrong:
        raise ValueError(f"{what}: expected indices in 0..{size - 1}, got {wrong[0]}")
    if len(set(indices)) != len(indices):
        raise ValueError(f"{what}: an index is given twice")

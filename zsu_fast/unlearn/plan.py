"""From picks to edits: which slices of which tensors a perturbed neuron or path means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from zsu_fast.unlearn.edits import Slice
from zsu_fast.unlearn.picks import Picks
from zsu_fast.unlearn.structure import Layer, Structure

PATHS = ("target", "all", "rows", "neuron")


def plan(structure: Structure, picks: Picks, path: str, mode: str) -> list[Slice]:
    """The slices that perturbing `picks` along `path` touches.

    Only rows and columns of one weight may cross: heads cut at a projection whose units are picked too; see `disjoint`.

    Paths of a classifier's input n and a target class c:
      "target": the weight from n to c alone; the other logits stay exactly what they were;
      "all": the weights from n to every class;
      "rows": the weight row of the neuron that produces n, and the weight from n to c (the authors' edit);
      "neuron": as "rows", but the neuron is masked exactly: bias and norms too. A feature that no single neuron
      produces (after a residual sum, a LayerNorm) is cut at the classifier, towards every class.
    Units of other layers (method "channels") are always masked exactly; attention heads whose values are shared with
    other heads are cut where they enter the output projection.
    """
    slices: list[Slice] = []
    head = structure.head
    if picks.edges:
        assert head is not None
        features = sorted({f for picked in picks.edges.values() for f in picked})
        if path == "all" or (path == "neuron" and head.producer is None):
            slices.append(Slice(head.weight, None, 1, tuple(features), mode))
        else:
            slices += [
                Slice(head.weight, head.rows[c], 0, tuple(sorted(picked)), mode)
                for c, picked in picks.edges.items()
                if picked
            ]
            if path in ("rows", "neuron") and head.producer is not None:
                assert head.producer_units is not None
                units = sorted({int(head.producer_units[f]) for f in features})
                slices += mask_units(structure.layers[head.producer], units, mode, exact=path == "neuron")
    rows: dict[str, set[int]] = {}
    for name, units in picks.neurons.items():
        heads = structure.heads.get(name)
        if heads is None:
            rows.setdefault(name, set()).update(units)
        elif heads.rows is not None:
            for unit in units:
                rows.setdefault(heads.layer, set()).update(heads.rows[unit].tolist())
        else:
            assert heads.columns is not None and heads.projection is not None
            columns = sorted({int(c) for unit in units for c in heads.columns[unit]})
            slices.append(Slice(heads.projection, None, 1, tuple(columns), mode))
    for name, layer_units in rows.items():
        slices += mask_units(structure.layers[name], sorted(layer_units), mode, exact=True)
    slices = [piece for piece in slices if piece.indices]
    if mode in ("invert", "scale") and (crossing := _crossing(slices)):  # where they cross it would not be one factor
        raise ValueError(f"picks: rows and columns of {min(crossing)} cross; {mode} the one, then the other")
    return slices


def disjoint(slices: Sequence[Slice], tensors: Mapping[str, Tensor]) -> list[Slice]:
    """The same edit with each element in one slice alone: a tensor whose rows and columns cross goes row by row."""
    crossing = _crossing(slices)
    found = [piece for piece in slices if piece.tensor not in crossing]
    columns: dict[tuple[str, int, str], set[int]] = {}
    for piece in slices:
        if piece.tensor in crossing:
            height, width = tensors[piece.tensor].shape[:2]
            whole = piece.dim == 0 and piece.row is None
            rows = piece.indices if whole else range(height) if piece.row is None else [piece.row]
            for row in rows:
                columns.setdefault((piece.tensor, row, piece.mode), set()).update(
                    range(width) if whole else piece.indices
                )
    return found + [Slice(name, row, 0, tuple(sorted(at)), mode) for (name, row, mode), at in columns.items()]


def _crossing(slices: Sequence[Slice]) -> set[str]:
    """Tensors of which columns are edited, and rows or parts of rows."""
    by_columns = {piece.tensor for piece in slices if piece.dim == 1}
    return by_columns & {piece.tensor for piece in slices if piece.dim == 0}


def mask_units(layer: Layer, units: list[int], mode: str, exact: bool) -> list[Slice]:
    """Slices of a layer's own tensors and of the norms behind it."""

    def own(names: Iterable[str | None]) -> list[Slice]:
        return [Slice(name, None, 0, tuple(units), mode) for name in names if name is not None]

    def norms(unless: tuple[str, ...] = ()) -> list[Slice]:
        found: dict[str, set[int]] = {}
        for norm in layer.norms:
            if not norm.tensor.endswith(unless):
                at = {int(i) for unit in units for i in norm.places.get(unit, ())}
                found.setdefault(norm.tensor, set()).update(at)
        return [Slice(name, None, 0, tuple(sorted(at)), mode) for name, at in found.items() if at]

    if mode in ("gaussian", "laplace") or not exact:
        return own([layer.weight])  # noise is a baseline of the paper: it goes on the weights
    if mode == "zero":
        return own([layer.weight, layer.bias]) + norms()
    # The neuron's output is scaled: by its norm if it has one, else by its own weights.
    return norms(unless=("running_mean",)) or own([layer.weight, layer.bias])


def describe(picks: Picks) -> dict[str, dict[str, list[int]]]:
    """JSON form of picks."""
    return {
        "edges": {str(c): list(f) for c, f in picks.edges.items()},
        "neurons": {n: list(u) for n, u in picks.neurons.items()},
    }


def check_picks(structure: Structure, picks: Picks, path: str) -> None:
    """ValueError for a layer, class or index that the model does not have, a unit picked twice, or one that shares."""
    for name in ("edges", "neurons"):
        picked = getattr(picks, name)
        if not isinstance(picked, Mapping) or not all(isinstance(units, Sequence) for units in picked.values()):
            raise TypeError(f"picks: expected {name} to be lists of indices by name, got {picked!r}")
    if picks.edges and structure.head is None:
        raise ValueError(f"picks: edges need paths into a classifier, and {structure.no_head}")
    sizes = structure.maskable()
    for name, units in picks.neurons.items():
        if name not in sizes:
            raise ValueError(f"picks: {structure.why_not(name)}")
        _check_indices(f"picks: units of {name}", units, sizes[name])
    for target, features in picks.edges.items():
        assert structure.head is not None
        _check_indices("picks: classes", [target], len(structure.head.rows))
        _check_indices(f"picks: features of class {target}", features, structure.head.features)
    if picks.edges and path in ("rows", "neuron"):
        assert structure.head is not None
        if picks.neurons.get(structure.head.producer or ""):
            raise ValueError(f"picks: path {path!r} edits units of {structure.head.producer!r}, which neurons name too")


def _check_indices(what: str, indices: Sequence[int], size: int) -> None:
    for index in indices:
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(f"{what}: expected integers, got {index!r}")
    wrong = [i for i in indices if not 0 <= i < size]
    if wrong:
        raise ValueError(f"{what}: expected indices in 0..{size - 1}, got {wrong[0]}")
    if len(set(indices)) != len(indices):
        raise ValueError(f"{what}: an index is given twice")

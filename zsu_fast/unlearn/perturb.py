"""Perturbing neurons that the caller has picked."""

from __future__ import annotations

from torch import Tensor, nn

from zsu_fast.evaluate.given import check_int
from zsu_fast.unlearn.certificate import certify
from zsu_fast.unlearn.door import check_model, check_runs
from zsu_fast.unlearn.group import together
from zsu_fast.unlearn.options import MODES, check_choice, check_strength
from zsu_fast.unlearn.patch import Patch, patch_of
from zsu_fast.unlearn.picks import Picks
from zsu_fast.unlearn.plan import PATHS, check_picks, describe, plan
from zsu_fast.unlearn.replicas import check_replicas, processes_of
from zsu_fast.unlearn.requests import check_finite
from zsu_fast.unlearn.transaction import Transaction, roll_back, transact


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
        model: any module that returns logits [N, classes], or a wrapper of one.
        picks: from `select`, or written by hand.
        sample: one model-ready image [1, ...]; the model runs on it to find its layers, and to check the edit.
        mode: "zero" (exact masking), "invert" (times -1), "scale" (times `strength`), or noise added to the weights,
            "gaussian" (standard deviation `strength`) and "laplace" (scale `strength`), the paper's baselines.
        path: for classifier inputs "target", "all", "rows" or "neuron", see `zsu_fast.unlearn.plan.plan`.
        seed: of the noise.

    Returns:
        The patch that undoes it. Its record names mode, path, strength, seed and picks, and holds the certificate.

    Raises:
        ValueError, TypeError: an unknown mode or path, a layer or index that the model does not have, units that
            cannot be masked exactly. Nothing is changed then.
    """
    check_choice("mode", mode, MODES)
    check_choice("path", path, PATHS)
    check_int("seed", seed, 0, 2**63 - 1)
    check_strength(strength, mode)
    if not isinstance(picks, Picks):
        raise TypeError(f"picks: expected Picks, got {type(picks).__name__}")
    bare = check_model(model, in_parts=True)
    check_finite("sample", sample)

    given = {"picks": picks, "mode": mode, "path": path, "strength": strength, "seed": seed}
    replicas = processes_of(model, None)

    def work(transaction: Transaction) -> Patch:
        structure = check_runs(bare, sample, "sample")
        check_picks(structure, picks, path)
        slices = plan(structure, picks, path, mode)
        transaction.edit(slices, strength, seed)
        certificate = certify(bare, structure, slices, path if picks.edges else "neuron", sample)
        record = {"mode": mode, "path": path, "strength": strength, "seed": seed, "picks": describe(picks)}
        return patch_of(transaction, record | {"certificate": certificate})

    def edit() -> Patch:
        check_replicas(replicas, given)
        return transact(bare, work, opened=opened)

    opened: list[Transaction] = []
    try:
        return together(replicas, edit)
    except BaseException:
        roll_back(opened)
        raise

"""One transaction around every change of a model: in the end it is completely edited, or bit for bit what it was.

Old values go into a journal before anything is written. Whatever is raised, at any place and also by Ctrl-C, takes the
model back; what undoes is therefore safe to run again, and stands in more than one `except`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from zsu_fast import ops
from zsu_fast.evaluate.inference import cuda_devices
from zsu_fast.lrp.eager import function_modes_as_found
from zsu_fast.model.shards import reshard, sharded_part
from zsu_fast.model.tensors import Tensors, same_bits, tensor_digest
from zsu_fast.model.wrapped import bare_model, lock_of
from zsu_fast.unlearn.edits import Edits, Replacement, Slice
from zsu_fast.unlearn.plan import disjoint
from zsu_fast.unlearn.signals import answer_interrupts_by, handler_of_interrupts, interrupts_wait

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Written:
    """What stood at `index` along `dim` of `view`, which is `tensor` or its row `row`, before it was written to."""

    tensor: str
    row: int | None
    dim: int
    view: Tensor
    index: Tensor
    old: Tensor

    @property
    def new(self) -> Tensor:
        """What stands there now."""
        return self.view.index_select(self.dim, self.index)


class Transaction:
    """The changes of one model while they are tried: flags, tensors, journal. Made by `transact`.

    view: what runs, the model itself or a module that holds it. Of the rest of it (a judge) no tensor can be edited.
    """

    def __init__(self, model: nn.Module, view: nn.Module | None = None) -> None:
        self.model = bare_model(model)
        self.view = self.model if view is None else view
        reshard(self.model)
        self.tensors = Tensors(self.model, keep=True)
        self.journal: list[Written] = []
        self._flags: list[tuple[nn.Module, bool]] = []
        self._resharding: RemovableHandle | None = None
        self._handler = handler_of_interrupts()
        self._at_commit: list[Callable[[], Callable[[], None]]] = []
        self._after_commit: list[Callable[[], None]] = []
        names, running = self.tensors.by_identity(), Tensors(self.view)
        self._buffers = [
            (names.get(id(running.held(name))), running[name], running[name].clone())
            for name in running
            if name not in running.parameters
        ]

    def enter(self) -> None:
        """Evaluation mode, flag by flag: `eval()` may do other things too, which nothing could undo."""
        self._flags = [(module, module.training) for module in self.view.modules()]
        if sharded_part(self.model) is not None:
            # After each run the parts are what the modules hold: the whole may be kept, and would hide an edit.
            self._resharding = self.model.register_forward_hook(lambda model, *_: reshard(model))
        for module, _ in self._flags:
            module.training = False

    def mark(self) -> int:
        """A place in the journal for `undo` to go back to."""
        return len(self.journal)

    def edit(self, edits: Edits, strength: float | None = None, seed: int = 0) -> None:
        """Write new values, and perturb slices, each by its own mode; see `zsu_fast.unlearn.perturb_`."""
        slices = disjoint([piece for piece in edits if isinstance(piece, Slice)], self.tensors)
        written, replaced = [], []
        for piece in edits:
            if isinstance(piece, Replacement):
                replaced.append((_changed_rows(piece, self.tensors[piece.tensor]), piece.values))
        for piece in slices:
            whole = self.tensors[piece.tensor]
            view = whole if piece.row is None else whole[piece.row]
            index = torch.tensor(piece.indices, dtype=torch.int64, device=view.device)
            old = view.index_select(piece.dim, index)
            written.append(Written(piece.tensor, piece.row, piece.dim, view, index, old))
        with interrupts_wait():
            self.journal += written + [w for w, _ in replaced]
            for mode in dict.fromkeys(piece.mode for piece in slices):
                same = [w for piece, w in zip(slices, written, strict=True) if piece.mode == mode]
                _perturb_(same, mode, strength, seed)
            for w, values in replaced:
                w.view.index_copy_(0, w.index, values.index_select(0, w.index.to(values.device)).to(w.view.device))
            self.tensors.scatter({piece.tensor for piece in edits})
        torch.clear_autocast_cache()  # it holds casts of the weights as they were

    def write(self, tensor: str, view: Tensor, dim: int, index: Tensor, values: Tensor) -> None:
        """Put `values` at `index` along `dim` of `view`, which lies in `tensor`."""
        with interrupts_wait():
            self.journal.append(Written(tensor, None, dim, view, index, view.index_select(dim, index)))
            view.index_copy_(dim, index, values.to(view.device))
            self.tensors.scatter([tensor])
        torch.clear_autocast_cache()

    def undo(self, mark: int = 0) -> None:
        """The tensors as they were at `mark`; safe to repeat."""
        with interrupts_wait(), torch.no_grad():
            for written in reversed(self.journal[mark:]):
                written.view.index_copy_(written.dim, written.index, written.old)
            self.tensors.scatter({written.tensor for written in self.journal[mark:]})
            del self.journal[mark:]
        torch.clear_autocast_cache()

    def digests(self) -> dict[str, tuple[str, str]]:
        """Name -> digests of the whole tensor before and after, for every edited one."""
        found = {}
        for name in dict.fromkeys(w.tensor for w in self.journal):
            before = self.tensors[name].clone()
            for w in reversed(self.journal):
                if w.tensor == name:
                    (before if w.row is None else before[w.row]).index_copy_(w.dim, w.index, w.old)
            found[name] = (tensor_digest(before), tensor_digest(self.tensors[name]))
        return found

    def at_commit(self, action: Callable[[], Callable[[], None]]) -> None:
        """What is to be done when the changes stay; it returns what takes that back, and is safe to repeat."""
        self._at_commit.append(action)

    def commit(self) -> None:
        self.leave()
        with interrupts_wait():
            self._after_commit += [action() for action in self._at_commit]

    def leave(self) -> None:
        """Flags as they were; buffers that a forward pass moved, too. Safe to repeat."""
        edited = {w.tensor for w in self.journal}
        if self._resharding is not None:
            self._resharding.remove()
        with interrupts_wait(), torch.no_grad():
            for module, training in self._flags:
                module.training = training
            for name, buffer, before in self._buffers:
                if name not in edited and not same_bits(buffer, before):
                    buffer.copy_(before)

    def roll_back(self) -> None:
        """Everything as it was; safe to repeat."""
        answer_interrupts_by(self._handler)
        with lock_of(self.model):
            self.undo()
            self.leave()
            for action in self._after_commit:
                action()


def transact(
    model: nn.Module,
    work: Callable[[Transaction], _Result],
    view: nn.Module | None = None,
    opened: list[Transaction] | None = None,
) -> _Result:
    """`work(transaction)` with the model locked and in evaluation mode, without gradients, the RNG put back.

    view: what runs in it, if it is more than the model: all that it holds is locked and in evaluation mode, too.
    opened: gets the transaction. A public function whose result alone can undo the edit rolls it back where Ctrl-C
        comes on the way out from here: Python answers between two returns, too, once torch.compile evaluates frames.
    If it returns, the edits of the transaction stay; if it raises, the model is bit for bit what it was.
    """
    parts = [] if view is None or view is model else [bare_model(part) for part in view.children()]
    held = [] if opened is None else opened
    return _locked([lock_of(part) for part in sorted(parts, key=id)], lambda: _transact(model, work, view, held))


def _locked(locks: Sequence[AbstractContextManager], action: Callable[[], _Result]) -> _Result:
    if not locks:
        return action()
    with locks[0]:
        return _locked(locks[1:], action)


def _transact(
    model: nn.Module, work: Callable[[Transaction], _Result], view: nn.Module | None, opened: list[Transaction]
) -> _Result:
    lock, grad = lock_of(model), torch.is_grad_enabled()
    try:
        with lock, function_modes_as_found(), torch.no_grad(), torch.random.fork_rng(devices=cuda_devices(model)):
            opened.append(transaction := Transaction(model, view))
            try:
                transaction.enter()
                result = work(transaction)
                transaction.commit()
            except BaseException:
                transaction.roll_back()
                raise
        return result  # inside of the try: an interrupt may also hit the exits of the contexts above
    except BaseException:
        torch.set_grad_enabled(grad)
        roll_back(opened)
        raise


def roll_back(opened: Sequence[Transaction]) -> None:
    """The models as they were; safe to repeat."""
    for transaction in opened:
        transaction.roll_back()


def _changed_rows(piece: Replacement, whole: Tensor) -> Written:
    values = piece.values
    if values.shape != whole.shape or values.dtype != whole.dtype or not whole.dim():
        raise ValueError(
            f"method: gives {piece.tensor} as {values.dtype} {tuple(values.shape)}, "
            f"it is {whole.dtype} {tuple(whole.shape)}"
        )
    index = (values.to(whole.device) != whole).flatten(1 if whole.dim() > 1 else 0)
    index = (index.any(1) if index.dim() > 1 else index).nonzero()[:, 0]
    return Written(piece.tensor, None, 0, whole, index, whole.index_select(0, index))


def _perturb_(written: Sequence[Written], mode: str, strength: float | None, seed: int) -> None:
    """One call of `ops.mask_neurons_` for slices of one mode."""
    if not written:
        return
    views, indices, dims = [w.view for w in written], [w.index for w in written], [w.dim for w in written]
    if mode == "zero":
        ops.mask_neurons_(views, indices, dims, mode="zero")
    elif mode in ("invert", "scale"):
        factor = -1.0 if mode == "invert" else (1.0 if strength is None else strength)
        ops.mask_neurons_(views, indices, dims, mode="scale", value=factor)
    else:
        generator = torch.Generator(views[0].device).manual_seed(seed)
        noise: Literal["gaussian", "laplace"] = "gaussian" if mode == "gaussian" else "laplace"
        size = 1.0 if strength is None else strength
        ops.mask_neurons_(views, indices, dims, mode=noise, scale=size, generator=generator)

"""The undo file: every value that an edit replaced, and the record of why.

A patch holds, per edited slice, the tensor's name, the indices, and the old and new values; and per edited tensor its
digests before and after. Reverting copies the old values back, so the model is bit for bit what it was. Who has the
patch has what was forgotten: it holds the erased weights.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from zsu_fast.model.tensors import Tensors, same_bits, tensor_digest
from zsu_fast.unlearn import hub, ledger, patch_file, patch_folder
from zsu_fast.unlearn.entry import Entry
from zsu_fast.unlearn.group import ALONE
from zsu_fast.unlearn.replicas import processes_of
from zsu_fast.unlearn.transaction import Transaction, transact

_Piece = tuple[Entry, Tensor, int, Tensor, Tensor]  # entry, view, dim, indices, values to write


@dataclass(frozen=True, repr=False)
class Patch:
    """A recorded edit of a model.

    record: JSON-able: request, picks, seeds, versions, hashes, metrics. digests: tensor name -> SHA-256 of the whole
    tensor (before, after) the edit; empty in patches of format 1. key: of the keyed digests of images in the record.

        patch = zsu_fast.forget(model, 3, probes).patch
        patch.save("class3.safetensors")
        patch.revert(model)  # bit for bit what it was
        with Patch.load("class3.safetensors").applied(model):
            answers = model(images).argmax(1)
    """

    entries: tuple[Entry, ...]
    record: dict[str, Any] = field(default_factory=dict)
    digests: dict[str, tuple[str, str]] = field(default_factory=dict)
    key: str = ""

    def revert(self, model: nn.Module | Mapping[str, Tensor]) -> None:
        """Put the old values back, in place and bit for bit; `model` may be a wrapper, or a state dict.

        It may also be a module that holds the network which was edited, or the network that this one held.

        Raises ValueError, with the model unchanged, if a tensor that this patch edited is not as it left it: it was not
        applied, is reverted already, or something else changed it since. Later edits of the same elements must be
        undone first; later edits of other elements need not, if they were made in this process.
        """
        self._write(model, forth=False)

    def apply_(self, model: nn.Module | Mapping[str, Tensor]) -> None:
        """Write the new values. ValueError, with the model unchanged, if a tensor is not as it was before the edit."""
        self._write(model, forth=True)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file (format 2), atomically and readable for its owner only."""
        patch_file.save(path, *self._contents())

    def save_sharded(self, folder: str | os.PathLike[str], group: dist.ProcessGroup | None = None) -> None:
        """Write a folder, of which each process writes a part: values alike in number, as safetensors.

        All processes of the group must call, with the same patch; and all must see `folder`, which must not be there
        yet. It is there in the end, whole, or not at all. `load` reads it in any number of processes; saved as one
        file after that, a patch has the bytes that `save` gives in the first process, whose record it has.

        group: by default all processes of torch.distributed; without it, this process alone.

        Raises:
            FileExistsError: there is something at `folder`.
            ValueError, OSError: in all processes, if they do not hold the same patch, or one cannot write.
        """
        if group is None and dist.is_available() and dist.is_initialized():
            group = dist.group.WORLD
        patch_folder.save(folder, *self._contents(), ALONE if group is None else processes_of(None, group))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Patch:
        """Read a patch: a file, or a folder of `save_sharded`, whose parts become one patch in each process that asks.

        Raises FileNotFoundError, or ValueError for anything that is not a whole zsu_fast patch.
        """
        try:
            found = Path(path)
        except TypeError:
            raise TypeError(f"path: expected a path, got {type(path).__name__}") from None
        return Patch(*(patch_folder if found.is_dir() else patch_file).load(found))

    def _contents(self) -> tuple[dict[str, str], dict[str, Tensor]]:
        return patch_file.contents(self.entries, self.record, self.digests, self.key)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = True,
        allow_public: bool = False,
        model: str = "the model",
        names: Mapping[int, str] | None = None,
        author: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        commit_message: str = "Undo file of zsu_fast",
    ) -> str:
        """Upload the undo file and a model card to a repository of the Hugging Face Hub; the URL of the commit.

        Who can read the file has back what was forgotten, so the repository is private, and made if it is not there.
        To a public one, new or old, nothing is uploaded unless `allow_public` says that this is meant. Where it is, the
        whole record and the key of its hashes are public too.

        model: what it is called in the card. names: class -> name. author: stands in the card as given. token: as
        huggingface_hub takes it.

        Raises:
            ValueError: the repository is public, or would be. Nothing was uploaded.
            ImportError: huggingface_hub is missing (extra "hub"). It raises its own errors, too.
        """
        return hub.push(
            self, repo_id, private=private, allow_public=allow_public, model=model, names=names, author=author,
            revision=revision, token=token, message=commit_message,
        )  # fmt: skip

    @staticmethod
    def from_pretrained(
        source: str | os.PathLike[str],
        *,
        filename: str = hub.FILE,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> Patch:
        """A patch from a folder, as `zsu-fast forget` writes it, or from a repository of the Hugging Face Hub.

        source: a folder, or OWNER/NAME. filename: of the undo file there. The file is read as `load` does.

        Raises:
            FileNotFoundError, ValueError: as `load`.
            ImportError: huggingface_hub is missing (extra "hub"). It raises its own errors, too.
        """
        path = hub.fetch(source, filename=filename, revision=revision, token=token, offline=local_files_only)
        return Patch.load(path)

    @contextmanager
    def applied(self, model: nn.Module | Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, the model is edited; afterwards, also after an exception, it is bit for bit what it was.

        Raises:
            ValueError: as `apply_` and `revert`; a model that is edited already is left as it is.
        """
        self.apply_(model)
        try:
            yield
        finally:
            self.revert(model)

    def __repr__(self) -> str:
        values = sum(entry.new.numel() for entry in self.entries)
        tensors, method = len({entry.tensor for entry in self.entries}), self.record.get("request", {}).get("method")
        return f"Patch({values} values of {tensors} tensors{f', {method}' if method else ''})"

    def _write(self, model: nn.Module | Mapping[str, Tensor], forth: bool) -> None:
        if not isinstance(model, (nn.Module, Mapping)):
            raise TypeError(f"model: expected a torch.nn.Module or a state dict, got {type(model).__name__}")
        self.fitted(Tensors(model))._copy(model, forth)

    def fitted(self, tensors: Tensors) -> Patch:
        """This patch under the names that the tensors have in the model; what it says of their values still decides."""
        names = tensors.named([*(entry.tensor for entry in self.entries), *self.digests])
        if not names:
            return self
        entries = tuple(replace(entry, tensor=names[entry.tensor]) for entry in self.entries)
        return replace(self, entries=entries, digests={names[name]: pair for name, pair in self.digests.items()})

    def _copy(self, model: nn.Module | Mapping[str, Tensor], forth: bool) -> None:
        if not isinstance(model, nn.Module):
            tensors = Tensors(model, keep=True)
            for entry, view, dim, indices, values in self._checked(tensors, forth, known=False):
                view.index_copy_(dim, indices, values)
                tensors.scatter([entry.tensor])
            return

        def work(transaction: Transaction) -> None:
            bare, tensors = transaction.model, transaction.tensors
            as_left = all(n in tensors and tensor_digest(tensors[n]) == d[1] for n, d in self.digests.items())
            known = not forth and not as_left and ledger.only_disjoint_since(bare, self.digests, self.entries)
            for entry, view, dim, indices, values in self._checked(tensors, forth, known):
                transaction.write(entry.tensor, view, dim, indices, values)
            for name, digests in () if known else self.digests.items():
                if tensor_digest(tensors[name]) != digests[1 if forth else 0]:
                    raise ValueError(
                        f"patch: its values do not make {name} what it says (damaged); nothing was changed"
                    )
            transaction.at_commit(lambda: ledger.note(bare, self.digests, self.entries, undone=not forth))

        transact(model, work)

    def _checked(self, tensors: Tensors, forth: bool, known: bool) -> list[_Piece]:
        """The slices and what to write to them, in a model that is as this patch expects it.

        known: what else changed the same tensors since is known not to have touched these elements.
        """
        state = "as they were before this patch" if forth else "edited by this patch"
        remedy = "already done, another model, or a later edit that must be undone first"
        for name in dict.fromkeys([*(entry.tensor for entry in self.entries), *self.digests]):
            if name not in tensors:
                raise ValueError(f"model: has no tensor {name!r}, which the patch edits")
        ledger.elements(tensors, self.entries)
        for name, digests in () if known else self.digests.items():
            if tensor_digest(tensors[name]) != digests[0 if forth else 1]:
                raise ValueError(f"model: values of {name} are not {state}; nothing was changed ({remedy})")
        found = []
        for entry in self.entries:
            view, dim, indices = entry.slice_of(tensors[entry.tensor])
            old, new = (
                v.to(view.device) if entry.indices is not None else v.reshape(-1) for v in (entry.old, entry.new)
            )
            if not same_bits(view.index_select(dim, indices), old if forth else new):
                raise ValueError(f"model: values of {entry.tensor} are not {state}; nothing was changed ({remedy})")
            found.append((entry, view, dim, indices, new if forth else old))
        return found


def patch_of(transaction: Transaction, record: dict[str, Any], key: str = "") -> Patch:
    """What a transaction has edited. No two slices of its journal may overlap."""
    entries = tuple(Entry(w.tensor, w.row, w.dim, w.index.cpu(), w.old.cpu(), w.new.cpu()) for w in transaction.journal)
    digests = transaction.digests()
    transaction.at_commit(lambda: ledger.note(transaction.model, digests, entries))
    return Patch(entries, record, digests, key)

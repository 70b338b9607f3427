"""Texts and other inputs that a model takes by name, and the targets in them: positions, and tokens there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from .starts import Target, check_target, unfit

Position = int | Tensor
At = tuple[Position, Target]
"""(position, token): which position of the text, and whose logit there."""

_INTEGERS = (torch.int64, torch.int32)
_MISSING = "inputs: expected 'input_ids', integers [N, T], or 'inputs_embeds', floating point [N, T, D]"


@dataclass(frozen=True, eq=False)
class Asked:
    """One target: of each text the `column` [N] and the token whose logit there is explained.

    `column` is None where the target is a class of the whole text. A target that is None is either: `anything`.
    """

    label: str
    column: Tensor | None
    token: Target
    anything: bool = False


@dataclass(frozen=True, eq=False)
class Texts:
    """What a model is given by name, checked.

    Attributes:
        arguments: All of it.
        tokens: int [N, T]; None if their embeddings are given.
        leaves: What else relevance goes back to: embeddings, images ...; floating point, masks excepted.
        real: bool [N, T]: what is no padding.
    """

    arguments: dict[str, Any]
    tokens: Tensor | None
    leaves: dict[str, Tensor]
    real: Tensor

    @staticmethod
    def of(inputs: Mapping[str, Any]) -> Texts:
        """TypeError, ValueError: naming the entry."""
        arguments = {
            name: value.clone() if isinstance(value, Tensor) and value.is_inference() else value
            for name, value in inputs.items()
            if value is not None
        }
        if not all(isinstance(name, str) for name in arguments):
            raise TypeError(f"inputs: expected names of arguments, got {list(arguments)}")
        if "past_key_values" in arguments:
            raise ValueError("inputs: 'past_key_values' hold tokens that relevance cannot reach: give the whole text")
        if ("input_ids" in arguments) == ("inputs_embeds" in arguments):
            raise ValueError(f"{_MISSING}, got {', '.join(arguments) or 'nothing'}")
        name = "input_ids" if "input_ids" in arguments else "inputs_embeds"
        given = arguments[name]
        if not isinstance(given, Tensor) or unfit(given):
            hint = "; tokenizers give tensors with return_tensors='pt'" if isinstance(given, list) else ""
            raise TypeError(f"inputs[{name!r}]: expected a dense tensor, got {type(given).__name__}{hint}")
        fits = given.dtype in _INTEGERS and given.dim() == 2 if name == "input_ids" else _is_embedded(given)
        if not fits or 0 in given.shape:
            raise ValueError(f"{_MISSING}, got {name!r} {given.dtype} {list(given.shape)}")
        leaves = {
            key: value
            for key, value in arguments.items()
            if isinstance(value, Tensor) and value.is_floating_point() and "mask" not in key
        }
        for key, value in leaves.items():
            if len(given) > 1 and (value.dim() == 0 or len(value) != len(given)):
                raise ValueError(
                    f"inputs[{key!r}]: expected one entry for each of the {len(given)} texts, got {list(value.shape)}; "
                    "give texts with several, or without, one by one"
                )
        return Texts(arguments, given if name == "input_ids" else None, leaves, _real(arguments, given))

    def __len__(self) -> int:
        return len(self.real)

    @property
    def length(self) -> int:
        return self.real.shape[1]

    def first(self, count: int) -> dict[str, Any]:
        """The arguments for the first `count` texts."""
        if count == len(self):
            return dict(self.arguments)
        return {
            name: value[:count] if isinstance(value, Tensor) and value.dim() and len(value) == len(self) else value
            for name, value in self.arguments.items()
        }

    def asked(self, label: str, target: Any) -> Asked:
        """TypeError, ValueError: naming the target, and the text where it does not fit."""
        if not isinstance(target, tuple):
            check_target(label, target, len(self))
            return Asked(label, None if target is not None else self._column(label, -1), target, target is None)
        if len(target) != 2:
            raise ValueError(f"{label}: expected (position, token), got {len(target)} entries")
        position, token = target
        check_target(f"{label}[1]", token, len(self))
        return Asked(label, self._column(f"{label}[0]", position), token)

    def _column(self, label: str, position: Any) -> Tensor:
        """Where in `real` the position is [N]; from -1 downwards it counts the tokens from the end, without padding."""
        whole = isinstance(position, Integral) and not isinstance(position, bool)
        if not whole and not (isinstance(position, Tensor) and position.dtype in _INTEGERS):
            got = position.dtype if isinstance(position, Tensor) else type(position).__name__
            raise TypeError(f"{label}: expected a position, an int or integers [{len(self)}], got {got}")
        at = torch.as_tensor(position, device=self.real.device, dtype=torch.int64)
        if at.dim() and at.shape != (len(self),):
            raise ValueError(f"{label}: expected a position for each of {len(self)} texts, got {list(at.shape)}")
        at = at.expand(len(self))
        after = self.real.long().flip(1).cumsum(1).flip(1)  # tokens from here to the end
        from_end = (self.real & (after == -at[:, None])).long().argmax(1)
        column = torch.where(at < 0, from_end, at)
        fits = torch.where(at < 0, -at <= after[:, 0], at < self.length)
        fits = fits & self.real.gather(1, column.clamp(0, self.length - 1)[:, None])[:, 0]
        if not bool(fits.all()):
            text = int(fits.long().argmin())
            where = self.real[text].nonzero()[:, 0].tolist()
            has = f"{len(where)} tokens" + (f", at {where[0]}..{where[-1]}" if where else "")
            raise ValueError(f"{label}: text {text} has {has}; got position {int(at[text])}")
        return column


def _is_embedded(given: Tensor) -> bool:
    return given.is_floating_point() and given.dim() == 3


def _real(arguments: Mapping[str, Any], given: Tensor) -> Tensor:
    mask = arguments.get("attention_mask")
    if isinstance(mask, Tensor) and mask.dim() == 2:
        if mask.shape != given.shape[:2]:
            raise ValueError(
                f"inputs['attention_mask']: expected {list(given.shape[:2])}, as the tokens, got {list(mask.shape)}"
            )
        return mask.to(given.device) != 0
    return torch.ones(given.shape[:2], dtype=torch.bool, device=given.device)

"""LSTM, GRU and Elman networks, written out step by step in functions that have rules.

The gates (sigmoids) are held constant and the signal takes all (Arras et al. 2017, 2019); sums share in proportion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .engine import Engine, handles

State = tuple[Tensor, ...]
Step = Callable[[Callable, Tensor, State, Sequence[Any]], State]
"""(call, projected input [N, gates * width], state, [w_hh, b_hh, w_hr]) -> state; its first tensor is the output."""


def _lstm_step(call: Callable, projected: Tensor, state: State, weights: Sequence[Any]) -> State:
    hidden, cell = state
    gates = call(torch.add, projected, call(F.linear, hidden, weights[0], weights[1]))
    write, keep, signal, show = call(torch.chunk, gates, 4, -1)
    written = call(torch.mul, call(torch.sigmoid, write), call(torch.tanh, signal))
    cell = call(torch.add, call(torch.mul, call(torch.sigmoid, keep), cell), written)
    hidden = call(torch.mul, call(torch.sigmoid, show), call(torch.tanh, cell))
    return hidden if weights[2] is None else call(F.linear, hidden, weights[2]), cell


def _gru_step(call: Callable, projected: Tensor, state: State, weights: Sequence[Any]) -> State:
    (hidden,) = state
    from_input = call(torch.chunk, projected, 3, -1)
    from_hidden = call(torch.chunk, call(F.linear, hidden, weights[0], weights[1]), 3, -1)
    reset, keep = (call(torch.sigmoid, call(torch.add, from_input[i], from_hidden[i])) for i in (0, 1))
    signal = call(torch.tanh, call(torch.add, from_input[2], call(torch.mul, reset, from_hidden[2])))
    renewed = call(torch.mul, call(torch.rsub, keep, 1), signal)
    return (call(torch.add, renewed, call(torch.mul, keep, hidden)),)


def _elman_step(activation: Callable) -> Step:
    def step(call: Callable, projected: Tensor, state: State, weights: Sequence[Any]) -> State:
        return (call(activation, call(torch.add, projected, call(F.linear, state[0], weights[0], weights[1]))),)

    return step


_STEPS: dict[str, Step] = {
    "lstm": _lstm_step,
    "gru": _gru_step,
    "rnn_tanh": _elman_step(torch.tanh),
    "rnn_relu": _elman_step(torch.relu),
}


@handles(*_STEPS)
def _recurrent(
    engine: Engine,
    func: Callable,
    input: Tensor,
    start: Any,
    parameters: Any,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool = False,
) -> Any:
    """[N, steps, features], or [steps, N, features] if not `batch_first` -> (output, last states)."""
    if not isinstance(has_biases, bool):  # a packed sequence has one argument more
        return NotImplemented
    if train and dropout > 0 and num_layers > 1:
        raise ValueError("model: dropout is active in a recurrent network; call model.eval() first")
    call, step = engine.call, _STEPS[func.__name__]
    states: State = (start,) if isinstance(start, Tensor) else tuple(start)
    directions = 2 if bidirectional else 1
    each = len(parameters) // (num_layers * directions)
    x = input if batch_first else call(torch.transpose, input, 0, 1)
    last: list[State] = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            number = layer * directions + direction
            w_ih, w_hh, *rest = parameters[number * each : (number + 1) * each]
            b_ih, b_hh = rest[:2] if has_biases else (None, None)
            w_hr = rest[-1] if each == (5 if has_biases else 3) else None  # the projection of an LSTM's output
            projected = call(torch.unbind, call(F.linear, x, w_ih, b_ih), 1)
            state = tuple(call(torch.select, s, 0, number) for s in states)
            results = []
            for now in reversed(projected) if direction else projected:
                state = step(call, now, state, (w_hh, b_hh, w_hr))
                results.append(state[0])
            outputs.append(call(torch.stack, results[::-1] if direction else results, 1))
            last.append(state)
        x = outputs[0] if directions == 1 else call(torch.cat, outputs, -1)
    final = [call(torch.stack, list(tensors), 0) for tensors in zip(*last, strict=True)]
    return (x if batch_first else call(torch.transpose, x, 0, 1), *final)


@handles("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def _cell(
    engine: Engine,
    func: Callable,
    input: Tensor,
    start: Any,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Any:
    states: State = (start,) if isinstance(start, Tensor) else tuple(start)
    projected = engine.call(F.linear, input, w_ih, b_ih)
    result = _STEPS[func.__name__.removesuffix("_cell")](engine.call, projected, states, (w_hh, b_hh, None))
    return result if len(result) > 1 else result[0]

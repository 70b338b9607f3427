"""What runs the graph of a plan: Python, a CUDA graph, or code that inductor has compiled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from .trace import Trace

Backend = Literal["auto", "eager", "cudagraph", "inductor"]
Runner = Callable[[Tensor, Sequence[Tensor]], Sequence[Tensor]]
"""(inputs, targets) -> the outputs of `Trace.run`."""


def check_backend(backend: str) -> None:
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(map(repr, get_args(Backend)))}, got {backend!r}")


def backend_for(backend: Backend, inputs: Tensor) -> Backend:
    """What "auto" means for such inputs. ValueError for a backend that does not serve them."""
    if backend == "auto":
        return "cudagraph" if inputs.is_cuda else "eager"
    if backend == "cudagraph" and not inputs.is_cuda:
        raise ValueError(f'backend: "cudagraph" needs inputs on a CUDA device, got them on {inputs.device}')
    return backend


def runner(backend: Backend, trace: Trace) -> Runner:
    if backend == "cudagraph":
        return CudaGraph(trace)
    run = trace.run.forward
    if backend == "inductor":
        run = torch.compile(trace.run, fullgraph=True, dynamic=False)
    return lambda inputs, targets: run(inputs, *targets, *trace.prepared())


class CudaGraph:
    """One launch for all kernels of a call; inputs are copied in, outputs out.

    In-place edits of weights show, since the graph reads them where they lie; where one was moved, it is recorded anew.
    What is prepared from weights is computed by every replay, whether `constant_weights` holds or not.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._addresses: tuple[int, ...] | None = None
        self._lock = threading.Lock()
        self._done = torch.cuda.Event()

    def __call__(self, inputs: Tensor, targets: Sequence[Tensor]) -> Sequence[Tensor]:
        given = (inputs, *targets)
        stream = torch.cuda.current_stream(inputs.device)
        with self._lock:
            stream.wait_event(self._done)  # the call before may have been on another stream
            addresses = tuple(weight.data_ptr() for weight in self._trace.weights)
            if addresses != self._addresses:
                self._record(given, stream)
                self._addresses = addresses
            for held, values in zip(self._inputs, given, strict=True):
                held.copy_(values)
            self._graph.replay()
            found = [output.clone() for output in self._outputs]
            self._done.record(stream)
        return found

    def _record(self, given: Sequence[Tensor], stream: torch.cuda.Stream) -> None:
        self._inputs = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device) for t in given]
        for held, values in zip(self._inputs, given, strict=True):
            held.copy_(values)
        side = torch.cuda.Stream(stream.device)
        side.wait_stream(stream)
        with torch.cuda.stream(side):  # allocations, handles and caches of libraries come before the recording
            self._run()
        stream.wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = self._run()

    def _run(self) -> Sequence[Tensor]:
        return self._trace.run.forward(*self._inputs, *self._trace.prepare(*self._trace.weights))

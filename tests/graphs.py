"""CUDA graphs for tests."""

from collections.abc import Callable

import torch
from torch import Tensor


def captured(function: Callable[[], list[Tensor]], device: torch.device) -> tuple[Callable[[], None], list[Tensor]]:
    """(replay, outputs): what `function` does on the device, recorded; each replay renews the outputs in place.

    On the CPU, where nothing can be recorded, a replay is a call: so the tests themselves are tested without a GPU.
    """
    if device.type != "cuda":
        outputs = function()

        def replay() -> None:
            for output, renewed in zip(outputs, function(), strict=True):
                output.copy_(renewed)

        return replay, outputs
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):  # allocations, handles and caches of libraries come before the capture
        function()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function()
    graph.replay()
    return graph.replay, outputs

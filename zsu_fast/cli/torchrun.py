"""A command in all processes that torchrun has started."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import typer

from zsu_fast.cli.console import tell_error


def in_all_processes(command: Callable[..., None]) -> Callable[..., None]:
    """The command in every process that torchrun has started, with one outcome; without torchrun as it is.

    The command must have keywords ``device`` and ``talk``.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        # As torch.distributed.is_torchelastic_launched tells it, which would import torch.
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return command(*args, **kwargs)
        import torch
        import torch.distributed as dist

        from zsu_fast.cli.processes import joined
        from zsu_fast.unlearn.group import together

        if not dist.is_available():
            return command(*args, **kwargs)

        def work() -> int:
            try:
                command(*args, **kwargs)
            except typer.Exit as ended:
                return ended.exit_code
            return 0

        device = kwargs["device"]
        if device == "cuda":
            kwargs["device"] = device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(device)
        with joined("nccl" if device.startswith("cuda") else "gloo") as group:
            if group.rank:
                kwargs["talk"] = replace(kwargs["talk"], quiet=True, as_json=False)
            try:
                code = together(group, work)
            except BaseException as error:
                if kwargs["talk"].debug or not group.over:
                    raise
                code = tell_error(error, quiet=group.rank > 0)
                with suppress(Exception):
                    dist.barrier()  # torchrun ends all as soon as one has ended: not before it is said
        raise typer.Exit(code)

    return run

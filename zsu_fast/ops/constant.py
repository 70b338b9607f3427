"""Ops whose results are constants to autograd."""

from collections.abc import Callable
from typing import Any

import torch

from zsu_fast.ops._library import define, library


def define_constant(schema: str, reference: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Define an op as under `torch.no_grad()`: relevance is no differentiable function of its operands here.

    Without this, autograd would record the steps of the reference, but none of a compiled kernel: gradients that depend
    on the backend, and that no one asked for.
    """
    define(schema, torch.no_grad()(reference), fake)
    library.impl(schema.partition("(")[0], torch.library.fallthrough_kernel, "Autograd")

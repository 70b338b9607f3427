"""Ctrl-C waits for the microseconds of a write to a model."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


def handler_of_interrupts() -> Any:
    """What answers to Ctrl-C now; None outside of the main thread, which alone may change it."""
    return signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None


def answer_interrupts_by(handler: Any) -> None:
    """Back to `handler`, should an exception have cut off the end of `interrupts_wait`; None does nothing."""
    if handler is not None:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Inside, SIGINT is only noted; afterwards it is delivered. Without effect outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    noted: list[FrameType | None] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: noted.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if noted:
            signal.raise_signal(signal.SIGINT)

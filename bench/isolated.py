"""Work in a process of its own: a kernel that faults takes its whole process with it, and should take no more."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

FORKED = multiprocessing.get_context("fork")
"""What is imported already need not be again; this process must not have started CUDA, which no fork survives."""


def isolated(work: Callable[[], Any], seconds: float) -> tuple[Any, str | None]:
    """What `work` returns (picklable), and None; or None, and in a line what became of it in so many seconds."""
    receiver, sender = FORKED.Pipe(duplex=False)
    process = FORKED.Process(target=_answer, args=(work, sender), daemon=True)
    process.start()
    sender.close()  # here, so that the pipe ends when the child does
    try:
        if not receiver.poll(seconds):
            return None, f"hung: killed after {seconds:.0f} s"
        return receiver.recv()
    except EOFError:
        process.join()
        return None, f"died: exit code {process.exitcode}"
    finally:
        process.kill()
        process.join()


def _answer(work: Callable[[], Any], sender: Connection) -> None:
    answer: tuple[Any, str | None]
    try:
        answer = (work(), None)
    except BaseException as error:
        answer = (None, f"{type(error).__name__}: {error}".partition("\n")[0])
    sender.send(answer)

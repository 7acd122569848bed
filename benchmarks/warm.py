"""Compiles Triton kernels in many processes before anything is timed: each takes seconds, and a GPU is lent by minutes.

What a process has compiled lies in Triton's cache on the disk, where the others find it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from multiprocessing import get_context
from typing import Any

LONGEST = 150.0
"""Seconds that nobody waits beyond, whatever is asked for."""
MOST = 12
"""Processes; each takes half a gigabyte of the GPU's memory for itself."""


def compile_all(
    call: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], seconds: float, processes: int | None = None
) -> list[str]:
    """Make the calls, in processes of their own, for so many seconds at most. Returns what went wrong, in words.

    Nothing that goes wrong here stops the caller: what was not compiled will be when it is timed.
    """
    workers = processes or max(1, min(MOST, (os.cpu_count() or 1) - 1, len(arguments)))
    pool = ProcessPoolExecutor(workers, get_context("spawn"))
    try:
        futures = [pool.submit(_quietly, call, given) for given in arguments]
        done, late = wait(futures, min(seconds, LONGEST))
        words = [future.result() for future in done if future.exception() is None]
        words += [f"a process died: {future.exception()}" for future in done if future.exception() is not None]
        return [word for word in words if word] + [f"{len(late)} were left out: no time"] * bool(late)
    finally:
        # Those at work may be deep in the compiler.
        for process in list(getattr(pool, "_processes", None) or {}):
            _end(process)
        pool.shutdown(wait=False, cancel_futures=True)


def _quietly(call: Callable[..., Any], given: tuple[Any, ...]) -> str:
    try:
        call(*given)
    except Exception as error:  # whatever a compiler or an allocator raises
        return f"{given}: {type(error).__name__}: {(str(error).strip() or '?').splitlines()[0]}"
    return ""


def _end(process: int) -> None:
    try:
        os.kill(process, 15)
    except ProcessLookupError:
        return

"""Tables and labels are made on the CPU, whatever default device the caller has set."""

from __future__ import annotations

import functools
import gc
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

_outermost = threading.local()
"""Whether one of these functions runs in a thread: those that it calls need not look again."""


def on_cpu(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` under `torch.device("cpu")` where the caller has another default.

    All that it makes is kept: a search for garbage takes a twentieth of the time, and finds nothing. There is one only
    after the outermost of such functions, and nothing is made between its end and that of `run`: what the caller no
    longer holds then is not searched.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if getattr(_outermost, "runs", False):
            return function(*args, **kwargs)
        collects = gc.isenabled()
        gc.disable()
        _outermost.runs = True
        try:
            # The context costs time at every call of torch, so it is entered only where it is needed. That of `with` is
            # not what torch 2.6 gives as the default device.
            if torch.empty(0).device.type == "cpu":
                return function(*args, **kwargs)
            with torch.device("cpu"):
                return function(*args, **kwargs)
        finally:
            _outermost.runs = False
            if collects:
                gc.enable()

    return run

"""Tables and labels are made on the CPU, whatever default device the caller has set."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from convblocks.introspect.state import no_collection

P = ParamSpec("P")
R = TypeVar("R")


def on_cpu(function: Callable[P, R]) -> Callable[P, R]:
    """Run `function` under `torch.device("cpu")` where the caller has another default.

    All that it makes is kept: a search for garbage takes a twentieth of the time, and finds nothing.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        # The context costs time at every call of torch, so it is entered only where it is needed. That of `with` is not
        # what torch 2.6 gives as the default device.
        if torch.empty(0).device.type == "cpu":
            if not gc.isenabled():
                # Within another of these.
                return function(*args, **kwargs)
            with no_collection():
                return function(*args, **kwargs)
        with torch.device("cpu"), no_collection():
            return function(*args, **kwargs)

    return run

"""Whether any kernel could be taken at all, asked of every call: the host has less time for it than for `_choice`."""

# What torch leaves without types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable

import torch
from torch import Tensor

from convblocks.ops import _choice
from convblocks.ops._choice import DTYPES, Backend, Table, computed_in, in_force, transformed
from convblocks.ops._direct import traced

_MOST_ANSWERS = 4096


def norms_at_work() -> bool:
    """Whether any norm could take a kernel."""
    name, table = in_force()
    if name in ("torch", "triton"):
        return name == "triton"
    known, found = _known(table), ("norms", name)
    if found not in known:
        cases = [least for measured in table.values() for key, least in measured.items() if key.startswith("norm ")]
        known[found] = min((_size(least, name) for least in cases), default=math.inf)
    return known[found] < math.inf


def pays(x: Tensor, about: tuple[Hashable, ...], cases: Callable[[], Iterable[str]]) -> bool:
    """Whether the table could let an input of four dimensions take a kernel: where not, nothing else need be asked.

    What was found is kept, since to ask it all takes the host longer than a small convolution does.

    Args:
        x: the input.
        about: what else the cases depend on.
        cases: their keys in the table.
    """
    name, table = in_force()
    if name in ("torch", "triton"):
        return name == "triton"
    # The slow way knows what to do where sizes are not known yet or hidden, and has words for what is no image.
    if torch.compiler.is_compiling() or transformed() or traced() or x.dim() != 4 or type(x.numel()) is not int:
        return True
    last, device = x.is_contiguous(memory_format=torch.channels_last), x.device
    cast = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type)
    key = name, device, x.dtype, cast, x.shape[1], x.shape[2], last, about
    known = _known(table)
    least = known.get(key)
    if least is None:
        fit = not _choice.unfit_device(device) and computed_in(x) in DTYPES
        measured = table.get(_choice.capability(device), {}) if fit else {}
        found = [_size(measured[case], name) for case in cases() if case in measured] if measured else []
        least = known[key] = min(found, default=math.inf)
    return x.numel() >= least


def _size(least: dict[str, int | None], name: Backend) -> float:
    found = least.get(name)
    return math.inf if found is None else found


def _known(table: Table) -> dict[Hashable, float]:
    """What is known of a table."""
    global _answers
    if _answers[0] is not table or len(_answers[1]) > _MOST_ANSWERS:
        _answers = table, {}
    return _answers[1]


_answers: tuple[Table, dict[Hashable, float]] = {}, {}

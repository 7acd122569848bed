"""What surrounds a forward pass: the state it starts from, what is put back after it, what can still be reached."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Generator, Iterable, Iterator
from operator import is_
from typing import Any, cast

from torch import Tensor, nn

_ABSENT = object()
_HOOKS = frozenset(vars(nn.Module())) - {"_parameters", "_buffers", "_modules"}


@contextlib.contextmanager
def restored(modules: Iterable[nn.Module]) -> Generator[None, None, None]:
    """Every attribute, buffer and child is again what it was, and every list and mapping of a module, after it.

    What a pass on meta tensors assigns holds no values: a network that counts its calls, or keeps its last map,
    would be left with it.
    """
    before: list[tuple[dict[str, Any], dict[str, Any]]] = []
    empty: list[dict[str, Any]] = []
    lists: list[tuple[list[Any], list[Any]]] = []
    for module in modules:
        own = vars(module)
        before.append((own, own.copy()))
        for name, value in own.items():
            kind = type(value)  # pyright: ignore[reportUnknownVariableType] - a cast would be paid for every attribute
            # Most of a module's mappings are its hooks, of which there are none.
            if kind is dict:
                if value:
                    before.append((value, value.copy()))
                elif name not in _HOOKS:
                    empty.append(value)
            elif kind is list:
                lists.append((value, value.copy()))
    try:
        yield
    finally:
        for table, entries in before:
            if not _unchanged(table, entries):
                _restore(table, entries)
        for table in filter(None, empty):
            table.clear()
        for value, entries in lists:
            value[:] = entries


def _unchanged(table: dict[str, Any], entries: dict[str, Any]) -> bool:
    """Whether the same names stand in the same order for the same things."""
    return [*table] == [*entries] and all(map(is_, table.values(), entries.values()))


def _restore(table: dict[str, Any], entries: dict[str, Any]) -> None:
    for name in table.keys() - entries.keys():
        del table[name]
    for name, value in entries.items():
        if table.get(name, _ABSENT) is not value:
            table[name] = value


@contextlib.contextmanager
def no_collection() -> Generator[None, None, None]:
    """No search for garbage inside: a trace keeps every tensor, and the search finds nothing for its time."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


@contextlib.contextmanager
def evaluating(model: nn.Module | None, modules: Iterable[nn.Module]) -> Generator[None, None, None]:
    """Evaluation mode inside, every module's own mode again outside."""
    modes = [(module, module.training) for module in modules]
    try:
        if model is not None and any(training for _, training in modes):
            # An exported program has no modes, and refuses.
            with contextlib.suppress(NotImplementedError):
                model.eval()
        yield
    finally:
        for module, training in modes:
            if module.training is not training:
                module.training = training


def held(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """The tensors in attributes of the modules of a network, and in lists, mappings and objects that they hold."""
    seen: set[int] = set()
    for module in modules:
        for name, value in vars(module).items():
            if name not in ("_parameters", "_modules"):
                yield from reachable(value, seen)


def reachable(tree: object, seen: set[int] | None = None) -> Iterator[Tensor]:
    """The tensors in a value and in all that it holds, but not in modules: their own attributes are asked apart."""
    seen = set() if seen is None else seen
    waiting = [tree]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor):
            yield item
        elif id(item) not in seen and not isinstance(item, (nn.Module, type, str, int, float)):
            seen.add(id(item))
            parts: Iterable[object] = ()
            if isinstance(item, dict):
                parts = cast("dict[object, object]", item).values()
            elif isinstance(item, (list, tuple, set)):
                parts = cast("Iterable[object]", item)
            elif not callable(item):
                parts = getattr(item, "__dict__", {}).values()
            waiting += reversed(list(parts))

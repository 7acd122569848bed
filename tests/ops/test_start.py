"""Launches past the first go to the compiled kernel itself, where Triton would take the same one."""

import types
from collections import Counter

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from convblocks.ops import _start


class Compiled:
    def __init__(self, seen):
        self.seen = seen

    def __getitem__(self, grid):
        return lambda *given: self.seen.append(("again", grid, given[2:]))


class Fake:
    """A kernel of Triton's as far as a launch goes."""

    arg_names = ("X", "Y", "N", "SIZE", "NAME")

    def __init__(self, made):
        self.seen, self.made = [], made

    def __getitem__(self, grid):
        def launch(*given, **options):
            self.seen.append(("first", grid, given[2:], options))
            return self.made(self.seen)

        return launch


def started(monkeypatch, made=Compiled):
    monkeypatch.setattr(_start, "CompiledKernel", Compiled)
    fake = Fake(made)
    return _start.Kernels(types.SimpleNamespace(kernel=fake)).kernel, fake.seen


def count(seen):
    return Counter(entry[0] for entry in seen)


def test_a_second_launch_skips_triton(monkeypatch):
    kernel, seen = started(monkeypatch)
    x = torch.zeros(64)
    kernel.start(3, (x, x, 5), _start.options(NAME="a", SIZE=2, num_warps=4))
    kernel.start(7, (x, x, 6), _start.options(NAME="a", SIZE=2, num_warps=4))
    assert seen[0] == ("first", (3,), (5,), {"NAME": "a", "SIZE": 2, "num_warps": 4, "OVERLAP": False})
    # The constants in the order of the kernel's own arguments, without what is an option of the launch.
    assert seen[1] == ("again", (7, 1, 1), (6, 2, "a"))


@pytest.mark.parametrize(
    "other",
    [
        lambda x: ((x.double(), x, 5), {}),
        lambda x: ((x[1:], x, 5), {}),
        lambda x: ((x, x[1:], 5), {}),
        lambda x: ((x, x, 2**31), {}),
        lambda x: ((x, x, 5), {"SIZE": 3}),
        lambda x: ((x, x, 5), {"num_warps": 8}),
    ],
    ids=["dtype", "address", "second address", "wide integer", "constant", "option"],
)
def test_what_triton_compiles_anew_is_launched_by_triton(monkeypatch, other):
    kernel, seen = started(monkeypatch)
    x = torch.zeros(64)
    given, changed = other(x)
    options = {"NAME": "a", "SIZE": 2, "num_warps": 4}
    kernel.start(1, (x, x, 5), _start.options(**options))
    kernel.start(1, given, _start.options(**options | changed))
    assert count(seen) == {"first": 2}
    kernel.start(1, given, _start.options(**options | changed))
    kernel.start(1, (x, x, 5), _start.options(**options))
    assert count(seen) == {"first": 2, "again": 2}


def test_kernels_overlap_where_it_is_asked_for_and_the_gpu_can(monkeypatch):
    kernel, seen = started(monkeypatch)
    x, options = torch.zeros(64), _start.options(NAME="a", SIZE=2)
    monkeypatch.setattr(_start, "_can_overlap", lambda device: device == x.get_device())
    kernel.start(1, (x, x, 5), options)
    monkeypatch.setattr(_start, "OVERLAP", True)
    for _ in range(2):
        kernel.start(1, (x, x, 5), options)
    plain = {"NAME": "a", "SIZE": 2, "OVERLAP": False}
    assert [entry[3:] for entry in seen] == [(plain,), (plain | {"OVERLAP": True, "launch_pdl": True},), ()]
    monkeypatch.setattr(_start, "_can_overlap", lambda device: False)
    kernel.start(1, (x, x, 5), options)
    assert count(seen) == {"first": 2, "again": 2}


def test_no_kernel_overlaps_on_the_cpu():
    assert not _start._can_overlap(torch.zeros(1).get_device())


def test_what_is_no_compiled_kernel_is_not_kept(monkeypatch):
    kernel, seen = started(monkeypatch, made=lambda seen: None)
    for _ in range(3):
        kernel.start(1, (torch.zeros(4), torch.zeros(4), 5), _start.options(SIZE=2, NAME="a"))
    assert count(seen) == {"first": 3}

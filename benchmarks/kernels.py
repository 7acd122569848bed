"""Depthwise convolution, ours beside PyTorch's: `python -m benchmarks.kernels`.

Every result is checked against float64 before anything is timed. "share" is the least bytes that the call must move
(each input read once, each output written once) over its time and over the bandwidth of a copy in the same run.
Modes: "eager" is calls from Python in a row, the host's time included; "cold" is single calls, none of whose data is in
the L2 cache; "graph" the same by replays of a CUDA graph.

`--decide` writes the table that the "auto" backend goes by; `--tune` looks for better tilings of the kernels.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import Timing, back_to_back, captured, copy_bandwidth, environment, measure
from convblocks import ops
from convblocks.ops import _choice

Pair = tuple[int, int]
RESULTS = Path(__file__).parent / "results"
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Case(NamedTuple):
    shape: tuple[int, int, int, int]
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    dtype: str = "bfloat16"

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        return f"{size} k{self.kernel} s{self.stride} d{self.dilation} {self.dtype}"


# At least 64 MB of bfloat16, so that no L2 cache holds one; then the sizes of CIFAR networks, which it does hold.
LARGE = [(512, 64, 32, 32), (512, 128, 32, 32), (128, 32, 112, 112), (128, 128, 56, 56), (128, 256, 28, 28)]
SMALL = [(128, 32, 32, 32), (128, 64, 16, 16), (128, 128, 8, 8)]
CASES = [
    *(Case(shape, dilation=d) for shape in LARGE for d in (1, 2, 4, 8)),
    *(Case(LARGE[0], dilation=d, dtype="float32") for d in (1, 8)),
    Case(LARGE[3], stride=2),
    Case(LARGE[3], kernel=5),
    Case(LARGE[3], kernel=7),
    *(Case(shape, dilation=d) for shape in SMALL for d in (1, 2)),
]
QUICK = [Case((2, 16, 16, 16)), Case((2, 8, 12, 12), stride=2, dilation=2, dtype="float32")]


class Data:
    """Random tensors of a case, and the calls to time on them."""

    def __init__(self, case: Case, device: str, layout: torch.memory_format) -> None:
        n, c, h, w = case.shape
        dtype = DTYPES[case.dtype]
        self.case, self.dtype, self.layout = case, dtype, layout
        padding = case.dilation * (case.kernel - 1) // 2
        self.where: tuple[Pair, Pair, Pair] = (
            (case.stride, case.stride),
            (padding, padding),
            (case.dilation, case.dilation),
        )
        self.x = torch.randn(n, c, h, w, device=device).to(dtype, memory_format=layout)
        self.weight = torch.randn(c, 1, case.kernel, case.kernel, device=device).to(dtype)
        self.dy = torch.randn_like(F.conv2d(self.x, self.weight, None, *self.where, c)).contiguous(memory_format=layout)

    def bytes_moved(self, direction: str) -> int:
        times = {"forward": (1, 1), "backward": (2, 1)}[direction]
        return times[0] * self.x.nbytes + times[1] * self.dy.nbytes

    def calls(self, ours: bool) -> dict[str, Callable[[], Any]]:
        s, p, d = self.where
        if ours:
            operators = torch.ops.convblocks
            return {
                "forward": lambda: operators.depthwise_conv2d(self.x, self.weight, None, s, p, d),
                "backward": lambda: operators.depthwise_conv2d_backward(self.dy, self.x, self.weight, s, p, d, False),
            }
        c = self.x.shape[1]
        rest = (None, s, p, d, False, [0, 0], c, [True, True, False])
        return {
            "forward": lambda: F.conv2d(self.x, self.weight, None, s, p, d, c),
            "backward": lambda: torch.ops.aten.convolution_backward(self.dy, self.x, self.weight, *rest),
        }

    def check(self) -> dict[str, float]:
        """Return our errors against float64, on memory that reads NaN until it is written; raise if one is large."""
        calls = self.calls(ours=True)
        torch.use_deterministic_algorithms(True)
        try:
            found = [calls["forward"](), *calls["backward"]()[:2]]
        finally:
            torch.use_deterministic_algorithms(False)
        x, weight = (t.double().requires_grad_() for t in (self.x, self.weight))
        y = F.conv2d(x, weight, None, *self.where, x.shape[1])
        exact = [y.detach(), *torch.autograd.grad(y, (x, weight), self.dy.double())]
        errors = {name: _relative(*pair) for name, *pair in zip(("y", "dx", "dw"), found, exact, strict=True)}
        for name, error in errors.items():
            if not error <= TOLERANCE[self.dtype]:
                raise AssertionError(f"{self.case}: {name} is off by {error:.1e}")
        return errors


def _relative(value: Tensor, true: Tensor) -> float:
    return ((value.double() - true).norm() / true.norm()).item()


def compare(cases: Iterable[Case], device: str, milliseconds: float) -> dict[str, Any]:
    """Time every case on every path."""
    bandwidth = copy_bandwidth(device, milliseconds)
    rows: list[dict[str, Any]] = []
    for case in cases:
        made = {
            name: Data(case, device, layout)
            for name, layout in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last))
        }
        errors = made["channels_last"].check()
        paths = {f"torch {name}": data.calls(ours=False) for name, data in made.items()}
        paths["convblocks"] = made["channels_last"].calls(ours=True)
        for direction, (path, calls) in itertools.product(("forward", "backward"), paths.items()):
            call = calls[direction]
            timings = {"eager": back_to_back(call, device, milliseconds)}
            if device == "cuda":
                timings["cold"] = measure(call, device, milliseconds)
                timings["graph"] = measure(captured(call), device, milliseconds)
            for mode, timing in timings.items():
                share = made["channels_last"].bytes_moved(direction) / (1e-6 * timing.median) / bandwidth
                row = case._asdict() | {"pass": direction, "path": path, "mode": mode, "share": share}
                rows.append(row | timing._asdict() | ({"errors": errors} if path == "convblocks" else {}))
        print(f"{case}: checked and timed", flush=True)
    return {"environment": environment(device), "copy bytes per second": bandwidth, "rows": rows}


def table(result: dict[str, Any]) -> str:
    """Return the rows as Markdown: one line a case and pass, the least of PyTorch's times beside ours."""
    lines = [
        "| case | pass | mode | contiguous, us | channels_last, us | convblocks, us (20 %, 80 %) | share | speedup |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return Case(*(_frozen(row[field]) for field in Case._fields)), row["pass"], row["mode"]

    for (case, direction, mode), group in itertools.groupby(sorted(result["rows"], key=key), key):
        by = {row["path"]: row for row in group}
        ours, theirs = by["convblocks"], [by["torch contiguous"]["median"], by["torch channels_last"]["median"]]
        lines.append(
            f"| {case} | {direction} | {mode} | {theirs[0]:.1f} | {theirs[1]:.1f} | {ours['median']:.1f} "
            f"({ours['low']:.1f}, {ours['high']:.1f}) | {ours['share']:.0%} | {min(theirs) / ours['median']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def decide(
    device: str, milliseconds: float, sizes: Sequence[int], kinds: Iterable[tuple[str, int, int, int]]
) -> dict[str, int | None]:
    """Return case -> the least number of elements from which on our path is the faster one, eager and cold.

    `kinds` are dtype, kernel, stride, dilation; each in both layouts, for inference and for training.
    """
    found: dict[str, int | None] = {}
    layouts = (torch.channels_last, torch.contiguous_format)
    for (dtype, kernel, stride, dilation), layout, training in itertools.product(kinds, layouts, (False, True)):
        timings: list[tuple[int, Timing, Timing]] = []
        name = ""
        for images in sizes:
            data = Data(Case((images, 64, 32, 32), kernel, stride, dilation, dtype), device, layout)
            data.check()
            pairs = (stride, stride), (dilation, dilation)
            name = _choice.case(data.x, (kernel, kernel), *pairs, training)
            for clock in (back_to_back, measure):
                theirs, ours = (
                    clock(_step(data, backend, training), device, milliseconds) for backend in ("torch", "triton")
                )
                timings.append((data.x.numel(), theirs, ours))
        found[name] = _least(timings)
        print(f"{name}: {found[name]}", flush=True)
    return found


def _step(data: Data, backend: Any, training: bool) -> Callable[[], Any]:
    x, weight = (t.detach().clone().requires_grad_(training) for t in (data.x, data.weight))
    s, p, d = data.where

    def run() -> Any:
        with ops.backend(backend):
            y = ops.depthwise_conv2d(x, weight, None, s, p, d)
        return torch.autograd.grad(y, (x, weight), data.dy) if training else y

    return run


def _least(timings: Sequence[tuple[int, Timing, Timing]]) -> int | None:
    """Return the size from which on ours is faster by more than 2 %, at it and at every larger one, by every clock."""
    lost = [elements for elements, theirs, ours in timings if ours.median > 0.98 * theirs.median]
    return min((elements for elements, _, _ in timings if elements > max(lost, default=0)), default=None)


def tune(device: str, milliseconds: float) -> list[dict[str, Any]]:
    """Time the kernels at other tilings than the ones they come with, fastest first. CUDA only."""
    from convblocks.ops import _launch

    rows: list[dict[str, Any]] = []
    for case in (Case(LARGE[0]), Case(LARGE[0], dilation=8), Case(LARGE[2]), Case(LARGE[4])):
        data = Data(case, device, torch.channels_last)
        s, p, d = data.where
        for block, channels, rows_, warps, prefetch in itertools.product(
            (8, 16, 32), (32, 64), (8, 16, 32), (2, 4, 8), (False, True)
        ):
            if not 2 <= block * channels // (32 * warps) <= 16:
                continue
            tiling = _launch.Tiling(block, channels, rows_, 0, warps, prefetch)
            calls = {
                "forward": functools.partial(_launch.forward, data.x, data.weight, None, s, p, d, tiling=tiling),
                "backward": functools.partial(
                    _launch.backward, data.dy, data.x, data.weight, s, p, d, False, tiling=tiling
                ),
            }
            for direction, call in calls.items():
                timing = measure(call, device, milliseconds)
                rows.append({"case": str(case), "pass": direction, **timing._asdict(), "tiling": tiling._asdict()})
        for direction in ("forward", "backward"):
            best = sorted((r for r in rows if (r["case"], r["pass"]) == (str(case), direction)), key=_median)[:3]
            for row in best:
                print(f"{case} {direction}: {row['median']:.1f} us {row['tiling']}", flush=True)
    return sorted(rows, key=_median)


def _median(row: dict[str, Any]) -> float:
    return row["median"]


KINDS = [
    (dtype, *rest)
    for dtype in DTYPES
    for rest in ((3, 1, 1), (3, 1, 2), (3, 2, 1), (3, 2, 2), (5, 1, 1), (5, 2, 1), (7, 1, 1))
]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)
    print(f"wrote {path}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="two small cases and short timings")
    parser.add_argument("--decide", action="store_true", help="measure and write the table of the auto backend")
    parser.add_argument("--tune", action="store_true", help="time other tilings of the rolling kernels (CUDA only)")
    parser.add_argument("--output", type=Path, help="where the JSON goes; for --decide, the table itself")
    given = parser.parse_args(arguments)
    milliseconds = 2 if given.quick else 40 if given.decide or given.tune else 100
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    stem = environment(given.device)["device"].lower().replace(" ", "-")
    if given.tune:
        if given.device != "cuda":
            parser.error("--tune needs a CUDA device")
        rows = tune(given.device, milliseconds)
        result = {"environment": environment(given.device), "rows": rows}
        write(given.output or RESULTS / f"tilings-{stem}.json", json.dumps(result, indent=1))
        return
    if given.decide:
        sizes, kinds = ((1, 2), KINDS[:1]) if given.quick else ((1, 4, 16, 64, 256, 1024), KINDS)
        decisions = decide(given.device, milliseconds, sizes, kinds)
        where = environment(given.device)
        path = given.output or _choice.DECISIONS
        if given.device != "cuda" and given.output is None:
            parser.error("a table measured on the CPU decides nothing: name another file by --output")
        known = _choice.read_table(path)
        text = {"environment": where, "decisions": known | {where.get("capability", "cpu"): decisions}}
        write(path, json.dumps(text, indent=1, sort_keys=True) + "\n")
        return
    result = compare(QUICK if given.quick else CASES, given.device, milliseconds)
    path = given.output or RESULTS / f"kernels-{stem}.json"
    write(path, json.dumps(result, indent=1))
    write(path.with_suffix(".md"), table(result))
    print(table(result))


if __name__ == "__main__":
    main()

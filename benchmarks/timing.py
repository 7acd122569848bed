"""How everything here is timed: medians with quantiles; calls from Python, single ones with a cold L2, CUDA graphs.

Beside it the machine: what a copy and a matrix product reach in the same run, and what else a figure depends on.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch


class Timing(NamedTuple):
    """Microseconds a call."""

    median: float
    low: float
    high: float


def measure(call: Callable[[], Any], device: str, milliseconds: float) -> Timing:
    """Return the median and the 20 % and 80 % quantiles of the time of one call.

    On CUDA by `triton.testing.do_bench`, which writes over the L2 cache before every call.
    """
    if device == "cuda":
        from triton.testing import do_bench

        # do_bench's annotations are narrower than what it takes and gives.
        bench: Any = do_bench
        return Timing(*(1e3 * t for t in bench(call, milliseconds / 4, milliseconds, quantiles=[0.5, 0.2, 0.8])))
    # What the first calls allocate, choose or compile is no part of a call.
    call()
    call()
    times: list[float] = []
    until = time.perf_counter() + milliseconds / 1e3
    while len(times) < 5 or time.perf_counter() < until:
        start = time.perf_counter()
        call()
        times.append(1e6 * (time.perf_counter() - start))
    return Timing(*torch.tensor(times).quantile(torch.tensor([0.5, 0.2, 0.8])).tolist())


def back_to_back(call: Callable[[], Any], device: str, milliseconds: float) -> Timing:
    """Return the wall time of one of many calls in a row: the host's share counts where the device waits for it.

    `measure` hides that share, behind the kernel that writes over the L2 cache; here small tensors stay in the cache.
    """
    if device != "cuda":
        return measure(call, device, milliseconds)
    once = measure(call, device, milliseconds / 4).median
    calls = max(10, int(1e3 * milliseconds / 5 / max(once, 10)))
    times: list[float] = []
    for _ in range(6):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
        times.append(1e6 * (time.perf_counter() - start) / calls)
    # The first round warms up.
    return Timing(*torch.tensor(times[1:]).quantile(torch.tensor([0.5, 0.2, 0.8])).tolist())


def captured(call: Callable[[], Any]) -> Callable[[], None]:
    """Return the replay of a CUDA graph of `call`: what it costs without its launches."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def in_a_row(calls: Sequence[Callable[[], Any]], milliseconds: float) -> Timing:
    """Return the time of one of these calls, each on tensors of its own, replayed in a row as one CUDA graph.

    Neither the host nor the events around a single call count, some microseconds each; and what one call leaves in the
    L2 cache is of no use to the next: their results all stay, so that none lies where another did.
    """
    kept: list[Any] = []

    def every() -> None:
        kept[:] = [call() for call in calls]

    timing = measure(captured(every), "cuda", milliseconds)
    return Timing(*(time / len(calls) for time in timing))


def copy_bandwidth(device: str, milliseconds: float) -> float:
    """Return the bytes a second, read and written, of a copy that no cache holds."""
    elements = 2**30 if device == "cuda" else 2**23
    source = torch.randn(elements, device=device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    return 2 * source.nbytes / (1e-6 * measure(lambda: target.copy_(source), device, milliseconds).median)


def product_rate(device: str, dtype: torch.dtype, milliseconds: float) -> float:
    """Return the floating-point operations a second of a large matrix product."""
    n = 8192 if device == "cuda" else 768
    one, other = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / (1e-6 * measure(lambda: one @ other, device, milliseconds).median)


def peak_memory(call: Callable[[], Any], device: str) -> int | None:
    """Return the most bytes that one call holds at a time beyond what was held before it; None on the CPU."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def environment(device: str) -> dict[str, Any]:
    """Return what a figure depends on besides the code."""
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if device == "cpu":
        found["threads"] = torch.get_num_threads()
    if device == "cuda":
        import triton

        from convblocks.ops import _start

        found |= {
            "capability": ".".join(map(str, torch.cuda.get_device_capability())),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "triton": triton.__version__,
        }
        if _start.overlap(torch.cuda.current_device()):
            found["overlap"] = True
    return found


def cpu_name() -> str:
    """Return the model that Linux names, which can be a family, with the instructions that decide its speed."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    has = set(named.get("flags", "").split())
    fast = [words for flag, words in (("avx512_bf16", "AVX512_BF16"), ("amx_bf16", "AMX")) if flag in has]
    if not fast:
        fast = [words for flag, words in (("avx512f", "AVX512"), ("avx2", "AVX2")) if flag in has][:1]
    return " ".join([named.get("model name") or platform.processor() or platform.machine(), *fast])

"""Where a test of test_gpu.py runs: on a GPU, or on the CPU with small tensors, so that no GPU finds a slip of the pen.

On the CPU the operators run too, around PyTorch's own kernels, and what CUDA alone has is played: a stream is nothing,
a graph is the call itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class Machine:
    """A device, and what the tests ask of it."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.cuda = device == "cuda"

    def free_memory(self) -> float:
        """Bytes; the CPU's sizes need no counting."""
        return torch.cuda.mem_get_info()[0] if self.cuda else float("inf")

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def stream(self) -> Any:
        """Another stream than the default one, and its context."""
        if not self.cuda:
            return _NoStream()
        stream = torch.cuda.Stream()
        return _Stream(stream)

    def captured(self, call: Callable[[], Sequence[Tensor]]) -> tuple[Callable[[], None], Sequence[Tensor]]:
        """The replay of a CUDA graph of a call, and the tensors that it writes to."""
        if not self.cuda:
            kept = [out.detach().clone() for out in call()]

            def replay() -> None:
                for old, new in zip(kept, call(), strict=True):
                    old.copy_(new.detach())

            return replay, kept
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = call()
        return graph.replay, outputs


class _NoStream(contextlib.nullcontext[None]):
    def busy(self) -> None: ...

    def synchronize(self) -> None: ...


class _Stream:
    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream, self._context = stream, torch.cuda.stream(stream)

    def __enter__(self) -> None:
        self._context.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)

    def busy(self) -> None:
        """Keep the stream busy for a while: what does not wait for it comes too early."""
        torch.cuda._sleep(50_000_000)

    def synchronize(self) -> None:
        self._stream.synchronize()

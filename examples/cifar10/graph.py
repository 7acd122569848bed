"""A training step's forward and backward pass as one CUDA graph: a small network's step is bound by its launches."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from convblocks import ops

WARM_UP = 3
"""Passes before the capture, in which libraries choose and set up what a capture must not."""


class Graphed:
    """Replays forward and backward pass; the optimizer then finds its gradients where they were at the capture.

    Args:
        compute: Forward and backward pass of a batch, with no gradients there before it; what it returns is returned.
        parameters: What has gradients.
    """

    def __init__(self, compute: Callable[[Tensor, Tensor], Tensor], parameters: Iterable[nn.Parameter]) -> None:
        self.compute = compute
        self.parameters = list(parameters)
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Compute a batch; every batch must be of the shape of the first."""
        if self._graph is None:
            self._capture(images, labels)
        assert self._graph is not None
        self._images.copy_(images, non_blocking=True)
        self._labels.copy_(labels, non_blocking=True)
        self._graph.replay()
        return self._result

    def _capture(self, images: Tensor, labels: Tensor) -> None:
        device = self.parameters[0].device
        self._images, self._labels = (part.to(device, copy=True) for part in (images, labels))
        # The documented order: warm up on a stream of its own, then capture with no gradients there.
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        # The kernels that are soonest done, however long the host takes to start them: it starts them once.
        with ops.backend("graph"), torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._forget()
                self.compute(self._images, self._labels)
        torch.cuda.current_stream(device).wait_stream(stream)
        self._forget()
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may go on: one of them pins the batches that come from workers.
        with ops.backend("graph"), torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result = self.compute(self._images, self._labels)

    def _forget(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

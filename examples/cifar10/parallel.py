"""Several processes that train one network, as torchrun starts them; a single process is the case of one."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Parallel:
    """This process among those that share a job.

    What they tell each other of the run (how far, how good, whether to stop) goes over CPU tensors, so that asking does
    not make a process wait for its GPU.

    Args:
        rank: Number of this process; the first, 0, is the one that writes and prints.
        processes: Processes in all.
        local_rank: Number of this process on its machine, and of its GPU.
        restarts: How often torchrun has started the job anew.
    """

    rank: int = 0
    processes: int = 1
    local_rank: int = 0
    restarts: int = 0

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def several(self) -> bool:
        return self.processes > 1

    def total(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over all processes."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set in any process."""
        return [value > 0 for value in self._reduce([float(flag) for flag in flags], dist.ReduceOp.MAX)]

    def from_first(self, make: Callable[[], Sequence[float]]) -> list[float]:
        """What the first process makes; the others wait for it."""
        values = list(make()) if self.first else []
        if not self.several:
            return values
        held: list[object] = [values]
        dist.broadcast_object_list(held, src=0, device=torch.device("cpu"))
        return held[0]  # pyright: ignore[reportReturnType]

    def first_then_all(self, work: Callable[[], T]) -> T:
        """Do some work in the first process, then in all others: what it downloads is there for them."""
        made = work() if self.first else None
        if self.several:
            self.total([0.0])
        return work() if made is None else made

    def _reduce(self, values: Sequence[float], how: "dist.ReduceOp.RedOpType") -> list[float]:
        if not self.several:
            return list(values)
        held = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(held, how)
        return held.tolist()


def start(device: str) -> Parallel:
    """Join the job that torchrun started this process for; outside of one, be alone.

    Args:
        device: ``"cpu"`` or ``"cuda"``.

    Raises:
        UsageError: There are fewer GPUs than processes on this machine.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Parallel()
    rank, processes, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if device == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"torchrun started {os.environ['LOCAL_WORLD_SIZE']} processes on this machine, which has "
                f"{torch.cuda.device_count()} GPU(s); lower --nproc-per-node or use --device cpu"
            )
        torch.cuda.set_device(local_rank)
    store, _, _ = next(dist.rendezvous("env://", rank, processes))
    # A process of a job that was restarted must not find the addresses of those that have died under the same names.
    store = dist.PrefixStore(f"restart-{restarts}", store)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=processes)
    return Parallel(rank, processes, local_rank, restarts)


def leave() -> None:
    """Leave the job, where there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()

"""The processes that train one model together, one per device, as torchrun starts them.

Each computes its share of every batch, torch sums the gradients, and each takes the same step: the numbers are those of
one process with the whole batch, up to the order of additions.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

DEVICES = ("cpu", "cuda")
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class World:
    """This process among them. rank: from 0, which alone writes the policy. local: how many share this machine."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")
    local: int = 1

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Of a tensor that every process has, over all of them."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """What each process has, by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def each(self, work: Callable[[], Result], fault: type[Exception]) -> list[Result]:
        """What each process's own `work` gives, by rank. A `fault` in one of them is raised in all."""
        try:
            mine: tuple = work(), None
        except fault as error:
            mine = None, error
        found = self.gather(mine)
        for _, raised in found:
            if raised is not None:
                raise raised
        return [result for result, _ in found]

    def part(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's share of them: a stretch, so that all shares by rank are the items in their order."""
        first, last = (len(items) * place // self.size for place in (self.rank, self.rank + 1))
        return items[first:last]

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def join(device: str) -> Iterator[World]:
    """The processes that torchrun started, until all have left; or this one alone. device: one of DEVICES."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(device=torch.device(device))
        return
    own = torch.device(device, int(os.environ["LOCAL_RANK"])) if device == "cuda" else torch.device(device)
    if device == "cuda":
        torch.cuda.set_device(own)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, device_id=own if device == "cuda" else None)
    dist.barrier()  # nobody leaves before all are connected
    try:
        yield World(dist.get_rank(), size, own, int(os.environ.get("LOCAL_WORLD_SIZE", size)))
        dist.barrier()  # nor before all are done with each other
    finally:
        gc.collect()  # a sharded model holds its group, and the group has threads: they end here, not with Python
        dist.destroy_process_group()

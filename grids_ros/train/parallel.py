"""The processes that train one model together, one per device, as torchrun starts them.

Each computes its share of every batch, the gradients are summed, and each takes the same step: the numbers are those
of one process with the whole batch, up to the order of additions.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class World:
    """This process among them. rank: from 0, which alone writes files."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Over all processes, in place. A gradient that only some of them have counts as zero in the others."""
        if self.size == 1:
            return
        parameters = list(parameters)
        there = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=self.device)
        dist.all_reduce(there, dist.ReduceOp.MAX)
        for parameter, anywhere in zip(parameters, there.tolist(), strict=True):
            if anywhere:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                dist.all_reduce(parameter.grad)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Of a tensor that every process has, over all of them."""
        if self.size > 1:
            dist.all_reduce(values)
        return values


@contextmanager
def join(device: str) -> Iterator[World]:
    """The processes that torchrun started, until all have left; or this one alone. device: one of DEVICES."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(device=torch.device(device))
        return
    own = torch.device(device, int(os.environ["LOCAL_RANK"])) if device == "cuda" else torch.device(device)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", device_id=own if device == "cuda" else None)
    try:
        yield World(dist.get_rank(), size, own)
    finally:
        dist.destroy_process_group()

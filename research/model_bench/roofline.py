"""The two bounds of a device, measured: how fast it reads weights, and how fast it multiplies."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import nn

from grids_ros.policy.arithmetic import linear
from research.flops import Flops

REPEATS = 10
READ_ROWS, READ_COLUMNS = 8192, 8192  # 256 MiB of float32: no cache holds it
SIDE = 2048  # of the matrices that are multiplied


@dataclass(frozen=True)
class Bounds:
    """bytes_per_s: weights read by a matrix-vector product. flops_per_s: of a square matrix product in the dtype that
    the runtime computes in. native_flops_per_s: of torch's own product in bfloat16. widened_flops_per_s: of ours, for
    weights in bfloat16, with 48 rows."""

    bytes_per_s: float
    flops_per_s: float
    native_flops_per_s: float
    widened_flops_per_s: float

    def seconds(self, flops: Flops, bytes_read: Mapping[str, int]) -> float:
        """The least time for stages one after the other, each bound by reading or by computing."""
        stages = asdict(flops)
        return sum(max(stages[name] / self.flops_per_s, bytes_read.get(name, 0) / self.bytes_per_s) for name in stages)


def measure(device: str, dtype: torch.dtype) -> Bounds:
    """dtype: what the runtime computes in. Takes some seconds. The best of REPEATS, for a bound is not an average."""
    weights, vector = torch.ones(READ_ROWS, READ_COLUMNS, dtype=dtype, device=device), torch.ones(READ_COLUMNS)
    vector = vector.to(device, dtype)
    square = torch.ones(SIDE, SIDE, dtype=dtype, device=device)
    rows, half = square[:48], square.bfloat16()
    product = 2 * SIDE**2
    return Bounds(
        weights.nbytes / best(lambda: weights @ vector, device),
        product * SIDE / best(lambda: square @ square, device),
        product * len(rows) / best(lambda: nn.functional.linear(half[:48], half), device),
        product * len(rows) / best(lambda: linear(rows, half), device),
    )


def best(function: Callable, device: str) -> float:
    """Seconds of the fastest call."""
    function()
    return min(timed(function, device) for _ in range(REPEATS))


def timed(function: Callable, device: str) -> float:
    """Seconds until the device has done it."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - started

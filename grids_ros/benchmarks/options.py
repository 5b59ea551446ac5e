"""The options of `grids evaluate --benchmark` and `grids record --benchmark`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from grids_ros.options import COUNT, SEED, WORKERS, Cluster, Place, Range, UsageError

if TYPE_CHECKING:
    from grids_ros.policy.runtime import Policy

FAMILIES = ("libero", "metaworld")
IMAGE_SIZE = 256  # [px]


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """Score a checkpoint on a benchmark's fixed initial states. The last line of output is JSON.

    A second run with the same --out continues where the first one ended. Exit codes: 0 counted; 2 an option, a
    checkpoint or an environment is unusable.
    """

    benchmark: Annotated[str, arg(metavar="SUITE")]
    """libero_spatial, libero_object, libero_goal, libero_10, a LIBERO-PRO suite such as libero_object_swap,
    metaworld_mt10 or metaworld_mt50"""
    checkpoint: Annotated[Path, Place.FOLDER]
    """folder"""
    out: Annotated[Path, Place.OUT_FOLDER] = Path("out/benchmark")
    """folder for results, a sheet of pictures and videos"""
    episodes_per_task: Annotated[int, COUNT] = 20
    """initial states of each task; there are 50"""
    tasks: tuple[int, ...] = ()
    """numbers of the tasks; default: all"""
    tokens: Annotated[int | None, Range(0, 4096), arg(metavar="K")] = None
    """visual tokens per camera; default: all that the checkpoint has"""
    replan_steps: Annotated[int, Range(1, 100)] = 5
    """environment steps between two inferences"""
    actions: Literal["auto", "step", "time"] = "auto"
    """execute one action per environment step, or the chunk by its time stamps; auto: step for per-step actions"""
    image_size: Annotated[int, Range(32, 1024)] = IMAGE_SIZE
    """side of the rendered images [px]; as in the training data"""
    cameras: tuple[str, ...] = ()
    """the benchmark's cameras, in the order of the checkpoint's; default: its base and its wrist camera"""
    workers: Annotated[int, WORKERS] = os.cpu_count() or 1
    """processes, each with a simulator and a copy of the policy on one core"""
    cluster: Cluster = ""
    """play the episodes on this Ray cluster, whose nodes have the checkpoint and LIBERO's environment"""
    films: Annotated[int, Range(0, 50)] = 1
    """episodes of each task that are filmed"""

    def check(self) -> None:
        """Raises UsageError for a benchmark that is unknown, and for cameras or tasks that repeat."""
        family_of(self.benchmark)
        _refuse_repeats("--cameras", self.cameras)
        _refuse_repeats("--tasks", self.tasks)

    def load(self) -> Policy:
        """The policy to score. Raises CheckpointError for a checkpoint that cannot do what is asked."""
        from grids_ros.policy.runtime import Policy

        return Policy.load(self.checkpoint, tokens=self.tokens)

    def left(self) -> str:
        """What an interruption leaves."""
        return f"finished episodes are in {self.out}; the same command continues"


@dataclass(frozen=True, kw_only=True)
class BenchmarkRecordOptions:
    """Record a scripted expert on a benchmark's tasks, on placements that are not its fixed initial states."""

    benchmark: Annotated[str, arg(metavar="SUITE")]
    """libero_spatial, libero_object, metaworld_mt10 or metaworld_mt50"""
    out: Annotated[Path, Place.OUT_FOLDER]
    """folder for one bag per task"""
    episodes_per_task: Annotated[int, COUNT] = 50
    """successful demonstrations of each task"""
    tasks: tuple[int, ...] = ()
    """numbers of the tasks; default: all"""
    seed: Annotated[int, SEED] = 0
    """of the first placement, one more each"""
    image_size: Annotated[int, Range(32, 1024)] = IMAGE_SIZE
    """side of the images [px]; as `evaluate` renders them"""
    image_rate_hz: Literal["5", "10", "20"] = "10"
    """images per second of each camera"""
    workers: Annotated[int, WORKERS] = os.cpu_count() or 1
    """processes, each with a simulator of its own"""

    def check(self) -> None:
        """Raises UsageError for a benchmark that is unknown, and for tasks that repeat."""
        family_of(self.benchmark)
        _refuse_repeats("--tasks", self.tasks)

    def left(self) -> str:
        """What an interruption leaves."""
        return f"finished tasks are in {self.out}; the same command continues"


def _refuse_repeats(name: str, values: tuple) -> None:
    if len(set(values)) != len(values):
        raise UsageError(f"{name} is {' '.join(map(str, values))}, expected each one once")


def family_of(suite: str) -> str:
    """The simulator of a suite. Raises UsageError for an unknown one."""
    for family in FAMILIES:
        if suite.startswith(f"{family}_"):
            return family
    raise UsageError(f"--benchmark is {suite!r}, expected a suite of {', '.join(FAMILIES)}, such as libero_object")

"""The options of `grids evaluate`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from grids_ros.options import COUNT, SEED, WORKERS, Cluster, Place, Range, UsageError
from grids_ros.sim.names import KEPT, UNSEEN_SEEDS, TaskName, Variation

if TYPE_CHECKING:
    from grids_ros.policy.runtime import Policy

FIRST_SEED = UNSEEN_SEEDS.start


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Count successes in closed loop over scenes that no demonstration has. The last line of output is JSON.

    `grids evaluate --benchmark libero_object --help`: the options for a published benchmark.

    Exit codes: 0 counted; 2 an option or a checkpoint that cannot be used.
    """

    checkpoint: Annotated[Path, Place.FOLDER] = Path("models/demo")
    """folder"""
    task: TaskName = "lift"
    """what to do"""
    ood: Variation | None = None
    """evaluate out of distribution: what differs in every scene"""
    tokens: Annotated[int | None, Range(0, 4096), arg(metavar="K")] = None
    """per camera, one of the numbers that the checkpoint was trained with; default: all"""
    episodes: Annotated[int, COUNT] = 60
    """how many; the instructions of the task take turns"""
    seed: Annotated[int, SEED] = FIRST_SEED
    """of the first scene, one more each"""
    workers: Annotated[int, WORKERS] = os.cpu_count() or 1
    """processes"""
    cluster: Cluster = ""
    """play the episodes on this Ray cluster, whose nodes have the checkpoint under the same path"""
    delay: Annotated[float, Range(0, 60_000), arg(metavar="MS")] = 60.0
    """from observation to chunk [ms]"""
    join: Literal["latest", "blend", "rtc"] = "rtc"
    """how a new chunk takes over"""
    swap: Annotated[float | None, Range(0, exclusive=True), arg(metavar="M")] = None
    """name another cube first, until the tool is this near to it [m]"""
    video: Annotated[Path | None, Place.OUT_FOLDER] = None
    """folder for an MP4 of each episode"""
    json: Annotated[Path | None, Place.OUT_FILE] = None
    """file for the last line of output as well"""
    card: bool = False
    """write the result into the checkpoint's card as well"""

    @property
    def unseen(self) -> bool:
        """Whether `record` refuses all of these scenes, so that nobody has trained on one."""
        return self.seed in UNSEEN_SEEDS and self.seed + self.episodes - 1 in UNSEEN_SEEDS

    def load(self) -> Policy:
        """The policy to evaluate. Raises CheckpointError for a checkpoint that cannot do what is asked."""
        from grids_ros.policy.runtime import Policy
        from grids_ros.sim.urdf import robot

        return Policy.load(self.checkpoint, tokens=self.tokens, robot=robot)

    def check(self) -> None:
        """Raises UsageError for options that contradict each other."""
        if self.card and not self.unseen:
            raise UsageError(f"--card tells of scenes that no demonstration has: expected seeds within {KEPT}")

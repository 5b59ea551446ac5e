"""The options of `grids record`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from grids_ros.options import COUNT, SEED, WORKERS, Cluster, Place, Range, UsageError, require_apart
from grids_ros.sim.names import KEPT, UNSEEN_SEEDS

PROGRESS = "record.json"  # what is recorded already


def recorded(folder: Path) -> dict:
    """What PROGRESS says: "asked", the options; "done", numbers of episodes; "kept", how many are in the bags."""
    try:
        progress = json.loads((folder / PROGRESS).read_text())
    except (OSError, ValueError):
        return {}
    return progress if isinstance(progress, dict) else {}


@dataclass(frozen=True, kw_only=True)
class RecordOptions:
    """Record scripted demonstrations in the simulated scene as rosbag2, in bags of up to 25.

    Some episodes are disturbed: the arm is driven aside, an object is shoved, a stacked cube is knocked down, or
    another cube is named at first; the demonstrator recovers. With --policy every episode begins with a policy, and the
    demonstrator takes over those that it does not finish. Nothing is recorded meanwhile, so `target_pose` never shows
    what a policy should not do.

    The same command continues a recording that was interrupted.

    Exit codes: 0 recorded; 1 a process broke off or no demonstration succeeded; 2 an option or a checkpoint that cannot
    be used.
    """

    out: Annotated[Path, Place.OUT_FOLDER]
    """folder for the bags part_000, part_001, ..."""
    task: Literal["lift", "bowl", "stack", "all"] = "lift"
    """what to do; all: each in turn"""
    episodes: Annotated[int, COUNT] = 900
    """how many to attempt"""
    seed: Annotated[int, SEED] = 0
    """of the first scene, one more each"""
    policy: Annotated[Path | None, Place.FOLDER] = None
    """checkpoint that begins each episode"""
    workers: Annotated[int, WORKERS] = os.cpu_count() or 1
    """processes at most"""
    cluster: Cluster = ""
    """record on this Ray cluster, whose nodes have the folder and the checkpoint under the same paths"""
    image_size: Annotated[int, Range(1, 4096)] = 224
    """side of the images [px]"""

    def check(self) -> None:
        """Raises UsageError for scenes that are kept for evaluation, and for a folder that holds bags."""
        if self.seed < UNSEEN_SEEDS.stop and self.seed + self.episodes > UNSEEN_SEEDS.start:
            raise UsageError(f"--seed is {self.seed}, for {self.episodes} episodes: {KEPT} are kept for `evaluate`")
        if self.policy:
            require_apart([self.out / PROGRESS], [self.policy])
        if (self.out / PROGRESS).exists() and "asked" not in recorded(self.out):
            raise UsageError(f"--out {self.out} holds a {PROGRESS} that `record` did not write, expected a new folder")
        if self.out.is_dir() and list(self.out.glob("part_*")):
            earlier = recorded(self.out).get("asked")
            if earlier is None:
                raise UsageError(f"--out {self.out} holds bags already, expected a new folder")
            for name, value in self.asked().items():
                if earlier.get(name) != value:
                    raise UsageError(
                        f"--out {self.out} was begun with {name} {earlier.get(name)}, not {value}: expected the same "
                        "options, or a new folder"
                    )

    def asked(self) -> dict:
        """What decides on the demonstrations, as JSON has it."""
        policy = str(self.policy.resolve()) if self.policy else None
        return {
            "task": self.task,
            "episodes": self.episodes,
            "seed": self.seed,
            "policy": policy,
            "image_size": self.image_size,
        }

    def left(self) -> str:
        """After an interruption."""
        bags = sorted(path.name for path in self.out.glob("part_*[0-9]"))
        if not bags:
            return "no bag was written"
        return (
            f"{self.out} holds the demonstrations so far in {', '.join(bags)}; the same command goes on with the rest"
        )

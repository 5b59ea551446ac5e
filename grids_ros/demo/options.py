"""The options of `grids demo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from grids_ros.options import COUNT, SEED, Place


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Run the simulated arm, the policy and the follower as three processes. Needs rclpy.

    Exit codes: 0 every process came up, actions flowed, and all shut down; 1 something of it failed; 2 an option or a
    checkpoint that cannot be used.
    """

    checkpoint: Annotated[Path, Place.FOLDER] = Path("models/demo")
    """folder"""
    episodes: Annotated[int, COUNT] = 6
    """how many; the tasks take turns"""
    seed: Annotated[int, SEED] = 10_000
    """of the first scene"""
    out: Annotated[Path, Place.OUT_FOLDER] = Path("out/demo")
    """folder of the summary, the video, the contact sheet, the bag and the logs"""


def run(options: DemoOptions) -> int:
    """The exit code."""
    from grids_ros.demo.episodes import run as demonstrate

    return demonstrate(options.checkpoint, options.episodes, options.seed, options.out)

"""The commanded path where one chunk follows another: the policy in closed loop, its chunks 0 to 300 ms late at random.

The follower's limits would hide a jump as long as they can, and turn it into a lag. So its speed and acceleration are
let go here: what is measured is how chunks are joined.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from grids_ros.bench.realtime_metrics import CommandedPath
from grids_ros.control.defaults import FOLLOWER
from grids_ros.control.trajectory import JOINS
from grids_ros.evaluate.episode import EpisodeResult, Tick, rollout
from grids_ros.pieces import Workers, outcomes
from grids_ros.sim.scene import Scene
from grids_ros.sim.tasks import LIFT_TASKS

MAX_DELAY_S = 0.3
FIRST_SEED = 200_000
UNLIMITED = dataclasses.replace(
    FOLLOWER,
    limits=dataclasses.replace(
        FOLLOWER.limits,
        linear_speed=1e3,
        angular_speed=1e3,
        linear_acceleration=1e6,
        angular_acceleration=1e6,
        linear_jerk=math.inf,
        angular_jerk=math.inf,
    ),
)


def paths(checkpoint: Path, episodes: int) -> dict[str, list[CommandedPath]]:
    """Join to the commands of its episodes; the same scenes and delays for each join."""
    todo = [(checkpoint, episodes, join) for join in JOINS]
    found = {outcome.index: outcome.value() for outcome in outcomes(_record, todo, Workers(len(JOINS)))}
    return {join: found[index] for index, join in enumerate(JOINS)}


def _record(piece: tuple[Path, int, str]) -> list[CommandedPath]:
    import torch

    from grids_ros.policy.runtime import Policy

    checkpoint, episodes, join = piece
    torch.set_num_threads(1)
    policy, scene, recorded = Policy.load(checkpoint), Scene(), []
    for number in range(episodes):
        task, config = LIFT_TASKS[number % len(LIFT_TASKS)], dataclasses.replace(UNLIMITED, join=join)
        ticks = []
        for event in rollout(policy, scene, task, FIRST_SEED + number, _delays(number), config):
            if isinstance(event, Tick) and event.command is not None and event.chunk is not None:
                ticks.append((event.command.pose.position, event.chunk.stamp_ns))
            if isinstance(event, EpisodeResult):
                positions, chunks = zip(*ticks, strict=True)
                recorded.append(CommandedPath(np.array(positions), np.array(chunks)))
    return recorded


def _delays(seed: int) -> Iterator[float]:
    random = np.random.default_rng(seed)
    while True:
        yield float(random.uniform(0.0, MAX_DELAY_S))

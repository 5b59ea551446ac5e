"""The commanded path across the joints of chunks: the policy in closed loop, its chunks 0 to 300 ms late at random.

The follower's limits would hide a jump as long as they can, and turn it into a lag. So its speed and acceleration are
let go here: what is measured is how chunks are joined.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path as File

import numpy as np

from grids_ros.bench.figures import Path
from grids_ros.control.defaults import FOLLOWER
from grids_ros.control.timeline import JOINS
from grids_ros.evaluate.episode import Result, Tick, play
from grids_ros.sim.scene import Scene
from grids_ros.sim.tasks import LIFT_TASKS

MAX_DELAY_S = 0.3
FIRST_SEED = 200_000
UNLIMITED = dataclasses.replace(
    FOLLOWER,
    limits=dataclasses.replace(
        FOLLOWER.limits, linear_speed=1e3, angular_speed=1e3, linear_acceleration=1e6, angular_acceleration=1e6
    ),
)


def paths(checkpoint: File, episodes: int) -> dict[str, list[Path]]:
    """Join to the commands of its episodes; the same scenes and delays for each join."""
    with ProcessPoolExecutor(len(JOINS), get_context("spawn")) as pool:
        jobs = {join: pool.submit(_record, checkpoint, episodes, join) for join in JOINS}
        return {join: job.result() for join, job in jobs.items()}


def _record(checkpoint: File, episodes: int, join: str) -> list[Path]:
    import torch

    from grids_ros.policy.runtime import Policy

    torch.set_num_threads(1)
    policy, scene, recorded = Policy.load(checkpoint), Scene(), []
    for number in range(episodes):
        task, config = LIFT_TASKS[number % len(LIFT_TASKS)], dataclasses.replace(UNLIMITED, join=join)
        ticks = []
        for event in play(policy, scene, task, FIRST_SEED + number, _delays(number), config):
            if isinstance(event, Tick) and event.command is not None and event.chunk is not None:
                ticks.append((event.command.pose.position, event.chunk.stamp_ns))
            if isinstance(event, Result):
                positions, chunks = zip(*ticks, strict=True)
                recorded.append(Path(np.array(positions), np.array(chunks)))
    return recorded


def _delays(seed: int) -> Iterator[float]:
    random = np.random.default_rng(seed)
    while True:
        yield float(random.uniform(0.0, MAX_DELAY_S))

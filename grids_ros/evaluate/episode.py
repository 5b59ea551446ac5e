"""One episode in closed loop: the observation buffer, policy and follower of the robot, on the simulation's clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Protocol

import numpy as np

from grids_ros.control.continuity import Continuation, Continuity, Standstill
from grids_ros.control.defaults import CAMERA_MAX_AGE_S, CHUNK_RATE_HZ, FOLLOWER
from grids_ros.control.follower import Command, Follower, FollowerConfig, Refused
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Observation, PolicyOutput
from grids_ros.observation import AgeLimits, ObservationBuffer
from grids_ros.sim.disturbance import Detour
from grids_ros.sim.scene import Scene
from grids_ros.sim.tasks import SuccessMonitor, Task

LIMIT_S = 15.0  # an episode without success ends here
PLACING_S = 5.0  # more time where the cube has to be put somewhere
START_NS = 10 * NANOSECONDS  # of the simulated clock
Arriving = tuple[int, ActionChunk] | None  # when a chunk is due at the follower, and the chunk


class Infers(Protocol):
    """What is evaluated: a Policy, or anything that looks like one."""

    cameras: tuple[str, ...]

    def infer(self, observation: Observation, *, continuation: Continuation | None = None) -> PolicyOutput: ...


@dataclass(frozen=True, eq=False)
class Step:
    """One inference, for whoever watches: what was seen and what came of it."""

    observation: Observation
    output: PolicyOutput


@dataclass(frozen=True, eq=False)
class Tick:
    """One period of the follower: when, what the arm was told, and the chunk that it came from."""

    now_ns: int
    command: Command | None
    chunk: ActionChunk | None


@dataclass(frozen=True, eq=False)
class Result:
    """How an episode ended.

    wrong: the objects that a mistake was made with, see Task.wrong. time_s: until success, or the limit.
    inference_ms: of each inference. coordinates: camera to (inferences, K, 2).
    """

    seed: int
    colour: str
    success: bool
    wrong: tuple[str, ...]
    time_s: float
    inference_ms: tuple[float, ...]
    coordinates: dict[str, np.ndarray]


def play(
    policy: Infers,
    scene: Scene,
    task: Task,
    seed: int,
    delays: Iterator[float],
    config: FollowerConfig = FOLLOWER,
    detour: Detour | None = None,
) -> Iterator[Step | Tick | Result]:
    """Yield every inference and every tick, then the Result.

    delays: for each inference the simulated time from its observation to its chunk's arrival at the follower [s]. As
    on the robot, the next inference does not start before. config: of the follower. detour: what is asked for before
    `task`, which alone counts.
    """
    scene.reset(seed)
    buffer = ObservationBuffer(policy.cameras, AgeLimits(cameras=dict.fromkeys(policy.cameras, CAMERA_MAX_AGE_S)))
    buffer.instruction = detour.task.instruction if detour else task.instruction
    follower, continuity, commands, monitor = Follower(config), Continuity(), Standstill(), SuccessMonitor(task)
    ticks_per_chunk = round(1.0 / (CHUNK_RATE_HZ * config.period_s))
    arriving: Arriving = None
    latencies, seen, wrong = [], {name: [] for name in policy.cameras}, set()
    success, tick, limit_s = False, 0, LIMIT_S + (PLACING_S if task.onto else 0.0)
    while not success and scene.time_s < limit_s:
        now_ns = START_NS + round(tick * config.period_s * NANOSECONDS)
        buffer.add_pose(now_ns, scene.tool_pose())
        buffer.add_gripper(now_ns, scene.gripper_opening())
        follower.measure(now_ns, scene.tool_pose())
        if tick % ticks_per_chunk == 0 and (arriving is None or arriving[0] <= now_ns):
            arriving = _deliver(arriving, follower, continuity, now_ns)
            for name in policy.cameras:
                buffer.add_image(name, now_ns, _message(scene.render(name)))
            observation = buffer.observe(now_ns)
            held = commands.since()
            continuation = continuity.at(observation, held) if config.join == "rtc" else None
            step = Step(observation, policy.infer(observation, continuation=continuation))
            yield step
            latencies.append(1e3 * step.output.latency_s.get("total", 0.0))
            for name, points in step.output.coordinates.items():
                seen[name].append(points)
            arriving = (now_ns + round(next(delays) * NANOSECONDS), step.output.chunk)
        arriving = _deliver(arriving, follower, continuity, now_ns)
        command = follower.tick(now_ns)
        if command:
            commands.see(command.pose.position, command.pose.quaternion)
        yield Tick(now_ns, command, follower.chunk)
        scene.step(command.pose if command else None, command.gripper if command else None, config.period_s)
        tick += 1
        if detour and detour.over(scene):
            buffer.instruction, detour = task.instruction, None
            continuity.forget()  # as the node does: no chunk for the old instruction is sent, or gone on from
            arriving = None
        asked = detour.task if detour else task
        success = asked is task and monitor.update(scene)
        wrong.update(asked.wrong(scene))
    coordinates = {name: np.stack(points) for name, points in seen.items() if points}
    yield Result(seed, task.colour, success, tuple(sorted(wrong)), scene.time_s, tuple(latencies), coordinates)


def _deliver(arriving: Arriving, follower: Follower, continuity: Continuity, now_ns: int) -> Arriving:
    """Hand over a chunk that is due; what is then still on its way.

    As on the robot, a chunk that is refused changes nothing, and the policy does not learn of it.
    """
    if arriving is None or arriving[0] > now_ns:
        return arriving
    continuity.arrived(arriving[1], now_ns)
    with suppress(Refused):
        follower.accept(arriving[1], now_ns)
    return None


def _message(rgb: np.ndarray) -> SimpleNamespace:
    """An image as a camera driver would publish it, so that it is decoded by the code that the robot runs."""
    height, width, _ = rgb.shape
    return SimpleNamespace(
        height=height, width=width, encoding="rgb8", step=3 * width, is_bigendian=0, data=rgb.tobytes()
    )

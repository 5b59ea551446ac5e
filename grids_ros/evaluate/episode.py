"""One episode in closed loop: the observation buffer, policy and follower of the robot, on the simulation's clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple, Protocol

import numpy as np

from grids_ros.control.continuity import Continuation
from grids_ros.control.defaults import CAMERA_MAX_AGE_S, CHUNK_RATE_HZ, FOLLOWER
from grids_ros.control.follower import Command, Follower, FollowerConfig, Refused
from grids_ros.control.session import Inference, PolicySession, Skip
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Observation, PolicyOutput
from grids_ros.observation.buffer import AgeLimits, ObservationBuffer
from grids_ros.policy.errors import InputError
from grids_ros.sim.disturbance import Detour
from grids_ros.sim.scene import Scene
from grids_ros.sim.tasks import SuccessMonitor, Task

LIMIT_S = 15.0  # an episode without success ends here
PLACING_S = 5.0  # more time where the cube has to be put somewhere
START_NS = 10 * NANOSECONDS  # of the simulated clock


class _PendingChunk(NamedTuple):
    """A chunk that is due at the follower at this instant."""

    due_ns: int
    inference: Inference
    chunk: ActionChunk


class PolicyLike(Protocol):
    """What is evaluated: a Policy, or anything that looks like one."""

    cameras: tuple[str, ...]

    @property
    def joints(self) -> tuple[str, ...]:
        """Those that observations hold; none for a policy of poses."""

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
class EpisodeResult:
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


def rollout(
    policy: PolicyLike,
    scene: Scene,
    task: Task,
    seed: int,
    delays: Iterator[float],
    config: FollowerConfig = FOLLOWER,
    detour: Detour | None = None,
) -> Iterator[Step | Tick | EpisodeResult]:
    """Yield every inference and every tick, then the EpisodeResult.

    delays: for each inference the simulated time from its observation to its chunk's arrival at the follower [s]. As
    on the robot, the next inference does not start before. config: of the follower. detour: what is asked for before
    `task`, which alone counts.
    """
    scene.reset(seed)
    robot, monitor = _SimulatedRobot(policy, scene, delays, config), SuccessMonitor(task)
    outputs, wrong = _Outputs(), set[str]()
    robot.session.instruct(detour.task.instruction if detour else task.instruction)
    ticks_per_chunk = round(1.0 / (CHUNK_RATE_HZ * config.period_s))
    success, tick, limit_s = False, 0, LIMIT_S + (PLACING_S if task.onto else 0.0)
    while not success and scene.time_s < limit_s:
        now_ns = START_NS + round(tick * config.period_s * NANOSECONDS)
        robot.sense(now_ns)
        if tick % ticks_per_chunk == 0 and (step := robot.infer(now_ns)):
            yield step
            outputs.add(step.output)
        told = robot.command(now_ns)
        yield told
        robot.move(told.command)
        tick += 1
        if detour and detour.over(scene):
            robot.session.instruct(task.instruction)
            detour = None
        asked = detour.task if detour else task
        success = asked is task and monitor.update(scene)
        wrong.update(asked.wrong(scene))
    made = tuple(sorted(wrong)), scene.time_s, tuple(outputs.latencies_ms), outputs.coordinates()
    yield EpisodeResult(seed, task.colour, success, *made)


class _SimulatedRobot:
    """What the nodes hold on a robot, around the simulation: buffer, session, policy and follower."""

    def __init__(self, policy: PolicyLike, scene: Scene, delays: Iterator[float], config: FollowerConfig):
        limits = AgeLimits(cameras=dict.fromkeys(policy.cameras, CAMERA_MAX_AGE_S))
        self._policy, self._scene, self._delays, self._period_s = policy, scene, delays, config.period_s
        self._buffer = ObservationBuffer(policy.cameras, limits, joints=policy.joints)
        self._follower, self.session = Follower(config), PolicySession(config.join)
        self._on_its_way: _PendingChunk | None = None

    def sense(self, now_ns: int) -> None:
        """Take in what the arm measures, and a chunk that is due."""
        scene, buffer = self._scene, self._buffer
        buffer.add_pose(scene.tool_pose(), now_ns, now_ns)
        buffer.add_opening(scene.gripper_opening(), now_ns, now_ns)
        positions = dict(zip(scene.joint_names, scene.joint_positions(), strict=True))
        buffer.add_joints({name: positions[name] for name in self._policy.joints}, now_ns, now_ns)
        self._follower.measure(now_ns, scene.tool_pose())
        self._deliver(now_ns)

    def infer(self, now_ns: int) -> Step | None:
        """Draw the cameras and ask the policy; None while a chunk is on its way, or where the policy refuses."""
        if self.session.busy:
            return None
        for name in self._policy.cameras:
            self._buffer.add_image(name, _message(self._scene.render(name)), now_ns, now_ns)
        inference = self.session.begin(now_ns, self._buffer.observe)
        if isinstance(inference, Skip):
            raise RuntimeError(f"no inference at {now_ns}: {inference}")
        output = _infer(self._policy, self.session, inference)
        if output is None:
            return None
        self._on_its_way = _PendingChunk(now_ns + round(next(self._delays) * NANOSECONDS), inference, output.chunk)
        self._deliver(now_ns)
        return Step(inference.observation, output)

    def command(self, now_ns: int) -> Tick:
        """What the follower tells the arm in this period."""
        command = self._follower.tick(now_ns)
        if command:
            self.session.command(command.pose.position, command.pose.quaternion)
        return Tick(now_ns, command, self._follower.chunk)

    def move(self, command: Command | None) -> None:
        """One period of the simulation."""
        self._scene.step(command.pose if command else None, command.gripper if command else None, self._period_s)

    def _deliver(self, now_ns: int) -> None:
        """Hand over a chunk that is due. As on the robot, a chunk that is refused changes nothing, and the policy does
        not learn of it."""
        chunk = self._on_its_way
        if chunk is None or chunk.due_ns > now_ns:
            return
        self._on_its_way = None
        if self.session.finish(chunk.inference, chunk.chunk, now_ns):
            with suppress(Refused):
                self._follower.accept(chunk.chunk, now_ns)


class _Outputs:
    """What is kept of the inferences of an episode."""

    def __init__(self) -> None:
        self.latencies_ms: list[float] = []
        self._points: dict[str, list[np.ndarray]] = {}

    def add(self, output: PolicyOutput) -> None:
        self.latencies_ms.append(1e3 * output.latency_s.get("total", 0.0))
        for name, points in output.coordinates.items():
            self._points.setdefault(name, []).append(points)

    def coordinates(self) -> dict[str, np.ndarray]:
        """Camera to (inferences, K, 2)."""
        return {name: np.stack(points) for name, points in self._points.items()}


def _infer(policy: PolicyLike, session: PolicySession, inference: Inference) -> PolicyOutput | None:
    """What the policy says; None where it refuses, as for joints beyond their limits: the arm goes on as before."""
    try:
        return policy.infer(inference.observation, continuation=inference.continuation)
    except InputError:
        session.refuse(inference)
        return None


def _message(rgb: np.ndarray) -> SimpleNamespace:
    """An image as a camera driver would publish it, so that it is decoded by the code that the robot runs."""
    height, width, _ = rgb.shape
    return SimpleNamespace(
        height=height, width=width, encoding="rgb8", step=3 * width, is_bigendian=0, data=rgb.tobytes()
    )

"""What goes wrong in a demonstration, so that there is a recovery to learn from: pushes of the arm, shoved objects, a
stacked cube that is knocked down, and somebody who names another cube than the one that was meant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grids_ros.sim import mujoco_model
from grids_ros.sim.scene import Scene
from grids_ros.sim.tasks import TASKS, Task

_PUSHED = 0.5  # part of the episodes with one or two pushes
_SHOVED = 0.3  # part of the episodes with an object shoved
_STRAYED = 0.3  # part of the episodes in which another cube was named at first
_NEAR = 0.05  # from the cube: close to grasping it [m]
_PUSH_TIMES_S = (0.3, 0.4, 0.5)
_PUSH_M, _PUSH_YAW = 0.08, 0.6
_LOWEST = 0.015  # of the tool after a push: the fingers stay off the table [m]
_SHOVE_SPEED, _SHOVE_SPIN = (0.3, 0.9), 6.0  # a cube slides by 0.5 to 4 cm [m/s], and turns [rad/s]
_STRAY_M = (0.03, 0.15)  # of the tool from that cube when the right one is named; the fingers still stand open
_KNOCKED = 0.5  # part of the stacks that are knocked down once: a cube beside its target looks much like one on it
_KNOCK_SPEED = (0.4, 0.9)  # the cube falls beside the one below, or slides off by some centimetres [m/s]
_RISEN_M = (0.07, 0.195)  # of the tool when that happens, on its way up or at rest above
_SLIDE_S = 0.3  # until it lies still


@dataclass(frozen=True)
class Push:
    """The arm is driven aside, once: after `after_s`, or when the tool first comes near the cube if `near`.

    gripper: the opening that the hand is driven to as well [m], or None.
    """

    after_s: float
    near: bool
    translation: np.ndarray
    yaw: float
    duration_s: float
    gripper: float | None

    def due(self, scene: Scene, task: Task) -> bool:
        """Whether it is time: with `near`, whichever of both is later."""
        apart = np.linalg.norm(scene.tool_pose().position - scene.object_positions()[task.colour])
        return scene.time_s >= self.after_s and not (self.near and apart > _NEAR)

    def apply(self, scene: Scene) -> None:
        """Takes `duration_s` of the scene's time."""
        scene.step(None, self.gripper, 0.0)
        down = max(self.translation[2], min(0.0, _LOWEST - scene.tool_pose().position[2]))
        scene.push(np.array([*self.translation[:2], down]), self.yaw, self.duration_s)


@dataclass(frozen=True)
class Shove:
    """An object slides off, once. velocity: (2,) in the table's plane [m/s]; spin [rad/s]."""

    after_s: float
    name: str
    velocity: np.ndarray
    spin: float

    def due(self, scene: Scene, task: Task) -> bool:
        """Whether it is time."""
        return scene.time_s >= self.after_s

    def apply(self, scene: Scene) -> None:
        """Takes the time until the object lies still; the arm waits."""
        scene.shove(self.name, self.velocity, self.spin)
        scene.step(None, None, _SLIDE_S)


@dataclass(frozen=True)
class Knock:
    """A cube is knocked off its place, once, after it was put there and the tool has risen to `risen_m`.

    velocity: (2,) in the table's plane [m/s]; spin [rad/s].
    """

    risen_m: float
    name: str
    velocity: np.ndarray
    spin: float

    def due(self, scene: Scene, task: Task) -> bool:
        """Whether it is time."""
        return scene.tool_pose().position[2] >= self.risen_m and task.success(scene)

    def apply(self, scene: Scene) -> None:
        """Takes the time until the cube lies still; the arm waits."""
        scene.shove(self.name, self.velocity, self.spin)
        scene.step(None, None, _SLIDE_S)


@dataclass(frozen=True)
class Detour:
    """Another task is asked for at first, until the tool's centre is so near the cube that it names [m]."""

    task: Task
    until_m: float

    def over(self, scene: Scene) -> bool:
        """Whether the tool has come as near as that."""
        away = scene.object_positions()[self.task.colour] - scene.tool_pose().position
        return bool(np.linalg.norm(away) <= self.until_m)


def plan(rng: np.random.Generator, task: Task) -> list[Push | Shove]:
    """None in a third of the episodes, else up to three, in the order of their times."""
    until_s = 3.6 if task.onto else 2.2  # about as long as it takes undisturbed
    count = int(rng.integers(1, 3)) if rng.random() < _PUSHED else 0
    events: list[Push | Shove] = []
    for after_s in np.sort(rng.uniform(0.1, until_s, count)):
        low, high = [-_PUSH_M, -_PUSH_M, -_PUSH_M / 2], [_PUSH_M] * 3
        gripper = float(rng.choice([0.0, mujoco_model.MAX_OPENING])) if rng.random() < 0.3 else None
        near, translation = bool(rng.random() < 0.4), rng.uniform(low, high)
        yaw, duration_s = float(rng.uniform(-_PUSH_YAW, _PUSH_YAW)), float(rng.choice(_PUSH_TIMES_S))
        events.append(Push(float(after_s), near, translation, yaw, duration_s, gripper))
    if rng.random() < _SHOVED:
        heading, speed = rng.uniform(-np.pi, np.pi), rng.uniform(*_SHOVE_SPEED)
        velocity = speed * np.array([np.cos(heading), np.sin(heading)])
        name, spin = str(rng.choice(task.objects)), float(rng.uniform(-_SHOVE_SPIN, _SHOVE_SPIN))
        events.append(Shove(float(rng.uniform(0.1, until_s)), name, velocity, spin))
    return sorted(events, key=lambda event: event.after_s)


def knock(rng: np.random.Generator, task: Task) -> Knock | None:
    """Half of the cubes that are stacked on another fall down once; None for the rest, and for other tasks."""
    heading, speed = rng.uniform(-np.pi, np.pi), rng.uniform(*_KNOCK_SPEED)
    velocity = speed * np.array([np.cos(heading), np.sin(heading)])
    spin, risen_m = float(rng.uniform(-_SHOVE_SPIN, _SHOVE_SPIN)), float(rng.uniform(*_RISEN_M))
    happens = task.name == "stack" and rng.random() < _KNOCKED
    return Knock(risen_m, task.colour, velocity, spin) if happens else None


def stray(rng: np.random.Generator, task: Task) -> Detour | None:
    """Which cube is named at first, in the same words; None in most of the episodes."""
    others = [other for other in TASKS[task.name] if other.colour != task.colour]
    chosen, until_m = others[rng.integers(len(others))], float(rng.uniform(*_STRAY_M))
    return Detour(chosen, until_m) if rng.random() < _STRAYED else None

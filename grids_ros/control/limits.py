"""What the arm may be told, whatever the policy says. A limit of 0.0 is a limit like any other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from grids_ros.control.rotation import difference, turn
from grids_ros.datatypes import Pose


@dataclass(frozen=True)
class Limits:
    """Bounds on the commanded tool pose.

    workspace_min, workspace_max: corners of the box that the tool stays in, (x, y, z) [m], base frame.
    linear_speed [m/s], angular_speed [rad/s]: of the command, from tick to tick.
    lead_translation [m], lead_rotation [rad]: how far the command may run ahead of the measured pose; with an
    impedance controller this bounds the force.
    Raises ValueError for a negative or non-finite bound, or a minimum above its maximum.
    """

    workspace_min: tuple[float, float, float]
    workspace_max: tuple[float, float, float]
    linear_speed: float
    angular_speed: float
    lead_translation: float
    lead_rotation: float

    def __post_init__(self):
        for name in ("linear_speed", "angular_speed", "lead_translation", "lead_rotation"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0.0):
                raise ValueError(f"{name} is {value}, expected a finite value of at least 0")
        for name in ("workspace_min", "workspace_max"):
            corner = getattr(self, name)
            if len(corner) != 3 or not np.isfinite(corner).all():
                raise ValueError(f"{name} is {corner}, expected three finite values (x, y, z) [m]")
        if (np.asarray(self.workspace_min) > np.asarray(self.workspace_max)).any():
            raise ValueError(f"workspace_min {self.workspace_min} lies above workspace_max {self.workspace_max}")


def toward(start: Pose, goal: Pose, distance: float, angle: float) -> Pose:
    """From `start` toward `goal`, at most `distance` [m] and at most `angle` [rad] away from `start`.

    The quaternion lies in the same hemisphere as that of `start`, so that no component flips sign.
    """
    step = goal.position - start.position
    length = math.sqrt(step @ step)
    position = goal.position if length <= distance else start.position + step * (distance / length)
    rotation = difference(goal.quaternion, start.quaternion)
    size = math.sqrt(rotation @ rotation)
    if length <= distance and size <= angle and goal.quaternion @ start.quaternion >= 0.0:
        return goal
    quaternion = goal.quaternion if size <= angle else turn(start.quaternion, rotation * (angle / size))
    if quaternion @ start.quaternion < 0.0:
        quaternion = -quaternion
    return Pose(position, quaternion)


def limit(goal: Pose, command: Pose, measured: Pose, limits: Limits, period_s: float) -> Pose:
    """The next command: toward `goal`, from the last `command`, within all limits."""
    return _stages(goal, command, measured, limits, period_s)[-1]


def bounding(goal: Pose, command: Pose, measured: Pose, limits: Limits, period_s: float) -> tuple[str, ...]:
    """Which bounds keep `limit` from going to `goal`: "lead", "workspace", "speed"; none of them when it gets there."""
    stages = (goal, *_stages(goal, command, measured, limits, period_s))
    return tuple(
        name
        for name, before, after in zip(("lead", "workspace", "speed"), stages, stages[1:], strict=False)
        if differ(before, after)
    )


def _stages(goal: Pose, command: Pose, measured: Pose, limits: Limits, period_s: float) -> tuple[Pose, Pose, Pose]:
    """`goal` within the lead, then within the box as well, then within reach of one period.

    The box and the ball around the measured pose bound where the command may go; the speed bounds come last, so
    that they hold whatever happens: an arm that is pushed, or found outside its box, is led back at limited speed.
    Both sets are convex, so a command inside them stays inside.
    """
    led = toward(measured, goal, limits.lead_translation, limits.lead_rotation)
    boxed = np.minimum(np.maximum(led.position, limits.workspace_min), limits.workspace_max)
    inside = led if (boxed == led.position).all() else Pose(boxed, led.quaternion)
    return led, inside, toward(command, inside, limits.linear_speed * period_s, limits.angular_speed * period_s)


def differ(a: Pose, b: Pose) -> bool:
    """Whether two poses differ by more than rounding; quaternions of opposite sign are one rotation."""
    apart = np.abs(a.position - b.position).max()
    return bool(apart > 1e-9 or abs(a.quaternion @ b.quaternion) < 1.0 - 1e-12)

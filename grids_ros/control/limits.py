"""What the arm may be told, whatever the policy says. A limit of 0.0 is a limit like any other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from grids_ros.control.rotation import difference, turn
from grids_ros.datatypes import Pose

BACK_OFF = (1.0, 0.5, 0.25, 0.0)  # how much of a wanted change of speed is tried; 0 is to brake
SLACK = 1e-9  # [m], [rad]
LEAST = 1e-3  # of a positive limit, in its unit: no arm has a lower one, and quotients by a tiny one overflow
BINDING = ("tracking_error", "workspace", "speed", "acceleration")  # what may keep a command from its goal


@dataclass(frozen=True)
class Limits:
    """Bounds on the commanded tool pose.

    workspace_min, workspace_max: corners of the box that the tool stays in, (x, y, z) [m], base frame.
    linear_speed [m/s], angular_speed [rad/s]: of the command. They bound the step from tick to tick, so a tick that
    comes late makes no larger one. linear_acceleration [m/s^2], angular_acceleration [rad/s^2]: likewise, braking
    included. max_tracking_error_translation [m], max_tracking_error_rotation [rad]: how far the command may run ahead
    of the measured pose; with an impedance controller this bounds the force. linear_jerk [m/s^3], angular_jerk
    [rad/s^3]: the command is the mean of as many ticks as keep its jerk below; infinite: acceleration changes at once.
    Raises ValueError for a bound that is neither 0 nor finite and at least `LEAST`, a minimum above its maximum, or a
    jerk below `LEAST`.
    """

    workspace_min: tuple[float, float, float]
    workspace_max: tuple[float, float, float]
    linear_speed: float
    angular_speed: float
    linear_acceleration: float
    angular_acceleration: float
    max_tracking_error_translation: float
    max_tracking_error_rotation: float
    linear_jerk: float = math.inf
    angular_jerk: float = math.inf

    def __post_init__(self):
        for name in ("linear_jerk", "angular_jerk"):
            if not getattr(self, name) >= LEAST:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least {LEAST:g}")
        for kind, unit in (("linear", "translation"), ("angular", "rotation")):
            for name in (f"{kind}_speed", f"{kind}_acceleration", f"max_tracking_error_{unit}"):
                value = getattr(self, name)
                if not (np.isfinite(value) and (value == 0.0 or value >= LEAST)):
                    raise ValueError(f"{name} is {value}, expected a finite value of at least {LEAST:g}, or 0")
        for name in ("workspace_min", "workspace_max"):
            corner = getattr(self, name)
            if len(corner) != 3 or not np.isfinite(corner).all():
                raise ValueError(f"{name} is {corner}, expected three finite values (x, y, z) [m]")
        if (np.asarray(self.workspace_min) > np.asarray(self.workspace_max)).any():
            raise ValueError(f"workspace_min {self.workspace_min} lies above workspace_max {self.workspace_max}")


@dataclass(frozen=True, eq=False)
class Motion:
    """A command and how it moves.

    pose: within all limits but that of jerk. linear: (3,) [m], angular: rotation vector (3,) [rad], base axes: the step
    that led there from the last tick. trail: the poses of the ticks before, oldest first, one fewer than are averaged.

    The mean of n ticks has at most the speed and the acceleration of each, and at most 2 a / (n T) of jerk for an
    acceleration a and a period T: (a_k - a_(k-n)) / (n T). It stays in the box, which is convex, and it comes to rest
    n - 1 ticks after the pose does.
    """

    pose: Pose
    linear: np.ndarray
    angular: np.ndarray
    trail: tuple[Pose, ...] = ()

    @classmethod
    def at_rest(cls, pose: Pose, count: int = 1) -> Motion:
        """Standing at this pose. count: of the ticks that are averaged."""
        return cls(pose, np.zeros(3), np.zeros(3), (pose,) * (count - 1))

    @property
    def resting(self) -> bool:
        """The next command of a hold is the same pose."""
        return not (self.linear.any() or self.angular.any()) and self._settled

    @property
    def command(self) -> Pose:
        """What the arm is told: the mean of the last poses."""
        if self._settled:
            return self.pose
        count = len(self.trail) + 1
        position = sum((past.position for past in self.trail), self.pose.position) / count
        turns = [difference(past.quaternion, self.pose.quaternion) for past in self.trail]
        return Pose(position, turn(self.pose.quaternion, np.sum(turns, axis=0) / count))

    @property
    def _settled(self) -> bool:
        return all(past is self.pose for past in self.trail)


CURVED = 0.98  # rotations do not add up exactly: where they are averaged, so much of their limits is used


def averaged(limits: Limits, period_s: float) -> int:
    """Over how many ticks the command is averaged, so that its jerk stays below the limits."""
    changes = (
        2.0 * limits.linear_acceleration / (limits.linear_jerk * period_s),
        2.0 * limits.angular_acceleration / (limits.angular_jerk * period_s),
    )
    return max(1, *(math.ceil(change - 1e-9) for change in changes))


def norm(vector: np.ndarray) -> float:
    """Length of a vector (3,)."""
    return math.sqrt(vector @ vector)


def shortened(vector: np.ndarray, most: float) -> np.ndarray:
    """The vector, no longer than `most`. Nothing at all for 0: the length of a denormal vector is 0 as well."""
    if most <= 0.0:
        return np.zeros(3)
    length = norm(vector)
    return vector if length <= most else vector * (most / length)


def toward(start: Pose, goal: Pose, distance: float, angle: float) -> Pose:
    """From `start` toward `goal`, at most `distance` [m] and at most `angle` [rad] away from `start`.

    The quaternion lies in the same hemisphere as that of `start`, so that no component flips sign.
    """
    step, rotation = goal.position - start.position, difference(goal.quaternion, start.quaternion)
    position = goal.position if norm(step) <= distance else start.position + shortened(step, distance)
    quaternion = goal.quaternion if norm(rotation) <= angle else turn(start.quaternion, shortened(rotation, angle))
    return Pose(position, _near(quaternion, start.quaternion))


def stopping(step: np.ndarray, change: float) -> np.ndarray:
    """Way still to go after a `step` per tick, when each tick after it is shorter by `change`: a vector (3,)."""
    length = norm(step)
    if length <= change:
        return np.zeros(3)
    ticks = math.ceil(length / change) - 1 if change > 0.0 else 0
    return step * (ticks - change * ticks * (ticks + 1) / (2.0 * length))


def catch_up(distance: float, change: float) -> float:
    """The longest step toward something `distance` away from which one still stops there, `change` less each tick.

    From a step v with n = floor(v / change) that takes (n + 1) (v - n change / 2) in all.
    """
    if change == 0.0:
        return 0.0
    n = math.floor((math.sqrt(1.0 + 8.0 * distance / change) - 1.0) / 2.0)
    return distance / (n + 1) + 0.5 * n * change


def next_step(
    last: np.ndarray,
    behind: np.ndarray,
    goal_step: np.ndarray,
    most: float,
    change: float,
    outside: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """The step of this tick, no longer than `most` and no more than `change` away from the `last` one; all (3,).

    The goal made `goal_step` and was `behind` away before it: the step keeps up with the goal and closes the gap no
    faster than it can brake. outside: for a way from here, by how much it ends outside of each bound, positive when
    it does. A step is taken only if braking after it ends outside of no bound further than braking now would; and
    braking now is always possible, so what is inside stays inside.
    """
    wanted = shortened(goal_step + shortened(behind, catch_up(norm(behind), change)), most)
    step = last + shortened(wanted - last, change)
    if (outside(step + stopping(step, change)) <= SLACK).all():
        return step  # far from every bound, as nearly always
    brake = shortened(last, max(0.0, norm(last) - change))
    allowed = np.maximum(outside(brake + stopping(brake, change)), 0.0) + SLACK
    for share in BACK_OFF:
        tried = brake + share * (step - brake)
        if (outside(tried + stopping(tried, change)) <= allowed).all():
            return tried
    return brake


def admissible(pose: Pose, measured: Pose, limits: Limits) -> tuple[Pose, Pose]:
    """`pose` within the tracking error of the measured one; and that within the workspace box as well.

    Each is `pose` itself, not a copy, where nothing was to be changed.
    """
    near = norm(pose.position - measured.position) <= limits.max_tracking_error_translation
    if near and norm(difference(pose.quaternion, measured.quaternion)) <= limits.max_tracking_error_rotation:
        led = pose
    else:
        led = toward(measured, pose, limits.max_tracking_error_translation, limits.max_tracking_error_rotation)
    boxed = np.minimum(np.maximum(led.position, limits.workspace_min), limits.workspace_max)
    return led, led if (boxed == led.position).all() else Pose(boxed, led.quaternion)


def binding(goal: Pose, last: Pose, command: Pose, measured: Pose, limits: Limits, period_s: float) -> tuple[str, ...]:
    """Which of `BINDING` kept `command`, one tick after `last`, from the `goal`: none of them when it is there.

    "tracking_error", "workspace" and "speed" where the goal lies beyond them; else it was "acceleration", which braking
    ahead of one of them is too.
    """
    if not differ(goal, command):
        return ()
    led, inside = admissible(goal, measured, limits)
    linear, angular = inside.position - last.position, difference(inside.quaternion, last.quaternion)
    fast = norm(linear) > limits.linear_speed * period_s or norm(angular) > limits.angular_speed * period_s
    beyond = {"tracking_error": differ(goal, led), "workspace": differ(led, inside), "speed": fast}
    return tuple(name for name, hit in beyond.items() if hit) or ("acceleration",)


def differ(a: Pose, b: Pose) -> bool:
    """Whether two poses differ by more than rounding; quaternions of opposite sign are one rotation."""
    apart = np.abs(a.position - b.position).max()
    return bool(apart > SLACK or abs(a.quaternion @ b.quaternion) < 1.0 - 1e-12)


def follow(
    motion: Motion, goal_before: Pose, goal: Pose, measured: Pose, limits: Limits, period_s: float, left_s: float
) -> Motion:
    """The command of this tick, toward a goal that was at `goal_before` one tick ago, within all limits.

    left_s: after this time the motion must have ended [s].
    """
    box_min, box_max = np.asarray(limits.workspace_min), np.asarray(limits.workspace_max)
    before, now = (admissible(pose, measured, limits)[1] for pose in (goal_before, goal))
    command = motion.pose

    def outside_linear(way: np.ndarray) -> np.ndarray:
        end = command.position + way
        box = np.maximum(box_min - end, end - box_max)
        return np.append(box, norm(end - measured.position) - limits.max_tracking_error_translation)

    def outside_angular(way: np.ndarray) -> np.ndarray:
        end = turn(command.quaternion, way)
        return np.array([norm(difference(end, measured.quaternion)) - limits.max_tracking_error_rotation])

    left_s = max(0.0, left_s - len(motion.trail) * period_s)
    curved = CURVED if motion.trail else 1.0
    linear = next_step(
        motion.linear,
        before.position - command.position,
        now.position - before.position,
        min(limits.linear_speed, limits.linear_acceleration * left_s) * period_s,
        limits.linear_acceleration * period_s * period_s,
        outside_linear,
    )
    angular = next_step(
        motion.angular,
        difference(before.quaternion, command.quaternion),
        difference(now.quaternion, before.quaternion),
        min(limits.angular_speed, limits.angular_acceleration * left_s) * period_s * curved,
        limits.angular_acceleration * period_s * period_s * curved,
        outside_angular,
    )
    return _moved(motion, linear, angular)


def brake(motion: Motion, limits: Limits, period_s: float) -> Motion:
    """The command of this tick when nothing is to be followed: to rest, as fast as the limits allow."""
    curved = CURVED if motion.trail else 1.0
    linear, angular = (
        shortened(step, max(0.0, norm(step) - acceleration * period_s * period_s))
        for step, acceleration in (
            (motion.linear, limits.linear_acceleration),
            (motion.angular, limits.angular_acceleration * curved),
        )
    )
    return _moved(motion, linear, angular)


def _moved(motion: Motion, linear: np.ndarray, angular: np.ndarray) -> Motion:
    trail = (*motion.trail[1:], motion.pose) if motion.trail else ()
    if not linear.any() and not angular.any():
        return Motion(motion.pose, linear, angular, trail)
    quaternion = _near(turn(motion.pose.quaternion, angular), motion.pose.quaternion)
    return Motion(Pose(motion.pose.position + linear, quaternion), linear, angular, trail)


def _near(quaternion: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The quaternion of the same rotation that lies in the hemisphere of `reference`."""
    return -quaternion if quaternion @ reference < 0.0 else quaternion

"""What the stream of targets did: largest step, speed and acceleration, and when it stood still."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grids_ros.control.defaults import FOLLOWER
from grids_ros.control.rotation import difference

PERIOD_S = FOLLOWER.period_s
LIMITS = FOLLOWER.limits
REST = 5  # equal targets in a row: the arm is held
SLACK = 1e-6  # of rounding, relative to a limit


@dataclass(frozen=True)
class Target:
    """One message on target_pose. number: its sequence number; one that is lost leaves a gap."""

    number: int
    position: np.ndarray
    quaternion: np.ndarray


@dataclass(frozen=True)
class Extremes:
    """step [m], speed [m/s], acceleration [m/s^2], turning speed [rad/s], turning acceleration [rad/s^2].

    lost: how many messages did not reach the driver.
    """

    step: float
    speed: float
    acceleration: float
    turning_speed: float
    turning_acceleration: float
    lost: int

    @property
    def within(self) -> bool:
        """Every limit was kept."""
        pairs = (
            (self.speed, LIMITS.linear_speed),
            (self.acceleration, LIMITS.linear_acceleration),
            (self.turning_speed, LIMITS.angular_speed),
            (self.turning_acceleration, LIMITS.angular_acceleration),
        )
        return all(value <= limit * (1.0 + SLACK) + 1e-9 for value, limit in pairs)


def extremes(targets: list[Target]) -> Extremes:
    """Over a window of the stream. A lost message allows its gap twice the step, and no acceleration across it."""
    steps, turns, gaps = [], [], []
    for before, after in zip(targets, targets[1:], strict=False):
        gap = after.number - before.number
        steps.append((after.position - before.position) / gap)
        turns.append(difference(after.quaternion, before.quaternion) / gap)
        gaps.append(gap)
    linear, angular = np.reshape(steps, (-1, 3)), np.reshape(turns, (-1, 3))
    whole = np.array(gaps[:-1], int) + np.array(gaps[1:], int) == 2 if gaps else np.zeros(0, bool)
    return Extremes(
        _longest(linear),
        _longest(linear) / PERIOD_S,
        _longest(np.diff(linear, axis=0)[whole]) / PERIOD_S**2,
        _longest(angular) / PERIOD_S,
        _longest(np.diff(angular, axis=0)[whole]) / PERIOD_S**2,
        int(sum(gaps) - len(gaps)),
    )


def speed_at_end(targets: list[Target], ticks: int = REST) -> float:
    """Mean speed over the last ticks [m/s]; 0 where there are none."""
    if len(targets) <= ticks:
        return 0.0
    before, after = targets[-1 - ticks], targets[-1]
    return float(np.linalg.norm(after.position - before.position)) / ((after.number - before.number) * PERIOD_S)


def rests_after(targets: list[Target], number: int) -> int | None:
    """Ticks from message `number` until the target stands still; None if it does not."""
    still = 0
    for before, after in zip(targets, targets[1:], strict=False):
        same = np.array_equal(before.position, after.position) and np.array_equal(before.quaternion, after.quaternion)
        still = still + 1 if same else 0
        if still == REST and after.number > number:
            return max(0, after.number - REST - number)
    return None


def moves_after(targets: list[Target], number: int) -> int | None:
    """Ticks from message `number` until the target moves; None if it does not."""
    for before, after in zip(targets, targets[1:], strict=False):
        if after.number > number and not np.array_equal(before.position, after.position):
            return after.number - number
    return None


def _longest(vectors: np.ndarray) -> float:
    return float(np.linalg.norm(vectors, axis=1).max()) if len(vectors) else 0.0

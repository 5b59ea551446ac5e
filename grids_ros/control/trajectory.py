"""Poses as a function of time, and the joint between two action chunks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grids_ros.control.rotation import difference, slerp, turn
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Pose

# How a new chunk takes over from the one before it. Each skips the steps whose time has passed, by the observation's
# stamp. latest: it is entered at once, within the limits. blend: it is faded in. rtc: the policy makes it agree with
# what the arm will have done by then (see policy/rtc.py), and what is left is faded in.
JOINS = ("latest", "blend", "rtc")


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Timed poses, linear in position and slerp in rotation between them; after the last one it holds.

    start_ns: what `times` count from [ns]. times: (n,) [s], strictly increasing. positions: (n, 3) [m].
    quaternions: (n, 4), xyzw, unit. lead_in: whether the first segment continues backwards before the first pose, by
    no more than its own length. A chunk says nothing about that time, and one that stood still there would stop an
    arm in motion. Without it, the first pose holds there.
    """

    start_ns: int
    times: np.ndarray
    positions: np.ndarray
    quaternions: np.ndarray
    lead_in: bool = False

    @classmethod
    def of_chunk(cls, chunk: ActionChunk) -> Trajectory:
        """The tool poses of a chunk, with lead-in."""
        return cls(chunk.stamp_ns, chunk.times, chunk.positions, chunk.quaternions, lead_in=True)

    @classmethod
    def of_stamps(cls, stamps_ns: np.ndarray, positions: np.ndarray, quaternions: np.ndarray) -> Trajectory:
        """Recorded poses at these instants (n,) [ns], n at least 1, strictly increasing."""
        return cls(int(stamps_ns[0]), (stamps_ns - stamps_ns[0]) / NANOSECONDS, positions, quaternions)

    def pose_at(self, now_ns: int) -> Pose:
        """The pose at one instant, as of `at`: for the control tick."""
        seconds, times = (now_ns - self.start_ns) / NANOSECONDS, self.times
        if seconds >= times[-1] or len(times) == 1:
            return Pose(self.positions[-1], self.quaternions[-1])
        after = max(1, int(np.searchsorted(times, seconds)))
        before = after - 1
        fraction = max(self._least, (seconds - times[before]) / (times[after] - times[before]))
        position = self.positions[before] + fraction * (self.positions[after] - self.positions[before])
        start, end = self.quaternions[before], self.quaternions[after]
        return Pose(position, turn(start, fraction * difference(end, start)))

    def at(self, stamps_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (m, 3) [m] and quaternions (m, 4) at these instants (m,) [ns]."""
        seconds = (np.asarray(stamps_ns) - self.start_ns) / NANOSECONDS
        last = len(self.times) - 1
        after = np.searchsorted(self.times, seconds).clip(min(1, last), last)
        before = np.maximum(after - 1, 0)
        length = np.where(after > before, self.times[after] - self.times[before], 1.0)
        fraction = ((seconds - self.times[before]) / length).clip(self._least, 1.0)[:, None]
        positions = self.positions[before] + fraction * (self.positions[after] - self.positions[before])
        return positions, slerp(self.quaternions[before], self.quaternions[after], fraction)

    def covers(self, stamps_ns: np.ndarray, max_gap_ns: int) -> np.ndarray:
        """Which of these instants (m,) [ns] lie between two poses that are no further apart in time than this [ns]."""
        if len(self.times) < 2:
            return np.zeros(len(stamps_ns), bool)
        seconds = (np.asarray(stamps_ns) - self.start_ns) / NANOSECONDS
        after = np.searchsorted(self.times, seconds).clip(1, len(self.times) - 1)
        short = self.times[after] - self.times[after - 1] <= (max_gap_ns + 0.5) / NANOSECONDS
        return (seconds >= self.times[0]) & (seconds <= self.times[-1]) & short

    @property
    def _least(self) -> float:
        """The smallest fraction of a segment that is travelled."""
        return -1.0 if self.lead_in else 0.0


def gripper_at(chunk: ActionChunk, now_ns: int) -> float:
    """The gripper opening [m] of the step being travelled to: openings are decisions, not interpolated."""
    seconds = (now_ns - chunk.stamp_ns) / NANOSECONDS
    return float(chunk.gripper[min(int(np.searchsorted(chunk.times, seconds)), len(chunk) - 1)])


@dataclass(frozen=True, eq=False)
class Join:
    """A chunk entered from where the command was, so that the command never steps when chunks change.

    What separates the command from the chunk at `start_ns` fades to nothing over `duration_s`, with zero slope at
    both ends. translation: (3,) [m]; rotation: rotation vector (3,) [rad]; both in base axes.
    """

    chunk: ActionChunk
    trajectory: Trajectory
    start_ns: int
    duration_s: float
    translation: np.ndarray
    rotation: np.ndarray

    @classmethod
    def enter(cls, chunk: ActionChunk, command: Pose, command_ns: int, duration_s: float) -> Join:
        """Join `chunk` from `command`, the arm's target at `command_ns`."""
        trajectory = Trajectory.of_chunk(chunk)
        target = trajectory.pose_at(command_ns)
        translation, rotation = command.position - target.position, difference(command.quaternion, target.quaternion)
        return cls(chunk, trajectory, command_ns, duration_s, translation, rotation)

    def at(self, now_ns: int) -> Pose:
        """The joined pose at `now_ns`; before `start_ns` as if the chunk had been entered earlier."""
        target = self.trajectory.pose_at(now_ns)
        elapsed = max(0.0, (now_ns - self.start_ns) / NANOSECONDS)
        if elapsed >= self.duration_s:
            return target
        progress = elapsed / self.duration_s
        left = 1.0 - progress * progress * (3.0 - 2.0 * progress)
        return Pose(target.position + left * self.translation, turn(target.quaternion, left * self.rotation))

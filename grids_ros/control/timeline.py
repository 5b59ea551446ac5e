"""An action chunk as a function of time, and the joint between two of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grids_ros.control.rotation import difference, turn
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Pose

# How a new chunk takes over from the one before it. Each skips the steps whose time has passed, by the observation's
# stamp. latest: it is entered at once, within the limits. blend: it is faded in. rtc: the policy makes it agree with
# what the arm will have done by then (see policy/rtc.py), and what is left is faded in.
JOINS = ("latest", "blend", "rtc")


def pose_at(chunk: ActionChunk, now_ns: int) -> Pose:
    """The tool pose that the chunk asks for at `now_ns`: linear in position, slerp in rotation.

    Steps whose time has passed take part only as the start of the segment being travelled. Before the first step the
    first segment is continued backwards, by no more than its own length: a chunk says nothing about that time, and
    one that stood still there would stop an arm in motion. After the last step the last pose is returned.
    """
    seconds = (now_ns - chunk.stamp_ns) / NANOSECONDS
    times = chunk.times
    if seconds >= times[-1] or len(times) == 1:
        return Pose(chunk.positions[-1], chunk.quaternions[-1])
    after = max(1, int(np.searchsorted(times, seconds)))
    before = after - 1
    fraction = max(-1.0, (seconds - times[before]) / (times[after] - times[before]))
    position = chunk.positions[before] + fraction * (chunk.positions[after] - chunk.positions[before])
    start, end = chunk.quaternions[before], chunk.quaternions[after]
    return Pose(position, turn(start, fraction * difference(end, start)))


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
    start_ns: int
    duration_s: float
    translation: np.ndarray
    rotation: np.ndarray

    @classmethod
    def enter(cls, chunk: ActionChunk, command: Pose, command_ns: int, duration_s: float) -> Join:
        """Join `chunk` from `command`, which was what the arm was told at `command_ns`."""
        target = pose_at(chunk, command_ns)
        translation = command.position - target.position
        return cls(chunk, command_ns, duration_s, translation, difference(command.quaternion, target.quaternion))

    def at(self, now_ns: int) -> Pose:
        """The joined pose at `now_ns`; before `start_ns` as if the chunk had been entered earlier."""
        target = pose_at(self.chunk, now_ns)
        elapsed = max(0.0, (now_ns - self.start_ns) / NANOSECONDS)
        if elapsed >= self.duration_s:
            return target
        progress = elapsed / self.duration_s
        left = 1.0 - progress * progress * (3.0 - 2.0 * progress)
        return Pose(target.position + left * self.translation, turn(target.quaternion, left * self.rotation))

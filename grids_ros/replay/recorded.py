"""What the arm was told, or did, while the bag was recorded: the reference that chunks are held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from grids_ros.data.bags import MAX_GAP_NS, stamped_ns
from grids_ros.data.source import BagError
from grids_ros.datatypes import NANOSECONDS
from grids_ros.messages import check_frame, to_commanded, to_opening

KEPT_NS = 15 * NANOSECONDS  # how far back is remembered: longer than any chunk
BACK_NS = 2 * NANOSECONDS  # stamps that go back by more belong to a clock that was set anew


def interpolate(
    stamps: np.ndarray, positions: np.ndarray, quaternions: np.ndarray, at: np.ndarray
) -> tuple[np.ndarray, Rotation]:
    """Positions (m, 3), linear, and rotations (m), slerp, at the times `at` (m,); held before the first and the last.

    stamps: (n,), increasing, in the unit of `at`. positions: (n, 3). quaternions: (n, 4), xyzw.
    """
    after = np.clip(np.searchsorted(stamps, at), 1, len(stamps) - 1) if len(stamps) > 1 else np.zeros(len(at), int)
    before = np.maximum(after - 1, 0)
    length = np.maximum((stamps[after] - stamps[before]).astype(np.float64), 1e-9)
    share = np.clip((at - stamps[before]) / length, 0.0, 1.0)
    first = Rotation.from_quat(quaternions[before])
    turn = (Rotation.from_quat(quaternions[after]) * first.inv()).as_rotvec()
    moved = positions[before] + share[:, None] * (positions[after] - positions[before])
    return moved, Rotation.from_rotvec(share[:, None] * turn) * first


class Series:
    """Stamps (n,) [ns] and rows (n, width) of the last `KEPT_NS`, in order; what is not newer is passed over."""

    def __init__(self, width: int):
        self._stamps, self._rows = np.empty(256, np.int64), np.empty((256, width))
        self._first = self._end = 0

    def add(self, stamp_ns: int, row: Sequence[float]) -> None:
        if self._end > self._first and stamp_ns <= self._stamps[self._end - 1]:
            if stamp_ns > self._stamps[self._end - 1] - BACK_NS:
                return
            self._first = self._end = 0
        if self._end == len(self._stamps):
            self._make_room(stamp_ns)
        self._stamps[self._end], self._rows[self._end] = stamp_ns, row
        self._end += 1

    def _make_room(self, now_ns: int) -> None:
        stamps, rows = self.all()
        kept = slice(int(np.searchsorted(stamps, now_ns - KEPT_NS)), None)
        stamps, rows = stamps[kept].copy(), rows[kept].copy()
        size = max(256, 2 * len(stamps))
        self._stamps, self._rows = np.empty(size, np.int64), np.empty((size, rows.shape[1]))
        self._first, self._end = 0, len(stamps)
        self._stamps[: self._end], self._rows[: self._end] = stamps, rows

    def all(self) -> tuple[np.ndarray, np.ndarray]:
        return self._stamps[self._first : self._end], self._rows[self._first : self._end]

    @property
    def newest_ns(self) -> int:
        """Stamp of the last row; -1 without any."""
        return int(self._stamps[self._end - 1]) if self._end > self._first else -1


class Recorded:
    """The recorded motion and grip, as far as they have been read. Stamps are those of the headers, if not empty.

    The motion is `target_pose`, or `current_pose` where nobody published targets; the grip `gripper_command`, or the
    measured opening. Where targets pause for longer than `MAX_GAP_NS` nobody knows what the arm should have done.
    """

    def __init__(self, roles: Sequence[str], settings: Mapping[str, object], gripper_scale: float = 1.0):
        """roles: those that the bag has. settings: the policy node's parameters. gripper_scale: the follower's."""
        self.motion = "target_pose" if "target_pose" in roles else "current_pose"
        self.grip = "gripper_command" if "gripper_command" in roles else "joint_states"
        self._fingers, self._base = settings["finger_joints"], settings["base_frame"]
        self._gripper_scale = gripper_scale
        self._taken = self._gaps = 0  # poses that could be used, and how many came too long after the one before
        self.forget()

    def forget(self) -> None:
        """What is read next lies elsewhere in the bag."""
        self._poses, self._openings = Series(7), Series(1)

    def add(self, role: str, received_ns: int, message) -> None:
        """Anything that arrived; what is of no use here, or broken, is passed over.

        Raises BagError for targets in another frame than the chunks.
        """
        if role == self.motion and self._in_frame(message.header):
            p, q = message.pose.position, message.pose.orientation
            row = (p.x, p.y, p.z, q.x, q.y, q.z, q.w)
            if np.isfinite(row).all() and abs(np.dot(row[3:], row[3:]) - 1.0) < 1e-2:
                self._add_pose(stamped_ns(message, received_ns), row)
        if role == self.grip:
            try:
                opening = self._opening(message)
            except ValueError:
                return
            if opening is not None:
                self._openings.add(stamped_ns(message, received_ns), (opening,))

    def _opening(self, message) -> float | None:
        if self.grip == "gripper_command":
            return to_commanded(message, self._gripper_scale)
        return to_opening(message, self._fingers)

    def _add_pose(self, stamp_ns: int, row: Sequence[float]) -> None:
        self._taken += 1
        self._gaps += 0 <= self._poses.newest_ns < stamp_ns - MAX_GAP_NS
        self._poses.add(stamp_ns, row)

    def _in_frame(self, header) -> bool:
        try:
            check_frame(self.motion, header, self._base)
        except ValueError as error:
            if self.motion == "target_pose":
                raise BagError(f"{error}: see base_frame") from error
            return False  # as the nodes refuse them
        return True

    def why_unknown(self) -> str:
        """What most likely keeps the motion from being known anywhere, in words."""
        if self._taken < 2:
            return f"{self._taken} messages on {self.motion} have a pose that can be used"
        if self._gaps > self._taken // 2:
            longest = MAX_GAP_NS / NANOSECONDS
            return f"{self.motion} pauses {self._gaps} times for more than {longest:g} s, in {self._taken} messages"
        return f"no chunk lies within the stamps of {self.motion}"

    def knows(self, until_ns: int) -> bool:
        """Whether the motion up to this instant has been read."""
        return self._poses.newest_ns >= until_ns

    def motion_at(self, times_ns: np.ndarray) -> tuple[np.ndarray, Rotation, np.ndarray]:
        """Positions (m, 3) [m], rotations (m) and whether each is known (m,), at these instants [ns]."""
        stamps, rows = self._poses.all()
        if len(stamps) < 2:
            return np.zeros((len(times_ns), 3)), Rotation.identity(len(times_ns)), np.zeros(len(times_ns), bool)
        after = np.clip(np.searchsorted(stamps, times_ns), 1, len(stamps) - 1)
        known = (times_ns >= stamps[0]) & (times_ns <= stamps[-1]) & (stamps[after] - stamps[after - 1] <= MAX_GAP_NS)
        return *interpolate(stamps, rows[:, :3], rows[:, 3:], times_ns), known

    def grip_at(self, times_ns: np.ndarray) -> np.ndarray:
        """Openings (m,) [m] that held at these instants; NaN before the first that is known."""
        stamps, rows = self._openings.all()
        latest = np.searchsorted(stamps, times_ns, side="right") - 1
        values = np.append(rows[:, 0], np.nan)
        return values[latest]

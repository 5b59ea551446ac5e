"""What the arm was told, or did, while the bag was recorded: the reference that chunks are held against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grids_ros.control.trajectory import Trajectory
from grids_ros.data.bags import MAX_GAP_NS, pass_over, stamped_ns
from grids_ros.datatypes import NANOSECONDS
from grids_ros.observation.messages import to_commanded, to_joints, to_ns, to_opening, to_pose
from grids_ros.parameters import PolicyParameters

KEPT_NS = 15 * NANOSECONDS  # how far back is remembered: longer than any chunk
BACK_NS = 2 * NANOSECONDS  # stamps that go back by more belong to a clock that was set anew


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


class RecordedMotion:
    """The recorded motion and grip, as far as they have been read. Stamps are those of the headers, if not empty.

    The motion is `target_pose`, or `current_pose` where nobody published targets; the grip `gripper_command`, or the
    measured opening; the joints `target_joint`, or the measured ones. Where targets pause for longer than `MAX_GAP_NS`
    nobody knows what the arm should have done.
    """

    def __init__(
        self,
        roles: Sequence[str],
        settings: PolicyParameters,
        gripper_scale: float = 1.0,
        joints: Sequence[str] = (),
    ):
        """roles: those that the bag has. settings: the policy node's parameters. gripper_scale: the follower's.

        joints: those that a policy speaks.
        """
        self.joints = tuple(joints)
        self.posture = "target_joint" if "target_joint" in roles else "joint_states"
        self.motion = "target_pose" if "target_pose" in roles else "current_pose"
        self.grip = "gripper_command" if "gripper_command" in roles else "joint_states"
        self._fingers, self._base = settings.finger_joints, settings.base_frame
        self._gripper_scale = gripper_scale
        self.passed_over: dict[str, tuple[int, str]] = {}  # by role: how many, and the last fault
        self._stamped: set[str] = set()
        self._taken = self._gaps = 0  # poses that could be used, and how many came too long after the one before
        self.forget()

    def forget(self) -> None:
        """What is read next lies elsewhere in the bag."""
        self._poses, self._openings, self._postures = Series(7), Series(1), Series(len(self.joints))

    def add(self, role: str, received_ns: int, message) -> None:
        """Anything that arrived. What is broken is passed over and counted in `passed_over`."""
        try:
            if role == self.motion:
                pose = to_pose(message, self._base, role)
                self._add_pose(self._stamp_ns(role, received_ns, message), (*pose.position, *pose.quaternion))
            if role == self.grip:
                opening = self._opening(message)
                if opening is not None:
                    self._openings.add(self._stamp_ns(role, received_ns, message), (opening,))
            if role == self.posture and self.joints:
                found = to_joints(message, self.joints)
                if len(found) == len(self.joints):
                    row = [found[name] for name in self.joints]
                    self._postures.add(self._stamp_ns(role, received_ns, message), row)
        except ValueError as error:
            pass_over(self.passed_over, role, str(error))

    def _stamp_ns(self, role: str, received_ns: int, message) -> int:
        """Raises ValueError for a stamp of zero in a stream that has stamps."""
        stamp_ns = stamped_ns(message, received_ns)
        if stamp_ns != received_ns:
            self._stamped.add(role)
        elif role in self._stamped and getattr(message, "header", None) and not to_ns(message.header.stamp):
            raise ValueError(f"{role} is stamped zero")
        return stamp_ns

    def _opening(self, message) -> float | None:
        if self.grip == "gripper_command":
            return to_commanded(message, self._gripper_scale)
        return to_opening(message, self._fingers)

    def _add_pose(self, stamp_ns: int, row: Sequence[float]) -> None:
        self._taken += 1
        self._gaps += 0 <= self._poses.newest_ns < stamp_ns - MAX_GAP_NS
        self._poses.add(stamp_ns, row)

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

    def motion_at(self, times_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions (m, 3) [m], quaternions (m, 4) and whether each is known (m,), at these instants [ns]."""
        stamps, rows = self._poses.all()
        if len(stamps) < 2:
            unknown = len(times_ns)
            return np.zeros((unknown, 3)), np.tile([0.0, 0.0, 0.0, 1.0], (unknown, 1)), np.zeros(unknown, bool)
        recorded = Trajectory.of_stamps(stamps, rows[:, :3], rows[:, 3:])
        return *recorded.at(times_ns), recorded.covers(times_ns, MAX_GAP_NS)

    def joints_at(self, times_ns: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Positions (m, names) [rad or m] at these instants; NaN where they are not known."""
        stamps, rows = self._postures.all()
        found = np.full((len(times_ns), len(names)), np.nan)
        if len(stamps) < 2:
            return found
        columns = [self.joints.index(name) for name in names]
        after = np.searchsorted(stamps, times_ns).clip(1, len(stamps) - 1)
        known = (stamps[0] <= times_ns) & (times_ns <= stamps[-1]) & (stamps[after] - stamps[after - 1] <= MAX_GAP_NS)
        for index, column in enumerate(columns):
            found[known, index] = np.interp((times_ns - stamps[0])[known], stamps - stamps[0], rows[:, column])
        return found

    def grip_at(self, times_ns: np.ndarray) -> np.ndarray:
        """Openings (m,) [m] that held at these instants; NaN before the first that is known."""
        stamps, rows = self._openings.all()
        latest = np.searchsorted(stamps, times_ns, side="right") - 1
        values = np.append(rows[:, 0], np.nan)
        return values[latest]

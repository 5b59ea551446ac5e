"""Measured tool poses, and jumps in them that no arm can make."""

from __future__ import annotations

from dataclasses import dataclass

from grids_ros.control.limits import norm
from grids_ros.control.rotation import difference
from grids_ros.datatypes import NANOSECONDS, Pose

# Faster than any arm's tool: Franka's Cartesian limits are 3 m/s and 4 rad/s, a UR5e's wrists add up to 19 rad/s.
ARM_SPEED = 5.0  # [m/s]
ARM_TURNING_SPEED = 20.0  # [rad/s]
NOISE_M, NOISE_RAD = 0.01, 0.05  # by which two measurements may differ at one instant: noise, and jitter of stamps
SETTLED_NS = NANOSECONDS // 5  # without a jump for so long, measurements are believed again
RESTART_NS = NANOSECONDS  # a stamp that goes back by more belongs to a clock that was set anew


@dataclass(frozen=True, eq=False)
class Measurement:
    """A measured pose of the tool in the base frame.

    jumped_ns: the stamp of the last pose that lay further from the one before it than any arm moves in that time;
    None if there was none. jump: what it was, in words.
    """

    stamp_ns: int
    pose: Pose
    jumped_ns: int | None = None
    jump: str = ""

    def next(self, stamp_ns: int, pose: Pose) -> Measurement:
        """The measurement after this one."""
        elapsed_ns = stamp_ns - self.stamp_ns
        if elapsed_ns < -RESTART_NS:
            return Measurement(stamp_ns, pose)
        elapsed_s = max(0, elapsed_ns) / NANOSECONDS
        moved = norm(pose.position - self.pose.position)
        turned = norm(difference(pose.quaternion, self.pose.quaternion))
        if moved > NOISE_M + ARM_SPEED * elapsed_s or turned > NOISE_RAD + ARM_TURNING_SPEED * elapsed_s:
            jump = f"current_pose jumped {moved:.3f} m and {turned:.3f} rad in {elapsed_s:.3f} s, faster than any arm"
            return Measurement(stamp_ns, pose, stamp_ns, jump)
        return Measurement(stamp_ns, pose, self.jumped_ns, self.jump)

    @property
    def settled(self) -> bool:
        """No jump within the last `SETTLED_NS`."""
        return self.jumped_ns is None or not 0 <= self.stamp_ns - self.jumped_ns < SETTLED_NS

"""How chunks are followed: the follower's settings, and the rules about stamps and poses that they imply."""

from __future__ import annotations

from dataclasses import dataclass

from grids_ros.control.gripper import GripperHysteresis
from grids_ros.control.limits import Limits, averaged, norm
from grids_ros.control.measurement import Measurement
from grids_ros.control.reasons import Hold, HoldCause
from grids_ros.control.rotation import difference
from grids_ros.control.trajectory import JOINS
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Pose

LONGEST_SPREAD_S = 0.5  # that braking may take longer because of the jerk limits
LONGEST_BRAKING_S = 4.0  # from the highest speed to rest: an ending process is given little more
# A blocked arm sits at its greatest tracking error, give or take noise: only this much more is a fault.
MARGIN, MARGIN_M, MARGIN_RAD = 1.1, 1e-3, 1e-2


@dataclass(frozen=True)
class FollowerConfig:
    """How chunks are followed.

    limits, gripper: see there. period_s: time between two ticks [s]. join: one of JOINS. join_s: over how long a new
    chunk is faded in, unless it is entered at once [s]. max_pose_age_s: the measured pose may be no older [s].
    max_chunk_age_s: how long after its observation a chunk is followed, whatever its length [s]: how far an arm goes
    on blind. future_s: how far ahead of the clock a chunk's stamp may lie [s]. arm_obeys: whether the measured arm
    follows the commands. In a dry run and in replay it does not; there a tracking error starts anew at the arm.
    Raises ValueError for a value out of range.
    """

    limits: Limits
    gripper: GripperHysteresis
    period_s: float
    join: str = "rtc"
    join_s: float = 0.2
    max_pose_age_s: float = 0.1
    max_chunk_age_s: float = 2.0
    future_s: float = 0.05
    arm_obeys: bool = True

    def __post_init__(self):
        for name in ("period_s", "max_pose_age_s", "max_chunk_age_s", "future_s"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")
        if not self.join_s >= 0.0:
            raise ValueError(f"join_s is {self.join_s}, expected at least 0")
        if self.join not in JOINS:
            raise ValueError(f"join is {self.join!r}, expected one of {', '.join(JOINS)}")
        spread_s = (self.averaged - 1) * self.period_s
        if spread_s > LONGEST_SPREAD_S:
            raise ValueError(
                f"linear_jerk {self.limits.linear_jerk:g} and angular_jerk {self.limits.angular_jerk:g} lengthen "
                f"braking by {spread_s:.1f} s, at most {LONGEST_SPREAD_S:g} s: raise them, or lower the accelerations"
            )

        for kind in ("linear", "angular"):
            speed, change = (getattr(self.limits, f"{kind}_{name}") for name in ("speed", "acceleration"))
            braking_s = speed / change + spread_s if change > 0.0 else 0.0
            if braking_s > LONGEST_BRAKING_S:
                raise ValueError(
                    f"{kind}_speed {speed:g} and {kind}_acceleration {change:g} make braking take {braking_s:.3g} s, "
                    f"at most {LONGEST_BRAKING_S:g} s: lower the speed, or raise the acceleration"
                )

    @property
    def averaged(self) -> int:
        """Over how many ticks the command is averaged, for its jerk."""
        return averaged(self.limits, self.period_s)

    @property
    def fade_s(self) -> float:
        """Over how long a new chunk is faded in [s]."""
        return 0.0 if self.join == "latest" else self.join_s

    def ends_ns(self, chunk: ActionChunk) -> int:
        """Until when the chunk is followed, if nothing comes after it."""
        return min(chunk.end_ns, chunk.stamp_ns + round(self.max_chunk_age_s * NANOSECONDS))

    def chunk_hold(self, chunk: ActionChunk | None, now_ns: int) -> Hold | None:
        """Why this chunk cannot be followed now."""
        if chunk is None:
            return Hold(HoldCause.NO_CHUNK, "no chunk")
        if now_ns > chunk.end_ns:
            return Hold(HoldCause.CHUNK_ENDED, "chunk ended")
        if now_ns > self.ends_ns(chunk):
            return Hold(HoldCause.CHUNK_TOO_OLD, self.too_old(chunk, now_ns))
        return None

    def too_old(self, chunk: ActionChunk, now_ns: int) -> str:
        """That the chunk's observation is too long ago, in words."""
        age = (now_ns - chunk.stamp_ns) / NANOSECONDS
        return f"chunk was observed {age:.3f} s ago, limit {self.max_chunk_age_s:g} s"

    def stamp_hold(self, measured: Measurement | None, now_ns: int) -> Hold | None:
        """Why the measured pose is not one of this instant."""
        if measured is None:
            return Hold(HoldCause.POSE_MISSING, "current_pose: nothing received yet")
        age = (now_ns - measured.stamp_ns) / NANOSECONDS
        if age > self.max_pose_age_s:
            reason = f"current_pose: {age:.3f} s old, limit {self.max_pose_age_s:g} s"
            return Hold(HoldCause.POSE_TOO_OLD, reason)
        if -age > self.future_s:
            reason = f"current_pose: stamped {-age:.3f} s in the future, limit {self.future_s:g} s"
            return Hold(HoldCause.POSE_IN_FUTURE, reason)
        return None

    def measurement_hold(self, measured: Measurement | None, now_ns: int) -> Hold | None:
        """Why the measured pose cannot be used now."""
        hold = self.stamp_hold(measured, now_ns)
        if hold is None and measured is not None and not measured.settled:
            return Hold(HoldCause.POSE_JUMPED, measured.jump)
        return hold

    def tracking_hold(self, command: Pose, measured: Pose) -> Hold | None:
        """That the arm is not where the command is."""
        limits = self.limits
        apart = norm(measured.position - command.position)
        turned = norm(difference(measured.quaternion, command.quaternion))
        if apart <= MARGIN * limits.max_tracking_error_translation + MARGIN_M and (
            turned <= MARGIN * limits.max_tracking_error_rotation + MARGIN_RAD
        ):
            return None
        return Hold(
            HoldCause.TRACKING_ERROR,
            f"the measured pose is {apart:.3f} m and {turned:.3f} rad from the target, "
            f"limits {limits.max_tracking_error_translation:g} m and {limits.max_tracking_error_rotation:g} rad",
        )

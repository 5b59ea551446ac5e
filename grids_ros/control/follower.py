"""The state between action chunks and the arm: what to command now, or why to hold.

The same object runs in the follower node, in closed-loop evaluation and in replay. It never reads a clock: every
method is told the time, in nanoseconds of the clock that stamps observations and chunks.
"""

from __future__ import annotations

from dataclasses import dataclass

from grids_ros.control.gripper import GripperHysteresis
from grids_ros.control.limits import Limits, Motion, admissible, brake, follow
from grids_ros.control.timeline import JOINS, Join, gripper_at
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Pose


class Refused(ValueError):
    """A chunk that must not be followed, and why. The arm goes on with what it had."""


@dataclass(frozen=True)
class FollowerConfig:
    """How chunks are followed.

    limits, gripper: see there. period_s: time between two ticks [s]. join: one of JOINS. join_s: over how long a new
    chunk is faded in, unless it is entered at once [s]. max_pose_age_s: the measured pose may be no older [s].
    max_chunk_age_s: how long after its observation a chunk is followed, whatever its length [s]: how far an arm goes
    on blind. future_s: how far ahead of the clock a chunk's stamp may lie [s].
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

    def __post_init__(self):
        for name in ("period_s", "max_pose_age_s", "max_chunk_age_s", "future_s"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")
        if not self.join_s >= 0.0:
            raise ValueError(f"join_s is {self.join_s}, expected at least 0")
        if self.join not in JOINS:
            raise ValueError(f"join is {self.join!r}, expected one of {', '.join(JOINS)}")

    @property
    def fade_s(self) -> float:
        """Over how long a new chunk is faded in [s]."""
        return 0.0 if self.join == "latest" else self.join_s

    def ends_ns(self, chunk: ActionChunk) -> int:
        """Until when the chunk is followed, if nothing comes after it."""
        return min(chunk.end_ns, chunk.stamp_ns + round(self.max_chunk_age_s * NANOSECONDS))


@dataclass(frozen=True, eq=False)
class Command:
    """What to tell the arm at one tick.

    pose: the target of the tool frame in the base frame. gripper: opening to send now [m], or None for nothing.
    holding: no chunk is followed: the pose comes to rest, and then is the same again. reason: why; else empty.
    wanted: what the chunk asks for, before the limits; None while it holds.
    """

    pose: Pose
    gripper: float | None
    holding: bool
    reason: str
    wanted: Pose | None = None


class Follower:
    """Follows the newest chunk within the limits; holds the last command in every other case."""

    def __init__(self, config: FollowerConfig):
        self.config = config
        self._measured: tuple[int, Pose] | None = None
        self._join: Join | None = None
        self._motion: Motion | None = None
        self._tick_ns = 0
        self._asked: tuple[Join, Pose] | None = None  # at the last tick that followed: what gave the goal, and the goal
        self._gripper: float | None = None
        self._holding = True
        self._hold_reason = ""
        self._released_ns: int | None = None
        self._now_ns = 0
        self._elsewhere = False  # the clock went back, and nobody has measured yet where the arm is now

    @property
    def chunk(self) -> ActionChunk | None:
        """The chunk being followed."""
        return self._join.chunk if self._join else None

    @property
    def at_rest(self) -> bool:
        """The command has come to rest, or there was none yet."""
        return self._motion is None or not (self._motion.linear.any() or self._motion.angular.any())

    def measure(self, stamp_ns: int, pose: Pose) -> None:
        """Take the newest measured tool pose."""
        self._measured = (stamp_ns, pose)

    def hold(self, reason: str) -> None:
        """Drop the chunk and hold from the next tick on, until `release`.

        Somebody may move the hand meanwhile: what is wanted of it is sent anew afterwards.
        """
        if not reason:
            raise ValueError("a hold needs a reason")
        self._join = self._gripper = None
        self._hold_reason = reason

    def release(self, now_ns: int) -> None:
        """End a hold. Only chunks observed from now on are followed."""
        self._hold_reason = ""
        self._released_ns = now_ns

    def accept(self, chunk: ActionChunk, now_ns: int) -> None:
        """Follow `chunk` from now on. Raises Refused; what was being followed then goes on."""
        self._watch_clock(now_ns)
        config = self.config
        if self._hold_reason:
            raise Refused(f"holding: {self._hold_reason}")
        if self._released_ns is not None and chunk.stamp_ns < self._released_ns:
            raise Refused("chunk was observed before the hold was released")
        if chunk.stamp_ns > now_ns + config.future_s * NANOSECONDS:
            ahead = (chunk.stamp_ns - now_ns) / NANOSECONDS
            raise Refused(f"chunk is stamped {ahead:.3f} s in the future, limit {config.future_s:g} s")
        if now_ns >= chunk.end_ns:
            late = (now_ns - chunk.end_ns) / NANOSECONDS
            raise Refused(f"chunk ended {late:.3f} s ago: every step has passed")
        if now_ns >= config.ends_ns(chunk):
            raise Refused(self._too_old(chunk, now_ns))
        current = self._join.chunk if self._join else None
        if current and current.stamp_ns >= chunk.stamp_ns and now_ns < config.ends_ns(current):
            raise Refused("chunk is not newer than the one being followed")
        stale = self._stale(now_ns)
        if stale:
            raise Refused(stale)
        # A command in motion belongs to the last tick: joined there, the next one goes on instead of standing still.
        start_ns = now_ns if self._holding else self._tick_ns
        start = self._motion.pose if self._motion else self._measured[1]
        self._join = Join.enter(chunk, start, start_ns, config.fade_s)

    def tick(self, now_ns: int) -> Command | None:
        """The command at `now_ns`, once per period; None, that is silence, before the first chunk was accepted."""
        self._watch_clock(now_ns)
        reason = self._reason_to_hold(now_ns)
        config = self.config
        if reason:
            self._holding = True
            if self._motion is None or self._elsewhere:
                return None
            self._motion = brake(self._motion, config.limits, config.period_s)
            return Command(self._motion.pose, None, True, reason)
        measured = self._measured[1]
        motion = self._motion or Motion.at_rest(measured)
        if self._holding:  # the time spent holding must not be caught up with in one leap
            self._join, self._tick_ns = Join.enter(self._join.chunk, motion.pose, now_ns, config.fade_s), now_ns
        last = self._asked
        before = last[1] if last and last[0] is self._join else self._join.at(self._tick_ns)
        goal = self._join.at(now_ns)
        left_s = (config.ends_ns(self._join.chunk) - now_ns) / NANOSECONDS
        self._motion = follow(motion, before, goal, measured, config.limits, config.period_s, left_s)
        self._holding, self._tick_ns, self._asked = False, now_ns, (self._join, goal)
        return Command(self._motion.pose, self._gripper_command(now_ns), False, "", goal)

    def _reason_to_hold(self, now_ns: int) -> str:
        if self._hold_reason:
            return self._hold_reason
        if self._join is None:
            return "no chunk"
        if now_ns > self._join.chunk.end_ns:
            return "chunk ended"
        if now_ns > self.config.ends_ns(self._join.chunk):
            return self._too_old(self._join.chunk, now_ns)
        return self._stale(now_ns)

    def _too_old(self, chunk: ActionChunk, now_ns: int) -> str:
        age = (now_ns - chunk.stamp_ns) / NANOSECONDS
        return f"chunk was observed {age:.3f} s ago, limit {self.config.max_chunk_age_s:g} s"

    def _stale(self, now_ns: int) -> str:
        if self._measured is None:
            return "current_pose: nothing received yet"
        age = (now_ns - self._measured[0]) / NANOSECONDS
        if age > self.config.max_pose_age_s:
            return f"current_pose: {age:.3f} s old, limit {self.config.max_pose_age_s:g} s"
        if -age > self.config.future_s:
            return f"current_pose: stamped {-age:.3f} s in the future, limit {self.config.future_s:g} s"
        return ""

    def _gripper_command(self, now_ns: int) -> float | None:
        sent = self.config.gripper.command(gripper_at(self._join.chunk, now_ns), self._gripper)
        if sent is not None:
            self._gripper = sent
        return sent

    def _watch_clock(self, now_ns: int) -> None:
        """A clock that went back (a looped bag, a restarted simulation) leaves every earlier stamp without meaning.

        The arm and the hand may be other ones, too: a pose that is further from this arm than a lead is not held on
        to, nothing is said before one knows, and what is wanted of the hand is sent anew.
        """
        if now_ns < self._now_ns - self.config.future_s * NANOSECONDS:
            self._join = self._released_ns = self._gripper = None
            self._elsewhere = self._holding = True
        self._now_ns = now_ns
        if self._elsewhere and not self._stale(now_ns):
            self._elsewhere = False
            measured = self._measured[1]
            held = self._motion.pose if self._motion else measured
            if admissible(held, measured, self.config.limits)[0] is not held:
                self._motion = None

"""The state between action chunks and the arm: what to command now, or why to hold.

The same object runs in the follower node, in closed-loop evaluation and in replay. It never reads a clock: every
method is told the time, in nanoseconds of the clock that stamps observations and chunks.
"""

from __future__ import annotations

from dataclasses import replace

from grids_ros.control import states
from grids_ros.control.config import FollowerConfig
from grids_ros.control.limits import brake
from grids_ros.control.measurement import Measurement
from grids_ros.control.reasons import Hold, HoldCause, Refused
from grids_ros.control.states import Command, Holding, Inputs, Silent, State
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Pose

__all__ = ["Command", "Follower", "FollowerConfig", "Hold", "HoldCause", "Refused"]


class Follower:
    """Follows the newest chunk within the limits; holds the last command in every other case."""

    def __init__(self, config: FollowerConfig, last: Pose | None = None):
        """last: the target of an earlier activation. The first command continues there if the arm is near it."""
        self.config = config
        self._state: State = Silent(last=last)
        self._measured: Measurement | None = None
        self._request = ""
        self._released_ns: int | None = None
        self._now_ns = 0
        self._hold: Hold | None = None

    @property
    def state(self) -> State:
        return self._state

    @property
    def chunk(self) -> ActionChunk | None:
        """The chunk being followed, or the one to follow once nothing forbids it."""
        return self._state.chunk

    @property
    def holding(self) -> Hold | None:
        """Why the last tick followed no chunk, silence included; None while one is followed."""
        return self._hold

    @property
    def last_target(self) -> Pose | None:
        """The last command, of this activation or an earlier one."""
        state = self._state
        return state.last if isinstance(state, Silent) else state.motion.command

    @property
    def at_rest(self) -> bool:
        """The command has come to rest, or there was none yet."""
        return self._state.motion is None or self._state.motion.resting

    def measure(self, stamp_ns: int, pose: Pose) -> None:
        """Take the newest measured tool pose."""
        before = self._measured
        self._measured = before.next(stamp_ns, pose) if before else Measurement(stamp_ns, pose)

    def hold(self, reason: str) -> None:
        """Drop the chunk and hold from the next tick on, until `release`.

        Somebody may move the hand meanwhile: its next command is sent even if it repeats the last one.
        """
        if not reason:
            raise ValueError("a hold needs a reason")
        self._state, self._request = states.dropped(self._state), reason

    def release(self, now_ns: int) -> None:
        """End a hold. Only chunks observed from now on are followed."""
        self._request, self._released_ns = "", now_ns

    def set_speed_limits(self, linear_speed: float, angular_speed: float) -> None:
        """In [m/s] and [rad/s], from the next tick on. A faster command slows down within its acceleration limits.

        Raises ValueError for a negative or non-finite speed.
        """
        limits = replace(self.config.limits, linear_speed=linear_speed, angular_speed=angular_speed)
        self.config = replace(self.config, limits=limits)

    def accept(self, chunk: ActionChunk, now_ns: int) -> None:
        """Follow `chunk` from now on. Raises Refused; what was being followed then goes on."""
        self._watch_clock(now_ns)
        self._check(chunk, now_ns)
        self._state = states.accepted(self._state, chunk, self.config)

    def tick(self, now_ns: int, fault: str = "") -> Command | None:
        """The command at `now_ns`, once per period; None, that is silence, before the first chunk was accepted.

        fault: why nothing may be followed at this instant, if something outside of the follower forbids it.
        """
        self._watch_clock(now_ns)
        inputs = Inputs(now_ns, self._measured, self._request, fault)
        self._state, command, self._hold = states.tick(self._state, inputs, self.config)
        return command

    def fail(self, reason: str) -> Command | None:
        """The command of a tick in which something raised: the chunk is dropped, the command brakes."""
        self._hold = Hold(HoldCause.INTERNAL_ERROR, reason)
        motion = self._state.motion
        if motion is None:
            self._state = Silent()
            return None
        self._state = Holding(brake(motion, self.config.limits, self.config.period_s))
        return Command(self._state.motion.command, hold=self._hold)

    def _check(self, chunk: ActionChunk, now_ns: int) -> None:
        """Raises Refused for a chunk that must not be followed."""
        config, current = self.config, self._state.chunk
        if self._request:
            raise Refused(f"holding: {self._request}")
        if self._released_ns is not None and chunk.stamp_ns < self._released_ns:
            raise Refused("chunk was observed before the hold was released")
        if chunk.stamp_ns > now_ns + config.future_s * NANOSECONDS:
            ahead = (chunk.stamp_ns - now_ns) / NANOSECONDS
            raise Refused(f"chunk is stamped {ahead:.3f} s in the future, limit {config.future_s:g} s")
        if now_ns >= chunk.end_ns:
            late = (now_ns - chunk.end_ns) / NANOSECONDS
            raise Refused(f"chunk ended {late:.3f} s ago: every step has passed")
        if now_ns >= config.ends_ns(chunk):
            raise Refused(config.too_old(chunk, now_ns))
        if current and current.stamp_ns >= chunk.stamp_ns and now_ns < config.ends_ns(current):
            raise Refused("chunk is not newer than the one being followed")
        stale = config.stamp_hold(self._measured, now_ns)
        if stale:
            raise Refused(stale.reason)

    def _watch_clock(self, now_ns: int) -> None:
        """A clock that went back leaves every earlier stamp without meaning."""
        if now_ns < self._now_ns - self.config.future_s * NANOSECONDS:
            self._state, self._released_ns = states.clock_went_back(self._state), None
        self._now_ns = now_ns

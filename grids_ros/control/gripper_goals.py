"""Wanted openings to goals of an action server: one goal in flight, no chatter, no refusal unreported."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass


class Outcome(enum.Enum):
    """How a goal ended."""

    SUCCEEDED = enum.auto()
    REJECTED = enum.auto()  # the server did not take it; it is sent again after a while
    FAILED = enum.auto()  # the server took it and gave up; only another wanted opening is sent next
    CANCELED = enum.auto()


@dataclass(frozen=True)
class Goal:
    """One movement. opening: between the fingers [m]. closing: whether the gripper closes on something."""

    opening: float
    closing: bool


@dataclass(frozen=True)
class GoalRules:
    """When a goal is sent.

    largest: the opening of the open gripper [m]. dead_band: a wanted opening that differs from the last goal by less
    is the same one [m]. retry_s: pause before a rejected goal is sent again. timeout_s: a goal without a result is
    canceled after this time. Raises ValueError unless 0 <= dead_band < largest and both times are positive.
    """

    largest: float
    dead_band: float
    retry_s: float = 1.0
    timeout_s: float = 10.0

    def __post_init__(self):
        if not 0.0 <= self.dead_band < self.largest:
            raise ValueError(f"dead_band is {self.dead_band} m, expected at least 0 and less than {self.largest} m")
        if not (self.retry_s > 0.0 and self.timeout_s > 0.0):
            raise ValueError(f"retry_s is {self.retry_s} and timeout_s {self.timeout_s}, expected positive times")


class GripperGoals:
    """State of one gripper. Times are of a monotonic clock [s]; not thread-safe."""

    def __init__(self, rules: GoalRules):
        self._rules = rules
        self._wanted: Goal | None = None
        self._sent: Goal | None = None  # the last goal that the server was given, and that has not been rejected
        self._in_flight_since: float | None = None
        self._cancel_requested = self._timed_out = False
        self._not_before = -math.inf
        self.fault = ""  # why the last goal failed; empty after a success

    @property
    def in_flight(self) -> Goal | None:
        """The goal whose result has not come."""
        return self._sent if self._in_flight_since is not None else None

    def want(self, opening: float) -> None:
        """Take a wanted opening [m]. Raises ValueError for NaN, infinity, and what the gripper does not have."""
        if not (math.isfinite(opening) and 0.0 <= opening <= self._rules.largest + self._rules.dead_band):
            raise ValueError(
                f"wanted opening is {opening} m, expected 0 to {self._rules.largest:g} m "
                "(is gripper_scale of the follower 1.0?)"
            )
        opening = min(opening, self._rules.largest)
        before = self._wanted
        if before is not None and abs(opening - before.opening) <= self._rules.dead_band:
            return
        reference = before.opening if before is not None else self._rules.largest / 2
        self._wanted = Goal(opening, closing=opening < reference)

    def to_send(self, now_s: float) -> Goal | None:
        """The goal to send now; from then on it is in flight. None: nothing."""
        if self._in_flight_since is not None or self._wanted is None or now_s < self._not_before:
            return None
        if self._wanted == self._sent:
            return None
        self._sent, self._in_flight_since, self._cancel_requested = self._wanted, now_s, False
        return self._sent

    def to_cancel(self, now_s: float) -> str:
        """Why the goal in flight is to be canceled, once for each; empty: it is not."""
        if self._in_flight_since is None or self._cancel_requested:
            return ""
        if self._wanted != self._sent:
            reason, self._timed_out = "another opening is wanted", False
        elif now_s - self._in_flight_since > self._rules.timeout_s:
            self._timed_out = True
            reason = self.fault = f"the gripper gave no result within {self._rules.timeout_s:g} s"
        else:
            return ""
        self._cancel_requested = True
        return reason

    def ended(self, outcome: Outcome, now_s: float, error: str = "") -> None:
        """The goal in flight has ended."""
        self._in_flight_since = None
        if outcome is Outcome.SUCCEEDED:
            self.fault = ""
        elif outcome is Outcome.REJECTED:
            self._sent, self._not_before = None, now_s + self._rules.retry_s
            self.fault = error or "the gripper rejected the goal"
        elif outcome is Outcome.FAILED:
            self.fault = error or "the gripper did not reach the goal"
        elif not self._timed_out:
            self._sent = None  # it stands where it was stopped: whatever is wanted now is a movement

    def lost(self, now_s: float) -> None:
        """The server is gone: the goal in flight, if any, is sent again once there is a server."""
        self._in_flight_since, self._sent = None, None
        self._not_before = now_s + self._rules.retry_s

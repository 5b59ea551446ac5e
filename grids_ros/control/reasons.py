"""Why the follower holds, as data and in words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class HoldCause(str, Enum):
    """The kinds of reasons to hold."""

    REQUESTED = "requested"
    FAULT = "fault"
    NO_CHUNK = "no chunk"
    CHUNK_ENDED = "chunk ended"
    CHUNK_TOO_OLD = "chunk too old"
    POSE_MISSING = "pose missing"
    POSE_TOO_OLD = "pose too old"
    POSE_IN_FUTURE = "pose in the future"
    POSE_JUMPED = "pose jumped"
    TRACKING_ERROR = "tracking error"
    CLOCK_WENT_BACK = "clock went back"
    INTERNAL_ERROR = "internal error"


@dataclass(frozen=True)
class Hold:
    """cause: the kind. reason: one sentence for the operator, with the numbers."""

    cause: HoldCause
    reason: str


class Refused(ValueError):
    """A chunk that must not be followed, and why. The arm goes on with what it had."""

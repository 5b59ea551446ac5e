"""What a new chunk goes on from: the chunk being followed, and for how long it still will be.

Real-Time Chunking (see policy/rtc.py) needs to know which steps the arm will have done by the time a chunk arrives.
That is a matter of stamps and of delays that were measured, never of the time that an inference takes by itself.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from grids_ros.control.trajectory import Trajectory
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Observation

WINDOW = 50  # delays that are remembered
QUANTILE = 0.95  # of them: what a chunk is planned for
STRAYED_M = 0.1  # an arm further from the chunk does not follow it: it is held, or was pushed


@dataclass(frozen=True, eq=False)
class Continuation:
    """What a new chunk goes on from.

    chunk: the one being followed. delay_s: from the new chunk's stamp, how long it will still be followed [s].
    """

    chunk: ActionChunk
    delay_s: float


class CommandMotion:
    """Whether the commanded pose moves: a follower that holds repeats its pose, to the last bit."""

    def __init__(self):
        self._last: tuple[float, ...] | None = None
        self._moved = False

    def update(self, position: Iterable[float], quaternion: Iterable[float]) -> None:
        """A command that was sent."""
        pose = (*position, *quaternion)
        self._moved |= self._last is not None and pose != self._last
        self._last = pose

    def moved_since_last_call(self) -> bool:
        """Whether a command was another than the one before it, since this was called last."""
        moved, self._moved = self._moved, False
        return moved


class Continuity:
    """Remembers the last chunk and how late chunks arrive: one for each run of a policy."""

    def __init__(self):
        self._chunk: ActionChunk | None = None
        self._delays: deque[float] = deque(maxlen=WINDOW)

    def forget(self) -> None:
        """The last chunk is not being followed any more: the next one starts afresh. The delays stay."""
        self._chunk = None

    def arrived(self, chunk: ActionChunk, now_ns: int) -> None:
        """The follower has `chunk` from now on.

        Its delay counts as what was really consumed meanwhile of the chunk before it. So a chunk with none before
        it counts for nothing: the first inference, which is slow, never does.
        """
        if self._chunk is not None:
            consumed = min(now_ns, self._chunk.end_ns) - chunk.stamp_ns
            if consumed >= 0:
                self._delays.append(consumed / NANOSECONDS)
        self._chunk = chunk

    @property
    def delay_s(self) -> float | None:
        """The delay to plan for, from observation to follower [s]; None before it was measured."""
        delays = self._delays.copy()  # appended to by another thread
        return sorted(delays)[math.ceil(QUANTILE * (len(delays) - 1))] if delays else None

    def at(self, observation: Observation, held: bool) -> Continuation | None:
        """What a chunk for `observation` goes on from; None when nothing is being followed.

        held: the follower stands still. Chunks that went on from each other meanwhile would run ahead of the arm, and
        their lead would be made good in one move when it is released.
        """
        if held:
            self.forget()
        chunk, delay_s = self._chunk, self.delay_s
        if chunk is None or delay_s is None or not chunk.stamp_ns < observation.stamp_ns < chunk.end_ns:
            return None
        asked = Trajectory.of_chunk(chunk).pose_at(observation.stamp_ns).position
        strayed = float(np.linalg.norm(asked - observation.pose.position))
        return Continuation(chunk, delay_s) if strayed < STRAYED_M else None

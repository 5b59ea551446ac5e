"""A follower beside the recording: what its limits would have done to the policy's chunks.

The arm of the bag does not obey, so the measured pose stays the recorded one: a target that the tracking error limit
holds back has left the recorded motion by that much. Where the recorded arm moves away from the target further than
that, the follower brakes and starts anew at the recorded pose.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from grids_ros.control.follower import Command, Follower, FollowerConfig, Refused
from grids_ros.control.limits import binding
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Pose
from grids_ros.observation.messages import to_ns, to_pose
from grids_ros.replay.episode_statistics import without_values


class ShadowFollower:
    """A follower of one episode, ticked on the bag's clock at the follower's own rate."""

    def __init__(self, config: FollowerConfig, base_frame: str, now_ns: int):
        self._follower = Follower(dataclasses.replace(config, arm_obeys=False))
        self._base = base_frame
        self._period_ns = round(config.period_s * NANOSECONDS)
        self._next_ns = now_ns
        self._last: Pose | None = None  # commanded
        self._measured: Pose | None = None
        self._waiting: list[tuple[int, ActionChunk]] = []
        self.ticks = 0  # from the first chunk on
        self._came = False
        self.limited: Counter[str] = Counter()
        self.held: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.largest_cut_mm = 0.0

    def send(self, chunk: ActionChunk, arrives_ns: int) -> None:
        """A chunk that reaches the follower at this instant."""
        self._waiting.append((arrives_ns, chunk))

    def skip(self, until_ns: int) -> None:
        """Go on at this instant: over a pause in the recording nothing is known of the follower."""
        self._next_ns = max(self._next_ns, until_ns)

    def run(self, until_ns: int, arrived: Sequence[tuple[str, int, object]]) -> None:
        """All ticks before `until_ns`; `arrived` is what was recorded meanwhile."""
        poses = [(received_ns, message) for role, received_ns, message in arrived if role == "current_pose"]
        index = 0
        while self._next_ns < until_ns:
            newest = None
            while index < len(poses) and poses[index][0] <= self._next_ns:
                newest = poses[index][1]
                index += 1
            if newest is not None:
                self._measure(newest)
            while self._waiting and self._waiting[0][0] <= self._next_ns:
                self._came = True
                self._accept(self._waiting.pop(0)[1])
            self._tick()
            self._next_ns += self._period_ns
        if index < len(poses):
            self._measure(poses[-1][1])

    def _measure(self, message) -> None:
        """As in the node, a message that is refused leaves the follower with the last good one."""
        try:
            self._measured = to_pose(message, self._base, "current_pose")
        except ValueError:
            return
        self._follower.measure(to_ns(message.header.stamp), self._measured)

    def _accept(self, chunk: ActionChunk) -> None:
        try:
            self._follower.accept(chunk, self._next_ns)
        except Refused as refusal:
            self.refused[without_values(str(refusal))] += 1

    def _tick(self) -> None:
        command = self._follower.tick(self._next_ns)
        self.ticks += self._came
        if command is None:
            self.held.update(["no chunk could be followed"] * self._came)
        elif command.holding:
            self.held[without_values(command.reason)] += 1
        else:
            self._limited(command)
        self._last = command.pose if command is not None else None

    def _limited(self, command: Command) -> None:
        config, wanted, measured = self._follower.config, command.wanted, self._measured
        assert wanted is not None and measured is not None  # a chunk is followed
        hit = binding(wanted, self._last or measured, command.pose, measured, config.limits, config.period_s)
        if not hit:
            return
        cut = float(np.linalg.norm(wanted.position - command.pose.position)) * 1e3
        self.largest_cut_mm = max(self.largest_cut_mm, cut)
        self.limited.update((*hit, "any"))

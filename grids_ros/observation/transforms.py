"""Transforms between frames over the last seconds, as tf2's buffer keeps them. Imports no ROS.

A transform is the Pose of a child frame in its parent frame. Between two stamps positions are interpolated linearly
and orientations at constant speed; nothing is extrapolated.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

import numpy as np

from grids_ros.control.rotation import difference, multiply, turn
from grids_ros.datatypes import NANOSECONDS, Pose
from grids_ros.observation.messages import SHOWN, cut

KEPT_NS = 5 * NANOSECONDS  # of each moving transform
MAX_FRAMES = 1000  # that are kept, those heard of most recently; a robot has a hundred
_MAX_DEPTH = 100  # frames between a frame and its root


class TransformError(ValueError):
    """There is no transform between two frames at a time; the message names them."""


def rotate(quaternion: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """The vector (3,) turned by a quaternion (4,) xyzw."""
    axis, w = quaternion[:3], quaternion[3]
    doubled = 2.0 * np.cross(axis, vector)
    return vector + w * doubled + np.cross(axis, doubled)


def compose(outer: Pose, inner: Pose) -> Pose:
    """The pose `inner`, given in the frame that `outer` is the pose of, in the frame of `outer`."""
    position = outer.position + rotate(outer.quaternion, inner.position)
    return Pose(position, multiply(outer.quaternion, inner.quaternion))


def inverse(pose: Pose) -> Pose:
    """The pose of the outer frame in the inner one."""
    quaternion = pose.quaternion * (-1.0, -1.0, -1.0, 1.0)
    return Pose(-rotate(quaternion, pose.position), quaternion)


@dataclass
class _Edge:
    parent: str
    static: bool
    stamps: list[int] = field(default_factory=list)
    poses: list[Pose] = field(default_factory=list)

    def add(self, stamp_ns: int, pose: Pose) -> None:
        if self.static or (self.stamps and stamp_ns < self.stamps[-1] - KEPT_NS):  # the clock went back
            self.stamps.clear()
            self.poses.clear()
        if self.stamps and stamp_ns <= self.stamps[-1]:
            return
        self.stamps.append(stamp_ns)
        self.poses.append(pose)
        if self.stamps[0] < stamp_ns - 2 * KEPT_NS:
            old = bisect_left(self.stamps, stamp_ns - KEPT_NS)
            del self.stamps[:old], self.poses[:old]

    def at(self, stamp_ns: int) -> Pose | None:
        """None before the first and after the last stamp."""
        if self.static:
            return self.poses[0]
        index = bisect_left(self.stamps, stamp_ns)
        if index < len(self.stamps) and self.stamps[index] == stamp_ns:
            return self.poses[index]
        if index in (0, len(self.stamps)):
            return None
        before, after = self.poses[index - 1], self.poses[index]
        share = (stamp_ns - self.stamps[index - 1]) / (self.stamps[index] - self.stamps[index - 1])
        position = before.position + share * (after.position - before.position)
        return Pose(position, turn(before.quaternion, share * difference(after.quaternion, before.quaternion)))


class TransformBuffer:
    """Every frame has one parent, so that there is one way between two frames."""

    def __init__(self):
        self._edges: dict[str, _Edge] = {}  # moving ones from the one heard of least recently on
        self.dropped = 0  # frames, because there were more than `MAX_FRAMES`

    def add(self, parent: str, child: str, stamp_ns: int, pose: Pose, static: bool = False) -> None:
        """Take a transform. Raises TransformError for frames without a name, and a frame that is its own parent.

        Static transforms are said once: with `MAX_FRAMES` of them no other frame is taken.
        """
        if not parent or not child or parent == child:
            raise TransformError(f"transform from {cut(child)} to {cut(parent)}: expected two frames")
        edge = self._edges.get(child) if static else self._edges.pop(child, None)
        if edge is None and len(self._edges) >= MAX_FRAMES:
            self.dropped += 1
            oldest = next((name for name, kept in self._edges.items() if not kept.static), None)
            if oldest is None:
                return
            del self._edges[oldest]
        if edge is None or edge.parent != parent or edge.static != static:
            edge = _Edge(parent, static)
        self._edges[child] = edge
        edge.add(stamp_ns, pose)

    def lookup(self, target: str, source: str, stamp_ns: int) -> Pose:
        """Pose of the frame `source` in the frame `target` at a time. Raises TransformError."""
        up, down = self._way(target, source)
        return compose(inverse(self._pose(down, stamp_ns)), self._pose(up, stamp_ns))

    def newest(self, target: str, source: str) -> int:
        """The latest time [ns] for which `lookup` knows all of the way; 0 if every transform is static.

        Raises TransformError.
        """
        moving = [edge.stamps[-1] for way in self._way(target, source) for edge in way if not edge.static]
        return min(moving, default=0)

    def _way(self, target: str, source: str) -> tuple[list[_Edge], list[_Edge]]:
        """The transforms from each of the two frames up to their nearest common ancestor."""
        ways = {name: self._ancestors(name) for name in (target, source)}
        frames = {name: [name, *(edge.parent for edge in way)] for name, way in ways.items()}
        common = next((frame for frame in frames[source] if frame in frames[target]), None)
        if common is None or (target != source and not (ways[target] or ways[source])):
            known = sorted({*self._edges, *(edge.parent for edge in self._edges.values())})[:20]
            raise TransformError(
                f"TF does not connect frame {cut(source)} with {cut(target)}; "
                f"known frames: {', '.join(name[:SHOWN] for name in known) or 'none'}"
            )
        return ways[source][: frames[source].index(common)], ways[target][: frames[target].index(common)]

    def _ancestors(self, frame: str) -> list[_Edge]:
        way: list[_Edge] = []
        while frame in self._edges:
            way.append(self._edges[frame])
            frame = way[-1].parent
            if len(way) > _MAX_DEPTH:
                raise TransformError(f"TF has a loop at frame {cut(frame)}")
        return way

    def _pose(self, way: list[_Edge], stamp_ns: int) -> Pose:
        pose = Pose((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))
        for edge in way:
            step = edge.at(stamp_ns)
            if step is None:
                first, last = edge.stamps[0] / NANOSECONDS, edge.stamps[-1] / NANOSECONDS
                raise TransformError(
                    f"TF has no transform to {cut(edge.parent)} at {stamp_ns / NANOSECONDS:.3f} s, "
                    f"only from {first:.3f} to {last:.3f} s"
                )
            pose = compose(step, pose)
        return pose

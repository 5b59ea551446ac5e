"""What RViz shows of the policy, where it looks and what it is about to do, and of the simulated scene.

RViz has no display for MultiDOFJointTrajectory, so the chunk is drawn as a line in the same MarkerArray.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker

from grids_ros.datatypes import ActionChunk
from grids_ros.ros import conversions
from grids_ros.ros.conversions import to_stamp
from grids_ros.visualisation.sampled_points import COLOURS, LIFETIME_S, SPHERE_M
from grids_ros.visualisation.shapes import Shape

SCENE = "scene"  # namespace of what the simulated arm stands beside
_LINE_M = 0.01
_EDGE_M = 0.003
_CORNERS = tuple(itertools.product((0, 1), repeat=3))


def sampled_points(index: int, name: str, points: np.ndarray, frame: str, stamp_ns: int) -> Marker:
    """The K places that the policy reads in camera `index`, as spheres. points: shape (K, 3) [m], in `frame`."""
    marker = _marker(f"sampled_points/{name}", frame, stamp_ns, Marker.SPHERE_LIST, SPHERE_M, index)
    marker.scale.y = marker.scale.z = SPHERE_M
    marker.points = [Point(x=x, y=y, z=z) for x, y, z in points.tolist()]
    return marker


def chunk_path(chunk: ActionChunk, frame: str) -> Marker:
    """The chunk's positions as a line in the base frame."""
    marker = _marker("action_chunk", frame, chunk.stamp_ns, Marker.LINE_STRIP, _LINE_M, len(COLOURS) - 1)
    marker.points = [Point(x=float(x), y=float(y), z=float(z)) for x, y, z in chunk.positions]
    return marker


def workspace(low: Sequence[float], high: Sequence[float], frame: str) -> Marker:
    """The edges of the workspace box between two corners [m], shown until it is replaced."""
    marker = _marker("workspace", frame, 0, Marker.LINE_LIST, _EDGE_M, 0)
    marker.color = ColorRGBA(r=0.6, g=0.6, b=0.6, a=0.8)
    marker.lifetime.sec = 0
    corners = [tuple(float((low, high)[bit][axis]) for axis, bit in enumerate(bits)) for bits in _CORNERS]
    for i, a in enumerate(_CORNERS):
        for j, b in enumerate(_CORNERS):
            if i < j and sum(x != y for x, y in zip(a, b, strict=True)) == 1:
                marker.points += [Point(x=x, y=y, z=z) for x, y, z in (corners[i], corners[j])]
    return marker


def shape(index: int, of: Shape, frame: str) -> Marker:
    """Something of the simulated scene, shown until it is replaced; it moves with `frame`."""
    marker = _marker(SCENE, frame, 0, Marker.CUBE if of.box else Marker.CYLINDER, 0.0, 0)
    marker.id, marker.frame_locked, marker.pose = index, True, conversions.from_pose(of.pose)
    marker.scale.x, marker.scale.y, marker.scale.z = of.size.tolist()
    red, green, blue = of.colour
    marker.color = ColorRGBA(r=red, g=green, b=blue, a=1.0)
    marker.lifetime.sec = 0
    return marker


def _marker(namespace: str, frame: str, stamp_ns: int, kind: int, size: float, colour: int) -> Marker:
    red, green, blue = COLOURS[colour % len(COLOURS)]
    marker = Marker(ns=namespace, id=0, type=kind, action=Marker.ADD)
    marker.header = Header(stamp=to_stamp(stamp_ns), frame_id=frame)
    marker.pose.orientation.w = 1.0
    marker.scale.x = size
    marker.color = ColorRGBA(r=red, g=green, b=blue, a=1.0)
    marker.lifetime.sec = LIFETIME_S
    return marker

"""What RViz shows of the policy: where it looks, and what it is about to do.

RViz has no display for MultiDOFJointTrajectory, so the chunk is drawn as a line in the same MarkerArray.
"""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import Point
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker

from grids_ros.datatypes import ActionChunk
from grids_ros.ros.conversions import to_stamp
from grids_ros.shown import COLOURS, LIFETIME_S, SPHERE_M, on_plane

_LINE_M = 0.006


def sampled_points(
    index: int, name: str, coordinates: np.ndarray, frame: str, stamp_ns: int, info: CameraInfo | None
) -> Marker:
    """The K places that camera `index` was read at, as spheres on a plane at `DEPTH_M` in its optical frame.

    coordinates: shape (K, 2), fractions of the image, x to the right and y down. Without `info` the rays are those
    of a camera of 53 degrees.
    """
    marker = _marker(f"sampled_points/{name}", frame, stamp_ns, Marker.SPHERE_LIST, SPHERE_M, index)
    marker.scale.y = marker.scale.z = SPHERE_M
    marker.points = [Point(x=x, y=y, z=z) for x, y, z in on_plane(coordinates, info).tolist()]
    return marker


def chunk_path(chunk: ActionChunk, frame: str) -> Marker:
    """The chunk's positions as a line in the base frame."""
    marker = _marker("action_chunk", frame, chunk.stamp_ns, Marker.LINE_STRIP, _LINE_M, len(COLOURS) - 1)
    marker.points = [Point(x=float(x), y=float(y), z=float(z)) for x, y, z in chunk.positions]
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

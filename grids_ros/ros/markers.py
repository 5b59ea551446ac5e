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

DEPTH_M = 1.0  # of the plane on which the sampled points are drawn
_SPHERE_M, _LINE_M = 0.03, 0.006
_LIFETIME_S = 2  # after the last chunk, what it said is no longer true
_COLOURS = ((1.0, 0.75, 0.0), (0.0, 0.85, 1.0), (1.0, 0.3, 0.9), (0.4, 1.0, 0.3))
_UNKNOWN_FOCAL = 1.0  # focal length, in image widths, of a camera without CameraInfo (53 degrees)


def sampled_points(
    index: int, name: str, coordinates: np.ndarray, frame: str, stamp_ns: int, info: CameraInfo | None
) -> Marker:
    """The K places that camera `index` was read at, as spheres on a plane at `DEPTH_M` in its optical frame.

    coordinates: shape (K, 2), fractions of the image, x to the right and y down. Without `info` the rays are those
    of a camera of 53 degrees.
    """
    if info is not None and info.k[0] > 0.0 and info.k[4] > 0.0:
        size = np.array([info.width, info.height], dtype=np.float64)
        centre, focal = np.array([info.k[2], info.k[5]]), np.array([info.k[0], info.k[4]])
    else:
        size, centre, focal = np.ones(2), np.full(2, 0.5), np.full(2, _UNKNOWN_FOCAL)
    rays = (np.asarray(coordinates, dtype=np.float64) * size - centre) / focal * DEPTH_M
    marker = _marker(f"sampled_points/{name}", frame, stamp_ns, Marker.SPHERE_LIST, _SPHERE_M, index)
    marker.scale.y = marker.scale.z = _SPHERE_M
    marker.points = [Point(x=float(x), y=float(y), z=DEPTH_M) for x, y in rays]
    return marker


def chunk_path(chunk: ActionChunk, frame: str) -> Marker:
    """The chunk's positions as a line in the base frame."""
    marker = _marker("action_chunk", frame, chunk.stamp_ns, Marker.LINE_STRIP, _LINE_M, len(_COLOURS) - 1)
    marker.points = [Point(x=float(x), y=float(y), z=float(z)) for x, y, z in chunk.positions]
    return marker


def _marker(namespace: str, frame: str, stamp_ns: int, kind: int, size: float, colour: int) -> Marker:
    red, green, blue = _COLOURS[colour % len(_COLOURS)]
    marker = Marker(ns=namespace, id=0, type=kind, action=Marker.ADD)
    marker.header = Header(stamp=to_stamp(stamp_ns), frame_id=frame)
    marker.pose.orientation.w = 1.0
    marker.scale.x = size
    marker.color = ColorRGBA(r=red, g=green, b=blue, a=1.0)
    marker.lifetime.sec = _LIFETIME_S
    return marker

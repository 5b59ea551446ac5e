"""What RViz shows of sampled coordinates, without ROS: where in space they are drawn, and how."""

from __future__ import annotations

import numpy as np

from grids_ros.datatypes import Pose
from grids_ros.observation.transforms import rotate

DEPTH_M = 1.0  # of the plane, in the camera's optical frame, on which points are drawn whose distance is unknown
FARTHEST_M = 2.0  # along the optical axis, of a point whose ray meets the table further away or not at all
SPHERE_M = 0.02
LIFETIME_S = 2  # after the last chunk, what it said is no longer true
COLOURS = ((1.0, 0.75, 0.0), (0.0, 0.85, 1.0), (1.0, 0.3, 0.9), (0.4, 1.0, 0.3))
_UNKNOWN_FOCAL = 1.0  # focal length, in image widths, of a camera without CameraInfo (53 degrees)


def rays(coordinates: np.ndarray, info) -> np.ndarray:
    """Rays (K, 3) through coordinates (K, 2), fractions of the image, in the camera's optical frame; z is 1.

    info: its CameraInfo, or None for a camera of 53 degrees. Distortion is neglected.
    """
    if info is not None and info.k[0] > 0.0 and info.k[4] > 0.0:
        size = np.array([info.width, info.height], dtype=np.float64)
        centre, focal = np.array([info.k[2], info.k[5]]), np.array([info.k[0], info.k[4]])
    else:
        size, centre, focal = np.ones(2), np.full(2, 0.5), np.full(2, _UNKNOWN_FOCAL)
    slopes = (np.asarray(coordinates, dtype=np.float64) * size - centre) / focal
    return np.column_stack([slopes, np.ones(len(slopes))])


def on_plane(coordinates: np.ndarray, info) -> np.ndarray:
    """Points (K, 3) [m] in the camera's optical frame, all at a depth of `DEPTH_M`; arguments as for `rays`."""
    return rays(coordinates, info) * DEPTH_M


def on_table(coordinates: np.ndarray, info, camera: Pose, table_height: float) -> np.ndarray:
    """Points (K, 3) [m] in the base frame, where the rays meet the table; see `meet_table`."""
    return meet_table(rays(coordinates, info), camera, table_height)


def meet_table(directions: np.ndarray, camera: Pose, table_height: float) -> np.ndarray:
    """Points (K, 3) [m] in the base frame, where rays (K, 3) of a camera's optical frame, z is 1, meet the table.

    camera: pose of the optical frame in the base frame. table_height: z of the table's surface in the base frame [m];
    spheres around the points rest on it. A ray that meets the table beyond `FARTHEST_M`, or not at all, ends there.
    """
    directions = np.array([rotate(camera.quaternion, ray) for ray in directions]).reshape(-1, 3)
    down = table_height + SPHERE_M / 2 - camera.position[2]
    with np.errstate(divide="ignore", invalid="ignore"):
        depths = down / directions[:, 2]
    depths = np.where((depths > 0.0) & (depths < FARTHEST_M), depths, FARTHEST_M)
    return camera.position + depths[:, None] * directions

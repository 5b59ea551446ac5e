"""What RViz shows of sampled coordinates, without ROS: where in space they are drawn, and how."""

from __future__ import annotations

import numpy as np

DEPTH_M = 1.0  # of the plane, in the camera's optical frame, on which the sampled points are drawn
SPHERE_M = 0.03
LIFETIME_S = 2  # after the last chunk, what it said is no longer true
COLOURS = ((1.0, 0.75, 0.0), (0.0, 0.85, 1.0), (1.0, 0.3, 0.9), (0.4, 1.0, 0.3))
_UNKNOWN_FOCAL = 1.0  # focal length, in image widths, of a camera without CameraInfo (53 degrees)


def on_plane(coordinates: np.ndarray, info) -> np.ndarray:
    """Coordinates (K, 2), fractions of the image, as points (K, 3) [m] in the camera's optical frame.

    info: its CameraInfo, or None for a camera of 53 degrees.
    """
    if info is not None and info.k[0] > 0.0 and info.k[4] > 0.0:
        size = np.array([info.width, info.height], dtype=np.float64)
        centre, focal = np.array([info.k[2], info.k[5]]), np.array([info.k[0], info.k[4]])
    else:
        size, centre, focal = np.ones(2), np.full(2, 0.5), np.full(2, _UNKNOWN_FOCAL)
    rays = (np.asarray(coordinates, dtype=np.float64) * size - centre) / focal * DEPTH_M
    return np.column_stack([rays, np.full(len(rays), DEPTH_M)])

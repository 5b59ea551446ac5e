"""Where the simulation's objects appear in its cameras' images: labels for training, never an input."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from grids_ros.sim.scene import Scene


def tool_rotations(states: np.ndarray) -> np.ndarray:
    """Rotation matrices (N, 3, 3) of the tool from states (N, 10)."""
    first, second = states[:, 3:6], states[:, 6:9]
    return np.stack([first, second, np.cross(first, second)], axis=-1)


def places(objects: np.ndarray, states: np.ndarray, cameras: tuple[str, ...]) -> np.ndarray:
    """Fractions of the image (N, cameras, objects, 2) of objects (N, objects, 3) [m, base frame]; NaN if unseen.

    The wrist camera moves with the tool of `states` (N, 10), every other camera stands still.
    """
    scene = Scene()
    tool = scene.tool_pose()
    mounted = Rotation.from_quat(tool.quaternion)
    result = np.full((len(objects), len(cameras), objects.shape[1], 2), np.nan, np.float32)
    for index, camera in enumerate(cameras):
        pose, intrinsics = scene.camera_pose(camera), scene.camera_intrinsics(camera)
        rotation = Rotation.from_quat(pose.quaternion).as_matrix()
        if camera == "wrist":
            in_tool = mounted.inv().as_matrix() @ rotation
            offset = mounted.inv().apply(pose.position - tool.position)
            turns = tool_rotations(states)
            origin, axes = states[:, None, :3] + (turns @ offset)[:, None], turns @ in_tool
        else:
            origin, axes = pose.position, np.broadcast_to(rotation, (len(objects), 3, 3))
        seen = np.einsum("nij,nki->nkj", axes, objects - origin)
        pixel = np.einsum("ij,nkj->nki", intrinsics, seen)
        with np.errstate(invalid="ignore", divide="ignore"):
            fraction = pixel[..., :2] / pixel[..., 2:] / scene.image_size
        fraction[seen[..., 2] <= 0.0] = np.nan
        result[:, index] = fraction
    return result

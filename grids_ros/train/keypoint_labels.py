"""Where the simulation's objects appear in its cameras' images: labels for training, never an input."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from grids_ros.sim.scene import Scene


def keypoints(objects: np.ndarray, tools: np.ndarray, cameras: tuple[str, ...]) -> np.ndarray:
    """Fractions of the image (N, cameras, objects, 2) of objects (N, objects, 3) [m, base frame]; NaN if unseen.

    The wrist camera moves with the tool poses `tools` (N, 7), position [m] and quaternion xyzw. Every other camera
    stands still.
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
            turns = Rotation.from_quat(tools[:, 3:]).as_matrix()
            origin, axes = tools[:, None, :3] + (turns @ offset)[:, None], turns @ in_tool
        else:
            origin, axes = pose.position, np.broadcast_to(rotation, (len(objects), 3, 3))
        seen = np.einsum("nij,nki->nkj", axes, objects - origin)
        pixel = np.einsum("ij,nkj->nki", intrinsics, seen)
        with np.errstate(invalid="ignore", divide="ignore"):
            fraction = pixel[..., :2] / pixel[..., 2:] / scene.image_size
        fraction[seen[..., 2] <= 0.0] = np.nan
        result[:, index] = fraction
    return result

"""ROS messages to datatypes and back, as rclpy's types. Everything that is wrong with a message is a ValueError.

What can be read by attribute alone is in grids_ros/observation/messages.py, and is offered here beside its inverse.
"""

from __future__ import annotations

import array

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, PoseStamped, Quaternion
from geometry_msgs.msg import Pose as PoseMessage
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory, MultiDOFJointTrajectory

from grids_ros.datatypes import NANOSECONDS, ActionChunk, Pose
from grids_ros.observation.messages import (
    GRIPPER_JOINT,
    MAX_OPENING_M,
    MAX_POSITION_M,
    MAX_STEPS,
    MAX_TIME_S,
    check_frame,
    check_quaternion,
    check_size,
    cut,
    split_ns,
    to_ns,
    to_opening,
    to_pose,
)

__all__ = [
    "GRIPPER_JOINT",
    "check_frame",
    "from_intrinsics",
    "from_pose",
    "from_pose_stamped",
    "from_rgb",
    "to_chunk",
    "to_ns",
    "to_opening",
    "to_pose",
    "to_stamp",
]


def to_stamp(stamp_ns: int) -> Time:
    """Nanoseconds as a stamp. Raises ValueError for a time that the message cannot hold."""
    sec, nanosec = split_ns(stamp_ns)
    return Time(sec=sec, nanosec=nanosec)


def from_pose(pose: Pose) -> PoseMessage:
    """A pose as geometry_msgs/Pose."""
    return PoseMessage(position=_point(pose.position), orientation=_quaternion(pose.quaternion))


def from_pose_stamped(pose: Pose, frame: str, stamp_ns: int) -> PoseStamped:
    """A pose of the tool in `frame`."""
    return PoseStamped(header=Header(stamp=to_stamp(stamp_ns), frame_id=frame), pose=from_pose(pose))


def to_chunk(poses: MultiDOFJointTrajectory, gripper: JointTrajectory, base: str, tool: str) -> ActionChunk:
    """The pair of messages as a chunk.

    Raises ValueError for another frame, other joints, points that do not agree, and everything that
    ActionChunk refuses (NaN, unnormalised quaternions, unordered times, no step).
    """
    check_frame("action_chunk", poses.header, base)
    if max(len(poses.points), len(gripper.points)) > MAX_STEPS:
        steps = max(len(poses.points), len(gripper.points))
        raise ValueError(f"a chunk has {steps} steps, at most {MAX_STEPS} are taken")
    if list(poses.joint_names) != [tool]:
        raise ValueError(f"action_chunk is for joints {cut(poses.joint_names)}, expected [{tool!r}]")
    if list(gripper.joint_names) != [GRIPPER_JOINT]:
        raise ValueError(f"gripper_chunk is for joints {cut(gripper.joint_names)}, expected [{GRIPPER_JOINT!r}]")
    if any(len(point.transforms) != 1 for point in poses.points):
        raise ValueError("action_chunk needs exactly one transform per point")
    if any(len(point.positions) != 1 for point in gripper.points):
        raise ValueError("gripper_chunk needs exactly one position per point")
    times = [to_ns(point.time_from_start) for point in poses.points]
    if times != [to_ns(point.time_from_start) for point in gripper.points]:
        raise ValueError("action_chunk and gripper_chunk do not have the same time_from_start")
    transforms = [point.transforms[0] for point in poses.points]
    translations, rotations = [t.translation for t in transforms], [t.rotation for t in transforms]
    positions = np.array([(v.x, v.y, v.z) for v in translations], dtype=np.float64).reshape(-1, 3)
    quaternions = np.array([(q.x, q.y, q.z, q.w) for q in rotations], dtype=np.float64).reshape(-1, 4)
    openings = np.array([point.positions[0] for point in gripper.points], dtype=np.float64)
    check_size("action_chunk", positions.ravel().tolist(), MAX_POSITION_M, "m", " (are these millimetres?)")
    check_quaternion("action_chunk", quaternions.ravel().tolist())
    check_size("gripper_chunk", openings.tolist(), MAX_OPENING_M, "m", " (are these millimetres or percent?)")
    check_size("time_from_start", [times[-1] / NANOSECONDS] if times else [], MAX_TIME_S, "s", "")
    return ActionChunk(
        stamp_ns=to_ns(poses.header.stamp),
        times=np.array(times, dtype=np.float64) / NANOSECONDS,
        positions=positions,
        quaternions=quaternions,
        gripper=openings,
    )


def from_rgb(image: np.ndarray, frame: str, stamp_ns: int) -> Image:
    """uint8 RGB, shape (H, W, 3), as an `rgb8` image."""
    height, width = image.shape[:2]
    message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    message.header = Header(stamp=to_stamp(stamp_ns), frame_id=frame)
    message.data = array.array("B", image.tobytes())  # any other type is checked byte by byte
    return message


def from_intrinsics(matrix: np.ndarray, height: int, width: int, frame: str) -> CameraInfo:
    """CameraInfo, still without its stamp, of an undistorted camera with `matrix` K, shape (3, 3) [px]."""
    info = CameraInfo(height=height, width=width, distortion_model="plumb_bob", d=[0.0] * 5)
    info.header.frame_id = frame
    info.k = [float(value) for value in matrix.reshape(9)]
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    info.p = [float(value) for value in np.hstack([matrix, np.zeros((3, 1))]).reshape(12)]
    return info


def _xyz(vector: np.ndarray) -> dict[str, float]:
    return {axis: float(value) for axis, value in zip("xyz", vector, strict=True)}


def _point(position: np.ndarray) -> Point:
    return Point(**_xyz(position))


def _quaternion(quaternion: np.ndarray) -> Quaternion:
    return Quaternion(**{axis: float(value) for axis, value in zip("xyzw", quaternion, strict=True)})

"""ROS messages to datatypes, read by attribute: the same for rclpy's messages and for those out of a bag.

Everything that is wrong with a message is a ValueError that says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grids_ros.datatypes import NANOSECONDS, Pose

GRIPPER_JOINT = "gripper_opening"  # the one joint of gripper_chunk: opening between the fingers [m]


def to_ns(stamp) -> int:
    """A stamp or a duration in nanoseconds."""
    return stamp.sec * NANOSECONDS + stamp.nanosec


def check_frame(name: str, header, frame: str) -> None:
    """Raises ValueError when the message is not in `frame`."""
    if header.frame_id != frame:
        raise ValueError(f"{name} is in frame {header.frame_id!r}, expected {frame!r}")


def to_pose(message, frame: str, name: str) -> Pose:
    """PoseStamped, measured or wanted. Raises ValueError for another frame, NaN, or an unnormalised quaternion."""
    check_frame(name, message.header, frame)
    p, q = message.pose.position, message.pose.orientation
    try:
        return Pose((p.x, p.y, p.z), (q.x, q.y, q.z, q.w))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def to_opening(message, fingers: Sequence[str]) -> float | None:
    """The opening between the fingers [m] in a JointState: the sum over `fingers`, in which a name may stand twice.

    None when the message knows none of them (an arm's own joint states). Raises ValueError when it knows only
    some, has no position for one, or has NaN.
    """
    names = list(message.name)
    known = [name for name in fingers if name in names]
    if not known:
        return None
    missing = sorted(set(fingers) - set(known))
    if missing:
        raise ValueError(f"joint_states lacks {missing}, has {names}")
    if len(message.position) != len(names):
        raise ValueError(f"joint_states has {len(names)} names and {len(message.position)} positions")
    opening = float(sum(message.position[names.index(name)] for name in fingers))
    if not np.isfinite(opening):
        raise ValueError("joint_states: a finger position is NaN or infinite")
    return opening


def to_commanded(message, scale: float) -> float | None:
    """The opening [m] asked of the hand in a gripper_command, which has it times `scale`; None in an empty one.

    Raises ValueError for NaN.
    """
    if not len(message.data):
        return None
    if not np.isfinite(message.data[0]):
        raise ValueError(f"gripper_command is {message.data[0]}")
    return float(message.data[0]) / scale

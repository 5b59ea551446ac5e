"""ROS messages to datatypes, read by attribute: the same for rclpy's messages and for those out of a bag.

Everything that is wrong with a message is a ValueError that says so.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np

from grids_ros.datatypes import NANOSECONDS, Pose

# What no arm has: a message with such a number is refused where it comes in, so that nothing behind overflows.
MAX_POSITION_M, MAX_OPENING_M, MAX_TIME_S = 100.0, 1.0, 1000.0
MAX_PIXELS = 1_000_000  # of a side or a focal length in CameraInfo
MAX_JOINT = 60.0  # [rad or m]: some turns of a continuous joint
MAX_STEPS = 1000  # of a chunk
SHOWN = 60  # characters of a foreign text in a message
GRIPPER_JOINT = "gripper_opening"  # the one joint of gripper_chunk: opening between the fingers [m]


def to_ns(stamp) -> int:
    """A stamp or a duration in nanoseconds."""
    return stamp.sec * NANOSECONDS + stamp.nanosec


def cut(text: str | Sequence[str]) -> str:
    """A text from outside, or several, quoted and no longer than `SHOWN` characters, to be shown in a message.

    What is not shown is not quoted: that takes time by the character.
    """
    if isinstance(text, str):
        length, quoted = len(text), repr(text[: SHOWN + 1])
    else:
        length, quoted = sum(map(len, text)), repr([each[: SHOWN + 1] for each in text[: SHOWN + 1]])
    return quoted if len(quoted) <= SHOWN + 2 else f"{quoted[:SHOWN]}... ({length} characters)"


def check_size(name: str, values, limit: float, unit: str, guess: str) -> None:
    """Raises ValueError for a number beyond `limit`: its message says what the numbers may be instead."""
    worst = max((abs(value) for value in values), default=0.0)
    if worst > limit:
        raise ValueError(f"{name} has {worst:.4g} {unit}, expected at most {limit:g} {unit}{guess}")


def check_quaternion(name: str, values) -> None:
    """Raises ValueError for numbers whose squares might overflow; whether the rest is a unit is for the datatypes."""
    worst = max((abs(value) for value in values), default=0.0)
    if worst > 2.0:
        raise ValueError(f"{name} is not normalised: a component of its quaternion is {worst:.4g}")


def split_ns(stamp_ns: int) -> tuple[int, int]:
    """Seconds and nanoseconds of a stamp. Raises ValueError for a time that a message cannot hold."""
    sec, nanosec = divmod(int(stamp_ns), NANOSECONDS)
    if not 0 <= sec < 2**31:
        raise ValueError(f"{stamp_ns} ns is not a ROS time: 0 to 2^31 seconds")
    return sec, nanosec


def check_frame(name: str, header, frame: str) -> None:
    """Raises ValueError when the message is not in `frame`."""
    if header.frame_id != frame:
        raise ValueError(f"{name} is in frame {cut(header.frame_id)}, expected {frame!r}")


def to_pose(message, frame: str, name: str) -> Pose:
    """PoseStamped, measured or wanted.

    Raises ValueError for another frame, NaN, a position that no arm reaches, or an unnormalised quaternion.
    """
    check_frame(name, message.header, frame)
    p, q = message.pose.position, message.pose.orientation
    check_size(f"the position of {name}", (p.x, p.y, p.z), MAX_POSITION_M, "m", " (are these millimetres?)")
    check_quaternion(name, (q.x, q.y, q.z, q.w))
    try:
        return Pose((p.x, p.y, p.z), (q.x, q.y, q.z, q.w))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def to_places(message) -> list[tuple[float, float, float]]:
    """The positions of a PoseArray's objects [m]; NaN three times for one whose place is not known.

    Raises ValueError for none at all, and for positions that no object on a table has.
    """
    places = [(pose.position.x, pose.position.y, pose.position.z) for pose in message.poses]
    if not places:
        raise ValueError("object_poses has no pose")
    known = [place for place in places if not all(np.isnan(place))]
    if not np.isfinite(known).all():
        raise ValueError("object_poses: a position is NaN in part, or infinite")
    check_size("object_poses", (value for place in known for value in place), MAX_POSITION_M, "m", "")
    return places


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
        raise ValueError(f"joint_states lacks {missing}, has {cut(names)}")
    if len(message.position) != len(names):
        raise ValueError(f"joint_states has {len(names)} names and {len(message.position)} positions")
    opening = float(sum(message.position[names.index(name)] for name in fingers))
    if not np.isfinite(opening):
        raise ValueError("joint_states: a finger position is NaN or infinite")
    check_size(
        "joint_states", (opening,), MAX_OPENING_M, "m between the fingers", " (are these millimetres or percent?)"
    )
    return opening


def to_joints(message, names: Container[str]) -> dict[str, float]:
    """Joint name to position [rad or m] in a JointState, of those in `names`.

    Raises ValueError for NaN, for a position that no joint has, and where names and positions differ in number.
    """
    known = [name for name in message.name if name in names]
    if known and len(message.position) != len(message.name):
        raise ValueError(f"joint_states has {len(message.name)} names and {len(message.position)} positions")
    positions = {name: float(at) for name, at in zip(message.name, message.position, strict=False) if name in names}
    if strange := [name for name, at in positions.items() if not np.isfinite(at)]:
        raise ValueError(f"joint_states: the position of {cut(strange[0])} is NaN or infinite")
    check_size("joint_states", positions.values(), MAX_JOINT, "rad", " (are these degrees?)")
    return positions


def to_commanded(message, scale: float) -> float | None:
    """The opening [m] asked of the hand in a gripper_command, which has it times `scale`; None in an empty one.

    Raises ValueError for NaN, and for an opening that no gripper has.
    """
    if not len(message.data):
        return None
    if not np.isfinite(message.data[0]):
        raise ValueError(f"gripper_command is {message.data[0]}")
    opening = float(message.data[0]) / scale
    check_size("gripper_command", (opening,), MAX_OPENING_M, "m", " (see gripper_scale)")
    return opening


def check_camera_info(message) -> None:
    """Raises ValueError for a CameraInfo whose size or intrinsics no camera has. Zeros: not calibrated."""
    for name, values in (("width", (message.width,)), ("height", (message.height,)), ("k", message.k)):
        if not all(abs(value) <= MAX_PIXELS for value in values):  # NaN is refused as well
            raise ValueError(f"{name} is {[float(f'{v:g}') for v in values]}, expected at most {MAX_PIXELS} pixels")

"""Changes of messages, for the faults that spoil one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import PoseStamped, Twist
from rosgraph_msgs.msg import Clock

from faults.rig import STEP_NS, Rig
from grids_ros.datatypes import NANOSECONDS


def at(step: int, part: str, axis: str, value: float) -> Callable:
    """A number of one step of a chunk. part: translation or rotation."""

    def change(poses, gripper) -> None:
        setattr(getattr(poses.points[step].transforms[0], part), axis, value)

    return change


def each(part: str, axis: str, value: Callable[[float, int], float]) -> Callable:
    """A number of every step, from what it was and the step's index."""

    def change(poses, gripper) -> None:
        for index, point in enumerate(poses.points):
            vector = getattr(point.transforms[0], part)
            setattr(vector, axis, value(getattr(vector, axis), index))

    return change


def quaternions(make: Callable[[int], tuple]) -> Callable:
    def change(poses, gripper) -> None:
        for index, point in enumerate(poses.points):
            q = point.transforms[0].rotation
            q.x, q.y, q.z, q.w = (float(value) for value in make(index))

    return change


def opening(value: float, step: int = 0) -> Callable:
    return lambda poses, gripper: setattr(gripper.points[step], "positions", [value])


def times(make: Callable[[int], tuple[int, int]], both: bool = True) -> Callable:
    def change(poses, gripper) -> None:
        for message in (poses, gripper) if both else (gripper,):
            for index, point in enumerate(message.points):
                sec, nanosec = make(index)
                point.time_from_start = Duration(sec=sec, nanosec=nanosec)

    return change


def stamp(sec: int = 0, nanosec: int | None = None, absolute: bool = False) -> Callable:
    def change(poses, gripper) -> None:
        for message in (poses, gripper):
            message.header.stamp.sec = sec if absolute else message.header.stamp.sec + sec
            if nanosec is not None:
                message.header.stamp.nanosec = nanosec

    return change


def frame(text: str) -> Callable:
    return lambda poses, gripper: setattr(poses.header, "frame_id", text)


def joints(names: list[str]) -> Callable:
    return lambda poses, gripper: setattr(poses, "joint_names", names)


def points(poses_count: int, gripper_count: int | None = None) -> Callable:
    def change(poses, gripper) -> None:
        count = poses_count if gripper_count is None else gripper_count
        poses.points = (poses.points * (poses_count // 12 + 1))[:poses_count]
        gripper.points = (gripper.points * (count // 12 + 1))[:count]

    return change


def two_transforms(poses, gripper) -> None:
    poses.points[0].transforms = poses.points[0].transforms * 2


def no_transforms(poses, gripper) -> None:
    poses.points[-1].transforms = []


def velocities(poses, gripper) -> None:
    for point in poses.points:
        point.velocities = [Twist()]


def one_ns_off(poses, gripper) -> None:
    gripper.header.stamp.nanosec ^= 1


def moved(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Callable:
    def change(message: PoseStamped) -> None:
        p = message.pose.position
        p.x, p.y, p.z = p.x + x, p.y + y, p.z + z

    return change


def turned(angle: float) -> Callable:
    """About z, from the pose with z down."""

    def change(message: PoseStamped) -> None:
        q = message.pose.orientation
        c, s = np.cos(angle / 2), np.sin(angle / 2)
        q.x, q.y, q.z, q.w = c * q.x - s * q.y, c * q.y + s * q.x, c * q.z + s * q.w, c * q.w - s * q.z

    return change


def position(axis: str, value: float) -> Callable:
    return lambda message: setattr(message.pose.position, axis, value)


def orientation(x: float, y: float, z: float, w: float) -> Callable:
    def change(message: PoseStamped) -> None:
        q = message.pose.orientation
        q.x, q.y, q.z, q.w = x, y, z, w

    return change


def pose_stamp(sec: int | None = None, add: int = 0, nanosec: int | None = None) -> Callable:
    def change(message: PoseStamped) -> None:
        s = message.header.stamp
        s.sec = s.sec + add if sec is None else sec
        s.nanosec = s.nanosec if nanosec is None else nanosec

    return change


def pose_frame(text: str) -> Callable:
    return lambda message: setattr(message.header, "frame_id", text)


def honest_pose(rig: Rig) -> PoseStamped:
    return rig.measured()


def displaced_pose(rig: Rig) -> PoseStamped:
    message = rig.measured()
    message.pose.position.z += 0.3
    return message


def clock_ahead(rig: Rig) -> Clock:
    return Clock(clock=Time(sec=rig.now_ns // NANOSECONDS + 5, nanosec=0))


def jittering_clock(now_ns: int) -> Clock:
    back = 3 * STEP_NS if now_ns // STEP_NS % 2 else 0
    return Clock(clock=Time(sec=(now_ns - back) // NANOSECONDS, nanosec=(now_ns - back) % NANOSECONDS))

"""The bytes of a chunk say what rclpy's bytes of its messages say."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the ROS layer needs rclpy")

from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Quaternion, Transform, Vector3
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from scipy.spatial.transform import Rotation
from std_msgs.msg import Header
from trajectory_msgs.msg import (
    JointTrajectory,
    JointTrajectoryPoint,
    MultiDOFJointTrajectory,
    MultiDOFJointTrajectoryPoint,
)

from grids_ros.chunk_bytes import count_steps, gripper_to_bytes, poses_to_bytes
from grids_ros.datatypes import NANOSECONDS, ActionChunk
from grids_ros.observation.messages import GRIPPER_JOINT

names = st.text(st.characters(codec="ascii", exclude_characters="\x00"), max_size=12) | st.just("Gelenk 2, außen")


def messages(chunk: ActionChunk, base: str, tool: str) -> tuple[MultiDOFJointTrajectory, JointTrajectory]:
    """Field by field."""
    stamp = Time(sec=chunk.stamp_ns // NANOSECONDS, nanosec=chunk.stamp_ns % NANOSECONDS)
    poses = MultiDOFJointTrajectory(header=Header(stamp=stamp, frame_id=base), joint_names=[tool])
    gripper = JointTrajectory(header=Header(stamp=stamp, frame_id=base), joint_names=[GRIPPER_JOINT])
    for i, seconds in enumerate(chunk.times):
        sec, nanosec = divmod(round(float(seconds) * NANOSECONDS), NANOSECONDS)
        due = Duration(sec=sec, nanosec=nanosec)
        x, y, z, w = map(float, chunk.quaternions[i])
        transform = Transform(
            translation=Vector3(**dict(zip("xyz", map(float, chunk.positions[i]), strict=True))),
            rotation=Quaternion(x=x, y=y, z=z, w=w),
        )
        poses.points.append(MultiDOFJointTrajectoryPoint(transforms=[transform], time_from_start=due))
        gripper.points.append(JointTrajectoryPoint(positions=[float(chunk.gripper[i])], time_from_start=due))
    return poses, gripper


@given(st.integers(0, 2**31 * 10**9 - 1), names, names, st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_they_are_laid_out_as_rclpys_and_read_back_as_the_messages(stamp_ns, base, tool, n, seed):
    rng = np.random.default_rng(seed)
    times, turns = np.cumsum(rng.uniform(0.001, 0.5, n)), Rotation.random(n, rng).as_quat()
    chunk = ActionChunk(stamp_ns, times, rng.normal(size=(n, 3)), turns, rng.uniform(0.0, 0.08, n))
    poses, gripper = messages(chunk, base, tool)
    for ours, message in ((poses_to_bytes(chunk, base, tool), poses), (gripper_to_bytes(chunk, base), gripper)):
        assert deserialize_message(ours, type(message)) == message
        # rclpy's own end in up to some dozens of bytes that nobody reads, and its gaps hold whatever was in memory.
        assert deserialize_message(serialize_message(message)[: len(ours)], type(message)) == message


def test_names_are_not_walked_through():
    """A million of them take a second in which the interpreter does nothing else."""
    message = MultiDOFJointTrajectory(joint_names=["a", "b"])
    with pytest.raises(ValueError, match="is for 2 joints, expected 1"):
        count_steps(serialize_message(message))


def test_a_time_that_ros_cannot_say_is_refused():
    chunk = ActionChunk(-1, [0.1], [[0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 1.0]], [0.0])
    with pytest.raises(ValueError, match="-1 ns is not a ROS time"):
        poses_to_bytes(chunk, "base", "tool")

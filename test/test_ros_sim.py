"""The simulated arm as a node: the topics of a real one, and what it does with bad commands."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the ROS layer needs rclpy")

from geometry_msgs.msg import PoseArray, PoseStamped
from rclpy.parameter import Parameter
from ros_harness import until
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import Trigger
from visualization_msgs.msg import Marker, MarkerArray

from grids_ros.datatypes import Pose
from grids_ros.kinematics import Kinematics
from grids_ros.observation.images import to_rgb
from grids_ros.parameters import PolicyParameters
from grids_ros.ros import conversions, markers, qos
from grids_ros.ros.sim_node import OBJECTS, SimNode, object_frame
from grids_ros.sim.mujoco_model import ARM_JOINTS


@pytest.fixture
def poses(ros):
    return ros.collect(PoseStamped, "current_pose", qos.MEASURED)


def pose_of(message) -> Pose:
    return conversions.to_pose(message, "base", "current_pose")


def test_it_publishes_what_a_real_arm_with_two_cameras_does(ros, poses):
    images = {name: ros.collect(Image, f"camera/{name}/image_raw", qos.NEWEST) for name in ("base", "wrist")}
    infos = {name: ros.collect(CameraInfo, f"camera/{name}/camera_info", qos.NEWEST) for name in images}
    joints = ros.collect(JointState, "joint_states", qos.MEASURED)
    objects = ros.collect(PoseArray, "object_poses", qos.MEASURED)
    urdfs = ros.collect(String, "robot_description", qos.LATCHED)
    ros.start(SimNode, image_size=64)
    until(lambda: joints and objects and urdfs and all(images.values()) and all(infos.values()), "every topic")
    until(lambda: len(poses) > 20, "poses")
    stamps = [conversions.to_ns(message.header.stamp) for message in poses]
    assert (np.diff(stamps) > 0).all()
    assert conversions.to_opening(joints[0], ("fr3_finger_joint1", "fr3_finger_joint2")) == pytest.approx(
        0.08, abs=0.01
    )
    assert len(objects[0].poses) == 4
    arm = Kinematics(urdfs[-1].data, ARM_JOINTS, "base", "tool")

    def at_one_time():
        at = {conversions.to_ns(joint.header.stamp): joint for joint in joints}
        pairs = ((pose, at.get(conversions.to_ns(pose.header.stamp))) for pose in reversed(poses))
        return next((pair for pair in pairs if pair[1]), None)

    pose, joint = until(at_one_time, "a pose and joints of the same time")
    placed = arm.pose(arm.read(dict(zip(joint.name, joint.position, strict=True))))
    np.testing.assert_allclose(placed.position, pose_of(pose).position, atol=1e-6)
    for name, (message, info) in {n: (images[n][-1], infos[n][-1]) for n in images}.items():
        assert message.header.frame_id == info.header.frame_id == f"{name}_camera_optical_frame"
        assert to_rgb(message).shape == (64, 64, 3) and to_rgb(message).std() > 5.0
        assert (info.height, info.width) == (64, 64) and info.k[0] > 0.0 and info.k[2] == 32.0


def test_it_goes_where_target_pose_says_and_ignores_what_is_no_pose(ros, poses):
    ros.start(SimNode, image_size=64)
    until(lambda: poses, "a pose")
    home = pose_of(poses[-1])
    goal = Pose(home.position + (0.0, 0.03, -0.03), home.quaternion)
    targets = ros.publisher(PoseStamped, "target_pose", qos.COMMAND)
    grippers = ros.publisher(Float64MultiArray, "gripper_command", qos.COMMAND)
    joints = ros.collect(JointState, "joint_states", qos.MEASURED)
    until(lambda: targets.get_subscription_count() and grippers.get_subscription_count(), "a match")
    targets.publish(conversions.from_pose_stamped(goal, "base", ros.now_ns()))
    grippers.publish(Float64MultiArray(data=[0.0]))
    until(lambda: np.linalg.norm(pose_of(poses[-1]).position - goal.position) < 0.004, "the arm at its target")
    until(lambda: sum(joints[-1].position[-2:]) < 0.01, "a closed gripper")
    bad = conversions.from_pose_stamped(home, "base", ros.now_ns())
    bad.pose.position.x = float("nan")
    elsewhere = conversions.from_pose_stamped(home, "camera", ros.now_ns())
    for message in (bad, elsewhere):
        targets.publish(message)
        for data in ([], [0.08, 0.08], [float("nan")], [-1.0]):
            grippers.publish(Float64MultiArray(data=data))
        count = len(poses)
        until(lambda count=count: len(poses) > count + 20, "more poses")
    assert np.linalg.norm(pose_of(poses[-1]).position - goal.position) < 0.005
    assert sum(joints[-1].position[-2:]) < 0.01


def test_viewers_get_the_table_and_the_objects_once_and_they_move_with_their_frames(ros):
    shown = ros.collect(MarkerArray, "object_shapes", qos.LATCHED)
    ros.start(SimNode, image_size=32)
    drawn = until(lambda: shown, "shapes")[0].markers
    assert len({marker.id for marker in drawn}) == len(drawn)
    for marker in drawn:
        assert marker.ns == markers.SCENE and marker.frame_locked and marker.color.a == 1.0
        assert marker.lifetime.sec == marker.header.stamp.sec == 0
    frames = {marker.header.frame_id: marker for marker in drawn}
    assert set(frames) == {"base", *(object_frame(name) for name in OBJECTS)}
    red, table = frames[object_frame("red")], frames["base"]
    assert (red.scale.x, red.scale.y, red.scale.z) == pytest.approx((0.04, 0.04, 0.04))
    assert red.type == Marker.CUBE and red.color.r > 2 * red.color.g and red.pose.position.z == 0.0
    assert table.pose.position.z + table.scale.z / 2 == pytest.approx(PolicyParameters().table_height)


def test_reset_places_the_objects_anew_and_the_same_seed_places_them_the_same(ros):
    objects = ros.collect(PoseArray, "object_poses", qos.MEASURED)
    sim = ros.start(SimNode, image_size=32, seed=4)
    client = ros.bench.create_client(Trigger, "reset")
    assert client.wait_for_service(timeout_sec=10.0)

    def reset() -> str:
        future = client.call_async(Trigger.Request())
        return until(lambda: future.result() if future.done() else None, "an answer").message

    def placed() -> np.ndarray:
        count = len(objects)
        until(lambda: len(objects) > count + 2, "object poses")
        return np.array([(p.position.x, p.position.y) for p in objects[-1].poses])

    first = placed()
    assert reset() == "scene 5"
    assert np.abs(placed() - first).max() > 0.01
    assert sim.set_parameters_atomically([Parameter("seed", value=4)]).successful
    assert reset() == "scene 4"
    assert np.allclose(placed(), first, atol=1e-3)
    refused = sim.set_parameters_atomically([Parameter("seed", value=-1)])
    assert not refused.successful and "2147483647" in refused.reason


def test_with_publish_clock_it_is_the_clock_and_stamps_with_it(ros, poses):
    clocks = ros.collect(Clock, "/clock", qos.CLOCK)
    ros.start(SimNode, image_size=32, publish_clock=True)
    until(lambda: len(clocks) > 20 and len(poses) > 20, "a clock")
    times = [conversions.to_ns(message.clock) for message in clocks]
    assert (np.diff(times) > 0).all()
    assert times[0] < 20e9  # since the start, not since 1970
    assert conversions.to_ns(poses[-1].header.stamp) <= times[-1] + 0.1e9

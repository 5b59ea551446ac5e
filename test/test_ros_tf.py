"""Measured poses by way of TF over real DDS, and what RViz needs of it; where tf2_msgs is installed."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the ROS layer needs rclpy")
pytest.importorskip("tf2_msgs", reason="tf2_msgs comes with a ROS 2 installation")

from geometry_msgs.msg import PoseStamped, TransformStamped
from ros_harness import HOME, until
from std_msgs.msg import String
from tf2_msgs.msg import TFMessage

from grids_ros.datatypes import CAMERAS, Pose
from grids_ros.parameters import FollowerParameters
from grids_ros.ros import conversions, qos
from grids_ros.ros.sim_node import OBJECTS, SimNode, object_frame, optical_frame
from grids_ros.ros.tf import TF, TF_STATIC, PoseInbox

FRAMES = FollowerParameters(base_frame="base", tool_frame="tool", pose_source="topic")
UPRIGHT = (0.0, 0.0, 0.0, 1.0)


def transform(parent: str, child: str, pose: Pose, stamp_ns: int) -> TransformStamped:
    message = TransformStamped(child_frame_id=child)
    message.header.stamp, message.header.frame_id = conversions.to_stamp(stamp_ns), parent
    placed = conversions.from_pose(pose)
    for axis in "xyz":
        setattr(message.transform.translation, axis, getattr(placed.position, axis))
    message.transform.rotation = placed.orientation
    return message


@pytest.fixture
def say_tf(ros):
    publishers = {
        False: ros.publisher(TFMessage, "/tf", TF),
        True: ros.publisher(TFMessage, "/tf_static", TF_STATIC),
    }

    def say(*transforms, static: bool = False) -> None:
        until(lambda: publishers[static].get_subscription_count() > 0, "a listener")
        publishers[static].publish(TFMessage(transforms=list(transforms)))

    return say


def inbox(ros, **changes) -> PoseInbox:
    return PoseInbox(ros.bench, replace(FRAMES, **changes), qos.MEASURED)


def test_the_pose_is_that_of_the_tool_in_the_base_once_for_each_stamp(ros, say_tf):
    poses = inbox(ros, pose_source="tf")
    assert poses.newest() is None
    say_tf(transform("flange", "tool", Pose((0.0, 0.0, 0.1), UPRIGHT), 0), static=True)
    stamp_ns = ros.now_ns()
    say_tf(transform("base", "flange", Pose((0.4, 0.0, 0.3), UPRIGHT), stamp_ns))
    message = until(poses.newest, "a pose")
    assert message.header.frame_id == "base" and conversions.to_ns(message.header.stamp) == stamp_ns
    assert (message.pose.position.x, message.pose.position.z) == pytest.approx((0.4, 0.4))
    assert poses.newest() is None, "nothing new"
    poses.destroy()


def test_a_pose_in_another_frame_is_transformed_where_tf_knows_it(ros, say_tf):
    poses = inbox(ros)
    publisher = ros.publisher(PoseStamped, "current_pose", qos.MEASURED)
    until(lambda: publisher.get_subscription_count() > 0, "the inbox")

    def taken():
        publisher.publish(conversions.from_pose_stamped(HOME, "world", ros.now_ns()))
        return poses.newest()

    assert until(taken, "the pose as it came").header.frame_id == "world"
    say_tf(transform("world", "base", Pose((1.0, 0.0, 0.0), UPRIGHT), 0), static=True)
    message = until(lambda: (m := taken()) and m.header.frame_id == "base" and m, "a transformed pose")
    expected = HOME.position - (1.0, 0.0, 0.0)
    p = message.pose.position
    assert np.allclose((p.x, p.y, p.z), expected)
    poses.destroy()


def test_rviz_can_place_every_link_of_the_simulated_arm_its_cameras_and_the_objects(ros):
    """RobotModel draws a link where TF has it, and reports those that TF lacks."""
    heard = ros.collect(TFMessage, "/tf", TF)
    urdfs = ros.collect(String, "robot_description", qos.LATCHED)
    ros.start(SimNode, image_size=32)
    urdf = ElementTree.fromstring(until(lambda: urdfs, "robot_description")[0].data)
    wanted = {link.get("name") for link in urdf.iter("link")} - {"base"}
    wanted |= {optical_frame(name) for name in CAMERAS} | {object_frame(name) for name in OBJECTS}

    def placed() -> dict[str, str]:
        return {t.child_frame_id: t.header.frame_id for message in heard for t in message.transforms}

    until(lambda: wanted <= set(placed()), "every frame")
    assert set(placed().values()) == {"base"}

"""The follower node over real DDS: what it does with chunks, good and bad, and when it holds."""

from __future__ import annotations

import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the ROS layer needs rclpy")

from builtin_interfaces.msg import Duration
from ros_harness import HOME, Arm, Ros, altered_pose, chunk_messages, chunk_to, say, until
from std_msgs.msg import String
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory, MultiDOFJointTrajectory

from grids_ros.datatypes import Pose
from grids_ros.ros import conversions, qos
from grids_ros.ros.follower_node import FollowerNode

NAME = "grids_follower"


class Policy:
    """Publishes chunks by hand."""

    def __init__(self, ros: Ros):
        self.poses = ros.publisher(MultiDOFJointTrajectory, "action_chunk", qos.CHUNK)
        self.gripper = ros.publisher(JointTrajectory, "gripper_chunk", qos.CHUNK)

    def publish(self, chunk, change=None) -> None:
        poses, gripper = chunk_messages(chunk)
        if change:
            change(poses, gripper)
        self.gripper.publish(gripper)
        self.poses.publish(poses)


@pytest.fixture
def arm(ros):
    return Arm(ros)


@pytest.fixture
def policy(ros):
    return Policy(ros)


@pytest.fixture
def node(ros, arm, policy):
    return started(ros, arm, policy)


def started(ros, arm, policy, **parameters) -> FollowerNode:
    follower = ros.start(FollowerNode, **parameters)
    ros.activate(follower)
    until(lambda: policy.poses.get_subscription_count() and policy.gripper.get_subscription_count(), "a match")
    until(lambda: ros.diagnostics(NAME), "diagnostics")
    until(arm.matched, "a match of the arm")
    return follower


def drive(ros, arm, policy, **options) -> None:
    """Publish chunks until the arm moves, and so follows one."""
    start = arm.pose.position

    def moving():
        policy.publish(chunk_to(arm, ros.now_ns(), **options))
        time.sleep(0.05)
        return np.linalg.norm(arm.pose.position - start) > 1e-4

    until(moving, lambda: f"motion; diagnostics say {ros.diagnostics(NAME).message}")


def expect_following(ros, arm, policy) -> None:
    """Publish chunks until the arm moves and the diagnostics say that it follows."""
    drive(ros, arm, policy)
    seen = len(ros.statuses)

    def said():
        policy.publish(chunk_to(arm, ros.now_ns()))
        time.sleep(0.05)
        return any(NAME in status.name and "following" in status.message for status in ros.statuses[seen:])

    until(said, lambda: f"'following'; diagnostics say {ros.diagnostics(NAME).message}")


def call(ros, name: str, on: bool):
    client = ros.bench.create_client(SetBool, name)
    assert client.wait_for_service(timeout_sec=10.0)
    future = client.call_async(SetBool.Request(data=on))
    return until(lambda: future.result() if future.done() else None, f"an answer from {name}")


def test_is_silent_until_the_first_chunk_then_follows_it_to_its_end_and_holds(ros, arm, policy, node):
    time.sleep(0.3)
    assert not arm.targets
    goal = HOME.position + (0.0, 0.05, 0.0)
    published_s = 0.0

    def arrived():
        """On a machine so busy that a pose came too late, the rest of a chunk is not followed: then another one."""
        nonlocal published_s
        if time.monotonic() > published_s + 3.0:
            published_s = time.monotonic()
            policy.publish(chunk_to(arm, ros.now_ns(), move=goal - arm.pose.position))
        return np.allclose(arm.pose.position, goal, atol=1e-3)

    until(arrived, lambda: f"the chunk's last pose; diagnostics say {ros.diagnostics(NAME).message}")
    ros.wait_for_reason(NAME, "chunk ended")
    before = len(arm.targets)
    assert arm.still()
    assert len(arm.targets) > before  # holding is not silence
    assert all(message.header.frame_id == "base" for message in arm.targets)
    stamps = [conversions.to_ns(message.header.stamp) for message in arm.targets]
    assert (np.diff(stamps) > 0).all()


def test_a_gripper_command_goes_out_on_change_only(ros, arm, policy, node):
    drive(ros, arm, policy, gripper=0.08)
    for _ in range(3):
        time.sleep(0.1)
        policy.publish(chunk_to(arm, ros.now_ns(), gripper=0.0))
    until(lambda: 0.0 in arm.gripper_commands, "a command to close")
    assert arm.gripper_commands == [0.08, 0.0]


def test_a_hand_that_counts_from_closed_to_open_is_told_in_its_own_numbers(ros, arm, policy):
    """crisp_controllers' adapter for the Franka Hand closes at 0.5 and below: 0.08 would never open it."""
    started(ros, arm, policy, gripper_scale=12.5)
    drive(ros, arm, policy, gripper=0.08)
    until(lambda: arm.gripper_commands, "a command to open")
    assert arm.gripper_commands == [1.0]


def _nan(poses, gripper):
    poses.points[3].transforms[0].translation.x = float("nan")


def _unnormalised(poses, gripper):
    poses.points[0].transforms[0].rotation.x = 2.0


def _frame(poses, gripper):
    poses.header.frame_id = "camera"


def _joints(poses, gripper):
    poses.joint_names = ["left_tool"]


def _no_points(poses, gripper):
    poses.points, gripper.points = [], []


def _two_transforms(poses, gripper):
    poses.points[0].transforms = poses.points[0].transforms * 2


def _other_times(poses, gripper):
    gripper.points[0].time_from_start = Duration(nanosec=1)


def _nan_gripper(poses, gripper):
    gripper.points[0].positions = [float("nan")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_nan, "NaN"),
        (_unnormalised, "not normalised"),
        (_frame, "frame 'camera', expected 'base'"),
        (_joints, "['left_tool'], expected ['tool']"),
        (_no_points, "at least one step"),
        (_two_transforms, "exactly one transform"),
        (_other_times, "same time_from_start"),
        (_nan_gripper, "NaN"),
    ],
)
def test_a_bad_chunk_is_refused_with_its_reason_and_the_next_good_one_is_followed(ros, arm, policy, node, change, said):
    policy.publish(chunk_to(arm, ros.now_ns()), change)
    ros.wait_for_reason(NAME, said)
    assert not arm.targets
    expect_following(ros, arm, policy)


def test_a_bad_chunk_in_mid_motion_leaves_the_good_one_running_and_then_holds(ros, arm, policy, node):
    drive(ros, arm, policy)
    policy.publish(chunk_to(arm, ros.now_ns(), move=(0.3, 0.3, 0.3)), _nan)
    ros.wait_for_reason(NAME, "chunk ended; chunk refused: ")
    assert arm.still()
    assert np.isfinite([[m.pose.position.x, m.pose.position.y, m.pose.position.z] for m in arm.targets]).all()


def _shift(seconds: float):
    return round(seconds * 1e9)


def test_chunks_from_the_future_and_from_the_past_are_refused(ros, arm, policy, node):
    policy.publish(chunk_to(arm, ros.now_ns() + _shift(10.0)))
    ros.wait_for_reason(NAME, "in the future")
    policy.publish(chunk_to(arm, ros.now_ns() - _shift(10.0)))
    ros.wait_for_reason(NAME, "every step has passed")
    assert not arm.targets
    drive(ros, arm, policy)


def test_two_policies_are_refused_and_one_alone_is_followed_again(ros, arm, policy, node):
    drive(ros, arm, policy)
    rival = Policy(ros)

    def refused():
        policy.publish(chunk_to(arm, ros.now_ns()))
        rival.publish(chunk_to(arm, ros.now_ns(), move=(0.1, 0.0, 0.0)))
        time.sleep(0.05)
        return "2 publishers" in ros.diagnostics(NAME).message

    until(refused, "chunks from two publishers to be refused")
    assert arm.still()
    ros.bench.destroy_publisher(rival.poses)
    ros.bench.destroy_publisher(rival.gripper)
    settled = arm.pose.position

    def moves_on():
        policy.publish(chunk_to(arm, ros.now_ns()))
        time.sleep(0.05)
        return np.linalg.norm(arm.pose.position - settled) > 1e-3

    until(moves_on, "the remaining policy to be followed")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: setattr(m.pose.position, "y", float("nan")), "NaN"),
        (lambda m: setattr(m.pose.orientation, "w", 1.0), "not normalised"),
        (lambda m: setattr(m.header, "frame_id", "world"), "frame 'world'"),
        (lambda m: setattr(m.header.stamp, "sec", m.header.stamp.sec + 5), "future"),
        (lambda m: setattr(m.header.stamp, "sec", m.header.stamp.sec - 5), "old"),
    ],
)
def test_the_arm_holds_while_its_pose_is_bad_and_goes_on_when_it_is_good(ros, arm, policy, node, change, said):
    drive(ros, arm, policy)
    arm.pose_message = altered_pose(arm, change)

    def held():
        policy.publish(chunk_to(arm, ros.now_ns(), move=(0.0, 0.02, 0.0)))
        time.sleep(0.05)
        return said in ros.diagnostics(NAME).message

    until(held, f"a hold because of {said}")
    assert arm.still()
    arm.pose_message = arm.honest_pose
    expect_following(ros, arm, policy)


def test_the_hold_service_holds_at_once_and_only_its_release_ends_that(ros, arm, policy, node):
    drive(ros, arm, policy)
    assert "hold service" in call(ros, "hold", True).message
    assert arm.still()
    policy.publish(chunk_to(arm, ros.now_ns()))
    assert arm.still()
    assert call(ros, "hold", False).message == "not held"
    expect_following(ros, arm, policy)


def test_an_empty_instruction_holds_at_once_and_the_next_one_goes_on(ros, arm, policy, node):
    instruction = say(ros, "lift the red cube")
    drive(ros, arm, policy)
    instruction.publish(String(data=""))
    ros.wait_for_reason(NAME, "instruction is empty")
    assert arm.still()
    instruction.publish(String(data="lift the green cube"))
    ros.wait_for_reason(NAME, "no chunk")
    drive(ros, arm, policy)


def test_deactivation_holds_the_last_pose_then_is_silent_and_starts_from_the_measured_pose(ros, arm, policy, node):
    drive(ros, arm, policy)
    assert node.trigger_deactivate().name == "SUCCESS"
    ros.wait_for_reason(NAME, "inactive")
    last = arm.pose.position
    count = len(arm.targets)
    time.sleep(0.3)
    assert len(arm.targets) == count
    by_hand = arm.pose = Pose(HOME.position + (0.0, -0.05, 0.0), HOME.quaternion)
    assert node.trigger_activate().name == "SUCCESS"
    drive(ros, arm, policy, move=(0.0, 0.0, 0.01))
    first = arm.targets[count].pose.position
    assert abs(first.y - by_hand.position[1]) < 0.006 and abs(first.y - last[1]) > 0.04


def test_deactivated_in_full_motion_it_brakes_within_its_limits(ros, arm, policy, node):
    def steps():
        return np.diff([message.pose.position.y for message in arm.targets])

    def fast():
        policy.publish(chunk_to(arm, ros.now_ns(), move=(0.0, 0.3, 0.0)))
        time.sleep(0.1)
        return len(arm.targets) > 2 and steps()[-1] > 0.0015

    until(fast, "0.15 m/s")
    assert node.trigger_deactivate().name == "SUCCESS"
    until(lambda: steps()[-1] == 0.0, "rest")
    assert np.abs(np.diff(steps())).max() <= 10.0 * 0.01**2 + 1e-9  # the default linear_acceleration, per tick


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("rate_hz", 0.0, "[1, 1000]"),
        ("rate_hz", 100, "a float such as 100.0 in [1, 1000]"),
        ("gripper_open", 0.6, "a float such as 0.08 in [0, 0.2]"),
        ("linear_speed", -0.1, "[0, 3]"),
        ("workspace_min", [0.0, 0.0], "an array of 3"),
        ("workspace_min", [0.0, float("nan"), 0.0], "[-5, 5]"),
        ("linear_sped", 0.1, "did you mean 'linear_speed'?"),
        ("base_frame", 3, "a string"),
    ],
)
def test_a_bad_parameter_is_refused_and_the_message_names_what_is_valid(ros, name, value, said):
    with pytest.raises(ValueError, match=name) as error:
        ros.start(FollowerNode, **{name: value})
    assert said in str(error.value)


def test_parameters_that_contradict_each_other_fail_the_configuration_with_the_cause(ros):
    follower = ros.start(FollowerNode, gripper_close_below=0.06)
    assert follower.trigger_configure().name == "FAILURE"
    ros.wait_for_reason(NAME, "close_below < open_above")
    from rclpy.parameter import Parameter

    refused = follower.set_parameters_atomically([Parameter("gripper_close_below", value=0.3)])
    assert not refused.successful and "0.2" in refused.reason
    assert follower.set_parameters_atomically([Parameter("gripper_close_below", value=0.03)]).successful
    assert follower.trigger_configure().name == "SUCCESS"
    refused = follower.set_parameters_atomically([Parameter("linear_speed", value=0.3)])
    assert not refused.successful and "clean up" in refused.reason

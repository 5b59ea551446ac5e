"""The follower node over real DDS: what it does with chunks, good and bad, and when it holds."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the ROS layer needs rclpy")

import rclpy
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import PoseStamped
from rclpy.context import Context
from rclpy.node import Node
from ros_harness import (
    HOME,
    Arm,
    Ros,
    altered_pose,
    changes_m,
    chunk_messages,
    chunk_to,
    private_domain,
    say,
    undocumented,
    until,
)
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory, MultiDOFJointTrajectory

from grids_ros.datatypes import Pose
from grids_ros.diagnostic_keys import KEYS
from grids_ros.ros import conversions, qos
from grids_ros.ros.chunk_receiver import PATIENCE_S
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
    assert list(dict.fromkeys(arm.gripper_commands)) == [0.08, 0.0]


def test_who_listens_later_hears_the_grippers_command(ros, arm, policy, node):
    drive(ros, arm, policy, gripper=0.0)
    until(lambda: arm.gripper_commands, "a command to close")
    heard = ros.collect(Float64MultiArray, "gripper_command", qos.COMMAND)

    def repeated():
        policy.publish(chunk_to(arm, ros.now_ns(), gripper=0.0))
        time.sleep(0.05)
        return heard

    until(repeated, "the command once more")
    assert set(heard[0].data) == {0.0}


def test_a_hand_that_counts_from_closed_to_open_is_told_in_its_own_numbers(ros, arm, policy):
    """crisp_controllers' adapter for the Franka Hand closes at 0.5 and below: 0.08 would never open it."""
    started(ros, arm, policy, gripper_scale=12.5)
    drive(ros, arm, policy, gripper=0.08)
    until(lambda: arm.gripper_commands, "a command to open")
    assert set(arm.gripper_commands) == {1.0}


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
        said = ros.diagnostics(NAME).message
        return "holding" in said and "2 publishers" in said

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


@pytest.mark.parametrize(("by_hand_m", "continues"), [(0.05, True), (0.2, False)])
def test_deactivation_holds_the_last_pose_then_is_silent_and_activation_continues_there_if_the_arm_is_near(
    ros, arm, policy, node, by_hand_m, continues
):
    drive(ros, arm, policy)
    assert node.trigger_deactivate().name == "SUCCESS"
    ros.wait_for_reason(NAME, "inactive")
    last = arm.pose.position
    count = len(arm.targets)
    time.sleep(0.3)
    assert len(arm.targets) == count
    by_hand = arm.pose = Pose(last - (0.0, by_hand_m, 0.0), HOME.quaternion)
    assert node.trigger_activate().name == "SUCCESS"
    drive(ros, arm, policy, move=(0.0, 0.0, 0.01))
    first = arm.targets[count].pose.position
    assert abs(first.y - (last if continues else by_hand.position)[1]) < 0.006


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
        ("rate_hz", 5.0, "[20, 1000]"),
        ("rate_hz", 100, "a float such as 100.0 in [20, 1000]"),
        ("gripper_open", 0.6, "a float such as 0.08 in [0, 0.2]"),
        ("linear_speed", -0.1, "[0.001, 3] m/s, or 0.0"),
        ("linear_acceleration", 1e-306, "[0.001, 50] m/s^2, or 0.0"),
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
    refused = follower.set_parameters_atomically([Parameter("linear_jerk", value=300.0)])
    assert not refused.successful and "clean up" in refused.reason


@pytest.mark.parametrize(
    ("period_s", "parameters"),
    [(0.01, {"linear_acceleration": 0.25}), (0.002, {"rate_hz": 500.0, "linear_jerk": 50.0})],
    ids=["low acceleration", "high rate and low jerk"],
)
def test_an_end_waits_until_the_arm_is_at_rest(ros, arm, policy, period_s, parameters):
    """However long braking takes from the speed that it has, whatever the limits are by then."""
    node = started(ros, arm, policy, **parameters)

    def fast():
        policy.publish(chunk_to(arm, ros.now_ns(), move=(0.0, 0.3, 0.0)))
        time.sleep(0.05)
        return len(arm.targets) > 10 and np.median(_moves_m(arm)[-9:]) / period_s > 0.12

    until(fast, "0.12 m/s")

    def end():
        node.change({"linear_speed": 0.0, "angular_speed": 0.0})
        node.deactivate()

    ros.under_test.do(end)
    until(lambda: _moves_m(arm)[-1] == 0.0, "a last target at rest")


def test_speed_limits_go_down_while_the_arm_moves_and_up_again_as_far_as_configured(ros, arm, policy, node):
    from rclpy.parameter import Parameter

    def set_speeds(**values):
        return node.set_parameters_atomically([Parameter(name, value=value) for name, value in values.items()])

    drive(ros, arm, policy, move=(0.0, 0.3, 0.0))
    assert set_speeds(linear_speed=0.02).successful
    time.sleep(0.3)
    arm.targets.clear()
    until(lambda: policy.publish(chunk_to(arm, ros.now_ns(), move=(0.0, 0.3, 0.0))) or len(arm.targets) > 20, "targets")
    steps = np.diff([(m.pose.position.x, m.pose.position.y, m.pose.position.z) for m in arm.targets], axis=0)
    assert 0.0 < np.median(np.linalg.norm(steps, axis=1)) <= 0.02 * 0.01 + 1e-9  # a target may be lost on its way
    refused = set_speeds(angular_speed=0.1, linear_speed=0.6)
    assert not refused.successful and "linear_speed" in refused.reason and "at most 0.5" in refused.reason
    assert node._loop.follower.config.limits.angular_speed == 1.5, "what is refused changes nothing"
    assert set_speeds(linear_speed=0.5).successful
    assert node._loop.follower.config.limits.linear_speed == 0.5


# --- what no input and no caller may do to the stream ------------------------------------------------------------


def _moves_m(arm) -> np.ndarray:
    """Steps between targets, shape (n,) [m]."""
    path = np.array([[m.pose.position.x, m.pose.position.y, m.pose.position.z] for m in arm.targets])
    return np.linalg.norm(np.diff(path, axis=0), axis=1)


MOST_M = 10.0 * 0.01**2 + 1e-9  # the default linear_acceleration, per tick


def _huge(poses, gripper):
    poses.points[3].transforms[0].translation.x = 1e38


def _denormal(poses, gripper):
    for point in poses.points:
        point.transforms[0].translation.y = 5e-324


def _millimetres(poses, gripper):
    for point in poses.points:
        point.transforms[0].translation.x *= 1000.0


def _percent(poses, gripper):
    gripper.points[0].positions = [80.0]


def _long_joint(poses, gripper):
    poses.joint_names = ["x" * 100_000]


def _many(steps: int, gripper_steps: int | None = None):
    def change(poses, gripper):
        poses.points = poses.points[:1] * steps
        gripper.points = gripper.points[:1] * (steps if gripper_steps is None else gripper_steps)

    return change


def _joints(count: int):
    return lambda poses, gripper: setattr(poses, "joint_names", ["a"] * count)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_huge, "has 1e+38 m, expected at most 100 m"),
        (_millimetres, "are these millimetres?"),
        (_percent, "are these millimetres or percent?"),
        (_long_joint, "(100000 characters)"),
        (_many(1001, 1), "action_chunk: has 1001 steps, at most 1000 are taken"),
        (_many(1, 1001), "gripper_chunk: has 1001 steps, at most 1000 are taken"),
        (_many(1001), "1000 are taken; gripper_chunk: has 1001 steps, at most 1000 are taken"),
        (_many(50_000), "bytes, at most 512000 are taken"),
        (_joints(2), "action_chunk: is for 2 joints, expected 1"),
        (_joints(100_000), "bytes, at most 512000 are taken"),
        (lambda poses, gripper: setattr(gripper.header.stamp, "nanosec", gripper.header.stamp.nanosec ^ 1), "by 1 ns"),
    ],
)
def test_an_absurd_chunk_is_refused_by_its_number_and_the_next_one_is_followed(ros, arm, policy, node, change, said):
    policy.publish(chunk_to(arm, ros.now_ns()), change)
    ros.wait_for_reason(NAME, said)
    assert len(ros.diagnostics(NAME).message) < 400
    expect_following(ros, arm, policy)


def test_a_chunk_whose_partner_was_refused_is_no_reason_of_its_own(ros, arm, policy, node):
    policy.publish(chunk_to(arm, ros.now_ns()), _many(1001, 1))
    ros.wait_for_reason(NAME, "action_chunk: has 1001 steps")
    time.sleep(3 * PATIENCE_S)
    ros.wait_for_reason(NAME, "action_chunk: has 1001 steps")
    policy.poses.publish(chunk_messages(chunk_to(arm, ros.now_ns()))[0])
    ros.wait_for_reason(NAME, "expected the same stamp")


def test_denormal_numbers_are_numbers(ros, arm, policy, node):
    def following():
        policy.publish(chunk_to(arm, ros.now_ns()), _denormal)
        time.sleep(0.05)
        return "following" in ros.diagnostics(NAME).message and len(changes_m(arm.targets)) > 3

    until(following, "targets")
    assert changes_m(arm.targets).max() <= MOST_M


def test_a_chunk_without_its_gripper_chunk_is_told(ros, arm, policy, node):
    policy.poses.publish(chunk_messages(chunk_to(arm, ros.now_ns()))[0])
    ros.wait_for_reason(NAME, "action_chunk came without its gripper_chunk")
    policy.gripper.publish(chunk_messages(chunk_to(arm, ros.now_ns()))[1])
    ros.wait_for_reason(NAME, "expected the same stamp")
    expect_following(ros, arm, policy)


def test_bytes_that_are_no_chunk_are_refused(ros, arm, policy, node):
    for data in (b"", b"\x00", b"\x00\x01\x00\x00" + b"\xff" * 64, bytes(12)):
        policy.poses.publish(data) if data else policy.poses.publish(bytes(4))
        ros.wait_for_reason(NAME, "chunk refused: action_chunk")
    expect_following(ros, arm, policy)


def test_a_publisher_without_a_lease_is_named(ros, arm, policy, node):
    rival = ros.publisher(MultiDOFJointTrajectory, "action_chunk", qos.COMMAND)
    ros.wait_for_reason(NAME, "/bench publishes /action_chunk with a QoS that does not match")
    ros.bench.destroy_publisher(rival)
    expect_following(ros, arm, policy)


def test_a_publisher_of_another_type_is_named(ros, arm, policy, node):
    context = Context()
    rclpy.init(context=context, domain_id=private_domain())
    other = Node("other", context=context)
    other.create_publisher(String, "current_pose", qos.COMMAND)
    ros.wait_for_reason(NAME, "/other publishes /current_pose as std_msgs/msg/String, expected geometry_msgs/msg/Pose")
    other.destroy_node()
    rclpy.shutdown(context=context)
    expect_following(ros, arm, policy)


def test_another_publisher_of_target_pose_brakes_and_holds_until_it_is_gone(ros, arm, policy, node):
    drive(ros, arm, policy, move=(0.0, 0.3, 0.0))
    rival = ros.publisher(PoseStamped, "target_pose", qos.COMMAND)

    def held():
        policy.publish(chunk_to(arm, ros.now_ns(), move=(0.0, 0.3, 0.0)))
        time.sleep(0.05)
        return "holding: /target_pose has 2 publishers, also /bench" in ros.diagnostics(NAME).message

    until(held, "a hold that names the other publisher")
    assert arm.still() and changes_m(arm.targets).max() <= MOST_M
    ros.bench.destroy_publisher(rival)
    expect_following(ros, arm, policy)


def test_another_publisher_of_gripper_command_brakes_and_holds_and_the_hand_is_told_again(ros, arm, policy, node):
    drive(ros, arm, policy, gripper=0.0)
    until(lambda: arm.gripper_commands, "a command to close")
    rival = ros.publisher(Float64MultiArray, "gripper_command", qos.COMMAND)

    def held():
        policy.publish(chunk_to(arm, ros.now_ns(), move=(0.0, 0.3, 0.0), gripper=0.0))
        time.sleep(0.05)
        said = "holding: /gripper_command has 2 publishers, also /bench: only one may command the gripper"
        return said in ros.diagnostics(NAME).message

    until(held, "a hold that names the other publisher")
    assert arm.still()
    rival.publish(Float64MultiArray(data=[0.08]))
    until(lambda: arm.gripper_commands[-1] == 0.08, "the command of the other one")
    ros.bench.destroy_publisher(rival)
    drive(ros, arm, policy, gripper=0.0)
    until(lambda: arm.gripper_commands[-1] == 0.0, "the follower's command, once more")


@pytest.mark.parametrize("metres", [0.3, 1.0])
@pytest.mark.parametrize("every", [2, 50])  # a lone one may come and go between two ticks of a busy machine
def test_a_measured_pose_that_jumps_brakes_and_does_not_pull_the_target(ros, arm, policy, node, metres, every):
    drive(ros, arm, policy)
    sent = []

    def jumping():
        message = arm.honest_pose()
        sent.append(message)
        if len(sent) % every == 0:
            message.pose.position.z += metres
        return message

    arm.pose_message = jumping
    seen = len(ros.statuses)

    def told():
        policy.publish(chunk_to(arm, ros.now_ns()))
        time.sleep(0.02)
        said = [status.message for status in ros.statuses[seen:] if NAME in status.name]
        return any("jumped" in text or "from the target" in text for text in said)

    until(told, "a hold because of the jump")
    arm.pose_message = arm.honest_pose
    expect_following(ros, arm, policy)
    assert changes_m(arm.targets).max() <= MOST_M
    assert max(abs(message.pose.position.z - HOME.position[2]) for message in arm.targets) < 0.01


def test_a_tick_that_raises_brakes_and_the_next_good_one_goes_on(ros, arm, policy, node):
    drive(ros, arm, policy, move=(0.0, 0.3, 0.0))
    follower, count = node._loop.follower, [0]
    honest = follower.tick

    def tick(now_ns, fault=""):
        count[0] += 1
        if count[0] < 40:
            raise OverflowError("a bug")
        return honest(now_ns, fault)

    follower.tick = tick
    status = ros.wait_for_reason(NAME, "a tick failed: OverflowError: a bug")
    assert status.level == b"\x02"
    expect_following(ros, arm, policy)
    assert changes_m(arm.targets).max() <= MOST_M


def test_a_dry_run_commands_nothing_and_shows_what_it_would(ros, arm, policy):
    started_dry = ros.start(FollowerNode, dry_run=True)
    ros.activate(started_dry)
    previews = ros.collect(PoseStamped, "target_pose_preview", qos.COMMAND)
    until(lambda: policy.poses.get_subscription_count() and policy.gripper.get_subscription_count(), "a match")

    def shown():
        policy.publish(chunk_to(arm, ros.now_ns()))
        time.sleep(0.05)
        return len(previews) > 20

    until(shown, "previews")
    assert not arm.targets and not arm.gripper_commands and ros.bench.count_publishers("target_pose") == 0


def test_without_a_clock_the_reason_names_it(ros, arm, policy):
    follower = ros.start(FollowerNode, use_sim_time=True)
    ros.activate(follower)
    ros.wait_for_reason(NAME, "holding: use_sim_time is set and nobody publishes /clock")


def test_the_lateness_of_every_tick_is_kept(ros, arm, policy, node):
    until(lambda: node._loop.lateness.histogram() and sum(node._loop.lateness.histogram().values()) > 50, "ticks")
    client = ros.bench.create_client(Trigger, "grids_follower/lateness")
    assert client.wait_for_service(timeout_sec=10.0)
    future = client.call_async(Trigger.Request())
    answer = json.loads(until(lambda: future.result() if future.done() else None, "an answer").message)
    assert len(answer["late_us"]) == answer["ticks"] >= 50 and min(answer["late_us"]) >= 0.0


def test_the_diagnostics_have_the_keys_of_the_reference(ros, arm, policy, node):
    drive(ros, arm, policy)
    seen = len(ros.statuses)
    until(lambda: any(NAME in status.name for status in ros.statuses[seen:]), "diagnostics")
    assert {pair.key for pair in ros.diagnostics(NAME).values} == set(KEYS[NAME])


def test_the_reference_names_its_topics_and_their_profiles(node):
    assert undocumented(node) == []

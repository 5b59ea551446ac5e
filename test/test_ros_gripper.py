"""The gripper node against action servers over real DDS, where the action types are installed."""

from __future__ import annotations

import importlib.util

import pytest

pytest.importorskip("rclpy", reason="the ROS layer needs rclpy")

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.task import Future
from ros_harness import until
from std_msgs.msg import Float64MultiArray

from grids_ros.diagnostic_keys import KEYS
from grids_ros.ros import qos
from grids_ros.ros.gripper_node import GripperNode

franka = pytest.mark.skipif(importlib.util.find_spec("franka_msgs") is None, reason="needs franka_msgs")
control = pytest.mark.skipif(importlib.util.find_spec("control_msgs") is None, reason="needs control_msgs")


class Gripper:
    """An action server on the bench. A goal runs until `finish` is called, or it is canceled."""

    def __init__(self, ros, action: type, name: str):
        self.goals: list = []
        self.running = 0
        self.most_running = 0
        self.accept = True
        self._action, self._done = action, Future()
        self.server = ActionServer(
            ros.bench,
            action,
            name,
            self._execute,
            goal_callback=lambda _: GoalResponse.ACCEPT if self.accept else GoalResponse.REJECT,
            cancel_callback=self._on_cancel,
        )

    def _on_cancel(self, handle) -> CancelResponse:
        self._done.set_result(None)
        return CancelResponse.ACCEPT

    def finish(self, **values) -> None:
        """The goal that runs ends with this result."""
        self._done.set_result(self._action.Result(**values))

    async def _execute(self, handle):
        self.goals.append(handle.request)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self._done = Future()
        result = await self._done
        self.running -= 1
        if result is None:
            handle.canceled()
            return self._action.Result()
        handle.succeed() if getattr(result, "success", getattr(result, "reached_goal", True)) else handle.abort()
        return result


@pytest.fixture
def serve(ros):
    """Starts action servers, and ends them with the test."""
    started = []

    def start_server(action: type, name: str) -> Gripper:
        started.append(Gripper(ros, action, name))
        return started[-1]

    yield start_server
    for gripper in started:
        gripper.server.destroy()


@pytest.fixture
def commands(ros):
    """Publishes a wanted opening."""
    publisher = ros.publisher(Float64MultiArray, "gripper_command", qos.COMMAND)

    def send(opening: float) -> None:
        until(lambda: publisher.get_subscription_count() > 0, "the gripper node")
        publisher.publish(Float64MultiArray(data=[opening]))

    return send


def start(ros, **settings) -> GripperNode:
    node = ros.start(GripperNode, **settings)
    ros.activate(node)
    return node


@pytest.fixture
def franka_gripper(ros, serve):
    from franka_msgs.action import Grasp, Move

    grasp, move = serve(Grasp, "franka_gripper/grasp"), serve(Move, "franka_gripper/move")
    start(ros, kind="franka", speed=0.05, force=30.0)
    ros.wait_for_reason("grids_gripper", "idle")
    return grasp, move


@franka
def test_franka_grasps_to_close_and_moves_to_open(ros, commands, franka_gripper):
    grasp, move = franka_gripper
    commands(0.0)
    until(lambda: grasp.goals, "a grasp")
    goal = grasp.goals[0]
    assert (goal.width, goal.speed, goal.force) == (0.0, 0.05, 30.0)
    assert goal.epsilon.outer == 0.08, "whatever is between the fingers counts as grasped"
    grasp.finish(success=True)
    ros.wait_for_reason("grids_gripper", "idle")
    commands(0.08)
    until(lambda: move.goals, "a move")
    assert move.goals[0].width == 0.08
    assert len(grasp.goals) == 1


@franka
def test_repeated_and_chattering_commands_send_nothing_new(ros, commands, franka_gripper):
    grasp, move = franka_gripper
    for opening in (0.0, 0.002, 0.0, 0.004, 0.001):
        commands(opening)
    until(lambda: grasp.goals, "a grasp")
    grasp.finish(success=True)
    ros.wait_for_reason("grids_gripper", "idle")
    commands(0.003)
    ros.wait_for_reason("grids_gripper", "idle")
    assert len(grasp.goals) == 1 and not move.goals


@franka
def test_the_opposite_command_cancels_the_goal_in_flight_first(ros, commands, franka_gripper):
    grasp, move = franka_gripper
    commands(0.0)
    until(lambda: grasp.running, "a grasp")
    commands(0.08)
    until(lambda: move.goals, "a move after the grasp was canceled")
    assert grasp.running == 0 and grasp.most_running == move.most_running == 1


@franka
def test_a_failure_is_reported_with_the_grippers_reason(ros, commands, franka_gripper):
    grasp, move = franka_gripper
    commands(0.0)
    until(lambda: grasp.running, "a grasp")
    grasp.finish(success=False, error="libfranka: communication lost")
    ros.wait_for_reason("grids_gripper", "the gripper failed: libfranka: communication lost")
    commands(0.08)
    until(lambda: move.running, "a move: a failure does not stop the next command")
    move.finish(success=True)
    ros.wait_for_reason("grids_gripper", "idle")


@franka
def test_a_rejected_goal_is_reported_and_sent_again(ros, commands, franka_gripper):
    grasp, _ = franka_gripper
    grasp.accept = False
    commands(0.0)
    ros.wait_for_reason("grids_gripper", "rejected the goal (franka_msgs/action/Grasp)")
    grasp.accept = True
    until(lambda: grasp.running, "the same goal again")


@franka
def test_without_a_server_it_says_so_and_sends_the_last_command_when_there_is_one(ros, commands, serve):
    from franka_msgs.action import Grasp, Move

    start(ros, kind="franka")
    ros.wait_for_reason("grids_gripper", "no action server at franka_gripper/grasp")
    commands(0.08)
    commands(0.0)
    grasp = serve(Grasp, "franka_gripper/grasp")
    move = serve(Move, "franka_gripper/move")
    until(lambda: grasp.goals, "the last command")
    assert not move.goals


def test_a_command_that_comes_while_the_node_is_inactive_is_kept_for_the_activation(ros, commands, monkeypatch):
    monkeypatch.setattr(GripperNode, "_loadable", lambda self, name: True)
    monkeypatch.setattr(GripperNode, "_waiting_for", lambda self: "")
    sent = []
    monkeypatch.setattr(GripperNode, "_send", lambda self, goal: sent.append(goal.opening))
    node = ros.start(GripperNode)
    assert node.trigger_configure().name == "SUCCESS"
    commands(0.0)
    until(lambda: node._goals._wanted, "the command")
    assert not sent, "inactive"
    assert node.trigger_activate().name == "SUCCESS"
    until(lambda: sent, "a goal")
    assert sent == [0.0]


@franka
def test_a_refused_command_is_reported(ros, commands, franka_gripper):
    commands(1.0)
    ros.wait_for_reason("grids_gripper", "command refused: wanted opening is 1.0 m")
    assert not franka_gripper[0].goals and not franka_gripper[1].goals


@control
@pytest.mark.parametrize("name", ["ParallelGripperCommand", "GripperCommand"])
def test_a_controller_gets_positions_of_its_joint_by_the_type_that_it_offers(ros, commands, serve, name):
    action = getattr(importlib.import_module("control_msgs.action"), name)
    gripper = serve(action, "gripper_controller/gripper_cmd")
    start(ros, kind="action", joint="left_knuckle", closed_position=0.8, open_position=0.0, force=5.0)
    ros.wait_for_reason("grids_gripper", "idle")
    commands(0.02)
    until(lambda: gripper.goals, "a goal")
    command = gripper.goals[0].command
    if name == "ParallelGripperCommand":
        assert list(command.name) == ["left_knuckle"]
        assert (list(command.position), list(command.effort)) == ([pytest.approx(0.6)], [5.0])
    else:
        assert (command.position, command.max_effort) == (pytest.approx(0.6), 5.0)
    gripper.finish(stalled=True, reached_goal=False)  # it holds something
    ros.wait_for_reason("grids_gripper", "idle")
    commands(0.08)
    until(lambda: len(gripper.goals) == 2, "a second goal")
    gripper.finish(stalled=True, reached_goal=False)
    ros.wait_for_reason("grids_gripper", "the gripper stalled")


@pytest.mark.parametrize(
    ("kind", "package"), [("franka", "franka_msgs"), ("action", "control_msgs")], ids=["franka", "action"]
)
def test_where_the_action_types_are_missing_the_package_is_named(ros, monkeypatch, kind, package):
    monkeypatch.setitem(__import__("sys").modules, f"{package}.action", None)
    node = ros.start(GripperNode, kind=kind)
    assert node.trigger_configure().name == "FAILURE"
    ros.wait_for_reason("grids_gripper", f"install package {package}")


def test_the_diagnostics_have_the_keys_of_the_reference(ros):
    assert set(ros.start(GripperNode).diagnostic_values()) == set(KEYS["grids_gripper"])

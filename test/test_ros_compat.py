"""Each item of grids_ros/ros/compat.py against the rclpy that is installed; nothing else touches its internals."""

import ast
import inspect
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="the ROS layer needs rclpy")

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode
from ros_harness import until
from std_msgs.msg import String

from grids_ros.ros import compat, qos

PACKAGE = Path(__file__).resolve().parents[1] / "grids_ros"


class NeverRuns(MutuallyExclusiveCallbackGroup):
    def can_execute(self, entity) -> bool:
        return False


def test_messages_are_taken_in_order_with_their_time_of_reception(ros):
    subscription = ros.bench.create_subscription(
        String, "words", lambda message: None, qos.LATCHED, callback_group=NeverRuns()
    )
    publisher = ros.publisher(String, "words", qos.LATCHED)
    before_ns = time.time_ns()
    publisher.publish(String(data="lift"))
    message, at_ns = until(lambda: compat.take_one(subscription, String, False), "a message")
    assert message.data == "lift" and before_ns - 10**9 <= at_ns <= time.time_ns() + 10**9
    assert compat.take_one(subscription, String, False) is None
    publisher.publish(String(data="hold"))
    data, _ = until(lambda: compat.take_one(subscription, String, True), "a serialised message")
    assert isinstance(data, bytes) and b"hold" in data


def test_rclpy_still_has_the_method_that_is_guarded():
    name = "_LifecycleNodeMixin__change_state"
    assert list(inspect.signature(getattr(LifecycleNode, name)).parameters) == ["self", "transition_id"]
    assert getattr(compat.GuardedLifecycleNode, name) is not getattr(LifecycleNode, name)


def test_event_callbacks_take_a_liveliness_callback():
    assert "liveliness" in inspect.signature(compat.SubscriptionEventCallbacks).parameters


def test_no_other_module_reaches_into_rclpy():
    internals = {"take_message", "_state_machine", "_LifecycleNodeMixin__change_state"}
    for path in PACKAGE.rglob("*.py"):
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert path.name == "compat.py" or not names & internals, path

"""What every managed node does with requests that do not fit, with clocks, and with signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="the ROS layer needs rclpy")

from lifecycle_msgs.srv import ChangeState
from rclpy.parameter import Parameter
from ros_harness import private_domain, until
from rosgraph_msgs.msg import Clock

from grids_ros.datatypes import NANOSECONDS
from grids_ros.parameters import ParameterError
from grids_ros.ros import follower_node, qos
from grids_ros.ros.follower_node import FollowerNode
from grids_ros.ros.shutdown import end_with

ROOT = Path(__file__).resolve().parents[1]
CONFIGURE, CLEAN_UP, ACTIVATE, DEACTIVATE = 1, 2, 3, 4


def request(ros, transition: int) -> bool:
    client = ros.bench.create_client(ChangeState, "grids_follower/change_state")
    assert client.wait_for_service(timeout_sec=10.0)
    message = ChangeState.Request()
    message.transition.id = transition
    future = client.call_async(message)
    return until(lambda: future.result() if future.done() else None, "an answer").success


@pytest.mark.parametrize(
    ("before", "unfit"),
    [
        ((), (CLEAN_UP, ACTIVATE, DEACTIVATE, 99, 255)),
        ((CONFIGURE,), (CONFIGURE, DEACTIVATE)),
        ((CONFIGURE, ACTIVATE), (CONFIGURE, CLEAN_UP, ACTIVATE)),
    ],
)
def test_a_transition_that_does_not_fit_the_state_is_refused_and_the_node_goes_on(ros, before, unfit):
    node = ros.start(FollowerNode)
    assert all(request(ros, transition) for transition in before)
    state = node._state_machine.current_state
    assert not any(request(ros, transition) for transition in unfit)
    assert node._state_machine.current_state == state
    assert request(ros, {0: CONFIGURE, 1: ACTIVATE, 2: DEACTIVATE}[len(before)])


def test_two_requests_at_once_are_one_success_and_one_refusal(ros):
    ros.start(FollowerNode)
    clients = [ros.bench.create_client(ChangeState, "grids_follower/change_state") for _ in range(2)]
    assert all(client.wait_for_service(timeout_sec=10.0) for client in clients)
    message = ChangeState.Request()
    message.transition.id = CONFIGURE
    futures = [client.call_async(message) for client in clients]
    until(lambda: all(future.done() for future in futures), "both answers")
    assert sorted(future.result().success for future in futures) == [False, True]
    assert request(ros, ACTIVATE)


def test_use_sim_time_cannot_change_while_the_node_is_configured(ros):
    node = ros.start(FollowerNode)
    assert node.set_parameters([Parameter("use_sim_time", value=True)])[0].successful
    assert node.set_parameters([Parameter("use_sim_time", value=False)])[0].successful
    ros.activate(node)
    refused = node.set_parameters([Parameter("use_sim_time", value=True)])[0]
    assert not refused.successful and "clean it up first" in refused.reason
    assert abs(node.get_clock().now().nanoseconds - ros.now_ns()) < 10 * NANOSECONDS


def test_a_time_that_rclpy_cannot_hold_is_passed_over_and_said(ros):
    node = ros.start(FollowerNode, use_sim_time=True)
    assert node.clock_watch.fault(node) == "use_sim_time is set and nobody publishes /clock"
    publisher = ros.publisher(Clock, "/clock", qos.CLOCK)

    def publish(sec: int, nanosec: int = 0) -> None:
        message = Clock()
        message.clock.sec, message.clock.nanosec = sec, nanosec
        publisher.publish(message)

    for sec, nanosec in ((-5, 0), (-(2**31), 0), (2**31 - 1, 4 * NANOSECONDS)):
        until(lambda: publish(100) or node.clock_watch.fault(node) == "", "a good clock")

        def said(sec=sec, nanosec=nanosec):
            publish(sec, nanosec)
            return "expected 0 to 2^31 s" in node.clock_watch.fault(node)

        until(said, f"{sec} s to be refused")
        assert node.get_clock().now().nanoseconds == 100 * NANOSECONDS
    until(lambda: publish(101) or node.clock_watch.fault(node) == "", "the clock to be good again")
    until(lambda: "stood still" in node.clock_watch.fault(node), "a clock that stands still to be told")


PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-m", "grids_ros.ros.follower_node", "--ros-args", "-p", "autostart:=true",
    "-p", f"parent_pid:={__import__('os').getpid()}"], stderr=open(sys.argv[1], "w"))
print(child.pid, flush=True)
time.sleep(1000.0)
"""


def test_a_node_whose_parent_is_killed_ends(tmp_path):
    environment = {**os.environ, "ROS_DOMAIN_ID": str(private_domain())}
    command = [sys.executable, "-c", PARENT, str(tmp_path / "log")]
    parent = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    until(lambda: "is active" in (tmp_path / "log").read_text(), "an active follower", 60.0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()

    def gone() -> bool:
        try:
            return Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except FileNotFoundError:
            return True

    until(gone, "the follower to end")


def test_a_parent_that_is_gone_already_is_refused():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    time.sleep(0.01)
    with pytest.raises(ValueError, match="no such process"):
        end_with(ended.pid)


def test_a_thread_is_no_parent():
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with pytest.raises(ParameterError, match=f"'parent_pid' is {thread.native_id}, expected the id of a process"):
            end_with(thread.native_id)
    finally:
        stop.set()
        thread.join()


def entities(node) -> set:
    """What it has in the graph, and its timers."""
    return {*node.publishers, *node.subscriptions, *node.timers}


@pytest.mark.parametrize("part", ["ChunkReceiver", "checked_subscription", "graph", "Configured"])
def test_a_configure_that_fails_half_way_leaves_nothing_behind(ros, monkeypatch, part):
    """A publisher that stayed would be a rival: "also /grids_follower"."""
    node = ros.start(FollowerNode)
    before = entities(node)
    with monkeypatch.context() as broken:
        broken.setattr(follower_node, part, None)  # its use raises
        for _ in range(3):
            assert not request(ros, CONFIGURE)
            assert entities(node) == before
    assert request(ros, CONFIGURE) and request(ros, ACTIVATE)
    until(lambda: node._loop is not None and not node._rivals, "an active node without a rival")


def test_an_activate_that_fails_half_way_leaves_nothing_behind(ros, monkeypatch):
    node = ros.start(FollowerNode)
    assert request(ros, CONFIGURE)
    before = entities(node)

    def activate(self):
        self.create_publisher(Clock, "clock", qos.CLOCK)
        raise OSError("no thread")

    monkeypatch.setattr(FollowerNode, "activate", activate)
    assert not request(ros, ACTIVATE) and entities(node) == before

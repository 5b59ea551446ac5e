"""A follower process that is asked to end in full motion: it brakes first."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the ROS layer needs rclpy")

from geometry_msgs.msg import PoseStamped
from rclpy.qos import QoSProfile
from ros_harness import Arm, Ros, changes_m, chunk_messages, chunk_to, until
from trajectory_msgs.msg import JointTrajectory, MultiDOFJointTrajectory

from grids_ros.ros import qos

ROOT = Path(__file__).resolve().parents[1]
MOST_M = 10.0 * 0.01**2 + 1e-9  # the default linear_acceleration, per tick
PARENT = """
import os, subprocess, sys, time
command = [sys.executable, "-m", "grids_ros.ros.follower_node", "--ros-args", "-p", "autostart:=true", "-p"]
child = subprocess.Popen([*command, f"parent_pid:={os.getpid()}"])
print(child.pid, flush=True)
time.sleep(1000.0)
"""


@dataclass(frozen=True)
class Motion:
    """A follower process in motion, its parent, and what it commands."""

    ros: Ros
    parent: subprocess.Popen
    follower: int
    targets: list
    publish: Callable
    arm: Arm

    def path(self) -> np.ndarray:
        return np.array([message.pose.position.y for message in self.targets.copy()])

    def drive(self, frame: str | None = None) -> None:
        """Publish a chunk. frame: in place of the base frame."""
        message, hand = chunk_messages(chunk_to(self.arm, self.ros.now_ns(), move=(0.0, 0.3, 0.0)))
        for part in (message, hand):
            part.header.frame_id = frame or part.header.frame_id
        self.publish(message, hand)
        time.sleep(0.1)

    def until_fast(self) -> None:
        def fast() -> bool:
            self.drive()
            return len(self.targets) > 2 and np.diff(self.path())[-1] > 0.0015

        until(fast, "0.15 m/s", 60.0)  # a follower that a test before this one killed is in the graph for 20 s

    def until_at_rest(self) -> None:
        until(lambda: np.diff(self.path())[-1] == 0.0, "the last target, at rest")
        assert changes_m(self.targets.copy()).max() <= MOST_M


@pytest.fixture
def motion(ros):
    """Gives a function that starts one. stderr: of the processes."""
    arm, started = Arm(ros), []

    def start(stderr=None) -> Motion:
        targets = ros.collect(PoseStamped, "target_pose", QoSProfile(depth=5000, reliability=qos.COMMAND.reliability))
        poses = ros.publisher(MultiDOFJointTrajectory, "action_chunk", qos.CHUNK)
        gripper = ros.publisher(JointTrajectory, "gripper_chunk", qos.CHUNK)

        def publish(message, hand):
            gripper.publish(hand)
            poses.publish(message)

        command = [sys.executable, "-c", PARENT]
        parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True)
        moving = Motion(ros, parent, int(parent.stdout.readline()), targets, publish, arm)
        started.append(moving)
        until(lambda: poses.get_subscription_count() and gripper.get_subscription_count(), "a match", 60.0)
        moving.until_fast()
        return moving

    yield start
    for moving in started:  # one that is left would hold every later test of its domain
        for pid in (moving.parent.pid, moving.follower):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        moving.parent.wait()


ENDS = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGXCPU, signal.SIGRTMIN + 3, signal.SIGKILL]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("end", ENDS, ids=["INT", "TERM", "USR1", "XCPU", "RTMIN+3", "parent-KILL"])
def test_a_process_that_is_asked_to_end_brakes_within_its_acceleration(ros, motion, end):
    moving = motion()
    os.kill(moving.parent.pid if end == signal.SIGKILL else moving.follower, end)
    until(lambda: ros.bench.count_publishers("target_pose") == 0, "the follower to be gone", 60.0)
    moving.until_at_rest()


@pytest.mark.timeout(240)
def test_ctrl_z_holds_and_fg_goes_on(ros, motion):
    moving = motion()
    os.kill(moving.follower, signal.SIGTSTP)
    ros.wait_for_reason("grids_follower", "suspended by Ctrl-Z")
    moving.until_at_rest()
    held = len(moving.targets)
    until(lambda: len(moving.targets) > held + 50, "the stream to go on at rest")
    assert np.ptp(moving.path()[held:]) == 0.0
    os.kill(moving.follower, signal.SIGCONT)
    moving.until_fast()


@pytest.mark.timeout(240)
def test_a_paused_terminal_does_not_stop_the_stream(ros, motion):
    terminal, slave = os.openpty()
    try:
        moving = motion(stderr=slave)
        os.write(terminal, b"\x13")  # Ctrl-S
        held = len(moving.targets)
        until(lambda: moving.drive("elsewhere") or len(moving.targets) > held + 300, "the stream, while the log waits")
        moving.until_at_rest()
        moving.until_fast()
    finally:
        os.close(slave)
        os.close(terminal)

"""Nodes as processes of their own: what happens when one is killed, restarted, or cannot start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the ROS layer needs rclpy")

from ros_harness import WAIT_S, Arm, Cameras, private_domain, say, until

from grids_ros.ros import conversions

pytestmark = pytest.mark.timeout(300)  # several starts in one test
START_S = 120.0  # bound of a start: importing torch and transformers on a busy machine
LARGEST_STEP_M = 0.02  # between two targets; the speed limit allows 5 mm per period, a late tick a few of them


class Process:
    """One node as a process, its output in a file."""

    def __init__(self, folder, name: str, **parameters):
        self.log = folder / f"{name}_{time.monotonic_ns()}.log"
        settings = [part for key, value in parameters.items() for part in ("-p", f"{key}:={value}")]
        command = [sys.executable, "-m", f"grids_ros.ros.{name}_node", "--ros-args", *settings]
        environment = {**os.environ, "ROS_DOMAIN_ID": str(private_domain()), "OMP_NUM_THREADS": "1"}
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)

    def send(self, number: int) -> int:
        """The exit code after this signal."""
        self._process.send_signal(number)
        return self._process.wait(WAIT_S)

    def exit_code(self) -> int:
        """Of a process that ends by itself."""
        return self._process.wait(START_S)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    @property
    def said(self) -> str:
        return self.log.read_text()


@pytest.fixture
def start(tmp_path, checkpoint):
    """Starts `policy` or `follower`, active by itself."""
    running = []

    def make(name: str) -> Process:
        extra = {"checkpoint": checkpoint, "threads": 1} if name == "policy" else {}
        running.append(Process(tmp_path, name, autostart="true", **extra))
        return running[-1]

    yield make
    for process in running:
        process.close()


@pytest.fixture
def arm(ros):
    return Arm(ros)


@pytest.fixture
def world(ros, arm):
    """Cameras that see, and an instruction."""
    cameras = Cameras(ros)
    return cameras, say(ros, "lift the red cube")


def moves(arm, timeout_s: float = START_S) -> None:
    """Until the targets go somewhere."""

    def moving():
        before, count = arm.pose.position, len(arm.targets)
        time.sleep(0.1)
        return len(arm.targets) > count + 3 and np.linalg.norm(arm.pose.position - before) > 1e-6

    until(moving, "motion", timeout_s)


def largest_step(arm, start: int) -> float:
    """Between consecutive targets from index `start` on [m]."""
    positions = [conversions.to_pose(target, "base", "target_pose").position for target in arm.targets[start:]]
    return float(np.linalg.norm(np.diff(positions, axis=0), axis=1).max())


@pytest.mark.slow
def test_a_policy_killed_in_mid_motion_leaves_the_arm_held_and_its_successor_moves_it_on(ros, arm, world, start):
    start("follower")
    policy = start("policy")
    moves(arm)
    assert policy.send(signal.SIGKILL) == -signal.SIGKILL
    ros.wait_for_reason("grids_follower", "chunk ended")
    count = len(arm.targets)
    assert arm.still()
    assert len(arm.targets) > count  # it is told to stay, not left alone
    successor = start("policy")
    moves(arm)
    assert largest_step(arm, 0) < LARGEST_STEP_M
    assert successor.send(signal.SIGINT) == 0
    ros.wait_for_reason("grids_follower", "chunk ended")


@pytest.mark.slow
@pytest.mark.parametrize("order", [("policy", "follower"), ("follower", "policy")])
def test_both_nodes_restarted_in_either_order_go_on(ros, arm, world, start, order):
    running = {name: start(name) for name in order}
    moves(arm)
    for name in order:
        assert running[name].send(signal.SIGINT) == 0
    count = len(arm.targets)
    time.sleep(0.3)
    assert len(arm.targets) <= count + 1  # silent: nobody moves the arm
    for name in order:
        start(name)
    moves(arm)
    assert largest_step(arm, count) < LARGEST_STEP_M


def test_a_follower_killed_in_mid_motion_comes_back_without_a_jump(ros, arm, world, start):
    follower = start("follower")
    start("policy")
    moves(arm)
    follower.send(signal.SIGKILL)
    before = len(ros.statuses)
    start("follower")
    moves(arm)
    assert largest_step(arm, 0) < LARGEST_STEP_M
    assert not any("publishers" in status.message for status in ros.statuses[before:])  # the killed one does not count


def test_a_node_that_cannot_start_says_why_in_one_line_and_ends(tmp_path):
    missing = Process(tmp_path, "policy", autostart="true", checkpoint=tmp_path / "nowhere")
    unknown = Process(tmp_path, "follower", autostart="true", linear_sped=0.1)
    contradicting = Process(tmp_path, "follower", autostart="true", gripper_close_below=0.06)
    too_fast = Process(tmp_path, "sim", camera_rate_hz=1000.0)
    try:
        assert (unknown.exit_code(), contradicting.exit_code(), too_fast.exit_code()) == (2, 3, 2)
        assert "did you mean 'linear_speed'?" in unknown.said
        assert "close_below < open_above" in contradicting.said
        assert "[0.1, 100]" in too_fast.said
        assert missing.exit_code() == 3
        assert str(tmp_path / "nowhere") in missing.said
        assert "Traceback" not in missing.said + unknown.said + contradicting.said + too_fast.said
    finally:
        for process in (missing, unknown, contradicting, too_fast):
            process.close()

"""`ros2 launch`, where the command and an installed grids_ros are to be had (a ROS 2 installation)."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("launch_ros", reason="launch_ros comes with a ROS 2 installation, not with the wheels")
pytest.importorskip("ament_index_python", reason="it comes with launch_ros")
pytest.importorskip("rclpy", reason="the ROS layer needs rclpy")

import numpy as np
from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from geometry_msgs.msg import PoseStamped
from launch.actions import DeclareLaunchArgument
from rclpy.qos import QoSProfile
from ros_harness import private_domain, say, until

from grids_ros.ros import qos
from grids_ros.ros.launch_plan import ARGUMENTS


def _installed(package: str) -> bool:
    try:
        get_package_share_directory(package)
    except PackageNotFoundError:
        return False
    return True


pytestmark = [
    pytest.mark.skipif(not _installed("grids_ros"), reason="grids_ros is not installed (colcon build)"),
    pytest.mark.skipif(shutil.which("ros2") is None, reason="needs the ros2 command"),
]

LAUNCH_FILE = Path(__file__).parent.parent / "launch" / "franka_grids.launch.py"
FAST_M = 0.0025  # between two targets: half the default linear_speed
MOST_M = 10.0 * 0.01**2 * (1.0 + 1e-6)  # by which two steps differ at the default linear_acceleration
PATIENCE_S = 90.0  # bound of every wait; on an idle machine a launch is active after ten


class Launch:
    """`ros2 launch` in a session of its own, as in a terminal, and what it has printed so far."""

    def __init__(self, logs: Path, *arguments: str):
        environment = {**os.environ, "ROS_DOMAIN_ID": str(private_domain()), "ROS_LOG_DIR": str(logs)}
        self._process = subprocess.Popen(
            ["ros2", "launch", "grids_ros", LAUNCH_FILE.name, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout:
            self.output += line

    def wait_for(self, text: str, times: int = 1) -> None:
        end = time.monotonic() + PATIENCE_S
        while self.output.count(text) < times:
            assert time.monotonic() < end and self._process.poll() is None, f"no {text!r} in:\n{self.output}"
            time.sleep(0.02)

    def end(self) -> int:
        """Exit code, once it has ended by itself or by a signal."""
        code = self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code

    def interrupt(self) -> int:
        """Ctrl-C: the terminal sends SIGINT to every process of the foreground."""
        os.killpg(self.pid, signal.SIGINT)
        return self.end()

    def children(self) -> list[int]:
        """Process ids of the nodes."""
        started = [line for line in self.output.splitlines() if "process started with pid [" in line]
        return [int(line.rpartition("[")[2].rstrip("]")) for line in started]

    def close(self) -> None:
        """End what a failed test left."""
        if self._process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()


@pytest.fixture
def launch(tmp_path):
    """Starts launches, of which nothing is left at the end."""
    started = []

    def start(*arguments: str) -> Launch:
        started.append(Launch(tmp_path, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.close()


def _gone(pids) -> bool:
    end = time.monotonic() + PATIENCE_S
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_every_argument_is_declared():
    spec = importlib.util.spec_from_file_location("franka_grids", LAUNCH_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    entities = module.generate_launch_description().entities
    declared = {entity.name for entity in entities if isinstance(entity, DeclareLaunchArgument)}
    assert declared == set(ARGUMENTS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sim:=yes"], "launch argument 'sim' is 'yes', expected true or false"),
        (["simm:=true"], "launch argument 'simm' is unknown; did you mean 'sim'?"),
        (["robot:=kuka"], "launch argument 'robot' is 'kuka', expected one of fr3"),
        (["checkpoint:=/nowhere"], "launch argument 'checkpoint': checkpoint folder /nowhere does not exist"),
        (["params_file:=/nowhere.yaml"], "launch argument 'params_file': /nowhere.yaml cannot be read"),
        pytest.param(
            ["rviz:=true", "sim:=true"],
            "launch argument 'rviz' needs package rviz2",
            marks=pytest.mark.skipif(_installed("rviz2"), reason="rviz2 is installed"),
        ),
    ],
)
def test_what_cannot_work_is_refused_before_a_process_starts(launch, arguments, said):
    refused = launch(*arguments)
    assert refused.end() == 1
    assert said in refused.output
    assert "process started" not in refused.output and "Traceback" not in refused.output


def test_an_error_of_one_node_is_not_buried_under_the_others_tracebacks(launch):
    failed = launch("sim:=true", "device:=cuda:99")
    failed.end()
    assert "device 'cuda:99' cannot be used" in failed.output
    assert "shutting down: the policy failed to start" in failed.output
    assert "Traceback" not in failed.output and "KeyboardInterrupt" not in failed.output
    assert _gone(failed.children())


def test_ctrl_c_while_the_nodes_still_import_is_quiet(launch):
    starting = launch("sim:=true")
    starting.wait_for("process started with pid", times=3)
    assert starting.interrupt() == 0
    assert "Traceback" not in starting.output and "KeyboardInterrupt" not in starting.output
    assert "process has died" not in starting.output
    assert _gone(starting.children())


def test_progress_is_logged_and_ctrl_c_ends_everything(launch):
    running = launch("sim:=true")
    running.wait_for("grids_policy is active")
    progress = ["importing PyTorch", "loading checkpoint", "warming up with 16 tokens", "is ready on cpu"]
    places = [running.output.index(step) for step in progress]
    assert places == sorted(places)
    assert "[follower_node-1]" in running.output and "[policy_node-2]" in running.output
    assert running.interrupt() == 0
    assert "Traceback" not in running.output and "process has died" not in running.output
    assert running.output.count("process has finished cleanly") == 3
    assert _gone(running.children())


def test_no_node_survives_a_launch_that_was_killed(launch):
    killed = launch("sim:=true")
    killed.wait_for("grids_follower is active")
    os.kill(killed.pid, signal.SIGKILL)
    killed.end()
    assert _gone(killed.children())


def test_the_arm_brakes_when_the_launch_is_killed_in_motion(launch, ros):
    targets = ros.collect(PoseStamped, "target_pose", QoSProfile(depth=5000, reliability=qos.COMMAND.reliability))
    killed = launch("sim:=true")
    killed.wait_for("grids_policy is active")
    say(ros, "lift the red cube")

    def steps() -> np.ndarray:
        path = [(p.x, p.y, p.z) for p in (message.pose.position for message in targets.copy())]
        return np.diff(path, axis=0) if len(path) > 1 else np.zeros((1, 3))

    until(lambda: np.linalg.norm(steps()[-1]) > FAST_M, "full motion", PATIENCE_S)
    os.kill(killed.pid, signal.SIGKILL)
    killed.end()
    assert _gone(killed.children())
    until(lambda: not steps()[-1].any(), lambda: f"the last target, at rest, after steps of {steps()[-60:]} m")
    assert np.linalg.norm(np.diff(steps(), axis=0), axis=1).max() <= MOST_M

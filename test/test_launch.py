"""The launch file, where launch_ros and an installed grids_ros are to be had (a ROS 2 installation)."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("launch_ros", reason="launch_ros comes with a ROS 2 installation, not with the wheels")
packages = pytest.importorskip("ament_index_python.packages")
launch_actions = pytest.importorskip("launch.actions")


def _installed() -> bool:
    try:
        packages.get_package_share_directory("grids_ros")
    except packages.PackageNotFoundError:
        return False
    return True


pytestmark = pytest.mark.skipif(not _installed(), reason="grids_ros is not installed (colcon build)")

LAUNCH_FILE = Path(__file__).parent.parent / "launch" / "franka_grids.launch.py"
ARGUMENTS = {
    "checkpoint",
    "device",
    "tokens",
    "join",
    "policy_rate_hz",
    "control_rate_hz",
    "camera_topics",
    "namespace",
    "params_file",
    "use_sim_time",
    "sim",
    "rviz",
}


def test_every_argument_is_described():
    spec = importlib.util.spec_from_file_location("franka_grids", LAUNCH_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    declared = [
        a for a in module.generate_launch_description().entities if isinstance(a, launch_actions.DeclareLaunchArgument)
    ]
    assert {argument.name for argument in declared} == ARGUMENTS
    assert all(argument.description.endswith(".") for argument in declared)


@pytest.mark.skipif(shutil.which("ros2") is None, reason="needs the ros2 command")
def test_a_policy_that_cannot_be_configured_takes_the_rest_down_and_says_why(tmp_path):
    from ros_harness import private_domain

    environment = {**os.environ, "ROS_DOMAIN_ID": str(private_domain()), "ROS_LOG_DIR": str(tmp_path)}
    command = ["ros2", "launch", "grids_ros", "franka_grids.launch.py", f"checkpoint:={tmp_path / 'nowhere'}"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    said = ended.stdout + ended.stderr
    assert str(tmp_path / "nowhere") in said
    assert "taking everything down: the policy" in said
    assert "[follower_node-1]: process has finished cleanly" in said

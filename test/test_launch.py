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


@pytest.fixture(scope="module")
def launch_file():
    spec = importlib.util.spec_from_file_location("franka_grids", LAUNCH_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_argument_is_described(launch_file):
    entities = launch_file.generate_launch_description().entities
    declared = [entity for entity in entities if isinstance(entity, launch_actions.DeclareLaunchArgument)]
    assert {argument.name for argument in declared} == ARGUMENTS
    assert all(argument.description.endswith(".") for argument in declared)


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ("/**/grids_policy: {ros__parameters: {checkpoint: mine}}", True),
        ("/left: {grids_policy: {ros__parameters: {checkpoint: mine}}}", True),
        ("/**: {ros__parameters: {checkpoint: mine}}", True),
        ("/left: {other: {ros__parameters: {checkpoint: mine}}}", False),
        ("grids_policy: {ros__parameters: {rate_hz: 5.0}}", False),
        ("", False),
    ],
)
def test_a_checkpoint_in_the_parameter_file_is_not_overruled_by_the_demos(launch_file, tmp_path, sections, named):
    (tmp_path / "arm.yaml").write_text(sections)
    assert ("checkpoint" in launch_file._said(tmp_path / "arm.yaml")) == named


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

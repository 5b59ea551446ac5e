"""The launch arguments are checked before a process starts. Needs neither launch nor rclpy."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from grids_ros.control.limits import Limits
from grids_ros.files import COMPLETE
from grids_ros.parameters import FollowerParameters, follower_config, table
from grids_ros.policy.errors import CheckpointError
from grids_ros.policy.folder import check_folder
from grids_ros.ros.launch_plan import ARGUMENTS, ROBOTS, TABLES, LaunchError, check_names, make_plan

ROOT = Path(__file__).resolve().parents[1]
# libfranka's rate_limiting.h, for the Panda of version 0.9.2, and the maker's pages: [m/s], [rad/s], [m/s^2], [rad/s^2]
MAKERS = {"fr3": (3.0, 2.5, 9.0, 17.0), "panda": (1.7, 2.5, 13.0, 25.0), "ur5e": (1.0, 3.14, 1e3, 1e3)}


def plan(installed=lambda package, executable: True, **values):
    """With the checkout as the share folder, as colcon installs it."""
    return make_plan({name: str(value) for name, value in values.items()}, ROOT, installed, os.getpid())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"sim": "yes"}, "'sim' is 'yes', expected true or false"),
        ({"rviz": "on"}, "'rviz' is 'on', expected true or false"),
        ({"use_sim_time": "no"}, "'use_sim_time' is 'no', expected true or false"),
        ({"dry_run": "maybe"}, "'dry_run' is 'maybe', expected true or false"),
        ({"robot": "kuka"}, "'robot' is 'kuka', expected one of fr3, panda, ur5e, none"),
        ({"robot": "ur5e", "sim": "true"}, "'sim' simulates an FR3"),
        ({"gripper": "robotiq"}, "'gripper' is 'robotiq', expected one of franka, action, topic"),
        ({"gripper": "franka", "sim": "true"}, "'gripper' is 'franka', expected topic with sim:=true"),
        ({"join": "now"}, "'join' is 'now', expected one of latest, blend, rtc"),
        ({"tokens": "many"}, r"'tokens' is 'many', expected an integer in \[0, 4096\], or auto"),
        ({"tokens": "-1"}, "'tokens' is -1"),
        ({"policy_rate_hz": "fast"}, "'policy_rate_hz' is 'fast', expected a float"),
        ({"policy_rate_hz": "nan"}, "'policy_rate_hz' is nan"),
        ({"control_rate_hz": "1e6"}, "'control_rate_hz' is 1000000.0"),
        ({"namespace": "left arm"}, "'namespace' is 'left arm'"),
        ({"checkpoint": "/nowhere"}, "'checkpoint': checkpoint folder /nowhere does not exist"),
        ({"checkpoint": ROOT / "config"}, "'checkpoint'.*config.json cannot be read"),
        ({"params_file": "/nowhere.yaml"}, "'params_file': /nowhere.yaml cannot be read: No such file"),
        ({"camera_topics": "a,b,c"}, "'camera_topics'.*has 3 entries"),
        (
            {"camera_topics": "/front camera/image,/wrist/image"},
            "'camera_topics'.* has '/front camera/image', expected a ROS",
        ),
        ({"camera_topics": "9/{name}"}, "'camera_topics'.* has '9/base'"),
        ({"camera_topics": "/camera/{name}/"}, "'camera_topics'.* has '/camera/base/'"),
        ({"device": "foo"}, "'device' is 'foo', expected one of cpu, cuda, xpu, mps"),
        ({"device": "cuda:99x"}, "'device' is 'cuda:99x', expected one of cpu"),
        ({"camera_topics": "image"}, "'camera_topics'.*a topic of its own"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(values, said):
    with pytest.raises(LaunchError, match=said):
        plan(**values)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a ROS 2 parameter file"),
        ("[1, 2", "cannot read parameters"),
        ("grids_follower: {linear_speed: 0.1}", "a value before ros__parameters"),
        ("/**/grids_follower: {ros__parameters: {linear_sped: 0.1}}", "did you mean 'linear_speed'"),
        (
            "/**/grids_policy: {ros__parameters: {device: foo}}",
            "'device' is 'foo', expected one of cpu, cuda, xpu, mps",
        ),
        ("/**/grids_follower: {ros__parameters: {linear_speed: 1}}", "'linear_speed' is 1, expected a float"),
        ("/**/grids_follower: {ros__parameters: {workspace_min: [0.9, 0.0, 0.0]}}", "lies above workspace_max"),
        ("/**/grids_policy: {ros__parameters: {base_frame: world}}", "base_frame differs: grids_policy has 'world'"),
        (
            "/**/grids_follower: {ros__parameters: {join: latest}}",
            "join differs: grids_policy has 'rtc', grids_follower has 'latest'",
        ),
        (
            "/**/grids_follower: {ros__parameters: {rate_hz: 5.0}}",
            r"'rate_hz' is 5.0, expected a float .*\[20, 1000\] Hz",
        ),
    ],
)
def test_a_wrong_parameter_file_is_refused_by_name(tmp_path, text, said):
    path = tmp_path / "arm.yaml"
    path.write_text(text)
    with pytest.raises(LaunchError, match=f"'params_file'.*{said}"):
        plan(params_file=path)


SLOW = "{ros__parameters: {linear_speed: 0.05}}"


@pytest.mark.parametrize(
    ("section", "namespace", "said"),
    [
        ("grids_folower", "", "'grids_folower' is for no node in namespace /; did you mean '/grids_follower' or"),
        ("/**/grids_folower", "", "'/**/grids_folower' is for no node.*or '/**/grids_follower'"),
        ("/left/grids_follower", "", "'/left/grids_follower' is for no node in namespace /; did you mean '/grids_foll"),
        ("grids_follower", "left", "'grids_follower' is for no node in namespace /left; did you mean '/left/grids_fo"),
        ("/left/grids_follower", "/a/left/", "namespace"),
        ("/left/grids_follower", "/a/left", "did you mean '/a/left/grids_follower'"),
        ("/camera", "", "'/camera' is for no node in namespace /; nodes: /grids_policy, /grids_follower"),
    ],
)
def test_a_section_that_no_node_reads_is_refused(tmp_path, section, namespace, said):
    """A limit in it would not hold."""
    path = tmp_path / "arm.yaml"
    path.write_text(f"/**/grids_policy: {{ros__parameters: {{rate_hz: 5.0}}}}\n{section}: {SLOW}\n")
    with pytest.raises(LaunchError, match=said.replace("*", r"\*").replace(r".\*", ".*")):
        plan(params_file=path, namespace=namespace)


@pytest.mark.parametrize(
    ("text", "namespace"),
    [
        (f"/**/grids_follower: {SLOW}\n/**/grids_gripper: {{ros__parameters: {{speed: 0.2}}}}", ""),
        (f"/left: {{grids_follower: {SLOW}}}", "left"),
        (f"/*/grids_follower: {SLOW}", "/left"),
        (f"left/grids_follower: {SLOW}\n/right/grids_follower: {SLOW.replace('5', '9')}", "left"),
    ],
)
def test_sections_of_nodes_that_are_not_started_and_of_another_arm_are_fine(tmp_path, text, namespace):
    path = tmp_path / "arm.yaml"
    path.write_text(text)
    assert plan(params_file=path, namespace=namespace).settings.follower.linear_speed == 0.05


def test_missing_packages_are_named():
    with pytest.raises(LaunchError, match="'rviz' needs package rviz2"):
        plan(lambda package, executable: package != "rviz2", rviz="true")
    assert not plan(lambda package, executable: package != "rviz2").rviz
    with pytest.raises(LaunchError, match="no executable sim_node"):
        plan(lambda package, executable: executable != "sim_node", sim="true")


def test_a_misspelt_argument_is_refused():
    check_names(["launch", "grids_ros", "franka_grids.launch.py", "sim:=true", "--show-args"])
    with pytest.raises(LaunchError, match="'simm' is unknown; did you mean 'sim'"):
        check_names(["launch", "grids_ros", "franka_grids.launch.py", "simm:=true"])


def _without(name):
    return lambda folder: (folder / name).unlink()


def _cut(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (shutil.rmtree, "does not exist"),
        (_without("grids.json"), "grids convert"),
        (_without("config.json"), "config.json cannot be read"),
        (_without("model.safetensors"), "no weights"),
        (_cut, "damaged or incomplete"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 100), "damaged"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "damaged"),
        (lambda folder: (folder / "grids.json").write_text("{"), "grids.json is not JSON"),
        (lambda folder: (folder / "grids.json").write_text("[]"), "not a JSON object"),
        (lambda folder: (folder / "grids.json").write_text('{"cameras": "base"}'), "cameras is 'base'"),
    ],
)
def test_a_damaged_checkpoint_is_refused_without_loading_it(tmp_path, damage, said):
    folder = tmp_path / "checkpoint"
    shutil.copytree(ROOT / "models" / "demo", folder)
    assert check_folder(folder) == ("base", "wrist")
    damage(folder)
    with pytest.raises(CheckpointError, match=said):
        check_folder(folder)


def test_a_checkpoint_whose_replacement_was_interrupted_is_what_load_reads(tmp_path):
    """Its new files are valid, and not yet moved to their places."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(ROOT / "models" / "demo", folder / COMPLETE)
    assert check_folder(folder) == ("base", "wrist")
    (folder / "config.json").write_text("{")
    (folder / "model.safetensors").write_bytes(b"")
    assert check_folder(folder) == ("base", "wrist")
    assert plan(checkpoint=folder).settings.policy.checkpoint == str(folder)
    _cut(folder / COMPLETE)
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        check_folder(folder)


def test_the_launch_imports_neither_pytorch_nor_the_libraries_of_the_nodes():
    """The launch may run under another interpreter than the nodes, and must not take seconds."""
    heavy = ("torch", "transformers", "tokenizers", "safetensors", "cv2", "mujoco", "rclpy")
    code = "import sys, grids_ros.ros.launch_plan, grids_ros.ros.start\n"
    code += f"print([name for name in {heavy!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout.strip() == "[]", ran.stdout + ran.stderr


def test_arguments_overrule_the_file_and_the_file_overrules_the_robot(tmp_path):
    path = tmp_path / "mine.yaml"
    mine = {"rate_hz": 7.0, "tool_frame": "fingertips"}
    path.write_text(yaml.safe_dump({"/**/grids_policy": {"ros__parameters": mine}}))
    with pytest.raises(LaunchError, match="tool_frame differs"):
        plan(params_file=path)
    mine_follower = {"/**/grids_follower": {"ros__parameters": {"tool_frame": "fingertips", "linear_speed": 0.2}}}
    path.write_text(yaml.safe_dump({"/**/grids_policy": {"ros__parameters": mine}, **mine_follower}))
    made = plan(params_file=path, policy_rate_hz="9")
    assert made.files == (str(ROOT / "config" / "fr3.yaml"), str(path))
    assert made.settings.policy.rate_hz == made.policy.parameters["rate_hz"] == 9.0
    assert plan(params_file=path).settings.policy.rate_hz == 7.0
    follower = made.settings.follower
    assert follower.tool_frame == "fingertips" and follower.linear_speed == 0.2
    assert follower.linear_acceleration == 8.0, "what the file does not name is the robot's"


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ("/**/grids_policy: {ros__parameters: {checkpoint: FOLDER}}", True),
        ("/left: {grids_policy: {ros__parameters: {checkpoint: FOLDER}}}", True),
        ("/left: {grids_policy: {ros__parameters: {rate_hz: 5.0}}}", False),
        ("grids_policy: {ros__parameters: {rate_hz: 5.0}}", False),
    ],
)
def test_the_demos_checkpoint_does_not_overrule_that_of_the_parameter_file(tmp_path, sections, named):
    (tmp_path / "arm.yaml").write_text(sections.replace("FOLDER", str(ROOT / "models" / "demo")))
    namespace = "left" if sections.startswith("/left") else ""  # as rcl has it, nodes elsewhere have none of it
    made = plan(params_file=tmp_path / "arm.yaml", namespace=namespace)
    assert ("checkpoint" not in made.policy.parameters) == named


@pytest.mark.parametrize("robot", [name for name in ROBOTS if name != "none"])
def test_each_robot_stays_within_its_makers_limits_and_names_its_frames(robot):
    settings = plan(robot=robot).settings
    limits = follower_config(settings.follower).limits
    assert isinstance(limits, Limits)
    limited = (limits.linear_speed, limits.angular_speed, limits.linear_acceleration, limits.angular_acceleration)
    assert all(ours <= makers for ours, makers in zip(limited, MAKERS[robot], strict=True))
    written = yaml.safe_load((ROOT / "config" / f"{robot}.yaml").read_text())
    for node in ("grids_policy", "grids_follower"):
        assert {"base_frame", "tool_frame"} <= set(written[f"/**/{node}"]["ros__parameters"])
    assert settings.policy.finger_joints[0].startswith({"ur5e": "robotiq_hande"}.get(robot, robot))


def test_without_a_robot_every_parameter_has_its_default():
    settings = plan(robot="none").settings.follower
    defaults = {parameter.name: parameter.default for parameter in table(FollowerParameters)}
    assert {name: getattr(settings, name) for name in defaults if name not in ("autostart", "parent_pid")} == {
        name: value for name, value in defaults.items() if name not in ("autostart", "parent_pid")
    }


def test_every_argument_ends_in_a_full_stop_and_every_table_has_a_node():
    assert all(description.endswith(".") for _, description in ARGUMENTS.values())
    assert {"grids_policy", "grids_follower", "grids_sim"} <= set(TABLES)


def test_the_gripper_needs_its_action_types_and_metres(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LaunchError, match="'gripper' is 'franka' and needs package franka_msgs"):
        plan(gripper="franka")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    made = plan(gripper="franka")
    assert made.gripper.parameters["kind"] == "franka" and plan().gripper is None
    path = tmp_path / "mine.yaml"
    for name, value in (("gripper_scale", 12.5), ("gripper_open", 0.1)):
        path.write_text(yaml.safe_dump({"/**/grids_follower": {"ros__parameters": {name: value}}}))
        with pytest.raises(LaunchError, match=name):
            plan(gripper="franka", params_file=path)


@pytest.mark.parametrize("robot", [name for name in ROBOTS if name != "none"])
def test_each_robots_gripper_opens_as_far_as_its_follower_asks(robot, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    settings = plan(robot=robot, gripper="action").settings
    assert settings.gripper.open == settings.follower.gripper_open


def test_a_dry_run_reaches_the_follower():
    assert plan(dry_run="true").follower.parameters["dry_run"] is True
    assert "dry_run" not in plan().follower.parameters

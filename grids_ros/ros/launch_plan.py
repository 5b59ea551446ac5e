"""The launch arguments, checked before any process starts. Imports neither launch nor PyTorch.

An arm must not be left with half a system: what can fail for a wrong argument, a file or a missing package fails
here, and the message names the argument.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grids_ros.observation.topics import check_names as check_topics
from grids_ros.observation.topics import image_topics
from grids_ros.parameters import (
    AUTO,
    NODES,
    FollowerParameters,
    GripperParameters,
    Parameter,
    ParameterError,
    PolicyParameters,
    SimParameters,
    check_name,
    follower_config,
    table,
)
from grids_ros.parameters.file import check_sections, for_node, read_sections
from grids_ros.policy.folder import check_folder

PACKAGE = "grids_ros"
NONE = "none"
ROBOTS = ("fr3", "panda", "ur5e", NONE)
SIMULATED = ("fr3", NONE)  # the simulated arm has the finger joints of an FR3
GRIPPERS = {"franka": "franka_msgs", "action": "control_msgs", "topic": ""}  # and the package of the action types
TABLES: Mapping[str, Sequence[Parameter]] = {node: table(of) for node, of in NODES.items()}
EXECUTABLES = {
    "grids_policy": "policy_node",
    "grids_follower": "follower_node",
    "grids_gripper": "gripper_node",
    "grids_sim": "sim_node",
}
_NAMESPACE = re.compile(r"/?([A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*)?")

ARGUMENTS: Mapping[str, tuple[str, str]] = {
    "robot": ("fr3", f"Frames, finger joints, workspace and limits of this arm: {', '.join(ROBOTS)}."),
    "checkpoint": ("", "Folder of the policy's checkpoint. Empty: as in params_file, else the demo's."),
    "device": ("", "Where the policy runs: cpu, cuda, cuda:1, ... Empty: as in params_file."),
    "tokens": (
        "",
        "Visual tokens per camera, as trained; 0: all; auto: as many as are in time. Empty: as in params_file.",
    ),
    "join": ("", "How a new chunk takes over: latest, blend or rtc. Empty: as in params_file."),
    "policy_rate_hz": ("", "How often a chunk is computed [Hz]. Empty: as in params_file."),
    "control_rate_hz": ("", "How often target_pose is published [Hz]. Empty: as in params_file."),
    "camera_topics": (
        "",
        "Image topics, separated by commas: one pattern with {name} in it, or one per camera in the checkpoint's "
        "order; /compressed at the end means CompressedImage. Empty: as in params_file.",
    ),
    "namespace": ("", "Namespace of all nodes and of their topics."),
    "params_file": ("", "Parameters of all nodes; they overrule those of `robot`. Empty: the defaults."),
    "use_sim_time": (
        "",
        "Take the time from /clock; with sim:=true the simulated arm publishes it. Empty: as in params_file.",
    ),
    "gripper": (
        "topic",
        "Who moves the gripper. franka: the actions of franka_gripper; action: a gripper controller of ros2_control; "
        "topic: your own subscriber to gripper_command.",
    ),
    "dry_run": (
        "",
        "Command neither arm nor gripper: targets go to target_pose_preview and gripper_command_preview, for RViz. "
        "Empty: as in params_file.",
    ),
    "sim": ("false", "Start the simulated arm as well."),
    "rviz": ("false", "Start RViz as well (package rviz2)."),
}


class LaunchError(ValueError):
    """The launch cannot work; the message names the argument, and the valid values."""


@dataclass(frozen=True)
class NodePlan:
    """One node: its name and executable, and the parameters that overrule those of the files."""

    name: str
    parameters: Mapping[str, object]

    @property
    def executable(self) -> str:
        return EXECUTABLES[self.name]


@dataclass(frozen=True)
class Settings:
    """All parameters of each node as it will read them; None for a node that is not started."""

    policy: PolicyParameters
    follower: FollowerParameters
    gripper: GripperParameters | None
    sim: SimParameters | None


@dataclass(frozen=True)
class Plan:
    """What the launch starts. files: parameter files of all nodes; a later one overrules an earlier one."""

    files: tuple[str, ...]
    policy: NodePlan
    follower: NodePlan
    gripper: NodePlan | None
    sim: NodePlan | None
    rviz: bool
    namespace: str
    base_frame: str
    use_sim_time: bool | None
    settings: Settings


def make_plan(values: Mapping[str, str], share: Path, installed: Callable[[str, str], bool], pid: int) -> Plan:
    """The plan for these launch arguments. Raises LaunchError.

    share: share folder of this package. installed: whether a package has an executable. pid: of the launch process,
    which the nodes end with.
    """
    given = {name: values.get(name, default).strip() for name, (default, _) in ARGUMENTS.items()}
    _choice("robot", given["robot"], ROBOTS)
    sim, rviz = _flag("sim", given["sim"]), _flag("rviz", given["rviz"])
    if sim and given["robot"] not in SIMULATED:
        raise LaunchError(
            f"launch argument 'sim' simulates an FR3, and 'robot' is {given['robot']!r}: expected robot:=fr3 or none"
        )
    _choice("gripper", given["gripper"], tuple(GRIPPERS))
    if sim and given["gripper"] != "topic":
        raise LaunchError(f"launch argument 'gripper' is {given['gripper']!r}, expected topic with sim:=true")
    if not _NAMESPACE.fullmatch(given["namespace"]):
        raise LaunchError(f"launch argument 'namespace' is {given['namespace']!r}, expected a ROS namespace like /left")
    use_sim_time = _flag("use_sim_time", given["use_sim_time"]) if given["use_sim_time"] else None

    files = tuple(_files(given, share))
    overrides: dict[str, dict[str, Any]] = {name: {} for name in TABLES}
    for name, key, value in _overrides(given):
        overrides[name][key] = value
    if "checkpoint" not in overrides["grids_policy"] and "checkpoint" not in _merged(
        "grids_policy", files, given["namespace"]
    ):
        overrides["grids_policy"]["checkpoint"] = str(share / "models" / "demo")
    if use_sim_time is not None:
        overrides["grids_sim"]["publish_clock"] = use_sim_time
    if given["gripper"] != "topic":
        overrides["grids_gripper"]["kind"] = given["gripper"]
    absent = {
        name for name, wanted in (("grids_sim", sim), ("grids_gripper", given["gripper"] != "topic")) if not wanted
    }
    wanted = [name for name in TABLES if name not in absent]
    read = {name: _settings(name, files, overrides[name], given["namespace"]) for name in wanted}
    settings = Settings(read["grids_policy"], read["grids_follower"], read.get("grids_gripper"), read.get("grids_sim"))
    _check_together(settings)
    _check_packages(wanted, rviz, installed)
    _check_gripper(given["gripper"], settings)

    nodes = {name: NodePlan(name, {**overrides[name], **_common(name, use_sim_time, pid)}) for name in TABLES}
    return Plan(
        files=files,
        policy=nodes["grids_policy"],
        follower=nodes["grids_follower"],
        gripper=None if "grids_gripper" in absent else nodes["grids_gripper"],
        sim=None if "grids_sim" in absent else nodes["grids_sim"],
        rviz=rviz,
        namespace=given["namespace"],
        base_frame=settings.policy.base_frame,
        use_sim_time=use_sim_time,
        settings=settings,
    )


def check_names(arguments: Sequence[str]) -> None:
    """Raises LaunchError for a `name:=value` among the arguments of the command whose name is unknown."""
    for argument in arguments:
        name, assigned, _ = argument.partition(":=")
        if assigned and name not in ARGUMENTS:
            near = difflib.get_close_matches(name, ARGUMENTS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(ARGUMENTS)}"
            raise LaunchError(f"launch argument '{name}' is unknown; {hint}")


def _flag(name: str, value: str) -> bool:
    if value.lower() not in ("true", "false", "1", "0"):
        raise LaunchError(f"launch argument '{name}' is {value!r}, expected true or false")
    return value.lower() in ("true", "1")


def _choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise LaunchError(f"launch argument '{name}' is {value!r}, expected one of {', '.join(choices)}")


def _files(given: Mapping[str, str], share: Path) -> Iterator[str]:
    if given["robot"] != NONE:
        yield str(share / "config" / f"{given['robot']}.yaml")
    if given["params_file"]:
        yield os.path.abspath(os.path.expanduser(given["params_file"]))


def _overrides(given: Mapping[str, str]) -> Iterator[tuple[str, str, object]]:
    """Node, parameter and value for each argument that was given."""
    if given["checkpoint"]:
        yield "grids_policy", "checkpoint", os.path.abspath(os.path.expanduser(given["checkpoint"]))
    if given["device"]:
        yield "grids_policy", "device", _valid("device", given["device"], "grids_policy", "device")
    if given["tokens"]:
        yield "grids_policy", "tokens", _number("tokens", given["tokens"], "grids_policy", "tokens")
    for node in ("grids_policy", "grids_follower") if given["join"] else ():
        yield node, "join", _valid("join", given["join"], node, "join")
    if given["camera_topics"]:
        topics = [topic.strip() for topic in given["camera_topics"].split(",")]
        yield "grids_policy", "camera_topics", topics
    if given["dry_run"]:
        yield "grids_follower", "dry_run", _flag("dry_run", given["dry_run"])
    for argument, node in (("policy_rate_hz", "grids_policy"), ("control_rate_hz", "grids_follower")):
        if given[argument]:
            yield node, "rate_hz", _number(argument, given[argument], node, "rate_hz")


def _number(argument: str, text: str, node: str, name: str) -> object:
    """The text as a number of the parameter's type, checked."""
    kind: Any = type(_parameter(node, name).default)
    try:
        value: object = text if text == AUTO else kind(text)
    except ValueError:
        value = text
    return _valid(argument, value, node, name)


def _valid(argument: str, value: object, node: str, name: str) -> object:
    parameter = _parameter(node, name)
    try:
        return parameter.check(value)
    except ValueError as error:
        raise LaunchError(f"launch argument '{argument}' is {value!r}, expected {parameter.expected}") from error


def _parameter(node: str, name: str) -> Parameter:
    return next(parameter for parameter in TABLES[node] if parameter.name == name)


def _merged(node: str, files: Sequence[str], namespace: str) -> dict[str, object]:
    """The node's parameters in these files, by rcl's rules; a later file overrules an earlier one."""
    found: dict[str, object] = {}
    for path in files:
        found |= for_node(_sections(path, namespace), node, namespace)
    return found


def _sections(path: str, namespace: str) -> dict[str, dict[str, object]]:
    try:
        found = read_sections(Path(path))
    except ParameterError as error:
        raise LaunchError(f"launch argument 'params_file': {error}") from error
    if not found:
        raise LaunchError(
            f"launch argument 'params_file': {path} is not a ROS 2 parameter file: "
            "expected `/**/grids_follower: {ros__parameters: {...}}`"
        )
    try:
        check_sections(found, tuple(TABLES), namespace)
    except ParameterError as error:
        raise LaunchError(f"launch argument 'params_file': {path}: {error}") from error
    return found


def _settings(node: str, files: Sequence[str], overrides: Mapping[str, object], namespace: str) -> Any:
    """All parameters of the node as it will read them."""
    known = {parameter.name: parameter for parameter in TABLES[node]}
    settings: dict[str, Any] = {name: parameter.default for name, parameter in known.items()}
    for path in files:
        for name, value in _merged(node, [path], namespace).items():
            try:
                check_name(name, TABLES[node], node)
                if name in known:
                    settings[name] = known[name].check(value)
            except ValueError as error:
                raise LaunchError(f"launch argument 'params_file': {path}: {node}: {error}") from error
    return NODES[node](**{**settings, **overrides})


def _check_together(settings: Settings) -> None:
    """What no parameter can tell by itself: the checkpoint, its cameras' topics, and limits that contradict."""
    policy = settings.policy
    try:
        cameras = check_folder(policy.checkpoint)
    except ValueError as error:
        raise LaunchError(f"launch argument 'checkpoint': {error}") from error
    try:
        check_topics(image_topics(policy.camera_topics, cameras).values())
    except ValueError as error:
        raise LaunchError(f"launch argument 'camera_topics': {error}") from error
    try:
        follower_config(settings.follower)
    except ValueError as error:
        raise LaunchError(f"launch argument 'params_file': grids_follower: {error}") from error
    for name in ("base_frame", "tool_frame", "join"):
        nodes = {"grids_policy": policy, "grids_follower": settings.follower, "grids_sim": settings.sim}
        found = {node: getattr(values, name) for node, values in nodes.items() if hasattr(values, name)}
        if len(set(found.values())) > 1:
            said = ", ".join(f"{node} has {value!r}" for node, value in found.items())
            raise LaunchError(f"launch argument 'params_file': {name} differs: {said}")


def _check_packages(nodes: Sequence[str], rviz: bool, installed: Callable[[str, str], bool]) -> None:
    for node in nodes:
        if not installed(PACKAGE, EXECUTABLES[node]):
            raise LaunchError(f"package {PACKAGE} has no executable {EXECUTABLES[node]}: build it again (colcon build)")
    if rviz and not installed("rviz2", "rviz2"):
        raise LaunchError(
            "launch argument 'rviz' needs package rviz2, which is not installed: apt install ros-$ROS_DISTRO-rviz2"
        )


def _check_gripper(gripper: str, settings: Settings) -> None:
    package = GRIPPERS[gripper]
    if not package:
        return
    if (
        importlib.util.find_spec(package) is None
    ):  # messages come with the sourced workspace, not with the nodes' Python
        raise LaunchError(
            f"launch argument 'gripper' is {gripper!r} and needs package {package}, which is not installed: "
            "install it and source its workspace, or use gripper:=topic"
        )
    follower, hand = settings.follower, settings.gripper
    if hand is None:
        return
    if follower.gripper_scale != 1.0:
        raise LaunchError(
            f"gripper:={gripper} takes metres, and gripper_scale is {follower.gripper_scale}, expected 1.0"
        )
    if follower.gripper_open > hand.open:
        raise LaunchError(
            f"gripper:={gripper}: gripper_open of grids_follower is {follower.gripper_open} m, more than `open` of "
            f"grids_gripper, {hand.open} m"
        )


def _common(node: str, use_sim_time: bool | None, pid: int) -> dict[str, object]:
    common: dict[str, object] = {"parent_pid": pid}
    if node != "grids_sim":
        common["autostart"] = True
        if use_sim_time is not None:
            common["use_sim_time"] = use_sim_time
    return common

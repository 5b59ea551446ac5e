"""What the nodes would run with, from their own parameter file, and where its topics are in a bag."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from grids_ros.control.follower import FollowerConfig
from grids_ros.data.bags import IMAGE_TYPES, Topics
from grids_ros.data.source import BagError, Source
from grids_ros.intake import COMPRESSED, image_topics
from grids_ros.parameters import FOLLOWER, POLICY, Parameter, ParameterError, check_name, follower_config
from grids_ros.params_file import sections

NODES = {"grids_policy": POLICY, "grids_follower": FOLLOWER}
ASSIGN = ":="
TYPES = {
    "instruction": ("std_msgs/msg/String",),
    "current_pose": ("geometry_msgs/msg/PoseStamped",),
    "joint_states": ("sensor_msgs/msg/JointState",),
    "target_pose": ("geometry_msgs/msg/PoseStamped",),
    "gripper_command": ("std_msgs/msg/Float64MultiArray",),
}
OPTIONAL = ("target_pose", "gripper_command")  # without them the measured motion and opening are the reference
LABELS = "object_poses"  # of the simulation: for training alone
CONTROL_RATE = ("grids_follower", "rate_hz")
EVERY = "**"  # the section of a parameter file that is for all nodes


@dataclass(frozen=True)
class Settings:
    """policy: the policy node's parameters. follower: what the follower would be. remaps: topic to topic.

    gripper_scale: what an opening of 1 m is in `gripper_command`.
    instruction: in place of the bag's topic, or empty. markers: topic whose messages begin episodes, or empty.
    """

    policy: Mapping[str, object]
    follower: FollowerConfig
    remaps: Mapping[str, str]
    gripper_scale: float
    instruction: str = ""
    markers: str = ""


def add_options(parser: argparse.ArgumentParser) -> None:
    """How a command is told of another robot: the same for all that read bags."""
    parser.add_argument("--params-file", type=Path, help="as the nodes take it; default: the nodes' defaults")
    parser.add_argument("-p", "--param", action="append", default=[], metavar="NAME:=VALUE", help="one parameter")
    parser.add_argument("-r", "--remap", action="append", default=[], metavar="FROM:=TO", help="topic name in the bag")
    parser.add_argument("--instruction", default="", help="what was done, in place of the bag's instruction topic")
    parser.add_argument("--markers", default="", metavar="TOPIC", help="each message on it begins an episode")


def chosen(options: argparse.Namespace) -> Settings:
    """What these options say. Raises ParameterError."""
    pairs = (assignments(texts, name) for texts, name in ((options.param, "--param"), (options.remap, "--remap")))
    return replace(read(options.params_file, *pairs), instruction=options.instruction.strip(), markers=options.markers)


def assignments(texts: Sequence[str], option: str) -> dict[str, str]:
    """`a:=b` to {a: b}. Raises ParameterError for anything else."""
    pairs = {}
    for text in texts:
        left, sign, right = text.partition(ASSIGN)
        if not (left and sign and right):
            raise ParameterError(f"{option} {text!r}: expected from{ASSIGN}to, such as current_pose{ASSIGN}/arm/pose")
        pairs[left.lstrip("/")] = right
    return pairs


def read(file: Path | None, overrides: Mapping[str, str], remaps: Mapping[str, str]) -> Settings:
    """file: as the nodes take it (`params_file`), or None for the defaults. overrides: name to a value in YAML.

    An override goes to each of the two nodes that has a parameter of that name, but for rate_hz, which is how often a
    chunk is computed: the follower keeps its own. Raises ParameterError.
    """
    written = _parameters(file) if file else {}
    given = {name: _value(name, text) for name, text in overrides.items()}
    known = {parameter.name for table in NODES.values() for parameter in table}
    for name in given:
        if name not in known:
            check_name(name, (*POLICY, *FOLLOWER), "replay")
    read_for = {}
    for node, table in NODES.items():
        values = {**written.get(node, {}), **{name: v for name, v in given.items() if (node, name) != CONTROL_RATE}}
        for name in written.get(node, {}):
            check_name(name, table, node)
        read_for[node] = {p.name: p.check(values[p.name]) if p.name in values else p.default for p in table}
    try:
        follower = follower_config(read_for["grids_follower"])
    except ValueError as error:
        raise ParameterError(f"parameters of grids_follower contradict each other: {error}") from error
    return Settings(read_for["grids_policy"], follower, remaps, read_for["grids_follower"]["gripper_scale"])


def _value(name: str, text: str) -> object:
    """What a parameter is set to, in YAML. Raises ParameterError."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: what looks like a date and is none
        raise ParameterError(f"parameter '{name}' is {text!r}, expected YAML such as 5.0 or [a, b]") from error


def _parameters(file: Path) -> dict[str, dict]:
    """Node to its parameters in the file. Raises ParameterError."""
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ParameterError(f"cannot read parameters from {file}: {error}") from error
    if not isinstance(content, dict):
        raise ParameterError(f"{file} holds no parameters: expected /**/grids_policy: ros__parameters: ...")
    by_name: dict[str, dict] = {}
    for name, values in sections(content):
        by_name.setdefault(name, {}).update(values)
    if not by_name.keys() & {*NODES, EVERY}:
        raise ParameterError(f"{file} has sections {list(content)}, expected one for {' or '.join(NODES)}")
    return {node: _for_node(table, by_name.get(EVERY, {})) | by_name.get(node, {}) for node, table in NODES.items()}


def _for_node(table: Sequence[Parameter], everybodys: Mapping[str, object]) -> dict[str, object]:
    """Of what a file says to all nodes, what this one has a parameter for."""
    return {parameter.name: everybodys[parameter.name] for parameter in table if parameter.name in everybodys}


def find_topics(source: Source, settings: Settings, cameras: Sequence[str]) -> dict[str, str]:
    """Role ("image:<camera>", "marker", or a key of TYPES) to its topic in the bag, without a leading slash.

    A topic that a bag may lack, and that nobody has named, is left out where it is of another type: see `left_out`.
    Raises BagError for what else is missing or of another type, and lists what the bag has.
    """
    held = source.held
    wanted = {f"image:{name}": topic for name, topic in image_topics(settings.policy["camera_topics"], cameras).items()}
    wanted.update({role: role for role in TYPES if not (role == "instruction" and settings.instruction)})
    if settings.markers:
        wanted["marker"] = settings.markers
    names = sorted({*(name.lstrip("/") for name in wanted.values()), *TYPES, LABELS})
    unknown = sorted(settings.remaps.keys() - set(names))
    if unknown:
        raise BagError(f"--remap of {', '.join(unknown)}: expected one of {', '.join(names)}")
    topics, missing = {}, {}
    for role, name in wanted.items():
        topic = settings.remaps.get(name.lstrip("/"), name).lstrip("/")
        if role.startswith("image:") and topic not in held and topic + COMPRESSED in held:
            topic += COMPRESSED  # where image_transport publishes it
        spared = role in OPTIONAL and name not in settings.remaps
        if topic in held and not (spared and _mistyped(source, role, topic)):
            topics[role] = topic
        elif not spared:
            missing[role] = topic
    if missing:
        hint = f"Name yours with --remap {wanted[next(iter(missing))]}{ASSIGN}/topic"
        if "instruction" in missing:
            hint += ', or say what was done with --instruction "..."'
        listed = ", ".join(missing.values())
        raise BagError(f"{source.path} has no messages on {listed}; it has {source.described()}. {hint}")
    for role, topic in topics.items():
        fault = _mistyped(source, role, topic)
        if fault:
            raise BagError(f"{source.path}: {fault}; it has {source.described()}")
        twice = [other for other in topics if other != role and topics[other] == topic]
        if twice:
            raise BagError(f"{source.path}: {topic} cannot be both {role} and {twice[0]}: change a --remap")
    return topics


def topics_of(bag: Path, settings: Settings, cameras: Sequence[str]) -> Topics:
    """Where a bag has what training needs of it. Raises BagError for what is missing or of another type."""
    with Source(bag) as source:
        found = find_topics(source, settings, cameras)
    images = {name: found.pop(f"image:{name}") for name in cameras}
    asked = {name: found.pop(name, "") for name in (*OPTIONAL, "instruction", "marker")}
    labels = settings.remaps.get(LABELS, LABELS)
    robot = {"fingers": tuple(settings.policy["finger_joints"]), "base_frame": settings.policy["base_frame"]}
    robot["gripper_scale"] = settings.gripper_scale
    return Topics(cameras=images, object_poses=labels, said=settings.instruction, **robot, **found, **asked)


def left_out(source: Source, topics: Mapping[str, str]) -> list[str]:
    """Why what a bag may lack is not among `topics` although there is a topic of its name, in words."""
    held = source.held
    return [_mistyped(source, role, role) for role in OPTIONAL if role in held and role not in topics]


def _mistyped(source: Source, role: str, topic: str) -> str:
    """What is wrong with the type of a topic that the bag has; empty for nothing."""
    expected = IMAGE_TYPES if role.startswith("image:") else TYPES.get(role, ())
    others = [connection.msgtype for connection in source.held[topic] if connection.msgtype not in expected]
    return f"{topic} is {others[0]}, expected {' or '.join(expected)}" if expected and others else ""

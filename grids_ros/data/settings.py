"""What the nodes would run with, from their own parameter file, and where its topics are in a bag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from grids_ros.control.follower import FollowerConfig
from grids_ros.data.bags import IMAGE_TYPES
from grids_ros.data.reader import BagError, BagReader
from grids_ros.data.topics import Topics
from grids_ros.observation.buffer import AgeLimits
from grids_ros.observation.topics import COMPRESSED, image_topics
from grids_ros.options import RobotOptions
from grids_ros.parameters import NODES as ALL_NODES
from grids_ros.parameters import (
    ROBOT,
    FollowerParameters,
    ParameterError,
    PolicyParameters,
    build,
    check_name,
    follower_config,
    table,
)
from grids_ros.parameters.file import check_sections, for_node, namespaces, parse_value, read_sections

NODES = {"grids_policy": PolicyParameters, "grids_follower": FollowerParameters}
ASSIGN = ":="
TYPES = {
    "instruction": ("std_msgs/msg/String",),
    "current_pose": ("geometry_msgs/msg/PoseStamped",),
    "joint_states": ("sensor_msgs/msg/JointState",),
    "target_pose": ("geometry_msgs/msg/PoseStamped",),
    "target_joint": ("sensor_msgs/msg/JointState",),
    "gripper_command": ("std_msgs/msg/Float64MultiArray",),
}
# Without them the measured motion, joints and opening are the reference.
OPTIONAL = ("target_pose", "target_joint", "gripper_command")
LABELS = "object_poses"  # of the simulation: for training alone
OF_SETS = (  # what RobotOptions say of LeRobot data sets
    *("convention", "gripper", "gripper_state", "gripper_action"),
    *("set_joints", "degrees", "state_features", "action_features"),
)
CONTROL_RATE = ("grids_follower", "rate_hz")


class Held(Protocol):
    """What a recording holds: a BagReader, or a LeRobotReader."""

    path: Path

    @property
    def topics(self) -> Mapping[str, Sequence[Any]]:
        """Topic without a leading slash to its connections or streams, each with a `msgtype`."""

    def describe(self) -> str:
        """Its topics, in words."""


@dataclass(frozen=True)
class Settings:
    """policy: the policy node's parameters. follower: what the follower would be. remaps: topic to topic.

    gripper_scale: what an opening of 1 m is in `gripper_command`.
    instruction: in place of the bag's topic, or empty. markers: topic whose messages begin episodes, or empty.
    convention and what follows it: of LeRobot data sets, as `convert` takes them, or empty.
    """

    policy: PolicyParameters
    follower: FollowerConfig
    remaps: Mapping[str, str]
    gripper_scale: float
    instruction: str = ""
    markers: str = ""
    convention: str = ""
    gripper: str = ""
    gripper_state: str = ""
    gripper_action: str = ""
    set_joints: tuple[str, ...] = ()
    degrees: bool = False
    state_features: tuple[str, ...] = ()
    action_features: tuple[str, ...] = ()


def chosen(options: RobotOptions) -> Settings:
    """What these options say. Raises ParameterError."""
    overrides, remaps = assignments(options.param, "--param"), assignments(options.remap, "--remap")
    settings = read(options.params_file, overrides, remaps, options.namespace)
    settings = replace(settings, **{name: getattr(options, name) for name in OF_SETS})
    if options.preset:
        settings = _preset(settings, options.preset)
    return replace(settings, instruction=options.instruction.strip(), markers=options.markers)


def _preset(settings: Settings, name: str) -> Settings:
    """With what `convert` knows of a robot's data, where the user said nothing."""
    from grids_ros.convert.presets import PRESETS

    convention = settings.convention or PRESETS[name].convention
    known = PRESETS[name].fitting(convention)
    hand = ":".join(f"{number:g}" for number in known.gripper) if known.gripper else ""
    return replace(
        settings,
        convention=convention,
        gripper=settings.gripper or hand,
        set_joints=settings.set_joints or known.joints,
        degrees=settings.degrees or known.joint_unit == "degrees",
    )


def assignments(texts: Sequence[str], option: str) -> dict[str, str]:
    """`a:=b` to {a: b}. Raises ParameterError for anything else."""
    pairs = {}
    for text in texts:
        left, sign, right = text.partition(ASSIGN)
        if not (left and sign and right):
            raise ParameterError(f"{option} {text!r}: expected from{ASSIGN}to, such as current_pose{ASSIGN}/arm/pose")
        pairs[left.lstrip("/")] = right
    return pairs


def read(
    file: Path | None, overrides: Mapping[str, str], remaps: Mapping[str, str], namespace: str | None = None
) -> Settings:
    """file: as the nodes take it (`params_file`), or None for the defaults. overrides: name to a value in YAML.

    A name may be `node:name`. An override without a node goes to each of the two that has a parameter of that name,
    except rate_hz, which is how often a chunk is computed: the follower keeps its own. namespace: of the nodes; None
    is the one that the file names, if it names just one. Raises ParameterError.
    """
    values = _parameters(file, namespace) if file else {node: {} for node in NODES}
    for name, text in overrides.items():
        only, _, plain = name.rpartition(":")
        takers = [only] if only else _takers(plain)
        if not set(takers) <= set(NODES):
            raise ParameterError(f"parameter '{name}': there is no node {only}, expected {' or '.join(NODES)}")
        for node in takers:
            check_name(plain, NODES[node], node)
            values[node][plain] = _value(name, text)
    policy = build(PolicyParameters, values["grids_policy"], "grids_policy")
    follower = build(FollowerParameters, values["grids_follower"], "grids_follower")
    try:
        config = follower_config(follower)
    except ValueError as error:
        raise ParameterError(f"parameters of grids_follower contradict each other: {error}") from error
    return Settings(policy, config, remaps, follower.gripper_scale)


def _takers(name: str) -> list[str]:
    """The nodes that an override without a node's name goes to."""
    having = [node for node, of in NODES.items() if name in (each.name for each in table(of))]
    if not having:
        check_name(name, [*table(PolicyParameters), *table(FollowerParameters)], "replay")
    return [node for node in having if (node, name) != CONTROL_RATE]


def _value(name: str, text: str) -> object:
    """What a parameter is set to. Raises ParameterError."""
    try:
        return parse_value(text)
    except ParameterError as error:
        raise ParameterError(f"parameter '{name}' is {error}") from error


def _parameters(file: Path, namespace: str | None) -> dict[str, dict]:
    """Node to its parameters in the file. Raises ParameterError."""
    sections = read_sections(file)
    if namespace is None:
        named = namespaces(sections, tuple(NODES))
        if len(named) > 1:
            raise ParameterError(f"{file} is for nodes in {' and '.join(named)}: choose one with --namespace")
        namespace = named[0] if named else "/"
    try:
        check_sections(sections, tuple(ALL_NODES), namespace)
    except ParameterError as error:
        raise ParameterError(f"{file}: {error}") from error
    given = {node: for_node(sections, node, namespace) for node in NODES}
    if not any(given.values()):
        listed = ", ".join(sections) or "none"
        raise ParameterError(
            f"{file} has no parameters for {' or '.join(NODES)} in namespace {namespace}; its sections: {listed}"
        )
    return given


def find_topics(source: Held, settings: Settings, cameras: Sequence[str]) -> dict[str, str]:
    """Role ("image:<camera>", "marker", or a key of TYPES) to its topic in the bag, without a leading slash.

    A topic that a bag may lack, and that nobody has named, is left out where it is of another type; see
    `mistyped_topics`.
    Raises BagError for what else is missing or of another type, and lists what the bag has.
    """
    held = source.topics
    wanted = {f"image:{name}": topic for name, topic in image_topics(settings.policy.camera_topics, cameras).items()}
    wanted.update({role: role for role in TYPES if not (role == "instruction" and settings.instruction)})
    if settings.markers:
        wanted["marker"] = settings.markers
    names = sorted({*(name.lstrip("/") for name in wanted.values()), *TYPES, LABELS, ROBOT})
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
        raise BagError(f"{source.path} has no messages on {listed}; it has {source.describe()}. {hint}")
    for role, topic in topics.items():
        fault = _mistyped(source, role, topic)
        if fault:
            raise BagError(f"{source.path}: {fault}; it has {source.describe()}")
        twice = [other for other in topics if other != role and topics[other] == topic]
        if twice:
            raise BagError(f"{source.path}: {topic} cannot be both {role} and {twice[0]}: change a --remap")
    return topics


def topics_of(bag: Path, settings: Settings, cameras: Sequence[str], joints: Sequence[str] = ()) -> Topics:
    """Where a bag has what training needs of it. joints: those of a policy of joints.

    Raises BagError for what is missing or of another type.
    """
    with BagReader(bag) as source:
        found = find_topics(source, settings, cameras)
    images = {name: found.pop(f"image:{name}") for name in cameras}
    asked = {name: found.pop(name, "") for name in (*OPTIONAL, "instruction", "marker")}
    labels = settings.remaps.get(LABELS, LABELS)
    robot: dict[str, Any] = {"fingers": tuple(settings.policy.finger_joints), "base_frame": settings.policy.base_frame}
    robot |= {"gripper_scale": settings.gripper_scale, "given_instruction": settings.instruction}
    robot |= {"ages": AgeLimits.of(settings.policy, cameras), "joints": tuple(joints)}
    return Topics(cameras=images, object_poses=labels, **{**robot, **found, **asked})


def mistyped_topics(source: Held, topics: Mapping[str, str]) -> list[str]:
    """Why what a bag may lack is not among `topics` although there is a topic of its name, in words."""
    held = source.topics
    return [_mistyped(source, role, role) for role in OPTIONAL if role in held and role not in topics]


def _mistyped(source: Held, role: str, topic: str) -> str:
    """What is wrong with the type of a topic that the bag has; empty for nothing."""
    expected = IMAGE_TYPES if role.startswith("image:") else TYPES.get(role, ())
    others = [connection.msgtype for connection in source.topics[topic] if connection.msgtype not in expected]
    return f"{topic} is {others[0]}, expected {' or '.join(expected)}" if expected and others else ""

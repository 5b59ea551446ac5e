"""Policy and follower, ready to act; with sim:=true the simulated arm, with rviz:=true a view of what happens.

    ros2 launch grids_ros franka_grids.launch.py checkpoint:=/path/to/checkpoint sim:=true

The lifecycle nodes bring themselves to active (their parameter `autostart`). When one does not get there, the rest
is taken down and the reason said. Later the policy may die: the follower holds the arm, the policy is started again,
and motion goes on.
"""

from __future__ import annotations

import os

import yaml
from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit, OnProcessIO
from launch.events import Shutdown
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node

from grids_ros.params_file import sections
from launch import LaunchDescription

PACKAGE = "grids_ros"
SHARE = get_package_share_directory(PACKAGE)
RESPAWN_DELAY_S = 2.0
BASE_FRAME = "base"  # the nodes' default
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")  # of FastDDS 2, of 3

ARGUMENTS = {
    "checkpoint": ("", "Folder of the policy's checkpoint. Empty: as in params_file; the demo's when that names none."),
    "device": ("", "Where the policy runs: cpu, cuda, cuda:0, ... Empty: as in params_file."),
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
    "params_file": (os.path.join(SHARE, "config", "franka_grids.yaml"), "Parameters of all nodes."),
    "use_sim_time": (
        "",
        "Take the time from /clock; with sim:=true the simulated arm publishes it. Empty: as in params_file.",
    ),
    "sim": ("false", "Start the simulated arm as well."),
    "rviz": ("false", "Start RViz as well (package rviz2)."),
}


def _flag(value: str) -> bool:
    if value.lower() not in ("true", "false", "1", "0"):
        raise ValueError(f"launch argument is {value!r}, expected true or false")
    return value.lower() in ("true", "1")


def _said(params_file: str) -> dict:
    """The policy's parameters in this file."""
    with open(params_file) as file:
        found = list(sections(yaml.safe_load(file)))
    return {key: value for name, values in found if name in ("grids_policy", "**") for key, value in values.items()}


def _nodes(context) -> list:
    """The nodes, with those arguments as parameters that were given."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    sim, params = _flag(given["sim"]), given["params_file"]
    said = _said(params)
    clock = {"use_sim_time": _flag(given["use_sim_time"])} if given["use_sim_time"] else {}
    policy, follower = {"autostart": True, **clock}, {"autostart": True, **clock}
    if given["checkpoint"] or "checkpoint" not in said:
        policy["checkpoint"] = given["checkpoint"] or os.path.join(SHARE, "models", "demo")
    if given["device"]:
        policy["device"] = given["device"]
    if given["tokens"]:
        policy["tokens"] = given["tokens"] if given["tokens"] == "auto" else int(given["tokens"])
    if given["join"]:
        policy["join"] = follower["join"] = given["join"]
    if given["policy_rate_hz"]:
        policy["rate_hz"] = float(given["policy_rate_hz"])
    if given["camera_topics"]:
        policy["camera_topics"] = [topic.strip() for topic in given["camera_topics"].split(",")]
    if given["control_rate_hz"]:
        follower["rate_hz"] = float(given["control_rate_hz"])

    common = {"package": PACKAGE, "namespace": given["namespace"], "output": "both", "emulate_tty": True}
    policy_node = LifecycleNode(
        name="grids_policy",
        executable="policy_node",
        parameters=[params, policy],
        respawn=True,
        respawn_delay=RESPAWN_DELAY_S,
        **common,
    )
    follower_node = LifecycleNode(
        name="grids_follower", executable="follower_node", parameters=[params, follower], **common
    )
    actions = [follower_node, policy_node, *_supervise_policy(policy_node), _end_with(follower_node, "the follower")]
    if sim:
        parameters = [params, *([{"publish_clock": clock["use_sim_time"]}] if clock else [])]
        sim_node = Node(name="grids_sim", executable="sim_node", parameters=parameters, **common)
        profile = os.path.join(SHARE, "config", "fastdds.xml")
        for name in PROFILE_VARIABLES:  # for the simulation alone: a robot's network is its owner's to set up
            actions.insert(0, SetEnvironmentVariable(name, EnvironmentVariable(name, default_value=profile)))
        actions += [sim_node, _end_with(sim_node, "the simulated arm")]
    if _flag(given["rviz"]):
        view = ["-d", os.path.join(SHARE, "config", "grids.rviz"), "-f", str(said.get("base_frame", BASE_FRAME))]
        actions.append(
            Node(
                package="rviz2",
                executable="rviz2",
                namespace=given["namespace"],
                arguments=view,
                parameters=[clock] if clock else [],
            )
        )
    return actions


def _supervise_policy(policy_node: LifecycleNode) -> list:
    """Until it was active once, the policy's end is the end of everything; afterwards it is started again."""
    been_active = []

    def on_output(event) -> None:
        if b"grids_policy is active" in event.text:  # its transition event is lost where DDS has not discovered us yet
            been_active.append(True)

    def on_exit(event, context) -> list:
        if context.is_shutdown:
            return []
        if been_active:
            text = f"the policy ended (exit code {event.returncode}); the arm finishes its chunk and holds"
            return [LogInfo(msg=f"{text}; starting it again in {RESPAWN_DELAY_S:g} s")]
        return _shut_down("the policy", event.returncode)

    return [
        RegisterEventHandler(OnProcessIO(target_action=policy_node, on_stdout=on_output, on_stderr=on_output)),
        RegisterEventHandler(OnProcessExit(target_action=policy_node, on_exit=on_exit)),
    ]


def _end_with(node: Node, name: str) -> RegisterEventHandler:
    """Nothing goes on without this node."""

    def on_exit(event, context) -> list:
        return [] if context.is_shutdown else _shut_down(name, event.returncode)

    return RegisterEventHandler(OnProcessExit(target_action=node, on_exit=on_exit))


def _shut_down(name: str, exit_code: int) -> list:
    reason = f"{name} did not start or has died (exit code {exit_code}); its last message above says why"
    return [LogInfo(msg=f"taking everything down: {reason}"), EmitEvent(event=Shutdown(reason=reason))]


def generate_launch_description() -> LaunchDescription:
    """Called by ros2 launch."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_nodes)])

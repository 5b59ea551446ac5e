"""Policy and follower, ready to act; with sim:=true the simulated arm, with rviz:=true RViz.

    ros2 launch grids_ros franka_grids.launch.py robot:=fr3 checkpoint:=/path/to/checkpoint
    ros2 launch grids_ros franka_grids.launch.py sim:=true rviz:=true

All arguments are checked before a process starts (grids_ros/ros/launch_plan.py). The lifecycle nodes bring themselves
to active (their parameter `autostart`). If one fails to, the launch shuts down and logs why. If the policy ends later,
the follower holds the arm, the launch starts the policy again, and motion goes on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory
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

from grids_ros.ros.launch_plan import ARGUMENTS, PACKAGE, NodePlan, Plan, check_names, make_plan
from launch import LaunchDescription

SHARE = Path(get_package_share_directory(PACKAGE))
RESPAWN_DELAY_S = 2.0
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")  # of FastDDS 2, of 3
# Ctrl-C reaches a node while Python itself still starts: the signal waits until the node handles it (ros/start.py).
QUIET = "env --block-signal=INT"


def _installed(package: str, executable: str) -> bool:
    try:
        return os.access(Path(get_package_prefix(package)) / "lib" / package / executable, os.X_OK)
    except PackageNotFoundError:
        return False


def _prefix() -> str:
    """`QUIET` where this machine's env has the option (GNU coreutils 8.31)."""
    try:
        return QUIET if subprocess.run([*QUIET.split(), "true"], capture_output=True).returncode == 0 else ""
    except OSError:
        return ""


def _start(context) -> list:
    """The nodes. Raises LaunchError, before any of them has started."""
    if any(argument.endswith(Path(__file__).name) for argument in sys.argv):  # not included by another launch file
        check_names(sys.argv[1:])
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    plan = make_plan(values, SHARE, _installed, os.getpid())
    prefix = _prefix()

    def node(kind, wanted: NodePlan, **options):
        return kind(
            package=PACKAGE,
            executable=wanted.executable,
            exec_name=wanted.executable,
            name=wanted.name,
            namespace=plan.namespace,
            parameters=[*plan.files, dict(wanted.parameters)],
            output="both",
            emulate_tty=True,
            prefix=prefix,
            **options,
        )

    policy = node(LifecycleNode, plan.policy, respawn=True, respawn_delay=RESPAWN_DELAY_S)
    follower = node(LifecycleNode, plan.follower)
    actions = [follower, policy, *_supervise_policy(policy), _end_with(follower, "the follower")]
    if plan.gripper is not None:
        gripper = node(LifecycleNode, plan.gripper)
        actions += [gripper, _end_with(gripper, "the gripper node")]
    if plan.sim is not None:
        sim = node(Node, plan.sim)
        actions = [*_profile(), *actions, sim, _end_with(sim, "the simulated arm")]
    if plan.rviz:
        actions.append(_rviz(plan))
    return actions


def _profile() -> list:
    """The FastDDS profile, for the simulation alone: the network of a robot is for its owner to set up."""
    default = str(SHARE / "config" / "fastdds.xml")
    return [
        SetEnvironmentVariable(name, EnvironmentVariable(name, default_value=default)) for name in PROFILE_VARIABLES
    ]


def _rviz(plan: Plan) -> Node:
    return Node(
        package="rviz2",
        executable="rviz2",
        namespace=plan.namespace,
        arguments=["-d", str(SHARE / "config" / "grids.rviz"), "-f", plan.base_frame],
        parameters=[{"use_sim_time": plan.use_sim_time}] if plan.use_sim_time is not None else [],
    )


def _supervise_policy(policy: LifecycleNode) -> list:
    """Until the policy was active once, its end ends the launch; afterwards it is started again."""
    been_active = []

    def on_output(event) -> None:
        if b"grids_policy is active" in event.text:  # its transition event is lost until DDS has discovered the launch
            been_active.append(True)

    def on_exit(event, context) -> list:
        if context.is_shutdown:
            return []
        if been_active:
            text = f"the policy ended (exit code {event.returncode}); the arm finishes its chunk and holds"
            return [LogInfo(msg=f"{text}; starting it again in {RESPAWN_DELAY_S:g} s")]
        return _shut_down("the policy", event.returncode)

    return [
        RegisterEventHandler(OnProcessIO(target_action=policy, on_stdout=on_output, on_stderr=on_output)),
        RegisterEventHandler(OnProcessExit(target_action=policy, on_exit=on_exit)),
    ]


def _end_with(node: Node, name: str) -> RegisterEventHandler:
    """The launch ends when this node does."""

    def on_exit(event, context) -> list:
        return [] if context.is_shutdown else _shut_down(name, event.returncode)

    return RegisterEventHandler(OnProcessExit(target_action=node, on_exit=on_exit))


def _shut_down(name: str, exit_code: int) -> list:
    reason = f"{name} failed to start or ended (exit code {exit_code}); its last message above gives the reason"
    return [LogInfo(msg=f"shutting down: {reason}"), EmitEvent(event=Shutdown(reason=reason))]


def generate_launch_description() -> LaunchDescription:
    """Called by ros2 launch."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_start)])

"""The parameters of the four nodes: the one place for their names, defaults, units, ranges and descriptions.

`config/franka_grids.yaml` and `docs/reference/parameters.md` are generated from here (docs/generate.py). A node reads
its parameters when it is configured; until it is cleaned up, only those that are `live` can change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from grids_ros.control.follower import FollowerConfig
from grids_ros.control.gripper import GripperHysteresis
from grids_ros.control.limits import LEAST, Limits
from grids_ros.control.trajectory import JOINS
from grids_ros.parameters.parameter import parameter

AUTO = "auto"
_NAME = "[A-Za-z_][A-Za-z0-9_]*"
ROS_NAME = f"(/|~/)?{_NAME}(/{_NAME})*"  # of a topic or an action
ROS_NAME_FORM = "a ROS name: words of letters, digits and _, joined by /"
_ROS: dict[str, Any] = {"pattern": ROS_NAME, "form": ROS_NAME_FORM}


def _max_age(what: str, seconds: float, **more):
    return parameter(seconds, f"Greatest age of {what} when it is used.", 0.001, 10.0, unit="s", **more)


def _join():
    return parameter(
        "rtc",
        "How a new chunk takes over: latest enters it at once, blend fades it in, rtc lets the policy go on from what "
        "the arm will have done by then. The same for policy and follower.",
        choices=JOINS,
    )


def _base_frame(others: str = ""):
    return parameter("base", f"Frame of all poses, the base of the arm.{others}")


def _tool_frame():
    return parameter("tool", "Frame that is moved: the point between the fingertips, z out of the gripper.")


def _max_future():
    return parameter(0.05, "How far in the future a stamp may lie.", 0.001, 10.0, unit="s")


def _autostart():
    return parameter(False, "Configure and activate at start; end the process where that fails.", hidden=True)


def _parent_pid():
    return parameter(
        0,
        "End when the process of this id is gone, as a launch file sets it to its own; 0: run on.",
        0,
        2**31 - 1,
        hidden=True,
    )


def _pose_source():
    return parameter(
        "topic",
        "Where the measured pose comes from. topic: current_pose; tf: the transform from base_frame to tool_frame.",
        choices=("topic", "tf"),
    )


@dataclass(frozen=True, kw_only=True)
class PolicyParameters:
    """Parameters of grids_policy."""

    checkpoint: str = parameter("", "Folder of the checkpoint. Must be given.", hidden=True)
    device: str = parameter(
        "cpu",
        "Where the policy runs: cpu, cuda, cuda:1, ...",
        pattern=r"(cpu|cuda|xpu|mps)(:(0|[1-9][0-9]{0,2}))?",
        form="one of cpu, cuda, xpu, mps, or one of several devices as in cuda:1",
    )
    tokens: int | str = parameter(
        0,
        "Visual tokens per camera, one of the numbers that the checkpoint was trained with; 0: all; auto: fewer while "
        "chunks take longer than 1 / rate_hz and fewer are faster. A change holds from the next chunk on.",
        0,
        4096,
        word=AUTO,
        live=True,
    )
    precision: str = parameter(
        "auto",
        "Of the matrix products. auto: what the machine does fastest, measured at configure; float8 needs a GPU that "
        "has it, and the package torchao.",
        choices=("auto", "float32", "bfloat16", "float8"),
    )
    denoising_steps: int = parameter(0, "Denoising steps of the action expert; 0: as the checkpoint says.", 0, 100)
    threads: int = parameter(0, "CPU threads of torch; 0: the choice of torch.", 0, 256)
    rate_hz: float = parameter(5.0, "How often a chunk is computed.", 0.1, 100.0, unit="Hz")
    join: str = _join()
    camera_topics: tuple[str, ...] = parameter(
        ("camera/{name}/image_raw",),
        "Image topic of each camera: one pattern in which {name} stands for the camera's name, or one topic per "
        "camera in the checkpoint's order. A topic that ends in /compressed carries CompressedImage.",
        group="Inputs",
    )
    finger_joints: tuple[str, ...] = parameter(
        ("fr3_finger_joint1", "fr3_finger_joint2"),
        "Joints in joint_states whose sum is the opening between the fingers in metres. Where only one of a mirrored "
        "pair is published, name it twice.",
    )
    base_frame: str = _base_frame(" Poses in another frame need TF.")
    tool_frame: str = _tool_frame()
    pose_source: str = _pose_source()
    robot_description: str = parameter(
        "", "URDF file, or its text, for a policy of joints; empty: from the topic robot_description."
    )
    table_height: float = parameter(
        0.0,
        "Height of the table in base_frame: where TF knows a camera, its sampled points are drawn on the table.",
        -5.0,
        5.0,
        unit="m",
    )
    camera_max_age_s: tuple[float, ...] = parameter(
        (0.3,),
        "Greatest age of an image when it is used: one limit for all cameras, or one each in the checkpoint's order.",
        0.001,
        10.0,
        unit="s",
        group="Ages. Where a stream is older there is no chunk, and /diagnostics names it",
    )
    pose_max_age_s: float = _max_age("the measured pose", 0.1)
    gripper_max_age_s: float = _max_age("the measured gripper opening", 0.5)
    max_future_s: float = _max_future()
    autostart: bool = _autostart()
    parent_pid: int = _parent_pid()


@dataclass(frozen=True, kw_only=True)
class FollowerParameters:
    """Parameters of grids_follower."""

    rate_hz: float = parameter(
        100.0,
        "How often target_pose is published. The longest step is linear_speed / rate_hz: 5 mm by default, and 25 mm "
        "at 20 Hz.",
        20.0,
        1000.0,
        unit="Hz",
    )
    join: str = _join()
    join_s: float = parameter(0.2, "How long a new chunk is faded in, unless join is latest.", 0.0, 2.0, unit="s")
    chunk_max_age_s: float = parameter(
        2.0,
        "How long after its observation a chunk is followed, if it is that long and none comes after it.",
        0.05,
        60.0,
        unit="s",
    )
    pose_max_age_s: float = parameter(
        0.1, "Greatest age of the measured pose; where it is older the arm holds.", 0.001, 10.0, unit="s"
    )
    max_future_s: float = _max_future()
    base_frame: str = _base_frame(" Poses in another frame need TF.")
    tool_frame: str = _tool_frame()
    pose_source: str = _pose_source()
    workspace_min: tuple[float, ...] = parameter(
        (0.25, -0.40, 0.005),
        "Lower corner of the box for the tool, in the base frame.",
        -5.0,
        5.0,
        length=3,
        unit="m",
        group="Limits. 0.0 is a limit like any other: with a speed of 0.0 the arm stands still",
    )
    workspace_max: tuple[float, ...] = parameter(
        (0.75, 0.40, 0.60), "Upper corner of the box for the tool, in the base frame.", -5.0, 5.0, length=3, unit="m"
    )
    linear_speed: float = parameter(
        0.5,
        "Greatest speed of the target. While the node runs it can be lowered, and raised again up to its configured "
        "value.",
        0.0,
        3.0,
        least=LEAST,
        unit="m/s",
        live=True,
    )
    angular_speed: float = parameter(
        1.5,
        "Greatest angular speed of the target; live like linear_speed.",
        0.0,
        6.0,
        least=LEAST,
        unit="rad/s",
        live=True,
    )
    linear_acceleration: float = parameter(
        10.0, "Greatest acceleration of the target, braking included.", 0.0, 50.0, least=LEAST, unit="m/s^2"
    )
    angular_acceleration: float = parameter(
        20.0, "Greatest angular acceleration of the target, braking included.", 0.0, 100.0, least=LEAST, unit="rad/s^2"
    )
    linear_jerk: float = parameter(
        2000.0,
        "Greatest jerk of the target, braking included; a lower one delays the target.",
        1.0,
        1e5,
        unit="m/s^3",
    )
    angular_jerk: float = parameter(4000.0, "Greatest angular jerk of the target.", 1.0, 1e5, unit="rad/s^3")
    max_tracking_error_translation: float = parameter(
        0.10,
        "Greatest distance between target and measured pose; it bounds the force.",
        0.0,
        1.0,
        least=LEAST,
        unit="m",
    )
    max_tracking_error_rotation: float = parameter(
        0.50, "Greatest angle between target and measured pose.", 0.0, 3.1, least=LEAST, unit="rad"
    )
    gripper_closed: float = parameter(
        0.0,
        "Opening that is sent to close; nothing smaller is ever sent.",
        0.0,
        0.2,
        unit="m",
        group="Gripper. Between close_below and open_above nothing is sent",
    )
    gripper_close_below: float = parameter(0.03, "A wanted opening below this closes.", 0.0, 0.2, unit="m")
    gripper_open_above: float = parameter(0.05, "A wanted opening above this opens.", 0.0, 0.2, unit="m")
    gripper_open: float = parameter(
        0.08, "Opening that is sent to open; nothing larger is ever sent.", 0.0, 0.2, unit="m"
    )
    gripper_scale: float = parameter(
        1.0,
        "Number in gripper_command for an opening of 1 m. 1.0: metres; 12.5: 1 is a hand that is open by 0.08 m.",
        0.001,
        10000.0,
    )
    dry_run: bool = parameter(
        False,
        "Do everything but command the arm: publish target_pose_preview and gripper_command_preview instead.",
        group="Trial",
    )
    autostart: bool = _autostart()
    parent_pid: int = _parent_pid()


@dataclass(frozen=True, kw_only=True)
class SimParameters:
    """Parameters of grids_sim."""

    rate_hz: float = parameter(
        100.0, "How often physics is advanced, and current_pose and joint_states published.", 10.0, 1000.0, unit="Hz"
    )
    camera_rate_hz: float = parameter(20.0, "How often each camera publishes.", 0.1, 100.0, unit="Hz")
    image_size: int = parameter(224, "Side of the square images.", 32, 1024, unit="px")
    seed: int = parameter(
        0,
        "Seed of the first scene, and when set later of the next reset; each reset after that adds one.",
        0,
        2**31 - 1,
    )
    base_frame: str = _base_frame()
    tool_frame: str = _tool_frame()
    publish_clock: bool = parameter(
        False, "Publish /clock and stamp with it, for nodes with use_sim_time.", hidden=True
    )
    parent_pid: int = _parent_pid()


@dataclass(frozen=True, kw_only=True)
class GripperParameters:
    """Parameters of grids_gripper, which runs with gripper:=franka or gripper:=action."""

    kind: str = parameter(
        "action",
        "franka: the actions Grasp and Move of franka_msgs; action: ParallelGripperCommand or GripperCommand of "
        "control_msgs, whichever the server at `action` offers. The launch argument `gripper` overrules it.",
        choices=("franka", "action"),
    )
    grasp_action: str = parameter("franka_gripper/grasp", "Name of Franka's action Grasp.", **_ROS)
    move_action: str = parameter("franka_gripper/move", "Name of Franka's action Move.", **_ROS)
    action: str = parameter("gripper_controller/gripper_cmd", "Name of the action of control_msgs.", **_ROS)
    joint: str = parameter("", "Joint named in a ParallelGripperCommand; empty: none, for a controller of one joint.")
    open: float = parameter(0.08, "Opening of the open gripper.", 0.001, 0.5, unit="m")
    closed_position: float = parameter(
        0.0, "Position of the controller's joint when closed.", -10.0, 10.0, unit="m or rad"
    )
    open_position: float = parameter(
        0.08, "Position of the controller's joint when open.", -10.0, 10.0, unit="m or rad"
    )
    speed: float = parameter(0.1, "Speed of the opening, for Franka's actions.", 0.001, 1.0, unit="m/s")
    force: float = parameter(
        20.0, "Grasping force, or greatest effort of the controller's joint.", 0.0, 1000.0, unit="N or N m"
    )
    dead_band: float = parameter(
        0.005, "A wanted opening that differs by less from the last one is the same.", 0.0, 0.1, unit="m"
    )
    goal_timeout_s: float = parameter(
        10.0, "Time after which a goal without a result is canceled.", 0.1, 600.0, unit="s"
    )
    autostart: bool = _autostart()
    parent_pid: int = _parent_pid()


NodeParameters = PolicyParameters | FollowerParameters | GripperParameters | SimParameters
NODES: dict[str, type[NodeParameters]] = {
    "grids_policy": PolicyParameters,
    "grids_follower": FollowerParameters,
    "grids_gripper": GripperParameters,
    "grids_sim": SimParameters,
}


def _corner(values: tuple[float, ...]) -> tuple[float, float, float]:
    x, y, z = values
    return x, y, z


def follower_config(settings: FollowerParameters) -> FollowerConfig:
    """Raises ValueError when parameters contradict each other."""
    return FollowerConfig(
        limits=Limits(
            workspace_min=_corner(settings.workspace_min),
            workspace_max=_corner(settings.workspace_max),
            linear_speed=settings.linear_speed,
            angular_speed=settings.angular_speed,
            linear_acceleration=settings.linear_acceleration,
            angular_acceleration=settings.angular_acceleration,
            linear_jerk=settings.linear_jerk,
            angular_jerk=settings.angular_jerk,
            max_tracking_error_translation=settings.max_tracking_error_translation,
            max_tracking_error_rotation=settings.max_tracking_error_rotation,
        ),
        gripper=GripperHysteresis(
            closed=settings.gripper_closed,
            close_below=settings.gripper_close_below,
            open_above=settings.gripper_open_above,
            open=settings.gripper_open,
        ),
        period_s=1.0 / settings.rate_hz,
        join=settings.join,
        join_s=settings.join_s,
        max_pose_age_s=settings.pose_max_age_s,
        max_chunk_age_s=settings.chunk_max_age_s,
        future_s=settings.max_future_s,
    )

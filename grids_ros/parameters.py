"""Every parameter of every node: its name, default, meaning and range, in one table per node.

A value of the wrong type or out of range is refused with a message that says what is valid, an unknown name with
the nearest known one. Parameters are read when a node is configured and cannot be changed until it is cleaned up,
so `ros2 param get` always shows what runs; those that are `live` take effect at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grids_ros.control.follower import FollowerConfig
from grids_ros.control.gripper import GripperHysteresis
from grids_ros.control.limits import Limits
from grids_ros.control.timeline import JOINS

AUTO = "auto"
FOREIGN = ("use_sim_time", "start_type_description_service", "qos_overrides.")  # declared by rclpy itself


class ParameterError(ValueError):
    """A parameter that is unknown, of the wrong type or out of range; the message says what is valid."""


@dataclass(frozen=True)
class Parameter:
    """One parameter. The default gives the type; `low` and `high` bound the number, or each number of an array.

    length: the number of elements that an array must have; 0 for one or more. choices: the only values, if given.
    word: a string that may stand in place of the number, if given. live: may be changed while the node is configured.
    """

    name: str
    default: bool | int | float | str | tuple[float, ...] | tuple[str, ...]
    description: str
    low: float | None = None
    high: float | None = None
    length: int = 0
    choices: tuple[str, ...] = ()
    word: str = ""
    live: bool = False

    @property
    def expected(self) -> str:
        """What a valid value is, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        kind = self.default[0] if isinstance(self.default, tuple) else self.default
        noun = {bool: "true or false", int: "an integer", float: f"a float such as {kind}", str: "a string"}[type(kind)]
        if self.low is not None:
            noun += f" in [{self.low:g}, {self.high:g}]"
        if self.word:
            noun += f", or {self.word}"
        if not isinstance(self.default, tuple):
            return noun
        return f"an array of {self.length or 'one or more'}, each {noun}"

    def check(self, value: object) -> object:
        """`value`, arrays as tuples. Raises ParameterError."""
        if self.word and value == self.word:
            return value
        if not isinstance(self.default, tuple):
            self._check_one(value, self.default, value)
            return value
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            raise self._refusal(value)
        elements = tuple(value)
        if not elements or (self.length and len(elements) != self.length):
            raise self._refusal(list(elements))
        for element in elements:
            self._check_one(element, self.default[0], list(elements))
        return elements

    def _check_one(self, value: object, like: object, whole: object) -> None:
        if type(value) is not type(like):
            raise self._refusal(whole)
        if self.choices and value not in self.choices:
            raise self._refusal(whole)
        if self.low is not None and not self.low <= value <= self.high:  # NaN fails as well
            raise self._refusal(whole)

    def _refusal(self, value: object) -> ParameterError:
        return ParameterError(f"parameter '{self.name}' is {value!r}, expected {self.expected}")


_FRAMES = (
    Parameter("base_frame", "base", "Frame of all poses, the arm's base. Other frames are refused."),
    Parameter("tool_frame", "tool", "Frame that is moved: the point between the fingertips, z out of the gripper."),
)
_JOIN = Parameter(
    "join",
    "rtc",
    "How a new chunk takes over: latest enters it at once, blend fades it in, rtc lets the policy go on from what the "
    "arm will have done by then. The same for policy and follower.",
    choices=JOINS,
)
_AUTOSTART = Parameter("autostart", False, "Configure and activate at start; end the process where that fails.")
_AGES = (
    Parameter("pose_max_age_s", 0.1, "The measured pose may be no older than this [s].", 0.001, 10.0),
    Parameter("max_future_s", 0.05, "How far in the future a stamp may lie [s]; more is refused.", 0.001, 10.0),
)

POLICY = (
    Parameter("checkpoint", "", "Folder of the checkpoint. Must be given."),
    Parameter("device", "cpu", "Where the policy runs: cpu, cuda, cuda:0, ..."),
    Parameter(
        "tokens",
        0,
        "Visual tokens per camera, one of the numbers that the checkpoint was trained with; 0: all; auto: fewer while "
        "chunks take longer than 1 / rate_hz and fewer are faster. May be changed while the policy runs, and holds "
        "from the next chunk on.",
        0,
        4096,
        word=AUTO,
        live=True,
    ),
    Parameter("denoising_steps", 0, "Denoising steps of the action expert; 0: as the checkpoint says.", 0, 100),
    Parameter(
        "merge",
        0,
        "Image tokens that become part of others in each layer of the vision tower; any but 0 changes the actions.",
        0,
        1024,
    ),
    Parameter("threads", 0, "CPU threads of torch; 0: torch's own choice.", 0, 256),
    Parameter("rate_hz", 5.0, "How often a chunk is computed [Hz].", 0.1, 100.0),
    _JOIN,
    Parameter(
        "camera_topics",
        ("camera/{name}/image_raw",),
        "Image topic of each camera: one pattern in which {name} stands for the camera's name, or one topic per "
        "camera in the checkpoint's order. A topic that ends in /compressed carries CompressedImage.",
    ),
    Parameter(
        "camera_max_age_s",
        (0.3,),
        "An image may be no older than this [s]: one limit for all cameras, or one each in the checkpoint's order.",
        0.001,
        10.0,
    ),
    Parameter("gripper_max_age_s", 0.5, "The measured gripper opening may be no older than this [s].", 0.001, 10.0),
    Parameter(
        "finger_joints",
        ("fr3_finger_joint1", "fr3_finger_joint2"),
        "Joints in joint_states whose sum is the opening between the fingers [m]. Where only one of a mirrored pair "
        "is published, name it twice.",
    ),
    *_FRAMES,
    *_AGES,
    _AUTOSTART,
)

FOLLOWER = (
    Parameter("rate_hz", 100.0, "How often target_pose is published [Hz].", 1.0, 1000.0),
    _JOIN,
    Parameter("join_s", 0.2, "Over how long a new chunk is faded in, unless join is latest [s].", 0.0, 2.0),
    Parameter(
        "chunk_max_age_s",
        2.0,
        "How long after its observation a chunk is followed, if it is that long and none comes after it [s].",
        0.05,
        60.0,
    ),
    Parameter("workspace_min", (0.25, -0.40, 0.005), "Lower corner of the box for the tool [m].", -5.0, 5.0, 3),
    Parameter("workspace_max", (0.75, 0.40, 0.60), "Upper corner of the box for the tool [m].", -5.0, 5.0, 3),
    Parameter("linear_speed", 0.5, "Greatest speed of the target [m/s]; 0.0 means it stands still.", 0.0, 3.0),
    Parameter("angular_speed", 1.5, "Greatest turning speed of the target [rad/s]; 0.0: no turning.", 0.0, 6.0),
    Parameter("linear_acceleration", 10.0, "Greatest acceleration of the target, and braking [m/s^2].", 0.0, 50.0),
    Parameter("angular_acceleration", 20.0, "Greatest angular acceleration of the target [rad/s^2].", 0.0, 100.0),
    Parameter("lead_translation", 0.10, "How far the target may be ahead of the measured pose [m].", 0.0, 1.0),
    Parameter("lead_rotation", 0.50, "How far the target may be turned from the measured pose [rad].", 0.0, 3.1),
    Parameter("gripper_closed", 0.0, "Opening that is sent to close [m]; nothing smaller is ever sent.", 0.0, 0.2),
    Parameter("gripper_close_below", 0.03, "A wanted opening below this closes [m].", 0.0, 0.2),
    Parameter("gripper_open_above", 0.05, "A wanted opening above this opens [m].", 0.0, 0.2),
    Parameter("gripper_open", 0.08, "Opening that is sent to open [m]; nothing larger is ever sent.", 0.0, 0.2),
    Parameter(
        "gripper_scale",
        1.0,
        "What an opening of 1 m is in gripper_command: 1.0 means metres; 12.5, that 1 is a hand open by 0.08 m.",
        0.001,
        10000.0,
    ),
    *_FRAMES,
    *_AGES,
    _AUTOSTART,
)

SIM = (
    Parameter("rate_hz", 100.0, "How often physics is advanced and current_pose published [Hz].", 10.0, 1000.0),
    Parameter("camera_rate_hz", 20.0, "How often each camera publishes [Hz].", 0.1, 100.0),
    Parameter("image_size", 224, "Side of the square images [px].", 32, 1024),
    Parameter(
        "seed",
        0,
        "Seed of the first scene, and when set later of the next reset; each reset after that adds one.",
        0,
        2**31 - 1,
    ),
    Parameter("publish_clock", False, "Publish /clock and stamp with it, for nodes with use_sim_time."),
    *_FRAMES,
)


def check_name(name: str, table: Sequence[Parameter], node: str) -> None:
    """Raises ParameterError for a name that is not in `table`, with the nearest that is."""
    known = [parameter.name for parameter in table]
    if name not in known and not name.startswith(FOREIGN):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
        raise ParameterError(f"parameter '{name}' is unknown to {node}; {hint}")


def follower_config(settings: Mapping[str, object]) -> FollowerConfig:
    """Raises ValueError when parameters contradict each other."""
    return FollowerConfig(
        limits=Limits(
            workspace_min=settings["workspace_min"],
            workspace_max=settings["workspace_max"],
            linear_speed=settings["linear_speed"],
            angular_speed=settings["angular_speed"],
            linear_acceleration=settings["linear_acceleration"],
            angular_acceleration=settings["angular_acceleration"],
            lead_translation=settings["lead_translation"],
            lead_rotation=settings["lead_rotation"],
        ),
        gripper=GripperHysteresis(
            closed=settings["gripper_closed"],
            close_below=settings["gripper_close_below"],
            open_above=settings["gripper_open_above"],
            open=settings["gripper_open"],
        ),
        period_s=1.0 / settings["rate_hz"],
        join=settings["join"],
        join_s=settings["join_s"],
        max_pose_age_s=settings["pose_max_age_s"],
        max_chunk_age_s=settings["chunk_max_age_s"],
        future_s=settings["max_future_s"],
    )

"""Where things are in a bag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from grids_ros.datatypes import CAMERAS
from grids_ros.observation.buffer import AgeLimits

FRAME = "base"


def _default_cameras() -> Mapping[str, str]:
    return MappingProxyType({name: f"camera/{name}/image_raw/compressed" for name in CAMERAS})


@dataclass(frozen=True)
class Topics:
    """Topic names of a bag; a leading '/' makes no difference.

    cameras: camera name to its topic, of Image or CompressedImage. fingers: the joints of `joint_states` whose sum is
    the opening [m]. gripper_scale: the value of `gripper_command` at an opening of 1 m. base_frame: of all poses.
    marker: each of its messages begins an episode. given_instruction: the instruction, in place of the topic. ages: how
    old messages may be when they are observed; None for the nodes' defaults. joints: those whose positions an episode
    holds, for a policy of joints. A bag may lack `object_poses`; "" says
    that it has none of the others.
    """

    cameras: Mapping[str, str] = field(default_factory=_default_cameras)
    instruction: str = "instruction"
    current_pose: str = "current_pose"
    joint_states: str = "joint_states"
    target_pose: str = "target_pose"
    target_joint: str = "target_joint"
    gripper_command: str = "gripper_command"
    object_poses: str = "object_poses"
    robot_description: str = "robot_description"
    marker: str = ""
    given_instruction: str = ""
    ages: AgeLimits | None = None
    fingers: tuple[str, ...] = ("fr3_finger_joint1", "fr3_finger_joint2")
    gripper_scale: float = 1.0
    base_frame: str = FRAME
    joints: tuple[str, ...] = ()

"""The robot's URDF, for a policy of joints: from the parameter robot_description, or from a recording's topic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grids_ros.data.damage import BagError
from grids_ros.data.recording import Recording, open_recording
from grids_ros.data.settings import Settings
from grids_ros.parameters import ROBOT, given_urdf
from grids_ros.policy.joints import RobotModel

STRING = "std_msgs/msg/String"


def recorded_robot(source: Recording, settings: Settings) -> RobotModel | None:
    """The robot of an open recording; None where neither the parameter nor its topic has a URDF.

    Raises ParameterError for a parameter that names no file.
    """
    urdf = given_urdf(settings.policy)
    if not urdf:
        topic = settings.remaps.get(ROBOT, ROBOT).lstrip("/")
        connections = [one for one in source.topics.get(topic, []) if one.msgtype == STRING]
        reader: Any = source
        found = reader.messages(connections) if connections else ()
        urdf = next((message.data for _, _, message in found), "")
    return RobotModel(urdf, settings.policy.base_frame, settings.policy.tool_frame) if urdf else None


def robot_of(recordings: Sequence[Path], settings: Settings) -> RobotModel:
    """The robot of these recordings, which the first that says it says for all.

    Raises ParameterError for a parameter that names no file, BagError where nothing says which robot it is.
    """
    for path in recordings:
        with open_recording(path, settings) as source:
            if robot := recorded_robot(source, settings):
                return robot
    named = ", ".join(str(path) for path in recordings)
    raise BagError(
        f"a policy of joints needs the robot's URDF: {named} has no {ROBOT} ({STRING}), and parameter '{ROBOT}' names "
        f"no file. Name one with --param {ROBOT}:=robot.urdf"
    )

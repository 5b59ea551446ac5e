"""The robot's URDF, as the parameter robot_description gives it."""

from __future__ import annotations

from pathlib import Path

from grids_ros.parameters.nodes import PolicyParameters
from grids_ros.parameters.parameter import ParameterError

ROBOT = "robot_description"  # of the parameter, and of the topic


def given_urdf(parameters: PolicyParameters) -> str:
    """The text of the URDF that the parameter is, or names; "" where it is empty.

    Raises ParameterError for a file that cannot be read.
    """
    given = parameters.robot_description
    if not given or given.lstrip().startswith("<"):
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"parameter '{ROBOT}' is {given}, expected a URDF file: {error}") from error

"""Node parameters: what they are (`nodes`), how one is checked (`parameter`), and how files give them (`file`)."""

from grids_ros.parameters.nodes import (
    AUTO,
    NODES,
    ROS_NAME,
    ROS_NAME_FORM,
    FollowerParameters,
    GripperParameters,
    NodeParameters,
    PolicyParameters,
    SimParameters,
    follower_config,
)
from grids_ros.parameters.parameter import Parameter, ParameterError, build, check_name, table
from grids_ros.parameters.robot import ROBOT, given_urdf

__all__ = [
    "AUTO",
    "NODES",
    "ROBOT",
    "ROS_NAME",
    "ROS_NAME_FORM",
    "FollowerParameters",
    "GripperParameters",
    "NodeParameters",
    "Parameter",
    "ParameterError",
    "PolicyParameters",
    "SimParameters",
    "build",
    "check_name",
    "follower_config",
    "given_urdf",
    "table",
]

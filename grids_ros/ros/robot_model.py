"""The robot's URDF, for a policy of joints: from a parameter, or from the latched topic `robot_description`."""

from __future__ import annotations

from rclpy.node import Node
from rclpy.wait_for_message import wait_for_message
from std_msgs.msg import String

from grids_ros.parameters import ROBOT, ParameterError, PolicyParameters, given_urdf
from grids_ros.policy.joints import RobotModel
from grids_ros.ros import qos

WAIT_S = 5.0  # for the topic


def robot_model(node: Node, settings: PolicyParameters) -> RobotModel:
    """URDF, base and tool frame of the robot. Raises ParameterError where there is no URDF.

    The parameter robot_description is a URDF file or its text; where it is empty, the topic of that name is waited for.
    """
    urdf = given_urdf(settings)
    if not urdf:
        found, message = wait_for_message(String, node, ROBOT, qos_profile=qos.LATCHED, time_to_wait=WAIT_S)
        if not found or message is None:
            raise ParameterError(
                f"this policy speaks joints and needs the robot's URDF: nothing came on {ROBOT} within {WAIT_S:g} s, "
                f"and parameter '{ROBOT}' names no file"
            )
        urdf = message.data
    return RobotModel(urdf, settings.base_frame, settings.tool_frame)

"""Declare and read the parameters of a node through rclpy. What they are: grids_ros/parameters/nodes.py."""

from __future__ import annotations

from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from grids_ros.parameters import Parameter, build, check_name, table

Values = TypeVar("Values")


def describe(parameter: Parameter) -> ParameterDescriptor:
    """For `ros2 param describe`."""
    unit = f" [{parameter.unit}]" if parameter.unit else ""
    descriptor = ParameterDescriptor(name=parameter.name, description=parameter.description + unit)
    if parameter.word:  # a number or a string: rclpy leaves the check to us
        descriptor.dynamic_typing, descriptor.additional_constraints = True, parameter.expected
    if isinstance(parameter.default, tuple) or parameter.choices:
        descriptor.additional_constraints = parameter.expected
    elif parameter.low is None or parameter.high is None:
        pass
    elif isinstance(parameter.default, float):
        bounds = FloatingPointRange(from_value=float(parameter.low), to_value=float(parameter.high))
        descriptor.floating_point_range = [bounds]
    else:
        descriptor.integer_range = [IntegerRange(from_value=int(parameter.low), to_value=int(parameter.high))]
    return descriptor


def declare(node: Node, of: type) -> None:
    """Declare the fields of a dataclass of parameters on a node.

    The node is made with automatically_declare_parameters_from_overrides=True. Raises ParameterError for an override
    that is unknown or not valid.
    """
    for name in node.get_parameters_by_prefix(""):
        check_name(name, of, node.get_name())
    for parameter in table(of):
        value: Any = parameter.default
        if node.has_parameter(parameter.name):
            value = parameter.check(node.get_parameter(parameter.name).value)
            node.undeclare_parameter(parameter.name)
        node.declare_parameter(parameter.name, value, describe(parameter), ignore_override=True)


def read(node: Node, of: type[Values]) -> Values:
    """What the node's parameters are now. Raises ParameterError."""
    return build(of, {each.name: node.get_parameter(each.name).value for each in table(of)}, node.get_name())

"""The parameters of a node, in rclpy's hands. The tables themselves are in grids_ros/parameters.py."""

from __future__ import annotations

from collections.abc import Sequence

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from grids_ros.parameters import Parameter, check_name


def describe(parameter: Parameter) -> ParameterDescriptor:
    """For `ros2 param describe`."""
    descriptor = ParameterDescriptor(name=parameter.name, description=parameter.description)
    if parameter.word:  # a number or a string: rclpy leaves the check to us
        descriptor.dynamic_typing, descriptor.additional_constraints = True, parameter.expected
    if isinstance(parameter.default, tuple) or parameter.choices:
        descriptor.additional_constraints = parameter.expected
    elif parameter.low is not None and isinstance(parameter.default, float):
        bounds = FloatingPointRange(from_value=float(parameter.low), to_value=float(parameter.high))
        descriptor.floating_point_range = [bounds]
    elif parameter.low is not None:
        descriptor.integer_range = [IntegerRange(from_value=int(parameter.low), to_value=int(parameter.high))]
    return descriptor


def declare(node: Node, table: Sequence[Parameter]) -> None:
    """Declare `table` on a node made with automatically_declare_parameters_from_overrides=True.

    Raises ParameterError for an override that is unknown or not valid.
    """
    for name in node.get_parameters_by_prefix(""):
        check_name(name, table, node.get_name())
    for parameter in table:
        value = parameter.default
        if node.has_parameter(parameter.name):
            value = parameter.check(node.get_parameter(parameter.name).value)
            node.undeclare_parameter(parameter.name)
        node.declare_parameter(parameter.name, value, describe(parameter), ignore_override=True)


def read(node: Node, table: Sequence[Parameter]) -> dict[str, object]:
    """Name to value, arrays as tuples. Raises ParameterError."""
    return {parameter.name: parameter.check(node.get_parameter(parameter.name).value) for parameter in table}

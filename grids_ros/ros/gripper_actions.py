"""The action types of grippers, behind one interface. A type whose package is not installed is named in the error."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from grids_ros.control.gripper_goals import Goal
from grids_ros.parameters import GripperParameters

GRASP, MOVE = "franka_msgs/action/Grasp", "franka_msgs/action/Move"
PARALLEL, COMMAND = "control_msgs/action/ParallelGripperCommand", "control_msgs/action/GripperCommand"


@dataclass(frozen=True)
class ActionKind:
    """How a goal is written for one action type, and how its result is read."""

    type_name: str
    goal: Callable[[type, Goal, GripperParameters], object]
    error: Callable[[Goal, object], str]  # of the result; empty: the goal is reached

    def load(self) -> type:
        """The action's Python class. Raises ValueError where its package is not installed."""
        package, _, name = self.type_name.split("/")
        try:
            return getattr(importlib.import_module(f"{package}.action"), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"action type {self.type_name} is not installed: install package {package} and source its workspace, "
                "or launch with gripper:=topic"
            ) from error


def _grasp(action: Any, goal: Goal, settings: GripperParameters) -> object:
    """Any width between the fingers counts as grasped: the policy sees whether it holds the right thing."""
    made = action.Goal(width=goal.opening, speed=settings.speed, force=settings.force)
    made.epsilon.inner = made.epsilon.outer = settings.open
    return made


def _move(action: Any, goal: Goal, settings: GripperParameters) -> object:
    return action.Goal(width=goal.opening, speed=settings.speed)


def position(opening: float, settings: GripperParameters) -> float:
    """The controller's position for an opening [m]: a line through (0, closed_position) and (open, open_position)."""
    closed = settings.closed_position
    return closed + (settings.open_position - closed) * opening / settings.open


def _parallel(action: Any, goal: Goal, settings: GripperParameters) -> object:
    made = action.Goal()
    made.command.name = [settings.joint] if settings.joint else []
    made.command.position = [position(goal.opening, settings)]
    made.command.effort = [settings.force]
    return made


def _command(action: Any, goal: Goal, settings: GripperParameters) -> object:
    made = action.Goal()
    made.command.position, made.command.max_effort = position(goal.opening, settings), settings.force
    return made


def _franka_error(goal: Goal, result: Any) -> str:
    return "" if result.success else f"the gripper failed: {result.error or 'no reason given'}"


def _command_error(goal: Goal, result: Any) -> str:
    """A gripper that stalls while it closes holds something."""
    if result.reached_goal or (result.stalled and goal.closing):
        return ""
    return "the gripper stalled" if result.stalled else "the gripper did not reach the goal"


KINDS = {
    kind.type_name: kind
    for kind in (
        ActionKind(GRASP, _grasp, _franka_error),
        ActionKind(MOVE, _move, _franka_error),
        ActionKind(PARALLEL, _parallel, _command_error),
        ActionKind(COMMAND, _command, _command_error),
    )
}

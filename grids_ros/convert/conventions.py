"""What the numbers of other people's data mean, and in which units.

A checkpoint of lerobot or openpi says how many numbers a state and an action have, and seldom what they are. The user
names a convention; its units go into the statistics, so that the policy itself speaks metres and radians.

Source of LIBERO's: openpi `policies/libero_policy.py`, `training/config.py` (`extra_delta_transform`), and robosuite's
OSC_POSE controller, which takes 0.05 m and 0.5 rad for 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from grids_ros.convert.found import ConversionError, Found, Scale
from grids_ros.policy.preprocess import ACTION_DIM, Normalization
from grids_ros.policy.spaces import (
    ABSOLUTE,
    FINGERS,
    LIBERO_METRES,
    LIBERO_RADIANS,
    MATRIX,
    RELATIVE,
    STEPS,
    STEPS_LESS_STATE,
    VECTOR,
    ActionSpace,
    StateSpace,
)

REACH = 5.0  # [m]; angles of joints in degrees, and positions in millimetres, are beyond it
NOTHING = 2e-6  # no more than what openpi adds to a deviation of zero
JOINTS = re.compile(r"joint|shoulder|elbow|waist|forearm|wrist_|\.pos$|^j\d", re.IGNORECASE)


@dataclass(frozen=True)
class Gripper:
    """The numbers of a gripper that is closed and open, and how wide open that is [m]."""

    closed: float
    open: float
    metres: float

    def __post_init__(self):
        if self.closed == self.open or not self.metres > 0.0:
            raise ConversionError(
                f"gripper is {self.closed:g} when closed, {self.open:g} when {self.metres:g} m open: "
                "expected two different numbers and an opening of more than 0"
            )


@dataclass(frozen=True)
class Convention:
    """metres, radians: what 1 is worth in an action's translation and rotation. gripper: of actions; None for [m]."""

    summary: str
    state: StateSpace
    action: ActionSpace
    metres: float = 1.0
    radians: float = 1.0
    gripper: Gripper | None = None


_LIBERO = Convention(
    "steps as LIBERO's controller takes them, states with two fingers",
    FINGERS,
    STEPS,
    LIBERO_METRES,
    LIBERO_RADIANS,
    Gripper(1.0, -1.0, 0.08),
)
CONVENTIONS = {
    "grids": Convention("as this package trains: relative to the pose at the observation", MATRIX, RELATIVE),
    "absolute": Convention("poses of the tool in the base frame, as position and rotation vector", VECTOR, ABSOLUTE),
    "libero": _LIBERO,
    "libero-less-state": replace(
        _LIBERO,
        summary="the same, less the state, as openpi's pi0_libero and the GridS authors' pi0_libero_grid*",
        action=STEPS_LESS_STATE,
    ),
}


def normalization(found: Found, convention: Convention, gripper: Gripper | None) -> Normalization:
    """Of states and actions in [m] and [rad], from statistics in the convention's units.

    gripper: what the numbers mean where the convention leaves it open. Raises ConversionError for actions of joints,
    numbers of another count, missing statistics, states that can be no positions, or a gripper that the convention
    has settled.
    """
    refuse_joints(found)
    if gripper and convention.gripper:
        raise ConversionError("--gripper is settled by this convention, expected none")
    if found.states is None or found.actions is None:
        raise ConversionError(
            f"this {found.kind} checkpoint has no statistics of states and actions: it is a base that was trained for "
            "no robot; --statistics takes those of the data it is to be trained on"
        )
    states = _cut("states", found.states, convention.state.size)
    actions = _cut("actions", found.actions, ACTION_DIM)
    units = np.array([convention.metres] * 3 + [convention.radians] * 3 + [1.0])
    actions = Scale(units * actions.mean, units * actions.std)
    if of_actions := convention.gripper or gripper:
        actions = _in_metres(actions, of_actions)
    if gripper:
        states = _in_metres(states, gripper)
    place = states.mean[:3]
    if np.linalg.norm(place) > REACH:
        raise ConversionError(
            f"the mean state is at ({', '.join(f'{x:.3g}' for x in place)}) m, out of any arm's reach: are these "
            "joints, or other units?"
        )
    return Normalization(states.mean, states.std, actions.mean, actions.std)


def refuse_joints(found: Found) -> None:
    """Raises ConversionError when the names of the actions are those of joints."""
    joints = [name for name in found.action_names if JOINTS.search(name) and "gripper" not in name.lower()]
    if joints:
        raise ConversionError(
            f"the actions are of joints ({', '.join(joints[:4])}{', ...' if len(joints) > 4 else ''}): the follower "
            f"commands poses of the tool, so only end-effector actions can be followed: {', '.join(CONVENTIONS)}"
        )


def _cut(what: str, scale: Scale, size: int) -> Scale:
    """Without the numbers that only pad: openpi pads before it takes statistics, so those of its padding are zero."""
    count = len(scale.mean)
    while count > size and max(abs(scale.mean[count - 1]), abs(scale.std[count - 1])) < NOTHING:
        count -= 1
    if count != size:
        sizes = ", ".join(f"{name} {one.state.size} and {ACTION_DIM}" for name, one in CONVENTIONS.items())
        raise ConversionError(
            f"the {what} are {count} numbers, this convention has {size}; states and actions of each: {sizes}. "
            "Actions of joints, or of two arms, cannot be followed"
        )
    return Scale(scale.mean[:size], scale.std[:size])


def _in_metres(scale: Scale, gripper: Gripper) -> Scale:
    """The last number becomes an opening [m]; its deviation is negative where the numbers fall as the gripper opens."""
    worth = gripper.metres / (gripper.open - gripper.closed)
    mean, std = scale.mean.copy(), scale.std.copy()
    mean[-1], std[-1] = worth * (mean[-1] - gripper.closed), worth * std[-1]
    return Scale(mean, std)

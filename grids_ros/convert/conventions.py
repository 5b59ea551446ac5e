"""What the numbers of other people's data mean, and in which units.

A checkpoint of lerobot or openpi says how many numbers a state and an action have, and seldom what they are. The user
names a convention; its units go into the statistics, so that the policy itself speaks metres and radians.

Source of LIBERO's: openpi `policies/libero_policy.py`, `training/config.py` (`extra_delta_transform`), and robosuite's
OSC_POSE controller, which takes 0.05 m and 0.5 rad for 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from grids_ros.convert import plausible
from grids_ros.convert.foreign import ConversionError, ForeignCheckpoint, Scale
from grids_ros.policy.joints import DROID, OFFSETS, POSITIONS, VELOCITIES, JointActions
from grids_ros.policy.joints import JOINTS as JOINT_STATE
from grids_ros.policy.preprocess import Normalization
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
    Actions,
    States,
)

NOTHING = 2e-6  # no more than what openpi adds to a deviation of zero
JOINTS = re.compile(r"joint|shoulder|elbow|waist|forearm|wrist_(flex|roll|angle|rotate|[123])|^j\d", re.IGNORECASE)

POSES = re.compile(r"(^|[._ ])d?r?[xyz]([._ ]|$)|roll|pitch|yaw|axis_angle|(^|[._ ])(eef?|tcp)([._ ]|$)", re.IGNORECASE)


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
    state: States
    action: Actions
    metres: float = 1.0
    radians: float = 1.0
    gripper: Gripper | None = None

    @property
    def of_joints(self) -> bool:
        """Whether states and actions are of joints."""
        return isinstance(self.action, JointActions)

    @property
    def less_state(self) -> bool:
        """Whether actions are, number by number, differences from the state at the observation; the gripper's not."""
        return self.action in (OFFSETS, STEPS_LESS_STATE)


@dataclass(frozen=True)
class Units:
    """What the user gave: names of the joints, whether they are in degrees, the numbers of the gripper.

    sure: whether the user named the joints' unit, and no preset did.
    """

    joints: tuple[str, ...] = ()
    degrees: bool = False
    gripper_state: Gripper | None = None
    gripper_action: Gripper | None = None
    sure: bool = False

    @property
    def own_gripper(self) -> bool:
        """Whether the user gave any numbers of the gripper."""
        return self.gripper_state is not None or self.gripper_action is not None


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
    "droid": Convention("DROID's joint velocities, of which 1 is 0.2 rad in a step", JOINT_STATE, DROID),
    "droid-joints": Convention("joint positions, as offsets from the joints at the observation", JOINT_STATE, OFFSETS),
    "joints": Convention("joint positions, absolute", JOINT_STATE, POSITIONS),
    "joint-velocities": Convention("joint velocities in rad/s", JOINT_STATE, VELOCITIES),
}


def normalization(foreign: ForeignCheckpoint, convention: Convention, units: Units) -> Normalization:
    """Of states and actions in [m] and [rad], from statistics in the convention's units.

    Raises ConversionError for numbers of another count or of another meaning, missing or unusable statistics, numbers
    that no robot has, or a gripper that the convention has settled.
    """
    refuse_names(foreign.state_names, foreign.action_names, convention)
    if units.own_gripper and convention.gripper:
        raise ConversionError("--gripper is settled by this convention, expected none")
    if foreign.states is None or foreign.actions is None:
        raise ConversionError(
            f"this {foreign.kind} checkpoint has no statistics of states and actions{_where(foreign)}: a base "
            "has none, or they lie elsewhere; --statistics takes those of the data that it was or is to be trained on"
        )
    state, action = convention.state.of(units.joints), convention.action.of(units.joints)
    states, actions = _cut("states", foreign.states, state.size), _cut("actions", foreign.actions, action.size)
    for what, scale in (("state", states), ("action", actions)):
        plausible.refuse_statistics(what, scale)
    known = not (_is_identity(states) or _is_identity(actions))  # otherwise they tell nothing of the units
    states, actions = _in_radians(states, actions, convention, units)
    if of_actions := convention.gripper or units.gripper_action:
        actions = _in_metres(actions, of_actions)
    if units.gripper_state:
        states = _in_metres(states, units.gripper_state)
    if known:
        _refuse_units(states, actions, convention, units)
    return Normalization(states.mean, states.std, actions.mean, actions.std)


def doubts(foreign: ForeignCheckpoint, convention: Convention, units: Units) -> tuple[str, ...]:
    """What the user should look at before the arm moves."""
    if not (convention.of_joints and units.degrees and foreign.states):
        return ()
    found = plausible.doubt_degrees(foreign.states, len(units.joints))
    return (found,) if found else ()


def _where(foreign: ForeignCheckpoint) -> str:
    return ", no assets/*/norm_stats.json" if foreign.kind.startswith("openpi") else " in its processors"


def _is_identity(scale: Scale) -> bool:
    return not scale.mean.any() and bool((scale.std == 1.0).all())


def refuse_names(state_names: Sequence[str], action_names: Sequence[str], convention: Convention) -> None:
    """Raises ConversionError when the names of states or actions are not those of the convention.

    Names such as motor_0 tell nothing, and are taken for either.
    """
    for what, names in (("states", state_names), ("actions", action_names)):
        hands = [name for name in names if "gripper" in name.lower() or "finger" in name.lower()]
        joints = [name for name in names if JOINTS.search(name) and name not in hands]
        listed = f"{', '.join(joints[:4])}{', ...' if len(joints) > 4 else ''}"
        if joints and not convention.of_joints:
            raise ConversionError(
                f"the {what} are of joints ({listed}), this convention is of tool poses; of joints: "
                f"{', '.join(name for name, one in CONVENTIONS.items() if one.of_joints)}"
            )
        others = [name for name in names if name not in joints and name not in hands]
        if convention.of_joints and not joints and any(map(POSES.search, others)):
            raise ConversionError(
                f"the {what} are {', '.join(others[:4])}, which are no joints; conventions of tool poses: "
                f"{', '.join(name for name, one in CONVENTIONS.items() if not one.of_joints)}"
            )


def _in_radians(states: Scale, actions: Scale, convention: Convention, units: Units) -> tuple[Scale, Scale]:
    if not convention.of_joints:
        scale = np.array([convention.metres] * 3 + [convention.radians] * 3 + [1.0])
        return states, Scale(scale * actions.mean, scale * actions.std)
    worth = np.pi / 180.0 if units.degrees else 1.0
    turned = np.r_[np.full(len(states.mean) - 1, worth), 1.0]
    if convention.action is DROID:
        return Scale(turned * states.mean, turned * states.std), actions
    return Scale(turned * states.mean, turned * states.std), Scale(turned * actions.mean, turned * actions.std)


def _refuse_units(states: Scale, actions: Scale, convention: Convention, units: Units) -> None:
    if convention.of_joints:
        plausible.refuse_joint_angles("state", states, len(units.joints))
        if units.degrees and not units.sure:
            plausible.refuse_still_joints(states, len(units.joints))
        if convention.action is not DROID:
            plausible.refuse_joint_angles("action", actions, len(units.joints))
    elif convention.state is MATRIX:
        plausible.refuse_place("state", states)
    else:
        plausible.refuse_poses("state", states)
    if not convention.of_joints and convention.action is not STEPS_LESS_STATE:
        plausible.refuse_poses("action", actions, relative=convention.action is not ABSOLUTE)
    named = units.own_gripper
    hand = 2.0 if convention.state is FINGERS else 1.0
    at = 6 if convention.state is FINGERS else -1
    plausible.refuse_opening("state's", hand * states.mean[at], hand * states.std[at], named)
    plausible.refuse_opening("action's", actions.mean[-1], actions.std[-1], named or convention.gripper is not None)


def _cut(what: str, scale: Scale, size: int) -> Scale:
    """Without the numbers that only pad: openpi pads before it takes statistics, so those of its padding are zero."""
    count = len(scale.mean)
    while count > size and max(abs(scale.mean[count - 1]), abs(scale.std[count - 1])) < NOTHING:
        count -= 1
    if count != size:
        sizes = ", ".join(
            f"{name} {'joints + 1' if one.of_joints else f'{one.state.size} and {one.action.size}'}"
            for name, one in CONVENTIONS.items()
        )
        raise ConversionError(
            f"the {what} are {count} numbers, this convention has {size}; states and actions of each: {sizes}. "
            "Two arms cannot be followed"
        )
    return Scale(scale.mean[:size], scale.std[:size])


def _in_metres(scale: Scale, gripper: Gripper) -> Scale:
    """The last number becomes an opening [m]; its deviation is negative where the numbers fall as the gripper opens."""
    worth = gripper.metres / (gripper.open - gripper.closed)
    mean, std = scale.mean.copy(), scale.std.copy()
    mean[-1], std[-1] = worth * (mean[-1] - gripper.closed), worth * std[-1]
    return Scale(mean, std)

"""Whether an episode's numbers are those of an arm. Other units and other meanings are refused, with a guess."""

from __future__ import annotations

from typing import Any

import numpy as np

from grids_ros.convert import plausible
from grids_ros.convert.foreign import ConversionError, Scale
from grids_ros.data.lerobot.dataset import Dataset, DatasetError, Rows
from grids_ros.data.lerobot.meaning import Meaning
from grids_ros.policy.joints import DROID, POSITIONS
from grids_ros.policy.spaces import ABSOLUTE, MATRIX

REACH_M = 5.0  # a position further away is of other units
MAX_OPENING_M = 0.5
SLACK = 0.1  # [rad or m] beyond a joint's limit: zeros of joints differ
FEW = 0.05  # share of an episode that may be odd
MAX_FAST = 0.1  # share of DROID's velocities that may exceed 1; of joint positions it is about a quarter
MAX_LEAD = 1.0  # [rad] by which targets lead the measured joints
NEAR, FAR = 0.1, 0.5  # actions this near to states that are this far from zero are positions


def check_plausible(
    dataset: Dataset, meaning: Meaning, rows: Rows, states: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    """Raises DatasetError for numbers that no arm has: other units, another convention, or another robot.

    states: positions, quaternions and openings of the rows, as `Meaning.states` gives them.
    """
    positions, _, openings = states
    state_rows = rows.states[np.isfinite(rows.states).all(axis=1)]
    action_rows = rows.actions[np.isfinite(rows.actions).all(axis=1)]
    try:
        if meaning.kinematics is None:
            _check_places(positions)
            _check_turns(meaning, state_rows, action_rows)
        else:
            _check_joints(meaning, rows, state_rows, action_rows)
        _check_openings(openings)
    except ConversionError as error:
        raise DatasetError(f"{dataset.path}: {error}") from error


def _check_places(positions: np.ndarray) -> None:
    finite = positions[np.isfinite(positions).all(axis=1)]
    if len(finite) and np.linalg.norm(finite.mean(axis=0)) > REACH_M:
        place = ", ".join(f"{x:.3g}" for x in finite.mean(axis=0))
        raise ConversionError(f"the mean position is ({place}) m, out of any arm's reach: joints, or millimetres?")


def _check_openings(openings: np.ndarray) -> None:
    widest = np.nanmax(np.abs(openings), initial=0.0)
    if widest > MAX_OPENING_M:
        raise ConversionError(
            f"an opening is {widest:.3g} m, expected at most {MAX_OPENING_M} m: --gripper CLOSED:OPEN:METRES says what "
            "its numbers are"
        )


def _check_turns(meaning: Meaning, state_rows: np.ndarray, action_rows: np.ndarray) -> None:
    """Poses with rotation vectors, of states and of actions."""
    convention = meaning.convention
    if len(state_rows) and convention.state is not MATRIX:
        _refuse_poses("state", state_rows[:, :6])
    if len(action_rows):
        worth = np.array([convention.metres] * 3 + [convention.radians] * 3)
        _refuse_poses("action", action_rows[:, :6] * worth, relative=meaning.action is not ABSOLUTE)


def _refuse_poses(what: str, poses: np.ndarray, relative: bool = False) -> None:
    plausible.refuse_poses(what, _scale(poses), relative)
    angles = np.linalg.norm(poses[:, 3:], axis=1)
    if (angles > plausible.FULL_TURN).mean() > FEW:
        raise ConversionError(
            f"a rotation vector of the {what} is {angles.max():.3g} rad long, more than a full turn: are these "
            "degrees? expected radians"
        )


def _check_joints(meaning: Meaning, rows: Rows, state_rows: np.ndarray, action_rows: np.ndarray) -> None:
    kinematics: Any = meaning.kinematics  # of a set of joints
    count = len(kinematics.joints)
    hint = "encoder counts? expected degrees" if meaning.degrees else "degrees? Give --degrees"
    if len(state_rows):
        angles = meaning.turned(state_rows[:, :-1])
        plausible.refuse_joint_angles("state", _scale(angles), count, hint)
        _check_limits(kinematics, angles, hint)
    if len(action_rows) and meaning.action is not DROID:
        plausible.refuse_joint_angles("action", _scale(meaning.turned(action_rows[:, :-1])), count, hint)
    both = np.isfinite(np.column_stack([rows.states, rows.actions])).all(axis=1)
    if both.any():
        check_actions(meaning, rows.states[both, :-1], rows.actions[both, :-1])


def _check_limits(kinematics: Any, angles: np.ndarray, hint: str) -> None:
    """angles: (n, joints) [rad or m]."""
    for name, limits, column in zip(kinematics.joints, kinematics.limits, angles.T, strict=True):
        beyond = np.maximum(column - limits.upper, limits.lower - column)
        if (beyond > SLACK).mean() > FEW:
            raise ConversionError(
                f"joint {name} is at {column[int(beyond.argmax())]:.3g} rad, its limits in the URDF are "
                f"{limits.lower:.3g} to {limits.upper:.3g}: are these {hint}; or is it another robot, or another order "
                "of joints (--set-joints)?"
            )


def check_actions(meaning: Meaning, states: np.ndarray, actions: np.ndarray) -> None:
    """Raises ConversionError for actions of joints that are of another convention, by their distance from the states.

    states, actions: (n, joints), finite, as the set has them.
    """
    angles = meaning.turned(states)
    if meaning.action is POSITIONS:
        lead = float(np.median(np.abs(meaning.turned(actions) - angles).max(axis=1)))
        if lead > MAX_LEAD:
            raise ConversionError(
                f"the actions are {lead:.3g} rad from the states: are these offsets or velocities? Convention "
                f"{meaning.name} takes a data set's actions as absolute joint positions"
            )
        return
    numbers = actions if meaning.action is DROID else meaning.turned(actions)
    apart, size = np.median(np.abs(numbers - angles), axis=0).max(), np.median(np.abs(angles), axis=0).max()
    if apart < NEAR and size > FAR:
        raise ConversionError(
            f"the actions nearly equal the states ({apart:.2g} rad apart), and convention {meaning.name} takes them as "
            "velocities: are these joint positions? --convention droid-joints"
        )
    fast = float((np.abs(actions) > 1.0 + 1e-3).mean())
    if meaning.action is DROID and fast > MAX_FAST:
        raise ConversionError(
            f"{fast:.0%} of the velocities exceed 1, DROID's largest: are these joint positions? --convention "
            "droid-joints; or velocities in rad/s? --convention joint-velocities"
        )


def _scale(values: np.ndarray) -> Scale:
    return Scale(values.mean(axis=0), values.std(axis=0))

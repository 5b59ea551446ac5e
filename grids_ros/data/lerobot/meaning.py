"""From a data set's numbers to tool poses, openings and targets, by a convention of `convert`.

A LeRobot data set does not say what its states and actions are. Poses are of the tool in the base frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.transform import Rotation

from grids_ros.convert.conventions import CONVENTIONS, Convention, Gripper, refuse_names
from grids_ros.convert.foreign import ConversionError
from grids_ros.data.lerobot.dataset import Dataset, DatasetError, Numbers
from grids_ros.datatypes import ActionChunk, Pose
from grids_ros.policy.joints import DROID, OFFSETS, POSITIONS, VELOCITIES, RobotModel
from grids_ros.policy.preprocess import ACTION_DIM
from grids_ros.policy.spaces import FINGERS, MATRIX, STEPS, STEPS_LESS_STATE, VECTOR, Actions, States

if TYPE_CHECKING:  # it brings Pinocchio, which sets of tool poses do without
    from grids_ros.kinematics import Kinematics

# the space of a data set's actions: openpi and lerobot subtract the state while they train
AS_RECORDED: dict[str, Actions] = {STEPS_LESS_STATE.name: STEPS, OFFSETS.name: POSITIONS}


@dataclass(frozen=True)
class Meaning:
    """What the numbers of a data set are.

    gripper_state, gripper_action: where the convention leaves them open. kinematics: of the arm, where the numbers are
    of joints. degrees: whether angles are in degrees.
    """

    name: str
    convention: Convention
    gripper_state: Gripper | None = None
    gripper_action: Gripper | None = None
    kinematics: Kinematics | None = None
    degrees: bool = False

    @property
    def action(self) -> Actions:
        """The space of the set's actions; the convention's own is the policy's."""
        return AS_RECORDED.get(self.convention.action.name, self.convention.action)

    def joints(self, values: np.ndarray) -> np.ndarray | None:
        """Joint positions (n, joints) [rad or m] of rows of states (n, numbers); None for a set of tool poses."""
        if self.kinematics is None:
            return None
        return self.turned(np.asarray(values, np.float64)[:, :-1])

    def states(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows (n, numbers) to positions (n, 3) [m], quaternions (n, 4) xyzw and openings (n,) [m]."""
        if self.kinematics is None:
            positions, quaternions, openings = _DECODERS[self.convention.state.name](values)
        else:
            angles: Any = self.joints(values)
            positions, quaternions = self._poses(angles)
            openings = np.asarray(values, np.float64)[:, -1]
        if self.gripper_state is not None:
            openings = _opening(openings, self.gripper_state)
        return positions, quaternions, openings

    def targets(
        self,
        states: tuple[np.ndarray, np.ndarray, np.ndarray],
        actions: np.ndarray,
        joints: np.ndarray | None = None,
        step_s: float = 1.0,
    ) -> Targets:
        """The target of each frame's own action, seen from its own pose; NaN where either is not known.

        states: positions (n, 3), quaternions (n, 4), openings (n,), as `states` gives them. actions: (n, numbers).
        joints: as `joints` gives them.
        """
        positions, quaternions, _ = states
        numbers = len(self.kinematics.joints) if self.kinematics else 0
        found = np.full((len(actions), 8 + numbers), np.nan)
        for row in np.flatnonzero(np.isfinite(np.column_stack([positions, quaternions, actions])).all(axis=1)):
            measured = joints[row] if joints is not None else None
            pose = Pose(positions[row], quaternions[row])
            one = self.chunk(0, pose, actions[row : row + 1], step_s, measured)
            found[row, :8] = *one.positions[0], *one.quaternions[0], one.gripper[0]
            if one.joints is not None:
                found[row, 8:] = one.joints[0]
        return Targets(found[:, :3], found[:, 3:7], found[:, 7], found[:, 8:] if numbers else None)

    def chunk(
        self, stamp_ns: int, pose: Pose, actions: np.ndarray, step_s: float, measured: np.ndarray | None = None
    ) -> ActionChunk:
        """The targets that rows of actions (n, numbers) mean when they begin at `pose`, one every `step_s`.

        measured: joints (joints,) at that pose, where actions are of joints. Only steps mean this in a data set: rows
        of any other space speak of their own frame, see `targets`.
        """
        values = np.array(actions, np.float64)
        gripper = self.convention.gripper or self.gripper_action
        if gripper is not None:
            values[:, -1] = _opening(values[:, -1], gripper)
        if self.kinematics is not None:
            return self._of_joints(stamp_ns, values, step_s, measured)
        values[:, :3] *= self.convention.metres
        values[:, 3:6] *= self.convention.radians
        return self.action.to_chunk(stamp_ns, pose, values, step_s)

    def contract(self, dataset: Dataset) -> list[str]:
        """What each number means, in words."""
        angles = ["angles in degrees"] if self.degrees else []
        steps = []
        if self.convention.metres != 1.0:
            steps.append(f"1 is {self.convention.metres:g} m and {self.convention.radians:g} rad")
        of_action = self.convention.gripper or self.gripper_action
        state = [_told(dataset.state, self.convention.state), *angles, *_hand(self.gripper_state)]
        action = [_told(dataset.action, self.action), *angles, *steps, *_hand(of_action)]
        return ["; ".join(state), "; ".join(action)]

    def _of_joints(self, stamp_ns: int, values: np.ndarray, step_s: float, measured: Any) -> ActionChunk:
        """What was told to the arm, whether or not it is within limits."""
        kinematics: Any = self.kinematics  # of a set of joints
        space: Any = self.action
        space = space.of(kinematics.joints)
        if space.kind != DROID.kind:
            values = np.column_stack([self.turned(values[:, :-1]), values[:, -1]])
        joints = space.to_joints(measured, values, step_s)
        times = step_s * np.arange(1, len(values) + 1)
        return ActionChunk(stamp_ns, times, *self._poses(joints), values[:, -1], joints)

    def turned(self, angles: np.ndarray) -> np.ndarray:
        """The set's angles in rad."""
        return np.radians(angles) if self.degrees else angles

    def _poses(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Forward kinematics of rows; NaN for what is none."""
        positions, quaternions = np.full((len(joints), 3), np.nan), np.full((len(joints), 4), np.nan)
        good = np.isfinite(joints).all(axis=1)
        if good.any():
            kinematics: Any = self.kinematics  # of a set of joints
            positions[good], quaternions[good] = kinematics.poses(joints[good])
        return positions, quaternions


@dataclass(frozen=True, eq=False)
class Targets:
    """What was told: positions (n, 3) [m], quaternions (n, 4), openings (n,) [m]; joints (n, joints), or None."""

    positions: np.ndarray
    quaternions: np.ndarray
    gripper: np.ndarray
    joints: np.ndarray | None = None


def _told(numbers: Numbers, space: States | Actions) -> str:
    return f"{numbers} ({', '.join(numbers.names) or 'no names'}): {space.description}"


def _hand(gripper: Gripper | None) -> list[str]:
    if gripper is None:
        return []
    return [f"gripper {gripper.closed:g} is closed, {gripper.open:g} is open by {gripper.metres:g} m"]


def are_steps(meaning: Meaning) -> bool:
    """Whether each action goes on from the one before."""
    return meaning.action.name in (STEPS.name, DROID.name, VELOCITIES.name)


def speaks_of_poses(convention: Convention) -> bool:
    """Whether its states and actions are poses of the tool, not joints."""
    return convention.state.name in _DECODERS


@dataclass(frozen=True)
class Given:
    """What the user says of a data set. convention: "" where the set names one. joints: names of those in the URDF.

    gripper_state, gripper_action: their numbers. robot: of joints. degrees: whether angles are in degrees.
    state_features, action_features: what states and actions are made of, in order; empty: the usual ones.
    """

    convention: str = ""
    gripper_state: Gripper | None = None
    gripper_action: Gripper | None = None
    robot: RobotModel | None = None
    joints: tuple[str, ...] = ()
    degrees: bool = False
    state_features: tuple[str, ...] = ()
    action_features: tuple[str, ...] = ()


def meaning_of(dataset: Dataset, given: Given) -> Meaning:
    """How to read a data set. Raises DatasetError."""
    name = given.convention or str(dataset.info.get("grids_convention") or "")
    if name not in CONVENTIONS:
        listed = ", ".join(CONVENTIONS)
        said = f"{name!r} is unknown" if name else "it does not say what its states and actions mean"
        raise DatasetError(f"{dataset.path}: {said}; --convention takes one of {listed}")
    convention = CONVENTIONS[name]
    try:
        refuse_names(dataset.state.names, dataset.action.names, convention)
    except ConversionError as error:
        raise DatasetError(f"{dataset.path}: {error}, see --convention") from error
    hands = given.gripper_state, given.gripper_action
    if hands != (None, None) and convention.gripper is not None:
        raise DatasetError(f"--gripper is settled by convention {name}, expected none")
    if not speaks_of_poses(convention):
        return Meaning(name, convention, *hands, _kinematics(dataset, name, given), given.degrees)
    if given.degrees or given.joints:
        option = "--degrees" if given.degrees else "--set-joints"
        raise DatasetError(f"{option} is of data sets of joints, convention {name} speaks of tool poses")
    for numbers, size in ((dataset.state, convention.state.size), (dataset.action, ACTION_DIM)):
        _check_size(dataset, numbers, size, name)
    return Meaning(name, convention, *hands)


def _kinematics(dataset: Dataset, name: str, given: Given) -> Kinematics:
    """Of the joints that the set or the user names. Raises DatasetError."""
    from grids_ros.kinematics import Kinematics, KinematicsError

    if given.robot is None:
        raise DatasetError(
            f"{dataset.path}: convention {name} speaks of joints, which takes the robot's URDF: -p "
            "robot_description:=FILE"
        )
    joints = given.joints or dataset.state.names[:-1]
    if not joints:
        raise DatasetError(f"{dataset.path}: it does not name its joints; --set-joints does, in order")
    for numbers in (dataset.state, dataset.action):
        _check_size(dataset, numbers, len(joints) + 1, f"{name} of {len(joints)} joints")
    try:
        return Kinematics(given.robot.urdf, joints, given.robot.base, given.robot.tool)
    except KinematicsError as error:
        raise DatasetError(f"{dataset.path}: {error}; --set-joints names them as the URDF does") from error


def _check_size(dataset: Dataset, numbers: Numbers, size: int, name: str) -> None:
    if numbers.size != size:
        names = ", ".join(numbers.names) or "no names"
        raise DatasetError(
            f"{dataset.path}: {numbers} has {numbers.size} numbers ({names}), convention {name} has {size}"
        )


def _opening(values: np.ndarray, gripper: Gripper) -> np.ndarray:
    """Openings [m] of a gripper's numbers."""
    return (values - gripper.closed) / (gripper.open - gripper.closed) * gripper.metres


def _matrix(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    first, second = values[:, 3:6], values[:, 6:9]
    with np.errstate(invalid="ignore", divide="ignore"):
        x = first / np.linalg.norm(first, axis=1, keepdims=True)
        y = second - (x * second).sum(axis=1, keepdims=True) * x
        y /= np.linalg.norm(y, axis=1, keepdims=True)
    return values[:, :3], _quaternions(np.stack([x, y, np.cross(x, y)], axis=2)), values[:, 9]


def _quaternions(matrices: np.ndarray) -> np.ndarray:
    """Rotation matrices (n, 3, 3) to quaternions (n, 4); NaN for what is none."""
    good = np.isfinite(matrices).all(axis=(1, 2))
    quaternions = np.full((len(matrices), 4), np.nan)
    if good.any():
        quaternions[good] = Rotation.from_matrix(matrices[good]).as_quat()
    return quaternions


def _turned(vectors: np.ndarray) -> np.ndarray:
    good = np.isfinite(vectors).all(axis=1)
    quaternions = np.full((len(vectors), 4), np.nan)
    if good.any():
        quaternions[good] = Rotation.from_rotvec(vectors[good]).as_quat()
    return quaternions


def _vector(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return values[:, :3], _turned(values[:, 3:6]), values[:, 6]


def _fingers(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return values[:, :3], _turned(values[:, 3:6]), values[:, 6] - values[:, 7]


_DECODERS: dict[str, Callable] = {MATRIX.name: _matrix, VECTOR.name: _vector, FINGERS.name: _fingers}

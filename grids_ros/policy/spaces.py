"""What a policy's numbers mean: how the robot's state becomes its input, and its output a chunk of tool poses.

The follower commands poses of the tool and nothing else. Spaces of poses are here, in metres and radians; those of
joints are in joints.py, and forward kinematics turns them into poses.
A checkpoint names its two, each with a version; what is not here is refused. The description is for people only.

A rotation of angle a about an axis is one of 2 pi - a about its opposite, too. scipy gives the smaller of the two, and
a tool that points straight down stands where they change over. Data may hold either: robosuite's quat2axisangle, and
so LIBERO, goes up to 2 pi. So whole orientations are written as the checkpoint's own data has them, see `around`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from scipy.spatial.transform import Rotation

from grids_ros.datatypes import ActionChunk, Pose
from grids_ros.policy.joints import DROID, JOINTS, OFFSETS, POSITIONS, VELOCITIES, JointActions, JointState
from grids_ros.policy.preprocess import ACTION_DIM, STATE_DIM, to_actions, to_chunk, to_state

TURN = slice(3, 6)  # of states and actions: where the rotation vector stands, if they have one
NOWHERE = np.zeros(3)


@dataclass(frozen=True)
class StateSpace:
    """A state of `size` numbers.

    name, version: how a checkpoint refers to it. description: its numbers, with units and frames. encoded: the function
    behind `encode`, which takes `around` as well: (3,) [rad], the rotation vector near which orientations are written.
    """

    name: str
    description: str
    size: int
    encoded: Callable[[Pose, float, np.ndarray], np.ndarray]
    version: int = 1
    around: np.ndarray = field(default_factory=lambda: NOWHERE, compare=False)
    joints: ClassVar[tuple[str, ...]] = ()

    def encode(self, pose: Pose, gripper: float, joints: np.ndarray | None = None) -> np.ndarray:
        """Of the measured pose and gripper opening [m]: (size,). joints: as of JointState, of no use here."""
        return self.encoded(pose, gripper, self.around)

    def of(self, joints: tuple[str, ...]) -> StateSpace:
        """Itself: poses depend on no joints' names."""
        return self

    def about(self, mean: np.ndarray, deviation: np.ndarray) -> StateSpace:
        """The same, written as in data of these statistics."""
        return replace(self, around=_side(mean, deviation))


@dataclass(frozen=True)
class ActionSpace:
    """Actions of ACTION_DIM numbers, and the chunk that they mean.

    name, version, description: as of StateSpace. forth, back: the functions behind `to_actions` and `to_chunk`, which
    take `around` as well. whole: actions are whole orientations. around: (3,) [rad], as in StateSpace; of the state
    where that is a part of the actions.
    """

    name: str
    description: str
    forth: Callable[[Pose, np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    back: Callable[[int, Pose, np.ndarray, float, np.ndarray], ActionChunk]
    whole: bool = False
    version: int = 1
    size: ClassVar[int] = ACTION_DIM
    joints: ClassVar[tuple[str, ...]] = ()
    around: np.ndarray = field(default_factory=lambda: NOWHERE, compare=False)

    def of(self, joints: tuple[str, ...]) -> ActionSpace:
        """Itself: poses depend on no joints' names."""
        return self

    @property
    def per_step(self) -> bool:
        """Whether each action is relative to the target of the one before."""
        return self.forth in (_to_steps, _to_steps_less_state)

    def to_actions(
        self,
        pose: Pose,
        positions: np.ndarray,
        quaternions: np.ndarray,
        gripper: np.ndarray,
        measured: np.ndarray | None = None,
        targets: np.ndarray | None = None,
        step_s: float = 0.0,
    ) -> np.ndarray:
        """Measured pose, target positions (n, 3), quaternions (n, 4), openings (n,) [m] to actions (n, 7).

        measured, targets, step_s: as of JointActions, of no use here.
        """
        return self.forth(pose, positions, quaternions, gripper, self.around)

    def to_chunk(
        self, stamp_ns: int, pose: Pose, actions: np.ndarray, step_s: float, measured: np.ndarray | None = None
    ) -> ActionChunk:
        """Stamp, measured pose, actions (n, 7), time between steps to the chunk. Inverse of `to_actions`.

        measured: as of JointActions, of no use here.
        """
        return self.back(stamp_ns, pose, actions, step_s, self.around)

    def about(self, states: tuple[np.ndarray, np.ndarray], actions: tuple[np.ndarray, np.ndarray]) -> ActionSpace:
        """The same, written as in data of these statistics: mean and deviation of each."""
        return replace(self, around=_side(*(actions if self.whole else states)))

    def ways(self, actions: np.ndarray) -> np.ndarray:
        """Every way of writing actions (n, 7) that mean the same, (ways, n, 7)."""
        if not self.whole:
            return actions[None]
        other = actions.copy()
        other[:, TURN] = other_way(actions[:, TURN])
        return np.stack([actions, other])


def _side(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Where the rotation vectors of data lie (3,) [rad]; NOWHERE when they lie on both sides, as scipy writes those of
    a tool that points down, or are near zero: then they are written as scipy does."""
    return mean[TURN] if np.linalg.norm(mean[TURN]) > 2.0 * np.linalg.norm(deviation[TURN]) else NOWHERE


def other_way(turns: np.ndarray) -> np.ndarray:
    """Rotation vectors (..., 3) [rad] of the same rotations, about the opposite axes; what does not turn stays."""
    angles = np.linalg.norm(turns, axis=-1, keepdims=True)
    return np.where(angles > 0.0, turns * (1.0 - 2.0 * np.pi / np.where(angles > 0.0, angles, 1.0)), turns)


def turn_vectors(quaternions: np.ndarray, around: np.ndarray) -> np.ndarray:
    """Quaternions (..., 4) to rotation vectors (..., 3) [rad], of the two that each has the one nearer to `around`."""
    turns = Rotation.from_quat(quaternions).as_rotvec()
    others = other_way(turns)
    nearer = np.linalg.norm(others - around, axis=-1) < np.linalg.norm(turns - around, axis=-1)
    return np.where(nearer[..., None], others, turns)


def _matrix_state(pose: Pose, gripper: float, around: np.ndarray) -> np.ndarray:
    return to_state(pose, gripper)


def _vector_state(pose: Pose, gripper: float, around: np.ndarray) -> np.ndarray:
    return np.concatenate([pose.position, turn_vectors(pose.quaternion, around), [gripper]])


def _fingers_state(pose: Pose, gripper: float, around: np.ndarray) -> np.ndarray:
    return np.concatenate([_vector_state(pose, gripper, around)[:-1], [gripper / 2.0, -gripper / 2.0]])


def _to_relative(
    pose: Pose, positions: np.ndarray, quaternions: np.ndarray, gripper: np.ndarray, around: np.ndarray
) -> np.ndarray:
    return to_actions(pose, positions, quaternions, gripper)


def _from_relative(stamp_ns: int, pose: Pose, actions: np.ndarray, step_s: float, around: np.ndarray) -> ActionChunk:
    return to_chunk(stamp_ns, pose, actions, step_s)


def _to_absolute(
    pose: Pose, positions: np.ndarray, quaternions: np.ndarray, gripper: np.ndarray, around: np.ndarray
) -> np.ndarray:
    turns = turn_vectors(quaternions, around)
    return np.concatenate([positions, turns, np.reshape(gripper, (-1, 1))], axis=1)


def _from_absolute(stamp_ns: int, pose: Pose, actions: np.ndarray, step_s: float, around: np.ndarray) -> ActionChunk:
    turns = Rotation.from_rotvec(actions[:, 3:6]).as_quat()
    times = step_s * np.arange(1, len(actions) + 1)
    return ActionChunk(stamp_ns, times, actions[:, :3], turns, actions[:, 6])


def _to_steps(
    pose: Pose, positions: np.ndarray, quaternions: np.ndarray, gripper: np.ndarray, around: np.ndarray
) -> np.ndarray:
    moves = np.diff(positions, axis=0, prepend=pose.position[None])
    turned = Rotation.from_quat(np.concatenate([pose.quaternion[None], quaternions]))
    turns = (turned[1:] * turned[:-1].inv()).as_rotvec()
    return np.concatenate([moves, turns, np.reshape(gripper, (-1, 1))], axis=1)


def _from_steps(stamp_ns: int, pose: Pose, actions: np.ndarray, step_s: float, around: np.ndarray) -> ActionChunk:
    reached, quaternions = Rotation.from_quat(pose.quaternion), []
    for turn in Rotation.from_rotvec(actions[:, 3:6]):
        reached = turn * reached
        quaternions.append(reached.as_quat())
    times = step_s * np.arange(1, len(actions) + 1)
    positions = pose.position + np.cumsum(actions[:, :3], axis=0)
    return ActionChunk(stamp_ns, times, positions, np.array(quaternions), actions[:, 6])


def _less_state(pose: Pose, around: np.ndarray) -> np.ndarray:
    turn = turn_vectors(pose.quaternion, around)
    return np.concatenate([LIBERO_METRES * pose.position, LIBERO_RADIANS * turn, [0.0]])


def _to_steps_less_state(
    pose: Pose, positions: np.ndarray, quaternions: np.ndarray, gripper: np.ndarray, around: np.ndarray
) -> np.ndarray:
    return _to_steps(pose, positions, quaternions, gripper, around) - _less_state(pose, around)


def _from_steps_less_state(
    stamp_ns: int, pose: Pose, actions: np.ndarray, step_s: float, around: np.ndarray
) -> ActionChunk:
    return _from_steps(stamp_ns, pose, actions + _less_state(pose, around), step_s, around)


LIBERO_METRES, LIBERO_RADIANS = 0.05, 0.5  # what 1 is worth to robosuite's OSC_POSE controller
MATRIX = StateSpace(
    "tool-matrix",
    "position 3 [m] | rotation matrix columns 1, 2 (6) | gripper opening 1 [m]; tool frame in base frame",
    STATE_DIM,
    _matrix_state,
)
VECTOR = StateSpace(
    "tool-vector",
    "position 3 [m] | rotation vector 3 [rad] | gripper opening 1 [m]; tool frame in base frame",
    7,
    _vector_state,
)
FINGERS = StateSpace(
    "tool-fingers",
    "position 3 [m] | rotation vector 3 [rad] | half the gripper opening, and its negative 2 [m]; "
    "tool frame in base frame",
    8,
    _fingers_state,
)
RELATIVE = ActionSpace(
    "tool-relative",
    "translation 3 [m] | rotation vector 3 [rad] | gripper opening 1 [m]; "
    "of the target, relative to the measured tool pose at the observation, in base axes; gripper absolute",
    _to_relative,
    _from_relative,
)
ABSOLUTE = ActionSpace(
    "tool-absolute",
    "position 3 [m] | rotation vector 3 [rad] | gripper opening 1 [m]; of the target, in base frame",
    _to_absolute,
    _from_absolute,
    whole=True,
)
STEPS = ActionSpace(
    "tool-steps",
    "translation 3 [m] | rotation vector 3 [rad] | gripper opening 1 [m]; of the target, relative to the target of the "
    "step before, the first to the measured tool pose at the observation, in base axes; gripper absolute",
    _to_steps,
    _from_steps,
)
STEPS_LESS_STATE = ActionSpace(
    "tool-steps-less-state",
    f"{STEPS.description}; less {LIBERO_METRES} of the measured position and {LIBERO_RADIANS} of the rotation vector",
    _to_steps_less_state,
    _from_steps_less_state,
)
States = StateSpace | JointState
Actions = ActionSpace | JointActions
STATES: dict[str, States] = {space.name: space for space in (MATRIX, VECTOR, FINGERS, JOINTS)}
ACTIONS: dict[str, Actions] = {
    space.name: space for space in (RELATIVE, ABSOLUTE, STEPS, STEPS_LESS_STATE, POSITIONS, OFFSETS, DROID, VELOCITIES)
}

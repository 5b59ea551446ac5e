"""What a policy's numbers mean: how the robot's state becomes its input, and its output a chunk of tool poses.

The follower commands poses of the tool and nothing else, so these are the meanings there are, in metres and radians.
A checkpoint says its two in words; words that are not here are refused, not guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from grids_ros.datatypes import ActionChunk, Pose
from grids_ros.policy.preprocess import STATE_DIM, to_actions, to_chunk, to_state


@dataclass(frozen=True)
class StateSpace:
    """meaning: in words. size: how many numbers. encode: of the measured pose and gripper opening [m], (size,)."""

    meaning: str
    size: int
    encode: Callable[[Pose, float], np.ndarray]


@dataclass(frozen=True)
class ActionSpace:
    """Actions of ACTION_DIM numbers, and the chunk that they mean; each function is the other's inverse.

    to_actions: measured pose, target positions (n, 3), quaternions (n, 4), openings (n,) to (n, 7).
    to_chunk: stamp [ns], measured pose, actions (n, 7), time between steps [s] to the chunk.
    """

    meaning: str
    to_actions: Callable[[Pose, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    to_chunk: Callable[[int, Pose, np.ndarray, float], ActionChunk]


def _vector_state(pose: Pose, gripper: float) -> np.ndarray:
    return np.concatenate([pose.position, Rotation.from_quat(pose.quaternion).as_rotvec(), [gripper]])


def _fingers_state(pose: Pose, gripper: float) -> np.ndarray:
    return np.concatenate([_vector_state(pose, gripper)[:-1], [gripper / 2.0, -gripper / 2.0]])


def _to_absolute(pose: Pose, positions: np.ndarray, quaternions: np.ndarray, gripper: np.ndarray) -> np.ndarray:
    turns = Rotation.from_quat(quaternions).as_rotvec()
    return np.concatenate([positions, turns, np.reshape(gripper, (-1, 1))], axis=1)


def _from_absolute(stamp_ns: int, pose: Pose, actions: np.ndarray, step_s: float) -> ActionChunk:
    turns = Rotation.from_rotvec(actions[:, 3:6]).as_quat()
    times = step_s * np.arange(1, len(actions) + 1)
    return ActionChunk(stamp_ns, times, actions[:, :3], turns, actions[:, 6])


def _to_steps(pose: Pose, positions: np.ndarray, quaternions: np.ndarray, gripper: np.ndarray) -> np.ndarray:
    moves = np.diff(positions, axis=0, prepend=pose.position[None])
    turned = Rotation.from_quat(np.concatenate([pose.quaternion[None], quaternions]))
    turns = (turned[1:] * turned[:-1].inv()).as_rotvec()
    return np.concatenate([moves, turns, np.reshape(gripper, (-1, 1))], axis=1)


def _from_steps(stamp_ns: int, pose: Pose, actions: np.ndarray, step_s: float) -> ActionChunk:
    reached, quaternions = Rotation.from_quat(pose.quaternion), []
    for turn in Rotation.from_rotvec(actions[:, 3:6]):
        reached = turn * reached
        quaternions.append(reached.as_quat())
    times = step_s * np.arange(1, len(actions) + 1)
    positions = pose.position + np.cumsum(actions[:, :3], axis=0)
    return ActionChunk(stamp_ns, times, positions, np.array(quaternions), actions[:, 6])


def _less_state(pose: Pose) -> np.ndarray:
    turn = Rotation.from_quat(pose.quaternion).as_rotvec()
    return np.concatenate([LIBERO_METRES * pose.position, LIBERO_RADIANS * turn, [0.0]])


def _to_steps_less_state(pose: Pose, positions: np.ndarray, quaternions: np.ndarray, gripper: np.ndarray) -> np.ndarray:
    return _to_steps(pose, positions, quaternions, gripper) - _less_state(pose)


def _from_steps_less_state(stamp_ns: int, pose: Pose, actions: np.ndarray, step_s: float) -> ActionChunk:
    return _from_steps(stamp_ns, pose, actions + _less_state(pose), step_s)


LIBERO_METRES, LIBERO_RADIANS = 0.05, 0.5  # what 1 is worth to robosuite's OSC_POSE controller
MATRIX = StateSpace(
    "position 3 [m] | rotation matrix columns 1, 2 (6) | gripper opening 1 [m]; tool frame in base frame",
    STATE_DIM,
    to_state,
)
VECTOR = StateSpace(
    "position 3 [m] | rotation vector 3 [rad] | gripper opening 1 [m]; tool frame in base frame", 7, _vector_state
)
FINGERS = StateSpace(
    "position 3 [m] | rotation vector 3 [rad] | half the gripper opening, and its negative 2 [m]; "
    "tool frame in base frame",
    8,
    _fingers_state,
)
RELATIVE = ActionSpace(
    "translation 3 [m] | rotation vector 3 [rad] | gripper opening 1 [m]; "
    "of the target, relative to the measured tool pose at the observation, in base axes; gripper absolute",
    to_actions,
    to_chunk,
)
ABSOLUTE = ActionSpace(
    "position 3 [m] | rotation vector 3 [rad] | gripper opening 1 [m]; of the target, in base frame",
    _to_absolute,
    _from_absolute,
)
STEPS = ActionSpace(
    "translation 3 [m] | rotation vector 3 [rad] | gripper opening 1 [m]; of the target, relative to the target of the "
    "step before, the first to the measured tool pose at the observation, in base axes; gripper absolute",
    _to_steps,
    _from_steps,
)
STEPS_LESS_STATE = ActionSpace(
    f"{STEPS.meaning}; less {LIBERO_METRES} of the measured position and {LIBERO_RADIANS} of the rotation vector",
    _to_steps_less_state,
    _from_steps_less_state,
)
STATES = {space.meaning: space for space in (MATRIX, VECTOR, FINGERS)}
ACTIONS = {space.meaning: space for space in (RELATIVE, ABSOLUTE, STEPS, STEPS_LESS_STATE)}

"""From a chunk of tool poses to the actions of a benchmark's controller."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from grids_ros.control.trajectory import Trajectory, gripper_at
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Pose

METRES, RADIANS = 0.05, 0.5  # of one unit of robosuite's OSC_POSE controller
HALF_OPEN = 0.04  # [m]: a smaller opening closes
OPEN, CLOSE = -1.0, 1.0


def per_step(chunk: ActionChunk, observed: Pose) -> np.ndarray:
    """One action (n, 7) for each step of the chunk: the way from the step before it, the first from `observed`.

    This is what a policy of per-step actions wrote into the chunk, to rounding.
    """
    positions = np.concatenate([observed.position[None], chunk.positions])
    turns = Rotation.from_quat(np.concatenate([observed.quaternion[None], chunk.quaternions]))
    moves = np.diff(positions, axis=0) / METRES
    vectors = (turns[1:] * turns[:-1].inv()).as_rotvec() / RADIANS
    return np.concatenate([moves, vectors, _gripper(chunk.gripper)[:, None]], axis=1)


def at_time(chunk: ActionChunk, measured: Pose, now_ns: int) -> np.ndarray:
    """The action (7,) that takes the tool from where it is to where the chunk wants it at `now_ns` [ns]."""
    target = Trajectory.of_chunk(chunk).pose_at(now_ns)
    move = (target.position - measured.position) / METRES
    turn = (Rotation.from_quat(target.quaternion) * Rotation.from_quat(measured.quaternion).inv()).as_rotvec()
    return np.concatenate([move, turn / RADIANS, _gripper(np.array([gripper_at(chunk, now_ns)]))])


def target_of(action: np.ndarray, measured: Pose) -> Pose:
    """The pose that the controller pulls the tool to after this action: the inverse of `at_time`."""
    turn = Rotation.from_rotvec(RADIANS * action[3:6]) * Rotation.from_quat(measured.quaternion)
    return Pose(measured.position + METRES * action[:3], turn.as_quat())


def stamp_ns(step: int, rate_hz: float) -> int:
    """The instant of an environment step [ns]."""
    return round(step * NANOSECONDS / rate_hz)


def _gripper(openings: np.ndarray) -> np.ndarray:
    return np.where(openings < HALF_OPEN, CLOSE, OPEN)

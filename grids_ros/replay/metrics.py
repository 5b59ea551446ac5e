"""One chunk against what was recorded, and against the chunk before it. Every figure is a row of floats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from grids_ros.control.trajectory import Trajectory
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Pose
from grids_ros.replay.recorded_motion import RecordedMotion

MM, DEG = 1e3, 180.0 / np.pi


def times_ns(chunk: ActionChunk) -> np.ndarray:
    """When each step is due, (n,) int64."""
    return chunk.stamp_ns + np.rint(chunk.times * NANOSECONDS).astype(np.int64)


def errors(
    chunk: ActionChunk,
    measured: Pose,
    recorded: RecordedMotion,
    until_ns: int | None = None,
    joints: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """By horizon step, each (n,), NaN where the recording does not say, and after `until_ns`, when the episode ended.

    position_mm, rotation_deg, gripper_mm: of the chunk. still_mm: of an arm that stays at `measured`, its pose at the
    observation: what the policy has to beat. recorded_jerk: of the recorded motion at the same steps [m/s^3].
    joint_deg: of a chunk of these joints, mean over them.
    """
    at_ns = times_ns(chunk)
    positions, quaternions, known = recorded.motion_at(at_ns)
    if until_ns is not None:
        known &= at_ns <= until_ns
    position = np.linalg.norm(chunk.positions - positions, axis=1) * MM
    rotation = _angles(chunk.quaternions, quaternions) * DEG
    still = np.linalg.norm(measured.position - positions, axis=1) * MM
    gripper = np.abs(chunk.gripper - recorded.grip_at(at_ns)) * MM
    scored = {"position_mm": position, "rotation_deg": rotation, "gripper_mm": gripper, "still_mm": still}
    if joints and chunk.joints is not None:
        scored["joint_deg"] = np.abs(chunk.joints - recorded.joints_at(at_ns, joints)).mean(axis=1) * DEG
    for row in scored.values():
        row[~known] = np.nan
    jerked = jerk(positions, chunk.times) if known.all() else np.nan
    return {**scored, "recorded_jerk": np.array([jerked])}


def jerk(positions: np.ndarray, times: np.ndarray) -> float:
    """Root mean square third derivative of positions (n, 3) [m] at evenly spaced times (n,) [s], in m/s^3.

    NaN for fewer than four steps.
    """
    if len(times) < 4:
        return float("nan")
    step = (times[-1] - times[0]) / (len(times) - 1)
    third = np.diff(positions, n=3, axis=0) / step**3
    return float(np.sqrt((third**2).sum(axis=1).mean()))


def disagreement(chunk: ActionChunk, before: ActionChunk) -> tuple[float, float]:
    """How far two chunks are apart where both say something: mean distance [mm] and angle [deg].

    NaN when they do not overlap.
    """
    at = times_ns(chunk)
    earlier = times_ns(before)
    both = (at >= earlier[0]) & (at <= earlier[-1])
    if not both.any():
        return float("nan"), float("nan")
    positions, quaternions = Trajectory.of_chunk(before).at(at[both])
    apart = np.linalg.norm(chunk.positions[both] - positions, axis=1).mean() * MM
    turned = _angles(chunk.quaternions[both], quaternions).mean() * DEG
    return float(apart), float(turned)


def _angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,) [rad], between orientations (n, 4)."""
    return (Rotation.from_quat(a) * Rotation.from_quat(b).inv()).magnitude()

"""Joints to tool poses: forward kinematics of a robot's URDF, by Pinocchio.

The URDF is that of `robot_description`, or of a file. Only the joints that a policy names are moved; the others stay at
zero. A pose is that of the tool frame in the base frame (REP-103, REP-105).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pinocchio
from scipy.spatial.transform import Rotation

from grids_ros.datatypes import Pose

SLACK = 1e-3  # [rad or m] beyond a limit that counts as measurement noise


class KinematicsError(ValueError):
    """A URDF that cannot be used, or joints that it does not have: says what was found and what is valid."""


class JointLimitError(KinematicsError):
    """A joint position beyond its limits: names the joint, the position and the limits."""


@dataclass(frozen=True)
class Limits:
    """Of one joint, [rad] or [m]; infinite for a continuous joint."""

    lower: float
    upper: float


class Kinematics:
    """Forward kinematics of the chain from `base` to `tool` for joints by name. Not for two threads at once."""

    def __init__(self, urdf: str, joints: Sequence[str], base: str, tool: str):
        """urdf: its text. joints: names, in the order of a policy's numbers. base, tool: names of links or frames.

        Raises KinematicsError for a text that is no URDF, joints or frames that it lacks, joints that are not one
        number each, and a joint that does not move the tool.
        """
        try:
            model = pinocchio.buildModelFromXML(urdf)
        except (ValueError, RuntimeError) as error:
            reason = (str(error).strip() or "it does not parse").splitlines()[0]
            raise KinematicsError(f"robot_description is no URDF: {reason}") from error
        known = [name for name in model.names if name != "universe"]
        if missing := [name for name in joints if name not in known]:
            raise KinematicsError(f"the URDF has no joint {', '.join(missing)}; it has {', '.join(known)}")
        if len(set(joints)) < len(joints) or not joints:
            raise KinematicsError(f"the joints are {', '.join(joints) or 'none'}, expected one or more, each once")
        for frame in (base, tool):
            if not model.existFrame(frame):
                raise KinematicsError(
                    f"the URDF has no frame {frame}; it has {', '.join(frame.name for frame in model.frames)}"
                )
        self.joints, self.base, self.tool = tuple(joints), base, tool
        self._model, self._data = model, model.createData()
        self._neutral = pinocchio.neutral(model)
        self._base, self._tool = model.getFrameId(base), model.getFrameId(tool)
        self._placed = [model.joints[model.getJointId(name)] for name in joints]
        if wide := [name for name, joint in zip(joints, self._placed, strict=True) if joint.nv != 1]:
            raise KinematicsError(
                f"joint {wide[0]} is not one angle or distance, expected revolute or prismatic joints"
            )
        self.limits = tuple(self._limits_of(joint) for joint in self._placed)
        self._refuse_idle()

    @classmethod
    def from_file(cls, path: Path | str, joints: Sequence[str], base: str, tool: str) -> Kinematics:
        """Of a URDF file. Raises KinematicsError as the constructor, and where the file cannot be read."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise KinematicsError(f"the URDF {path} cannot be read: {error}") from error
        return cls(text, joints, base, tool)

    def pose(self, positions: np.ndarray) -> Pose:
        """Joint positions (n,) [rad or m] to the pose of the tool frame in the base frame."""
        places, turns = self.poses(np.asarray(positions, np.float64)[None])
        return Pose(places[0], turns[0])

    def poses(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Joint positions (steps, n) [rad or m] to tool positions (steps, 3) [m] and quaternions (steps, 4), xyzw.

        Raises KinematicsError for another number of joints, or for NaN or infinity.
        """
        positions = np.asarray(positions, np.float64)
        if positions.ndim != 2 or positions.shape[1] != len(self.joints):
            raise KinematicsError(f"joint positions have shape {positions.shape}, expected (n, {len(self.joints)})")
        if not np.isfinite(positions).all():
            raise KinematicsError("joint positions contain NaN or infinity")
        places, turns = np.empty((len(positions), 3)), np.empty((len(positions), 4))
        for index, row in enumerate(positions):
            placed = self._placement(row)
            places[index], turns[index] = placed.translation, Rotation.from_matrix(placed.rotation).as_quat()
        return places, turns

    def check_limits(self, positions: np.ndarray) -> None:
        """Raises JointLimitError for joint positions (steps, n) beyond the limits of the URDF."""
        for index, (name, limits) in enumerate(zip(self.joints, self.limits, strict=True)):
            column = positions[:, index]
            worst = column[int(np.maximum(column - limits.upper, limits.lower - column).argmax())]
            if not limits.lower - SLACK <= worst <= limits.upper + SLACK:
                raise JointLimitError(
                    f"joint {name} at {worst:.3f} is beyond its limits of {limits.lower:.3f} to {limits.upper:.3f}"
                )

    def read(self, named: Mapping[str, float]) -> np.ndarray:
        """The positions (n,) of these joints out of all that `joint_states` has. Raises KinematicsError by name."""
        if missing := [name for name in self.joints if name not in named]:
            raise KinematicsError(f"joint_states lacks {', '.join(missing)}; it has {', '.join(named) or 'none'}")
        return np.array([named[name] for name in self.joints], np.float64)

    def _placement(self, row: np.ndarray) -> pinocchio.SE3:
        whole = self._neutral.copy()
        for joint, value in zip(self._placed, row, strict=True):
            if joint.nq == 2:  # a continuous joint is kept as cosine and sine
                whole[joint.idx_q : joint.idx_q + 2] = np.cos(value), np.sin(value)
            else:
                whole[joint.idx_q] = value
        pinocchio.framesForwardKinematics(self._model, self._data, whole)
        return self._data.oMf[self._base].actInv(self._data.oMf[self._tool])

    def _limits_of(self, joint) -> Limits:
        if joint.nq == 2:
            return Limits(-np.inf, np.inf)
        return Limits(
            float(self._model.lowerPositionLimit[joint.idx_q]), float(self._model.upperPositionLimit[joint.idx_q])
        )

    def _refuse_idle(self) -> None:
        middle = np.array(
            [0.5 * (of.lower + of.upper) if np.isfinite(of.upper - of.lower) else 0.0 for of in self.limits]
        )
        rest = self._placement(middle).homogeneous
        for index, name in enumerate(self.joints):
            moved = middle.copy()
            moved[index] += 0.1
            if np.allclose(self._placement(moved).homogeneous, rest, atol=1e-9):
                raise KinematicsError(
                    f"joint {name} does not move {self.tool} in {self.base}, expected joints between them"
                )

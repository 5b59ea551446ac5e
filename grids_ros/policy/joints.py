"""Joint spaces: states and actions as joint positions, which forward kinematics turns into tool poses.

The follower commands tool poses, so a chunk of joints becomes a chunk of poses; the joints stay in the chunk beside
them. On an arm of seven joints many postures hold one pose: the elbow is not commanded.

Sources: openpi `policies/droid_policy.py`, `training/config.py` (`DeltaActions`), `examples/droid/main.py`, whose
client closes the gripper beyond 0.5 and clips velocities to 1; DROID `droid/robot_ik/robot_ik_solver.py`, whose
velocity of 1 is 0.2 rad in one step of 1/15 s. It divides a row by its largest where that exceeds 1: after the clip
none does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from scipy.spatial.transform import Rotation

from grids_ros.datatypes import ActionChunk, Pose

if TYPE_CHECKING:  # it brings Pinocchio, which policies of poses do without
    from grids_ros.kinematics import Kinematics

DROID_STEP, DROID_HZ = 0.2, 15.0  # [rad] in one step, for a velocity of 1; steps per second
MAX_OFF_M, MAX_OFF_RAD = 0.03, 0.15  # how far forward kinematics may be from the measured pose


@dataclass(frozen=True)
class RobotModel:
    """urdf: the text of a URDF. base, tool: the frames that measured and commanded poses are of."""

    urdf: str
    base: str
    tool: str


@dataclass(frozen=True)
class JointState:
    """Joint positions [rad], then the gripper opening [m]. joints: their names, in order."""

    name: str
    description: str
    joints: tuple[str, ...] = ()
    version: int = 1

    @property
    def size(self) -> int:
        """How many numbers a state has."""
        return len(self.joints) + 1

    def of(self, joints: Sequence[str]) -> JointState:
        """The same for these joints."""
        return replace(self, joints=tuple(joints))

    def about(self, mean: np.ndarray, deviation: np.ndarray) -> JointState:
        """Joints are written in one way only."""
        return self

    def encode(self, pose: Pose, gripper: float, joints: np.ndarray | None = None) -> np.ndarray:
        """Of measured joint positions (n,) [rad] and the gripper opening [m]: (size,). Raises ValueError without."""
        return np.concatenate([_measured(joints, self.joints), [gripper]])


@dataclass(frozen=True)
class JointActions:
    """Actions of one number per joint and the gripper opening [m], and the chunk that they mean.

    kind: "position" [rad]; "offset" from the joints at the observation [rad]; "droid", velocities of which 1 is
    DROID_STEP in one step, at most 1; "velocity" [rad/s]. binary_m: the opening [m] of a gripper that is only told to
    be open or closed, None where any opening is meant. kinematics: needed by `to_chunk` alone.
    """

    name: str
    description: str
    kind: str
    joints: tuple[str, ...] = ()
    version: int = 1
    binary_m: float | None = None
    kinematics: Kinematics | None = field(default=None, compare=False)
    whole: ClassVar[bool] = False
    per_step: ClassVar[bool] = False

    @property
    def size(self) -> int:
        """How many numbers an action has."""
        return len(self.joints) + 1

    def of(self, joints: Sequence[str]) -> JointActions:
        """The same for these joints."""
        return replace(self, joints=tuple(joints))

    def on(self, kinematics: Kinematics) -> JointActions:
        """The same on a robot."""
        return replace(self, kinematics=kinematics)

    def about(self, states: tuple, actions: tuple) -> JointActions:
        """Joints are written in one way only."""
        return self

    def ways(self, actions: np.ndarray) -> np.ndarray:
        """Every way of writing actions (steps, size) that mean the same, (1, steps, size)."""
        return actions[None]

    def to_joints(self, measured: np.ndarray, actions: np.ndarray, step_s: float) -> np.ndarray:
        """Actions (steps, size) from measured joints (n,) to joint positions (steps, n) [rad]."""
        numbers = np.asarray(actions, np.float64)[:, :-1]
        if self.kind == "position":
            return numbers
        if self.kind == "offset":
            return measured + numbers
        step = DROID_STEP * numbers.clip(-1.0, 1.0) if self.kind == "droid" else step_s * numbers
        return measured + np.cumsum(step, axis=0)

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
        """Measured joints (n,), target joints (steps, n) [rad] and openings (steps,) [m] to actions (steps, size).

        The inverse of `to_joints` for steps within its limits. Raises ValueError without joints.
        """
        measured = _measured(measured, self.joints)
        if targets is None:
            raise ValueError("the chunk that is gone on from has no joints, expected one of this policy")
        numbers = np.asarray(targets, np.float64)
        if self.kind == "offset":
            numbers = numbers - measured
        elif self.kind != "position":
            moved = np.diff(numbers, axis=0, prepend=measured[None])
            numbers = moved / (DROID_STEP if self.kind == "droid" else step_s)
        return np.concatenate([numbers, np.reshape(gripper, (-1, 1))], axis=1)

    def to_chunk(
        self, stamp_ns: int, pose: Pose, actions: np.ndarray, step_s: float, measured: np.ndarray | None = None
    ) -> ActionChunk:
        """Stamp, measured pose and joints (n,), actions (steps, size), time between steps to the chunk.

        Raises ValueError without joints or kinematics, where forward kinematics disagrees with the measured pose, and
        JointLimitError for joints beyond their limits.
        """
        measured = _measured(measured, self.joints)
        if self.kinematics is None:
            raise ValueError("a policy of joints needs the robot's URDF")
        refuse_disagreement(pose, self.kinematics.pose(measured), self.kinematics)
        joints = self.to_joints(measured, actions, step_s)
        self.kinematics.check_limits(joints)
        positions, quaternions = self.kinematics.poses(joints)
        times = step_s * np.arange(1, len(actions) + 1)
        return ActionChunk(stamp_ns, times, positions, quaternions, self._openings(actions[:, -1]), joints)

    def _openings(self, openings: np.ndarray) -> np.ndarray:
        """As the hand is told them (steps,) [m]. Just half open is open, as DROID's clients have it."""
        if self.binary_m is None:
            return openings
        return np.where(openings < self.binary_m / 2.0, 0.0, self.binary_m)


def refuse_disagreement(measured: Pose, computed: Pose, kinematics: Kinematics) -> None:
    """Raises ValueError where forward kinematics is far from the measured pose: it is of another frame or robot."""
    off_m = float(np.linalg.norm(measured.position - computed.position))
    off_rad = float(
        (Rotation.from_quat(measured.quaternion) * Rotation.from_quat(computed.quaternion).inv()).magnitude()
    )
    if off_m > MAX_OFF_M or off_rad > MAX_OFF_RAD:
        raise ValueError(
            f"forward kinematics puts {kinematics.tool} {1e3 * off_m:.0f} mm and {off_rad:.2f} rad from current_pose, "
            f"expected at most {1e3 * MAX_OFF_M:g} mm and {MAX_OFF_RAD:g} rad: is it the same robot, with the "
            "same base and tool frames?"
        )


def _measured(joints: np.ndarray | None, names: Sequence[str]) -> np.ndarray:
    if joints is None or len(joints) != len(names):
        raise ValueError(f"the observation has no positions of the joints {', '.join(names)}")
    return np.asarray(joints, np.float64)


JOINTS = JointState("joints", "joint positions n [rad] | gripper opening 1 [m]")
POSITIONS = JointActions(
    "joint-positions", "joint positions n [rad] | gripper opening 1 [m]; of the target, absolute", "position"
)
OFFSETS = JointActions(
    "joint-offsets",
    "offsets n [rad] | gripper opening 1 [m]; of the target, from the measured joints at the observation; gripper "
    "absolute",
    "offset",
)
DROID = JointActions(
    "joint-droid",
    f"velocities n, of which 1 is {DROID_STEP} rad in one step, clipped to 1 | gripper opening 1 [m]; summed up from "
    "the measured joints at the observation; gripper absolute",
    "droid",
)
VELOCITIES = JointActions(
    "joint-velocities",
    "velocities n [rad/s] | gripper opening 1 [m]; summed up from the measured joints at the observation; gripper "
    "absolute",
    "velocity",
)

"""The arm's Cartesian behaviour: differential inverse kinematics that pulls the tool towards a target pose."""

from __future__ import annotations

import mink
import mujoco
import numpy as np

from grids_ros.datatypes import Pose
from grids_ros.sim import mujoco_model

PERIOD_S = 0.01  # of the servo [s]
_GAIN = 0.16  # part of the remaining error corrected in a period: a time constant of about 0.06 s


def to_se3(pose: Pose) -> mink.SE3:
    """A pose as mink's transform of tool to base; mink orders quaternions wxyz."""
    return mink.SE3(np.concatenate([np.roll(pose.quaternion, 1), pose.position]))


class ArmServo:
    """Follows target poses in joint space within the arm's position and velocity limits.

    It never jumps: a distant target is approached at the joints' velocity limits, an unreachable one as far as
    it goes. `joints` is the commanded configuration, shape (7,) [rad].
    """

    def __init__(self):
        arm = mujoco.MjModel.from_xml_string(mujoco_model.arm_xml())
        self._configuration = mink.Configuration(arm)
        self._frame = mink.FrameTask("tool", "site", position_cost=1.0, orientation_cost=0.3, gain=_GAIN)
        self._frame.lm_damping = 1e-4
        posture = mink.PostureTask(arm, cost=2e-3, gain=0.02)
        posture.set_target(np.array(mujoco_model.HOME))
        self._tasks = [self._frame, posture]
        speeds = dict(zip(mujoco_model.ARM_JOINTS, mujoco_model.VELOCITY_LIMITS, strict=True))
        self._limits = [mink.ConfigurationLimit(arm, gain=0.5), mink.VelocityLimit(arm, speeds)]

    @property
    def joints(self) -> np.ndarray:
        return self._configuration.q

    def reset(self, joints: np.ndarray) -> None:
        """Start from this configuration, shape (7,) [rad]."""
        self._configuration.update(np.asarray(joints, dtype=np.float64))

    def advance(self, target: Pose) -> np.ndarray:
        """One period towards `target`; the commanded configuration, shape (7,) [rad]."""
        self._frame.set_target(to_se3(target))
        velocity = mink.solve_ik(
            self._configuration, self._tasks, PERIOD_S, solver="daqp", damping=1e-5, limits=self._limits
        )
        self._configuration.integrate_inplace(velocity, PERIOD_S)
        return self._configuration.q

    def solve(self, target: Pose, joints: np.ndarray, periods: int = 200) -> np.ndarray:
        """The configuration reached from `joints` after `periods` towards `target`, without limits of time."""
        self.reset(joints)
        for _ in range(periods):
            self.advance(target)
        return self.joints.copy()

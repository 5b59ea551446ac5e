"""The scripted demonstrator: from what the scene is now to where the arm should go next, with no memory.

Being stateless it recovers from anything: pushed off, dropped or missed, the next target again starts from what
is there. Targets lead the measured pose by a bounded distance, which, with the arm's lag, is a bounded speed.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from grids_ros.datatypes import Pose
from grids_ros.sim import model
from grids_ros.sim.scene import DOWN, Scene
from grids_ros.sim.tasks import Task

PERIOD_S = 0.05  # how often to ask [s]
LIFTED_HEIGHT = 0.17  # of the tool, at the end of a lift [m]

_LEAD = 0.045  # greatest distance of a target from the measured pose [m]
_TURN = 0.20  # greatest angle of a target from the measured orientation [rad]
_HOVER = 0.09  # above the grasp while not yet over the cube [m]
_ALIGNED = 0.006  # within this horizontal distance the tool comes all the way down [m]
_GRASP_ZONE = 0.010  # within this of the cube's centre the fingers close [m]
_CLOSED_ON_CUBE = model.CUBE_SIDE + 0.003  # the opening below which a cube between the fingers is held [m]
_OPEN_ENOUGH = 0.07  # the fingers fit around a cube in any approach [m]


class Expert:
    """Lifts the cube that the task names."""

    def __init__(self, task: Task):
        self.task = task

    def act(self, scene: Scene) -> tuple[Pose, float]:
        """The next target of the tool, and the opening [m] asked of the gripper."""
        tool = scene.tool_pose()
        cube = scene.object_positions()[self.task.colour]
        turn = Rotation.from_quat(tool.quaternion)
        offset = cube - tool.position
        opening = scene.gripper_opening()
        around = np.linalg.norm(offset[:2]) < _GRASP_ZONE and abs(offset[2]) < _GRASP_ZONE
        if around:
            held = opening < _CLOSED_ON_CUBE
            goal = np.array([*tool.position[:2], LIFTED_HEIGHT]) if held else cube
            return _towards(tool, goal, _upright(turn, _yaw(turn))), 0.0
        yaw = _nearest_grasp_yaw(scene.object_quaternions()[self.task.colour], _yaw(turn))
        goal = self._approach(tool.position, cube, abs(yaw - _yaw(turn)), opening)
        return _towards(tool, goal, _upright(turn, yaw)), model.MAX_OPENING

    @staticmethod
    def _approach(tool: np.ndarray, cube: np.ndarray, misaligned: float, opening: float) -> np.ndarray:
        """A funnel over the cube: the further off to the side, the higher the tool must be."""
        aside = np.linalg.norm(cube[:2] - tool[:2])
        excess = max(0.0, 4.0 * (aside - _ALIGNED)) + max(0.0, 0.4 * (misaligned - 0.06))
        if opening < _OPEN_ENOUGH:
            excess = _HOVER
        height = cube[2] + min(_HOVER, excess)
        blocked = tool[2] < height - 0.025 and tool[2] < cube[2] + 0.05  # rise before moving sideways into the cube
        return np.array([*(tool[:2] if blocked else cube[:2]), height])


def _yaw(turn: Rotation) -> float:
    """The heading of the tool's x axis about the base's z axis [rad]."""
    x_axis = turn.as_matrix()[:, 0]
    return float(np.arctan2(x_axis[1], x_axis[0]))


def _upright(turn: Rotation, yaw: float) -> Rotation:
    """The tool pointing straight down with this heading."""
    return Rotation.from_euler("z", yaw) * Rotation.from_quat(DOWN)


def _nearest_grasp_yaw(cube_quaternion: np.ndarray, yaw: float) -> float:
    """The heading nearest to `yaw` at which the fingers meet two faces of the cube."""
    cube_yaw = _yaw(Rotation.from_quat(cube_quaternion))
    quarter = np.pi / 2
    return yaw + (cube_yaw - yaw + quarter / 2) % quarter - quarter / 2


def _towards(tool: Pose, goal: np.ndarray, goal_turn: Rotation) -> Pose:
    """A target on the way to the goal: no further ahead than the leads allow, easing off close to it."""
    step = goal - tool.position
    distance = np.linalg.norm(step)
    if distance > 1e-9:
        step = step * (_LEAD * np.tanh(distance / _LEAD) / distance)
    turn = Rotation.from_quat(tool.quaternion)
    rotation = (goal_turn * turn.inv()).as_rotvec()
    angle = np.linalg.norm(rotation)
    if angle > 1e-9:
        rotation = rotation * (_TURN * np.tanh(angle / _TURN) / angle)
    return Pose(tool.position + step, (Rotation.from_rotvec(rotation) * turn).as_quat())

"""The scripted demonstrator: from what the scene is now to where the arm should go next, with no memory.

Being stateless it recovers from anything: pushed off, dropped or missed, the next target again starts from what
is there. Targets lead the measured pose by a bounded distance, which, with the arm's lag, is a bounded speed.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from grids_ros.datatypes import Pose
from grids_ros.sim import mujoco_model
from grids_ros.sim.scene import DOWN, Scene
from grids_ros.sim.tasks import Task, in_place

PERIOD_S = 0.05  # how often to ask [s]
LIFTED_HEIGHT = 0.17  # of the tool, at the end of a lift [m]

_LEAD = 0.045  # greatest distance of a target from the measured pose [m]
_TURN = 0.20  # greatest angle of a target from the measured orientation [rad]
_HOVER = 0.09  # above the grasp while not yet over the cube [m]
_ALIGNED = 0.006  # within this horizontal distance the tool comes all the way down [m]
_GRASP_ZONE = 0.010  # within this of the cube's centre the fingers close [m]
_CLOSED_ON_CUBE = mujoco_model.CUBE_SIDE + 0.003  # the opening below which a cube between the fingers is held [m]
_OPEN_ENOUGH = 0.07  # the fingers fit around a cube in any approach [m]

_DROP = {"bowl": 0.050, "cube": mujoco_model.CUBE_SIDE + 0.002}  # of the cube above its target's centre when let go [m]
_CARRY = 0.05  # above that while not yet over the target [m]
_OVER = 0.003  # within this horizontal distance of the target's centre the cube comes all the way down [m]
_NEAR, _NEAR_LEAD = 0.06, 0.02  # so near the target [m] the lead is at most this [m]: time to see and to correct
_LET_GO = 0.004  # within this height of the drop the fingers open [m]
_RETREAT_HEIGHT = 0.20  # of the tool, once the cube is in its place [m]
_FINGER_REACH = 0.047  # of an open finger from the cube's centre [m]
_CUBE_ROOM, _BOWL_ROOM = 0.035, 0.075  # from there to the centre of another cube or of the bowl, at least [m]


class Expert:
    """Lifts the cube that the task names, and puts it where the task says."""

    def __init__(self, task: Task):
        self.task = task

    def act(self, scene: Scene) -> tuple[Pose, float]:
        """The next target of the tool, and the opening [m] asked of the gripper."""
        tool, positions, opening = scene.tool_pose(), scene.object_positions(), scene.gripper_opening()
        cube = positions[self.task.colour]
        turn = Rotation.from_quat(tool.quaternion)
        offset = np.abs(cube - tool.position)
        around = np.linalg.norm(offset[:2]) < _GRASP_ZONE and offset[2] < _GRASP_ZONE
        held = around and opening < _CLOSED_ON_CUBE
        asked, lead = 0.0, _LEAD
        if self.task.onto and self._arrived(cube, positions[self.task.onto]):
            goal, asked = self._retreat(tool.position, cube, opening), mujoco_model.MAX_OPENING
        elif held and self.task.onto:
            target = positions[self.task.onto]
            goal = self._carry(tool.position, cube, target)
            lead = _NEAR_LEAD if np.linalg.norm((cube - target)[:2]) < _NEAR else _LEAD
        elif held:
            goal = np.array([*tool.position[:2], LIFTED_HEIGHT])
        elif around:
            goal = cube
        else:
            yaw = self._grasp_yaw(scene, _yaw(turn))
            goal = self._approach(tool.position, cube, abs(yaw - _yaw(turn)), opening)
            return _towards(tool, goal, _upright(turn, yaw), _LEAD), mujoco_model.MAX_OPENING
        return _towards(tool, goal, _upright(turn, _yaw(turn)), lead), asked

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

    def _arrived(self, cube: np.ndarray, target: np.ndarray) -> bool:
        """Whether the fingers may let go of the cube, or have: it is in its place, or just above it."""
        over = np.linalg.norm(cube[:2] - target[:2]) < 2 * _ALIGNED
        low = cube[2] - target[2] < _drop(self.task.onto) + _LET_GO
        return (over and low) or in_place(cube, self.task.onto, target)

    def _carry(self, tool: np.ndarray, cube: np.ndarray, target: np.ndarray) -> np.ndarray:
        """A funnel over the target, for the cube in the hand."""
        aside = target[:2] - cube[:2]
        drop = target[2] + _drop(self.task.onto)
        height = drop + min(_CARRY, max(0.0, 8.0 * (np.linalg.norm(aside) - _OVER)))
        blocked = cube[2] < height - 0.025  # rise before moving sideways into the target
        return np.array([*(tool[:2] if blocked else tool[:2] + aside), tool[2] + height - cube[2]])

    @staticmethod
    def _retreat(tool: np.ndarray, cube: np.ndarray, opening: float) -> np.ndarray:
        """Straight up, once the fingers are off the cube."""
        beside = np.abs(tool - cube).max() < 0.05 and opening < _OPEN_ENOUGH
        return tool if beside else np.array([*tool[:2], _RETREAT_HEIGHT])

    def _grasp_yaw(self, scene: Scene, yaw: float) -> float:
        """The heading nearest to `yaw` at which the fingers meet two faces of the cube and nothing else."""
        positions = scene.object_positions()
        cube = positions.pop(self.task.colour)
        turn = Rotation.from_quat(scene.object_quaternions()[self.task.colour]).as_matrix()
        level = turn[:2, np.abs(turn[2]).argmin()]  # an edge that lies level, whichever face is up
        quarter = np.pi / 2
        nearest = yaw + (np.arctan2(level[1], level[0]) - yaw + quarter / 2) % quarter - quarter / 2

        def room(heading: float) -> float:
            aside = _FINGER_REACH * np.array([-np.sin(heading), np.cos(heading)])
            return min(
                np.linalg.norm(finger - other[:2]) - (_BOWL_ROOM if name == "bowl" else _CUBE_ROOM)
                for finger in (cube[:2] + aside, cube[:2] - aside)
                for name, other in positions.items()
            )

        across = nearest - np.copysign(quarter, nearest)  # the other pair of faces, never further from straight ahead
        return nearest if room(nearest) > 0.0 else max((nearest, across), key=room)


def _drop(onto: str) -> float:
    """Height of a cube above its target's centre at which it is let go [m]."""
    return _DROP["bowl" if onto == "bowl" else "cube"]


def _yaw(turn: Rotation) -> float:
    """The heading of the tool's x axis about the base's z axis [rad]."""
    x_axis = turn.as_matrix()[:, 0]
    return float(np.arctan2(x_axis[1], x_axis[0]))


def _upright(turn: Rotation, yaw: float) -> Rotation:
    """The tool pointing straight down with this heading."""
    return Rotation.from_euler("z", yaw) * Rotation.from_quat(DOWN)


def _towards(tool: Pose, goal: np.ndarray, goal_turn: Rotation, lead: float) -> Pose:
    """A target on the way to the goal: no further ahead than `lead` [m] and _TURN, easing off close to it."""
    step = goal - tool.position
    distance = np.linalg.norm(step)
    if distance > 1e-9:
        step = step * (lead * np.tanh(distance / lead) / distance)
    turn = Rotation.from_quat(tool.quaternion)
    rotation = (goal_turn * turn.inv()).as_rotvec()
    angle = np.linalg.norm(rotation)
    if angle > 1e-9:
        rotation = rotation * (_TURN * np.tanh(angle / _TURN) / angle)
    return Pose(tool.position + step, (Rotation.from_rotvec(rotation) * turn).as_quat())

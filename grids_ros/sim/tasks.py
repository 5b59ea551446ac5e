"""What the arm can be asked to do: the words, and how success and mistakes are told from the scene.

Three families, after the paper's tasks on a real robot: lift a cube, put it into the bowl, stack it on another cube.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from grids_ros.sim import mujoco_model
from grids_ros.sim.scene import Scene

LIFT_HEIGHT = 0.05  # above where the cube rests on the table [m]
HOLD_S = 0.5  # how long success must last [s]
SETTLED_SPEED = 0.02  # of a cube that has come to rest, at most [m/s]

_BOWL_REACH = mujoco_model.BOWL_RADIUS - 0.01  # a cube's centre lies no further than this from the bowl's axis [m]
_BOWL_DEPTH = mujoco_model.BOWL_HEIGHT + 0.015  # nor higher than this above the bowl's foot [m]
_STACK_REACH = mujoco_model.CUBE_SIDE / 2  # the upper cube's centre of mass is over the lower cube [m]
_STACK_HEIGHT = 0.008  # greatest deviation from one side between the centres' heights [m]

_WORDS = {
    "lift": "lift the {colour} cube",
    "bowl": "put the {colour} cube into the bowl",
    "stack": "stack the {colour} cube on the {onto} cube",
}
_DONE = {"lift": "lifted", "bowl": "in the bowl", "stack": "stacked"}


@dataclass(frozen=True)
class Task:
    """A goal in a scene. `name` is the family, `colour` the cube to move, `onto` where it goes: an object, or ""."""

    name: str
    colour: str
    onto: str = ""

    @property
    def instruction(self) -> str:
        return _WORDS[self.name].format(colour=self.colour, onto=self.onto)

    @property
    def done(self) -> str:
        """What the cube is after success, in words."""
        return _DONE[self.name]

    @property
    def objects(self) -> tuple[str, ...]:
        """What the instruction names, the cube to move first."""
        return (self.colour, self.onto) if self.onto else (self.colour,)

    def success(self, scene: Scene) -> bool:
        """Whether the goal holds now; see `SuccessMonitor` for how long it must."""
        return placed(scene, self.colour, self.onto) if self.onto else lifted(scene, self.colour)

    def wrong(self, scene: Scene) -> tuple[str, ...]:
        """Objects that a mistake is made with now: another cube lifted, or the right one put in another place."""
        taken = [colour for colour in mujoco_model.COLOURS if colour != self.colour and lifted(scene, colour)]
        places = [name for name in mujoco_model.OBJECTS if self.onto and name not in self.objects]
        return (*taken, *(name for name in places if placed(scene, self.colour, name)))


LIFT_TASKS = tuple(Task("lift", colour) for colour in mujoco_model.COLOURS)
BOWL_TASKS = tuple(Task("bowl", colour, "bowl") for colour in mujoco_model.COLOURS)
STACK_TASKS = tuple(Task("stack", colour, onto) for colour, onto in permutations(mujoco_model.COLOURS, 2))
LIFT_INSTRUCTIONS = tuple(task.instruction for task in LIFT_TASKS)
TASKS = {"lift": LIFT_TASKS, "bowl": BOWL_TASKS, "stack": STACK_TASKS}


def task_of(instruction: str) -> Task:
    """The task with this instruction. Raises ValueError that lists the known ones."""
    known = {task.instruction: task for family in TASKS.values() for task in family}
    if instruction not in known:
        raise ValueError(f"no task is called {instruction!r}; known: {', '.join(known)}")
    return known[instruction]


def in_turn(families: Sequence[str]) -> tuple[Task, ...]:
    """One round in which each family has as many turns as any other, and each task within a family too."""
    longest = max(len(TASKS[name]) for name in families)
    return tuple(TASKS[name][turn % len(TASKS[name])] for turn in range(longest) for name in families)


def lifted(scene: Scene, colour: str) -> bool:
    """Whether this cube is held by the gripper, at least `LIFT_HEIGHT` above its place on the table."""
    height = scene.object_positions()[colour][2] - mujoco_model.CUBE_SIDE / 2
    return bool(height >= LIFT_HEIGHT and scene.grasped(colour))


def in_place(cube: np.ndarray, onto: str, target: np.ndarray) -> bool:
    """Whether a cube's centre is inside the bowl, or on another cube; both centres (3,) in the base frame [m]."""
    aside, above = np.linalg.norm(cube[:2] - target[:2]), cube[2] - target[2]
    if onto == "bowl":
        return bool(aside < _BOWL_REACH and above < _BOWL_DEPTH)
    return bool(aside < _STACK_REACH and abs(above - mujoco_model.CUBE_SIDE) < _STACK_HEIGHT)


def placed(scene: Scene, colour: str, onto: str) -> bool:
    """Whether this cube is in its place, at rest, and no finger touches it."""
    positions = scene.object_positions()
    if not in_place(positions[colour], onto, positions[onto]):
        return False
    return scene.object_speed(colour) < SETTLED_SPEED and not scene.touched(colour)


class SuccessMonitor:
    """Success that lasts: true once the task's goal has held for `HOLD_S` without a break."""

    def __init__(self, task: Task):
        self._task = task
        self._since: float | None = None

    def update(self, scene: Scene) -> bool:
        """Look at the scene now; call this at least every 0.1 s."""
        if not self._task.success(scene):
            self._since = None
            return False
        if self._since is None:
            self._since = scene.time_s
        return scene.time_s - self._since >= HOLD_S

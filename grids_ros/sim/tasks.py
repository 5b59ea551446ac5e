"""What the arm can be asked to do: the words, and how success is told from the scene."""

from __future__ import annotations

from dataclasses import dataclass

from grids_ros.sim import model
from grids_ros.sim.scene import Scene

LIFT_HEIGHT = 0.05  # above where the cube rests on the table [m]
HOLD_S = 0.5  # how long success must last [s]


@dataclass(frozen=True)
class Task:
    """A goal in a scene. `name` is the family, `colour` the cube that it is about."""

    name: str
    colour: str

    @property
    def instruction(self) -> str:
        return f"lift the {self.colour} cube"

    def success(self, scene: Scene) -> bool:
        """Whether the goal holds now; see `SuccessMonitor` for how long it must."""
        return lifted(scene, self.colour)


LIFT_TASKS = tuple(Task("lift", colour) for colour in model.COLOURS)
LIFT_INSTRUCTIONS = tuple(task.instruction for task in LIFT_TASKS)
TASKS = {"lift": LIFT_TASKS}


def task_of(instruction: str) -> Task:
    """The task with this instruction. Raises ValueError that lists the known ones."""
    for family in TASKS.values():
        for task in family:
            if task.instruction == instruction:
                return task
    known = [task.instruction for family in TASKS.values() for task in family]
    raise ValueError(f"no task is called {instruction!r}; known: {', '.join(known)}")


def lifted(scene: Scene, colour: str) -> bool:
    """Whether this cube is held by the gripper, at least `LIFT_HEIGHT` above its place on the table."""
    height = scene.object_positions()[colour][2] - model.CUBE_SIDE / 2
    return bool(height >= LIFT_HEIGHT and scene.grasped(colour))


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

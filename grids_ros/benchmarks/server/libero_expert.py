"""A scripted expert for LIBERO's pick-and-place tasks, on the simulator's own state.

It grasps the object that the goal names, across its narrowest side or, for a bowl, at its rim, and puts it where the
goal says. A grasp that fails is seen (`failed`); another `attempt` tries another way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

METRES, RADIANS = 0.05, 0.5  # of one unit of an action
OPEN, CLOSE = -1.0, 1.0
FINGER = 0.045  # how far the fingers reach below the palm [m]
WIDEST = 0.074  # between the open fingers, with some room [m]
RIM_INSET, RIM_DEPTH = 0.006, 0.020  # of a grasp at the rim: inwards, and below its top [m]
CLEARANCE = 0.06  # below the carried object, over what it is carried to [m]
VERTICES = 2000  # of a mesh: more say nothing more
MESH = 7  # mujoco.mjtGeom.mjGEOM_MESH


class Unsolvable(Exception):
    """The task is none of picking up one object and placing it."""


@dataclass(frozen=True)
class Grasp:
    """position: of the tool (3,) [m], world. rotation: of the tool (3, 3). top: of the object [m]."""

    position: np.ndarray
    rotation: np.ndarray
    top: float


class Expert:
    """One attempt at the task from the state that the environment is in."""

    def __init__(self, env, attempt: int = 0):
        """env: robosuite's. Raises Unsolvable for a goal that is not one object in or on another."""
        goals = env.parsed_problem["goal_state"]
        if len(goals) != 1 or len(goals[0]) != 3 or goals[0][0] not in ("in", "on"):
            raise Unsolvable(f"its goal is {goals}, expected one object in or on another")
        self._env, self._attempt = env, attempt
        self._target = goals[0][1]
        self._place = next((n for n in sorted(env.obj_body_id, key=len) if goals[0][2].startswith(n)), None)
        if self._target not in env.obj_body_id or self._place is None:
            raise Unsolvable(f"it places {self._target} {goals[0][0]} {goals[0][2]}, expected two movable objects")
        self._bowl = "bowl" in self._target
        self.ended = self.failed = False
        self._actions = self._script()

    def act(self) -> np.ndarray:
        """The next action (7,); after the end the tool stays where it is, open."""
        action = next(self._actions, None)
        if action is None:
            self.ended = True
            action = np.array([0.0] * 6 + [OPEN])
        return action

    def places(self) -> np.ndarray:
        """Where the object that it moves is, and what it puts that on or in: (2, 3) [m], world."""
        return np.stack([self._position(self._target), self._position(self._place)])

    # --- what it does ---------------------------------------------------------------------------------------------

    def _script(self) -> Iterator[np.ndarray]:
        resting = self._position(self._target)[2]
        grasp = self._grasp()
        above = np.array([*grasp.position[:2], max(grasp.position[2] + 0.10, grasp.top + 0.06)])
        yield from self._move(lambda: above, grasp.rotation, OPEN, within=0.010, turned=0.08, steps=90, level=True)
        yield from self._move(lambda: grasp.position, grasp.rotation, OPEN, within=0.007, steps=50, speed=0.7)
        yield from self._move(lambda: grasp.position, grasp.rotation, CLOSE, within=-1.0, steps=12)
        held_at = self._tool()
        below = self._points(self._target)[:, 2].min() - held_at[2]
        carry = max(self._points(self._place)[:, 2].max() + CLEARANCE - below, held_at[2] + 0.10)
        lift = np.array([*held_at[:2], carry])
        yield from self._move(lambda: lift, grasp.rotation, CLOSE, within=0.03, steps=60)
        if self._position(self._target)[2] < resting + 0.03:
            self.failed = True
            return
        over = lambda: np.array([*self._over(), carry])  # noqa: E731  the object may slip in the hand
        yield from self._move(over, grasp.rotation, CLOSE, within=0.006, steps=70, level=True)
        if self._position(self._target)[2] < resting + 0.03:
            self.failed = True
            return
        low = self._release_height()
        yield from self._move(
            lambda: np.array([*self._over(), low]), grasp.rotation, CLOSE, within=0.010, steps=45, speed=0.5, sink=True
        )
        release = self._tool()
        yield from self._move(lambda: release, grasp.rotation, OPEN, within=-1.0, steps=8)
        away = release + [0.0, 0.0, 0.15]
        yield from self._move(lambda: away, grasp.rotation, OPEN, within=0.02, steps=16)

    def _move(
        self,
        goal: Callable[[], np.ndarray],
        rotation: np.ndarray,
        gripper: float,
        within: float,
        steps: int,
        turned: float = np.inf,
        speed: float = 1.0,
        level: bool = False,
        sink: bool = False,
    ) -> Iterator[np.ndarray]:
        """Actions towards a goal until the tool is `within` [m] of it and `turned` [rad], at most `steps`.

        level: count the horizontal distance alone; sink: the vertical one.
        """
        for _ in range(steps):
            error = goal() - self._tool()
            turn = _rotation_vector(rotation @ self._rotation().T)
            distance = np.linalg.norm(error[:2]) if level else abs(error[2]) if sink else np.linalg.norm(error)
            if distance < within and np.linalg.norm(turn) < turned:
                return
            translation = np.clip(1.6 * error / METRES, -speed, speed)
            yield np.array([*translation, *np.clip(1.2 * turn / RADIANS, -0.5, 0.5), gripper])

    # --- where it goes --------------------------------------------------------------------------------------------

    def _grasp(self) -> Grasp:
        points = self._points(self._target)
        low, top = points[:, 2].min(), points[:, 2].max()
        level = self._level()
        return self._rim(points, low, top, level) if self._bowl else self._across(points, low, top, level)

    def _across(self, points: np.ndarray, low: float, top: float, level: np.ndarray) -> Grasp:
        """Between the two sides that are nearest to each other, at about half its height."""
        height = max(low + (0.55 if top - low > 0.06 else 0.5) * (top - low), top - FINGER)
        heading, width, centre = _narrowest(points, height)
        closing = self._closing(level)
        turn = _half_turn(heading - closing) if width <= WIDEST else 0.0
        if self._attempt % 2:
            turn = _half_turn(turn + np.pi / 2)
        return Grasp(np.array([*centre, height]), _about_z(turn) @ level, top)

    def _rim(self, points: np.ndarray, low: float, top: float, level: np.ndarray) -> Grasp:
        """One finger inside a bowl and one outside, on the side where they meet nothing else."""
        centre = (points[:, :2].max(0) + points[:, :2].min(0)) / 2
        radius = np.ptp(points[:, :2], axis=0).mean() / 2
        closing = self._closing(level)
        near = np.concatenate([self._points(n) for n in self._env.obj_body_id if n != self._target])
        near = near[near[:, 2] > low + 0.3 * (top - low)]

        def cost(side: tuple[int, float]) -> float:
            sign, turn = side
            outward = sign * _direction(closing + turn)
            grasp = centre + outward * (radius - RIM_INSET)
            along, across = (near[:, :2] - grasp) @ outward, (near[:, :2] - grasp) @ (outward[1], -outward[0])
            fingers = (abs(along) < 0.06) & (abs(across) < 0.025) & (near[:, 2] > top - 0.03)
            palm = (abs(along) < 0.11) & (abs(across) < 0.04) & (near[:, 2] > top + 0.05)
            far = outward @ (0.3, 1.0) > 0.0
            return 10.0 * (int(fingers.any()) + int(palm.any())) + abs(turn) + 0.1 * far

        sides = sorted(((s, t) for s in (1, -1) for t in (0.0, 0.4, -0.4, 0.8, -0.8)), key=cost)
        sign, turn = sides[self._attempt % len(sides)]
        outward = sign * _direction(closing + turn)
        position = np.array([*(centre + outward * (radius - RIM_INSET)), top - RIM_DEPTH])
        return Grasp(position, _about_z(turn) @ level, top)

    def _over(self) -> np.ndarray:
        """Where the tool has to be (2,) for the object to be over its place: success counts the bodies' origins."""
        return (self._position(self._place) - self._position(self._target) + self._tool())[:2]

    def _release_height(self) -> float:
        """Of the tool, when the object is just above what it is put on, or inside what it is put into [m]."""
        below = self._points(self._target)[:, 2].min() - self._tool()[2]
        if self._bowl:
            return self._position(self._place)[2] + 0.006 - below
        return self._points(self._place)[:, 2].max() - 0.05 - below

    # --- the simulator's state ------------------------------------------------------------------------------------

    def _tool(self) -> np.ndarray:
        return self._env.sim.data.site_xpos[self._env.robots[0].eef_site_id].copy()

    def _rotation(self) -> np.ndarray:
        return self._env.sim.data.site_xmat[self._env.robots[0].eef_site_id].reshape(3, 3).copy()

    def _position(self, name: str) -> np.ndarray:
        return self._env.sim.data.body_xpos[self._env.obj_body_id[name]].copy()

    def _level(self) -> np.ndarray:
        """The orientation nearest to the present one that points straight down."""
        x = self._rotation()[:, 0].copy()
        x[2] = 0.0
        x /= np.linalg.norm(x)
        z = np.array([0.0, 0.0, -1.0])
        return np.stack([x, np.cross(z, x), z], axis=1)

    def _closing(self, rotation: np.ndarray) -> float:
        """Heading along which the fingers close when the tool has this rotation [rad]."""
        model, data = self._env.sim.model, self._env.sim.data
        fingers = [data.body_xpos[model.body_name2id(f"gripper0_{side}finger")] for side in ("left", "right")]
        across = rotation @ self._rotation().T @ (fingers[0] - fingers[1])
        return float(np.arctan2(across[1], across[0]))

    def _points(self, name: str) -> np.ndarray:
        """World vertices (n, 3) of an object's meshes, and of its colliding boxes."""
        model, data = self._env.sim.model._model, self._env.sim.data._data
        root, found = self._env.obj_body_id[name], []
        for geom in range(model.ngeom):
            body = model.geom_bodyid[geom]
            while body not in (0, root):
                body = model.body_parentid[body]
            if body != root:
                continue
            if model.geom_type[geom] == MESH:
                mesh = model.geom_dataid[geom]
                start, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
                local = model.mesh_vert[start : start + count : max(1, count // VERTICES)]
            elif model.geom_contype[geom] or model.geom_conaffinity[geom]:
                corners = np.array(np.meshgrid(*[(-1, 1)] * 3)).reshape(3, -1).T
                local = corners * model.geom_size[geom]
            else:
                continue
            found.append(local @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom])
        return np.concatenate(found)


def _narrowest(points: np.ndarray, height: float) -> tuple[float, float, np.ndarray]:
    """Heading [rad] across which the slice around a height is narrowest, its width [m], and its centre (2,)."""
    flat = points[abs(points[:, 2] - height) < 0.012, :2]
    if len(flat) < 8:
        flat = points[:, :2]
    best = (0.0, np.inf, np.zeros(2))
    for heading in np.linspace(0.0, np.pi, 36, endpoint=False):
        along, across = _direction(heading), _direction(heading + np.pi / 2)
        a, b = flat @ along, flat @ across
        width = float(np.ptp(a))
        if width < best[1] - 1e-3:
            best = (float(heading), width, along * (a.max() + a.min()) / 2 + across * (b.max() + b.min()) / 2)
    return best


def _direction(heading: float) -> np.ndarray:
    return np.array([np.cos(heading), np.sin(heading)])


def _half_turn(angle: float) -> float:
    """The same heading of the fingers, within a quarter turn."""
    return float((angle + np.pi / 2) % np.pi - np.pi / 2)


def _about_z(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _rotation_vector(matrix: np.ndarray) -> np.ndarray:
    """Of a rotation by less than half a turn."""
    angle = np.arccos(np.clip((np.trace(matrix) - 1.0) / 2.0, -1.0, 1.0))
    axis = np.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]])
    length = np.linalg.norm(axis)
    return axis * (angle / length) if length > 1e-9 else np.zeros(3)

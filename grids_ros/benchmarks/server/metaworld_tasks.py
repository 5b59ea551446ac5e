"""Meta-World as tasks to reset and step: T. Yu et al., Meta-World, arXiv 1910.10897; the `metaworld` package, 3.1.

The arm holds a mocap body that moves by up to 0.01 m per step at 80 Hz; the hand's orientation is fixed. Actions have
the layout and units of LIBERO's: translation from the measured hand (0.05 m per unit) in world axes, three rotations
that this arm cannot execute, and the gripper, -1 opens and +1 closes.
The package draws goals anew at each reset; initial state k is the draw of seed k. Tasks have no sentences: the
instruction is the task's name.
"""

from __future__ import annotations

import os
from importlib.metadata import version

os.environ.setdefault("MUJOCO_GL", "egl")

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS, MT10_V3
from metaworld.policies import ENV_POLICY_MAP

SUITES = {"metaworld_mt10": MT10_V3, "metaworld_mt50": ALL_V3_ENVIRONMENTS}
RATE_HZ = 80.0
LIMIT_STEPS = 500  # as the authors': max_path_length
STATES = 50  # fixed initial states of a task, as the authors' benchmarks have goals
RANDOM_SEED = 10_000  # of the first random placement
STEP_M = 0.01  # what the mocap body moves in one step, at most
METRES = 0.05  # of one unit
HALF_STROKE = 0.05  # [m]: half of the gripper's stroke, which the package tells as 0 to 1
CAMERAS = ("corner2", "gripperPOV", "topview", "behindGripper")
JOINTS = tuple(f"right_j{i}" for i in range(7))


class MetaWorld:
    """One suite; one task's environment at a time."""

    def __init__(self, suite: str):
        """Raises ValueError for an unknown suite."""
        if suite not in SUITES:
            raise ValueError(f"unknown suite {suite!r}, expected one of {', '.join(sorted(SUITES))}")
        self._environments = SUITES[suite]
        self._names = list(self._environments)
        self._task, self._env, self._expert = -1, None, None
        self._renderers: dict[int, mujoco.Renderer] = {}
        self._observed = np.zeros(0)
        self._success = False

    def describe(self) -> dict:
        """The tasks by number, and what stays the same in all of them."""
        return {
            "tasks": self._names,
            "rate_hz": RATE_HZ,
            "limit_steps": LIMIT_STEPS,
            "states": STATES,
            "cameras": list(CAMERAS),
            "joints": list(JOINTS),
            "versions": {
                "metaworld": version("metaworld"),
                "mujoco": mujoco.__version__,
                "numpy": np.__version__,
            },
        }

    def reset(self, task: int, state: int) -> dict:
        """One of the fixed initial states of a task. Raises ValueError for a number that it lacks."""
        if not 0 <= state < STATES:
            raise ValueError(f"initial state {state}, a task has 0 to {STATES - 1}")
        return self._begin(task, state)

    def randomize(self, task: int, seed: int) -> dict:
        """A placement that is no fixed initial state: for demonstrations."""
        return self._begin(task, RANDOM_SEED + seed)

    def step(self, action: np.ndarray) -> dict:
        """Advance by 1 / RATE_HZ s. Raises ValueError for a shape other than (7,), or NaN."""
        action = np.asarray(action, np.float64)
        if action.shape != (7,) or not np.isfinite(action).all():
            raise ValueError(f"action has shape {action.shape}, expected (7,) of finite numbers")
        env = self._env
        wanted = env.get_endeff_pos() + METRES * np.clip(action[:3], -1.0, 1.0)
        move = np.clip((wanted - env.data.mocap_pos[0]) / STEP_M, -1.0, 1.0)
        self._observed, *_, told = env.step(np.append(move, np.clip(action[6], -1.0, 1.0)))
        self._success = bool(told["success"])
        return self._measure()

    def render(self, camera: str, size: int) -> np.ndarray:
        """uint8 RGB (size, size, 3)."""
        if camera not in CAMERAS:
            raise ValueError(f"unknown camera {camera!r}, expected one of {', '.join(CAMERAS)}")
        if size not in self._renderers:
            self._renderers[size] = mujoco.Renderer(self._env.model, int(size), int(size))
        renderer = self._renderers[size]
        renderer.update_scene(self._env.data, camera=camera)
        image = renderer.render()
        # The scene holds the camera `corner2` upside down.
        return np.ascontiguousarray(image[::-1, ::-1] if camera == "corner2" else image)

    def expert(self, attempt: int = 0, restart: bool = False) -> dict:
        """The package's scripted policy: its next action; it neither ends nor notices that it has failed."""
        if restart or self._expert is None:
            self._expert = ENV_POLICY_MAP[self._names[self._task]]()
        move = np.asarray(self._expert.get_action(self._observed), np.float64)
        wanted = self._env.data.mocap_pos[0] + STEP_M * np.clip(move[:3], -1.0, 1.0)
        ahead = (wanted - self._env.get_endeff_pos()) / METRES
        action = np.concatenate([ahead, np.zeros(3), move[3:]])
        return {"action": action, "ended": False, "failed": False, "places": np.zeros((0, 3))}

    def close(self) -> None:
        """Frees what renders."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
        if self._env is not None:
            self._env.close()
            self._env = None

    def _begin(self, task: int, seed: int) -> dict:
        if not 0 <= task < len(self._names):
            raise ValueError(f"task {task}, the suite has 0 to {len(self._names) - 1}")
        if task != self._task:
            self.close()
            self._env, self._task = self._environments[self._names[task]](), task
            # What `set_task` does with a pickled task: the goal is seen, and drawn at each reset.
            self._env._partially_observable, self._env._set_task_called = False, True
            self._env._freeze_rand_vec, self._env.seeded_rand_vec = False, True
            vars(self._env).pop("sawyer_observation_space", None)
        self._env.seed(seed)
        self._observed, _ = self._env.reset()
        self._expert, self._success = None, False
        return self._measure()

    def _measure(self) -> dict:
        data = self._env.data
        half = HALF_STROKE * float(self._observed[3])
        return {
            "position": self._env.get_endeff_pos().copy(),
            "quaternion": np.roll(data.body("hand").xquat, -1),
            "fingers": np.array([half, -half]),
            "joints": data.qpos[:7].copy(),
            "success": self._success,
            "instruction": self._names[self._task].removesuffix("-v3").replace("-", " "),
        }

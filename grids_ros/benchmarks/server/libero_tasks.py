"""LIBERO and LIBERO-PRO as tasks to reset and step: B. Liu et al., LIBERO, arXiv 2306.03310.

Actions are those of robosuite's OSC_POSE controller at 20 Hz: seven numbers in [-1, 1], translation (0.05 m per unit)
and rotation vector (0.5 rad per unit) in world axes, and the gripper, -1 opens and +1 closes. Images are turned by half
a turn, as LIBERO's data and every policy that is trained on it have them.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

os.environ.setdefault("MUJOCO_GL", "egl")

import mujoco
import numpy as np
from libero.libero import benchmark as suites
from libero.libero import get_libero_path
from libero.libero.envs import OffScreenRenderEnv
from libero_expert import Expert, Unsolvable

PHYSICS = "3.3.0"  # of MuJoCo: with 3.17 and 4.0 objects slide where they should rest
RATE_HZ = 20.0
SETTLE_STEPS = 10  # as openpi's evaluation: objects are dropped onto the table
JITTER, RANGE = 0.006, 0.04  # of placements [m]
OPEN = np.array([0.0] * 6 + [-1.0])
CAMERAS = ("agentview", "robot0_eye_in_hand")
JOINTS = tuple(f"panda_joint{i}" for i in range(1, 8))
REWORDED = ("_lan", "_task")  # LIBERO-PRO's suites whose words are not those of the task's name
LIMITS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}


class Libero:
    """One suite; one task's environment at a time, for several in a process take gigabytes."""

    def __init__(self, suite: str):
        """Raises ValueError for an unknown suite or another version of MuJoCo."""
        if mujoco.__version__ != PHYSICS:
            raise ValueError(f"MuJoCo is {mujoco.__version__}, LIBERO's scenes need {PHYSICS}: run `make libero`")
        known = {name: make for name, make in suites.get_benchmark_dict().items() if name.startswith(tuple(LIMITS))}
        if suite not in known:
            raise ValueError(f"unknown suite {suite!r}, expected one of {', '.join(sorted(known))}")
        self._suite, self._name = known[suite](), suite
        try:
            self._states = len(self._suite.get_task_init_states(0)) if self._scene(0).exists() else 0
        except (OSError, IndexError):
            self._states = 0
        if not self._states:
            raise ValueError(f"{suite}: its files are not in this installation of LIBERO")
        self._task = -1
        self._wrapper = None
        self._instruction = ""
        self._expert: Expert | None = None

    def describe(self) -> dict:
        """The tasks by number, and what stays the same in all of them."""
        base = max((name for name in LIMITS if self._name.startswith(name)), key=len)
        return {
            "tasks": [self._suite.get_task(i).name for i in range(self._suite.n_tasks)],
            "rate_hz": RATE_HZ,
            "limit_steps": LIMITS[base],
            "states": self._states,
            "cameras": list(CAMERAS),
            "joints": list(JOINTS),
            "versions": {"mujoco": mujoco.__version__, "numpy": np.__version__},
        }

    def _scene(self, task: int) -> Path:
        """The file that describes it."""
        chosen = self._suite.get_task(task)
        return Path(get_libero_path("bddl_files")) / chosen.problem_folder / chosen.bddl_file

    def reset(self, task: int, state: int) -> dict:
        """One of the benchmark's fixed initial states of a task. Raises ValueError for a number that it lacks."""
        states = self._suite.get_task_init_states(self._check(task))
        if not 0 <= state < len(states):
            raise ValueError(f"initial state {state}, task {task} has 0 to {len(states) - 1}")
        self._make(task)
        self._wrapper.seed(state)  # places of fixtures, which no state holds
        self._wrapper.reset()
        self._wrapper.sim.set_state_from_flattened(states[state])
        return self._settle()

    def randomize(self, task: int, seed: int) -> dict:
        """A placement drawn anew, never a fixed initial state: for demonstrations.

        robosuite draws it; where it drops an object outside of the fixed states' range (one that belongs into a drawer
        falls beside it), a fixed state with every object moved by some millimetres takes its place.
        """
        self._make(self._check(task))
        self._wrapper.seed(seed)
        self._wrapper.reset()
        measured = self._settle()
        states = self._suite.get_task_init_states(task)
        if self._in_range(states):
            return measured
        draw = np.random.default_rng(seed)
        state = states[draw.integers(len(states))].copy()
        for first in self._addresses():
            state[1 + first : 3 + first] += np.clip(draw.normal(0.0, JITTER, 2), -2 * JITTER, 2 * JITTER)
        self._wrapper.seed(seed)
        self._wrapper.reset()
        self._wrapper.sim.set_state_from_flattened(state)
        return self._settle()

    def _addresses(self) -> list[int]:
        """Where the position of each movable object begins in qpos; a flattened state has the time before it."""
        model = self._wrapper.sim.model
        joints = [body.joints[0] for body in self._wrapper.env.objects_dict.values() if body.joints]
        return [model.get_joint_qpos_addr(joint)[0] for joint in joints]

    def _in_range(self, states: np.ndarray) -> bool:
        """Whether every object lies within the range of the fixed states, and some centimetres around it."""
        now = self._wrapper.sim.get_state().qpos
        for first in self._addresses():
            known = states[:, 1 + first : 4 + first]
            low, high = known.min(0) - RANGE, known.max(0) + RANGE
            if not ((now[first : first + 3] >= low) & (now[first : first + 3] <= high)).all():
                return False
        return True

    def step(self, action: np.ndarray) -> dict:
        """Advance by 1 / RATE_HZ s. Raises ValueError for a shape other than (7,), or NaN."""
        action = np.asarray(action, np.float64)
        if action.shape != (7,) or not np.isfinite(action).all():
            raise ValueError(f"action has shape {action.shape}, expected (7,) of finite numbers")
        self._wrapper.env.step(np.clip(action, -1.0, 1.0))
        return self._measure()

    def render(self, camera: str, size: int) -> np.ndarray:
        """uint8 RGB (size, size, 3), turned by half a turn from MuJoCo's bottom-up image."""
        if camera not in CAMERAS:
            raise ValueError(f"unknown camera {camera!r}, expected one of {', '.join(CAMERAS)}")
        image = self._wrapper.sim.render(width=int(size), height=int(size), camera_name=camera)
        return np.ascontiguousarray(image[::-1, ::-1])

    def expert(self, attempt: int = 0, restart: bool = False) -> dict:
        """The scripted expert's next action, whether it has ended, whether it has lost its object, and "places".

        Those are of what it moves, then of what it puts that on or into: (2, 3) [m], world. restart: plan anew from
        here; attempt: which of its ways to grasp. Raises ValueError for a task that it cannot do.
        """
        if restart or self._expert is None:
            try:
                self._expert = Expert(self._wrapper.env, attempt)
            except Unsolvable as error:
                raise ValueError(f"{self._name} task {self._task}: {error}") from error
        places, action = self._expert.places(), self._expert.act()
        return {"action": action, "ended": self._expert.ended, "failed": self._expert.failed, "places": places}

    def close(self) -> None:
        """An environment that is not closed complains about EGL at exit."""
        if self._wrapper is not None:
            with suppress(AttributeError):  # robosuite's own destructor may have been there first
                self._wrapper.close()
            self._wrapper = None

    def _check(self, task: int) -> int:
        if not 0 <= task < self._suite.n_tasks:
            raise ValueError(f"task {task}, {self._name} has 0 to {self._suite.n_tasks - 1}")
        return task

    def _make(self, task: int) -> None:
        self._expert = None
        if task == self._task:
            return
        self.close()
        chosen = self._suite.get_task(task)
        self._wrapper = OffScreenRenderEnv(
            bddl_file_name=str(self._scene(task)),
            camera_heights=128,
            camera_widths=128,
            hard_reset=False,
            ignore_done=True,
        )
        for camera in CAMERAS:  # rendered on demand: an image costs as much as five steps
            for key in ("enabled", "active"):
                self._wrapper.env.modify_observable(f"{camera}_image", key, False)
        self._task, words = task, str(self._wrapper.language_instruction)
        self._instruction = words if self._name.endswith(REWORDED) else str(chosen.language)

    def _settle(self) -> dict:
        """Begin alike whatever was done before: the gripper moves by increments, the solver starts from its last."""
        gripper = self._wrapper.env.robots[0].gripper
        gripper.current_action = np.zeros_like(gripper.current_action)
        self._wrapper.sim.data.qacc_warmstart[:] = 0.0
        self._wrapper.sim.forward()
        for _ in range(SETTLE_STEPS):
            self._wrapper.env.step(OPEN)
        return self._measure()

    def _measure(self) -> dict:
        env = self._wrapper.env
        observed = env._get_observations(force_update=True)
        return {
            "position": np.asarray(observed["robot0_eef_pos"], np.float64),
            "quaternion": np.asarray(observed["robot0_eef_quat"], np.float64),
            "fingers": np.asarray(observed["robot0_gripper_qpos"], np.float64),
            "joints": np.asarray(observed["robot0_joint_pos"], np.float64),
            "success": bool(env._check_success()),
            "instruction": self._instruction,
        }

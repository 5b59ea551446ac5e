"""A benchmark's process from our side: start it, call it, end it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from grids_ros.benchmarks.server import wire
from grids_ros.datatypes import Pose
from grids_ros.interruption import shielded

SERVER = Path(__file__).parent / "server" / "main.py"
ENVIRONMENT = "GRIDS_LIBERO_PYTHON"  # variable: the interpreter of the benchmark's environment
LONGEST_CALL_S = 600.0  # robosuite tries a reset that fails again, for ever


class BenchmarkError(Exception):
    """The benchmark cannot be run, or refuses a call; the message is for the user."""


@dataclass(frozen=True)
class Description:
    """tasks: their names. rate_hz: of steps. limit_steps: of an episode. states: fixed initial ones of each task.

    cameras: names, the two that a policy is shown by default first. joints: names of the arm's.
    """

    tasks: tuple[str, ...]
    rate_hz: float
    limit_steps: int
    states: int
    cameras: tuple[str, ...]
    joints: tuple[str, ...]
    versions: dict[str, str]


@dataclass(frozen=True, eq=False)
class State:
    """What the simulator measures.

    pose: of the tool in the world frame. opening: between the fingers [m]. joints: of the arm (7,) [rad].
    success: the task's goal holds. instruction: what to do.
    """

    pose: Pose
    opening: float
    joints: np.ndarray
    success: bool
    instruction: str


@dataclass(frozen=True, eq=False)
class Advice:
    """What the scripted expert says of the present state.

    action: (7,), of the benchmark's controller. ended: it has done all that it does. failed: it has lost its object.
    places: of what it moves, then of what it puts that on or into, (n, 3) [m] in the world frame; none where the expert
    does not tell.
    """

    action: np.ndarray
    ended: bool
    failed: bool
    places: np.ndarray


def interpreter() -> Path:
    """The Python of the benchmark's environment: of $GRIDS_LIBERO_PYTHON, or of .venv/libero.

    Raises BenchmarkError where there is none.
    """
    named = os.environ.get(ENVIRONMENT)
    path = Path(named) if named else Path(".venv/libero/bin/python")
    if not path.exists():
        raise BenchmarkError(
            f"no Python environment of the benchmarks at {path}: run `make libero`, or set ${ENVIRONMENT}"
        )
    return path


class BenchmarkProcess:
    """One simulator process; a context manager. Not safe to call from two threads at once."""

    def __init__(self, family: str, suite: str, python: Path | None = None):
        """Raises BenchmarkError where the environment is missing or the suite is unknown."""
        command = [str(python or interpreter()), str(SERVER), family, suite]
        variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "AMENT"))}
        variables.update(MUJOCO_GL=os.environ.get("MUJOCO_GL", "egl"), OMP_NUM_THREADS="1")
        with shielded():  # it ends with its pipe
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=variables
            )
        self._errors = _Tail(cast(BinaryIO, self._process.stderr))
        answer = cast(dict, self.call("describe"))
        self.description = Description(
            tuple(answer["tasks"]),
            float(answer["rate_hz"]),
            int(answer["limit_steps"]),
            int(answer["states"]),
            tuple(answer["cameras"]),
            tuple(answer["joints"]),
            dict(answer["versions"]),
        )

    def __enter__(self) -> BenchmarkProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, name: str, **arguments: object) -> object:
        """The result of a call. Raises BenchmarkError with the process's own reason, and after LONGEST_CALL_S."""
        watch = threading.Timer(LONGEST_CALL_S, self._process.kill)
        watch.daemon = True
        watch.start()
        try:
            wire.send(cast(BinaryIO, self._process.stdin), {"call": name, "arguments": arguments})
            answer = cast(dict, wire.receive(cast(BinaryIO, self._process.stdout)))
        except wire.WireError as error:
            late = f"{name} took more than {LONGEST_CALL_S:g} s; " if watch.finished.is_set() else ""
            self.close()
            raise BenchmarkError(f"the benchmark's process ended: {late}{error}\n{self._errors.text()}") from error
        finally:
            watch.cancel()
        if "error" in answer:
            raise BenchmarkError(str(answer["error"]))
        return answer["result"]

    def reset(self, task: int, state: int) -> State:
        """A fixed initial state of a task."""
        return _state(self.call("reset", task=task, state=state))

    def randomize(self, task: int, seed: int) -> State:
        """A placement that is no fixed initial state."""
        return _state(self.call("randomize", task=task, seed=seed))

    def step(self, action: np.ndarray) -> State:
        """One action (7,) of the benchmark's controller."""
        return _state(self.call("step", action=np.asarray(action, np.float64)))

    def render(self, camera: str, size: int) -> np.ndarray:
        """uint8 RGB (size, size, 3)."""
        return np.asarray(self.call("render", camera=camera, size=size))

    def expert(self, attempt: int = 0, restart: bool = False) -> Advice:
        """What the scripted expert does next. restart: plan anew from here; attempt: which of its ways to grasp."""
        answer = cast(dict, self.call("expert", attempt=attempt, restart=restart))
        action, places = np.asarray(answer["action"]), np.asarray(answer["places"])
        return Advice(action, bool(answer["ended"]), bool(answer["failed"]), places)

    def close(self) -> None:
        """End the process: closing its input is the request, a kill the last resort."""
        if self._process.stdin and not self._process.stdin.closed:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass
        try:
            self._process.wait(timeout=10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()
        if self._process.stdout:
            self._process.stdout.close()


class _Tail:
    """Keeps the end of a stream that must be read for its writer not to block."""

    def __init__(self, stream: BinaryIO, lines: int = 20):
        self._lines: deque[bytes] = deque(maxlen=lines)
        self._stream = stream
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._stream:
            self._lines.append(line)

    def text(self) -> str:
        self._thread.join(timeout=1.0)
        return b"".join(self._lines).decode(errors="replace")

    def close(self) -> None:
        self._thread.join(timeout=1.0)
        self._stream.close()


def _state(answer: object) -> State:
    values = cast(dict, answer)
    fingers = values["fingers"]
    return State(
        Pose(values["position"], values["quaternion"]),
        float(fingers[0] - fingers[1]),
        values["joints"],
        bool(values["success"]),
        str(values["instruction"]),
    )


if sys.platform == "win32":
    raise ImportError("the benchmark's process needs POSIX pipes")

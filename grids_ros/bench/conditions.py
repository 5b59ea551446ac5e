"""The three processes, undisturbed and disturbed, and what the follower commanded meanwhile."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from grids_ros.bench.figures import hold_figures, largest_step_mm, period_figures
from grids_ros.bench.trace import Trace
from grids_ros.control.defaults import FOLLOWER
from grids_ros.demo.conductor import START_S, Conductor, DemoError
from grids_ros.demo.monitor import Monitor
from grids_ros.demo.processes import Processes, node_command
from grids_ros.demo.run import renew
from grids_ros.sim.tasks import LIFT_TASKS

SPEAK_EVERY_S = 5.0  # a new instruction, so that the arm keeps moving
SETTLE_S = 2.0  # before each condition
KILLED_S = 3.0  # how long the hold is watched


class Bench:
    """Processes, whoever drives them, and what was heard; `run_all` for everything in order."""

    def __init__(self, processes: Processes, conductor: Conductor, monitor: Monitor, checkpoint: Path):
        self._processes, self._conductor, self._monitor = processes, conductor, monitor
        self._checkpoint = checkpoint
        self._trace = conductor.recorder = Trace(conductor.node)
        self.stamps: dict[str, np.ndarray] = {}  # condition to the stamps of its commands [ns]

    def run_all(self, seconds: float) -> dict[str, dict[str, object]]:
        """Condition to its figures. Raises DemoError, ProcessDied."""
        for name in ("sim", "follower"):
            parameters = {"autostart": "true"} if name == "follower" else {}
            self._processes.start(name, node_command(f"grids_ros.ros.{name}_node", **parameters))
        self._wait(lambda: self._processes.said("follower", "grids_follower is active"), "the follower is active")
        self._start_policy()
        self._set_in_motion()
        conditions = {
            "idle": self._watch("idle", seconds, moving=False),
            "inference": self._watch("inference", seconds, moving=True),
        }
        conditions["inference"]["overhead_ms"] = float(self._monitor.value("grids_policy", "overhead_ms_p50"))
        conditions["killed"] = self._kill_in_motion()
        self._processes.kill("policy")
        self._start_policy("hog")
        conditions["hog"] = self._watch("hog", seconds, moving=True)
        self._processes.kill("policy")
        self._start_policy("late")
        conditions["late"] = self._watch("late", seconds, moving=True)
        conditions["late"]["largest_step_mm"] = largest_step_mm(self._trace.commands()[1])
        conditions["late"]["last_refusal"] = self._monitor.value("grids_follower", "last_refusal")
        return {**conditions, "follower": {"scheduling": self._monitor.value("grids_follower", "scheduling")}}

    def _start_policy(self, burden: str = "") -> None:
        command = node_command("grids_ros.ros.policy_node", autostart="true", checkpoint=self._checkpoint, threads=1)
        if burden:
            command[2:3] = ["grids_ros.bench.burdened", burden]
        self._processes.start("policy", command)
        self._wait(lambda: self._processes.said("policy", "grids_policy is active"), "the policy is active")

    def _wait(self, condition: Callable[[], object], what: str) -> None:
        if not self._conductor.wait(condition, START_S):
            raise DemoError(f"waited {START_S:g} s until {what}; {self._processes.last_words('policy')}")

    def _set_in_motion(self) -> None:
        """A new scene, an instruction, and the arm moves."""
        renew(self._conductor)
        self._conductor.say(LIFT_TASKS[0].instruction)
        self._wait(self._trace.moving, "the arm moves")

    def _watch(self, condition: str, seconds: float, moving: bool) -> dict[str, object]:
        """How the period is kept for so long, by the follower and by a bare loop beside it.

        moving: instructions in turn; else there is none, and the arm holds.
        """
        self._conductor.say("")
        self._conductor.rest(SETTLE_S)
        self._trace.restart()
        tasks = itertools.cycle(LIFT_TASKS)
        command = [sys.executable, "-m", "grids_ros.bench.bare", str(seconds)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as bare:
            for start in np.arange(0.0, seconds, SPEAK_EVERY_S):
                if moving:
                    self._conductor.say(next(tasks).instruction)
                self._conductor.rest(min(SPEAK_EVERY_S, seconds - start))
            self._wait(lambda: bare.poll() is not None, "the bare loop has ended")
            beside = json.loads(bare.stdout.read())
        self.stamps[condition], _ = self._trace.commands()
        return {**period_figures(self.stamps[condition], FOLLOWER.period_s), "bare": beside}

    def _kill_in_motion(self) -> dict[str, object]:
        """kill -9, watch the hold, start the policy again, see the arm go on."""
        self._set_in_motion()
        self._trace.restart()
        self._conductor.rest(0.5)
        self._processes.kill("policy")
        self._conductor.rest(KILLED_S)
        figures = hold_figures(*self._trace.commands(), self._trace.chunk_end_ns)
        self._start_policy()
        self._wait(self._trace.moving, "the arm moves again")
        return {**figures, "went_on": True, "largest_step_mm": largest_step_mm(self._trace.commands()[1])}

"""The three processes, undisturbed and disturbed, and what the follower commanded meanwhile."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from grids_ros import diagnostic_keys as keys
from grids_ros.bench.command_trace import CommandTrace
from grids_ros.bench.realtime_metrics import (
    hold_figures,
    largest_step_mm,
    lateness_figures,
    period_figures,
    stage_figures,
)
from grids_ros.control.defaults import FOLLOWER
from grids_ros.demo.driver import START_S, DemoDriver, DemoError
from grids_ros.demo.episodes import new_scene
from grids_ros.demo.monitor import Monitor
from grids_ros.demo.processes import Processes, node_command
from grids_ros.interruption import shielded
from grids_ros.ros.policy_statistics import STAGES
from grids_ros.sim.tasks import LIFT_TASKS

SPEAK_EVERY_S = 5.0  # a new instruction, so that the arm keeps moving
SETTLE_S = 2.0  # before each condition
KILLED_S = 3.0  # how long the hold is watched


class Bench:
    """Processes, whoever drives them, and what was heard; `run_all` for everything in order."""

    def __init__(self, processes: Processes, driver: DemoDriver, monitor: Monitor, checkpoint: Path):
        self._processes, self._driver, self._monitor = processes, driver, monitor
        self._checkpoint = checkpoint
        self._trace = driver.recorder = CommandTrace(driver.node)
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
        conditions["inference"]["overhead_ms"] = float(
            self._monitor.value("grids_policy", keys.percentile(keys.OVERHEAD, 50))
        )
        conditions["inference"]["image_to_chunk_ms"] = self._image_to_chunk()
        conditions["killed"] = self._kill_in_motion()
        self._processes.kill("policy")
        self._start_policy("busy_threads")
        conditions["busy_threads"] = self._watch("busy_threads", seconds, moving=True)
        self._processes.kill("policy")
        self._start_policy("late_chunks")
        conditions["late_chunks"] = self._watch("late_chunks", seconds, moving=True)
        conditions["late_chunks"]["largest_step_mm"] = largest_step_mm(self._trace.commands()[1])
        conditions["late_chunks"]["last_refusal"] = self._monitor.value("grids_follower", keys.LAST_REFUSAL)
        return {**conditions, "follower": {"scheduling": self._monitor.value("grids_follower", keys.SCHEDULING)}}

    def _start_policy(self, stress: str = "") -> None:
        command = node_command("grids_ros.ros.policy_node", autostart="true", checkpoint=self._checkpoint, threads=1)
        if stress:
            command[2:3] = ["grids_ros.bench.stressed_policy", stress]
        self._processes.start("policy", command)
        self._wait(lambda: self._processes.said("policy", "grids_policy is active"), "the policy is active")

    def _wait(self, condition: Callable[[], object], what: str) -> None:
        if not self._driver.wait(condition, START_S):
            raise DemoError(f"waited {START_S:g} s until {what}; {self._processes.last_words('policy')}")

    def _set_in_motion(self) -> None:
        """A new scene, an instruction, and the arm moves."""
        new_scene(self._driver)
        self._driver.publish_instruction(LIFT_TASKS[0].instruction)
        self._wait(self._trace.moving, "the arm moves")

    def _watch(self, condition: str, seconds: float, moving: bool) -> dict[str, object]:
        """Lateness for so many seconds: of the follower by its own clock, and of a reference loop beside it.

        Beside them what a listener received, which loses messages that the follower sent in time.

        moving: instructions in turn; else there is none, and the arm holds.
        """
        self._driver.publish_instruction("")
        before = int(self._driver.lateness()["ticks"])  # its answer stalls the follower's process: not in the window
        self._driver.spin_for(SETTLE_S)
        before += round(SETTLE_S / FOLLOWER.period_s)
        self._trace.restart()
        tasks = itertools.cycle(LIFT_TASKS)
        command = [sys.executable, "-m", "grids_ros.bench.reference_loop", str(seconds)]
        with shielded():
            reference = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            for start in np.arange(0.0, seconds, SPEAK_EVERY_S):
                if moving:
                    self._driver.publish_instruction(next(tasks).instruction)
                self._driver.spin_for(min(SPEAK_EVERY_S, seconds - start))
            self._wait(lambda: reference.poll() is not None, "the reference loop has ended")
            reference_figures = json.loads(reference.communicate()[0])
        finally:
            reference.kill()
            reference.wait()
        self.stamps[condition], _ = self._trace.commands()
        clock = self._driver.lateness()
        count = min(int(clock["ticks"]) - before, len(clock["late_us"]))
        figures = lateness_figures([1e-6 * late for late in clock["late_us"][-count:]], clock["missed"][-count:])
        received = period_figures(self.stamps[condition], FOLLOWER.period_s)
        return {**figures, "reference": reference_figures, "received": received}

    def _image_to_chunk(self) -> dict[str, float]:
        """Of the condition before: see `stage_figures`."""
        names = (keys.TRANSPORT, keys.OBSERVATION_AGE, *STAGES)
        medians = [float(self._monitor.value("grids_policy", keys.percentile(name, 50))) for name in names]
        return stage_figures(medians, self._trace.chunk_delays_ms)

    def _kill_in_motion(self) -> dict[str, object]:
        """kill -9, watch the hold, start the policy again, see the arm go on."""
        self._set_in_motion()
        self._trace.restart()
        self._driver.spin_for(0.5)
        self._processes.kill("policy")
        self._driver.spin_for(KILLED_S)
        figures = hold_figures(*self._trace.commands(), self._trace.chunk_end_ns)
        self._start_policy()
        self._wait(self._trace.moving, "the arm moves again")
        return {**figures, "went_on": True, "largest_step_mm": largest_step_mm(self._trace.commands()[1])}

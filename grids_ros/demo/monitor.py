"""What the topics say about a run: success, rates, ages, latencies, holds. No ROS: it is fed with plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from grids_ros import diagnostic_keys as keys
from grids_ros.datatypes import NANOSECONDS
from grids_ros.sim.mujoco_model import COLOURS
from grids_ros.sim.tasks import HOLD_S, LIFT_HEIGHT, Task, in_place

LIVE_S = 1.0  # over which the live control rate is counted


class TaskMonitor:
    """Whether the task was done and stayed so, from where all objects are over time.

    Topics do not tell what the fingers touch: a cube counts as lifted once it is raised, as placed once it is there.
    """

    def __init__(self, task: Task):
        self.task = task
        self.done_ns: int | None = None  # when it had lasted long enough
        self.wrong: str = ""  # the first other cube that was raised
        self._rest: Mapping[str, np.ndarray] | None = None
        self._since_ns: int | None = None

    def update(self, stamp_ns: int, positions: Mapping[str, np.ndarray]) -> None:
        """positions: each object's centre, (3,) in the base frame [m]; the first call says where they rest."""
        if self._rest is None:
            self._rest = dict(positions)
        cube, onto = self.task.colour, self.task.onto
        raised = [name for name in COLOURS if positions[name][2] - self._rest[name][2] >= LIFT_HEIGHT]
        if not self.wrong:
            self.wrong = next((name for name in raised if name != cube), "")
        if not (in_place(positions[cube], onto, positions[onto]) if onto else cube in raised):
            self._since_ns = None
        elif self._since_ns is None:
            self._since_ns = stamp_ns
        elif self.done_ns is None and stamp_ns - self._since_ns >= HOLD_S * NANOSECONDS:
            self.done_ns = stamp_ns


@dataclass
class DemoEpisode:
    """One episode as it goes; stamps in the nodes' clock [ns]."""

    number: int
    seed: int
    task_monitor: TaskMonitor
    started_ns: int
    ended_ns: int = 0
    chunks: int = 0
    holds: list[str] = field(default_factory=list)  # the reason of each
    periods_ms: list[float] = field(default_factory=list)  # between two target_pose, by their stamps
    chunk_ages_ms: list[float] = field(default_factory=list)  # at each target_pose, of the chunk it came from

    @property
    def instruction(self) -> str:
        return self.task_monitor.task.instruction

    def row(self) -> dict[str, Any]:
        """For summary.json."""
        done = self.task_monitor.done_ns
        return {
            "episode": self.number,
            "seed": self.seed,
            "instruction": self.instruction,
            "success": done is not None,
            "time_to_success_s": round((done - self.started_ns) / NANOSECONDS, 2) if done is not None else None,
            "wrong_object": self.task_monitor.wrong,
            "duration_s": round((self.ended_ns - self.started_ns) / NANOSECONDS, 2),
            "chunks": self.chunks,
            "holds": self.holds,
            "control_rate_hz": control_rate(self.periods_ms),
            "chunk_age_ms": percentiles(self.chunk_ages_ms),
        }


class Monitor:
    """Keeps the episodes. Messages between two episodes count for neither."""

    def __init__(self):
        self.episodes: list[DemoEpisode] = []
        self.status: dict[str, tuple[int, str, Mapping[str, str]]] = {}  # node to level, message, values
        self._inference: list[tuple[float, float]] = []  # p50 and p99 as reported, one pair per message
        self._open: DemoEpisode | None = None
        self._target_ns: int | None = None
        self._targets: list[int] = []
        self._chunk: tuple[int, int] | None = None
        self._following = False
        self._last: dict[str, tuple[int, str, Mapping[str, str]]] = {}  # status as the last episode ended

    def begin(self, episode: DemoEpisode) -> None:
        """From here on everything counts for this episode."""
        self.episodes.append(episode)
        self._open, self._target_ns, self._chunk, self._following = episode, None, None, False

    def end(self, now_ns: int) -> None:
        """The episode is over."""
        if self._open is not None:
            self._open.ended_ns = now_ns
        self._open = None
        self._last = dict(self.status)

    def target(self, stamp_ns: int) -> None:
        """A target_pose was published at this instant."""
        self._targets = [old for old in self._targets if old > stamp_ns - LIVE_S * NANOSECONDS] + [stamp_ns]
        if self._open is None:
            return
        if self._target_ns is not None:
            self._open.periods_ms.append((stamp_ns - self._target_ns) / 1e6)
        self._target_ns = stamp_ns
        if self._chunk is not None and stamp_ns <= self._chunk[1]:
            self._open.chunk_ages_ms.append((stamp_ns - self._chunk[0]) / 1e6)

    def chunk(self, stamp_ns: int, end_ns: int) -> None:
        """An action chunk came: when its observation was made, and when its last step is due."""
        self._chunk = (stamp_ns, end_ns)
        if self._open is not None and stamp_ns >= self._open.started_ns:
            self._open.chunks += 1

    def objects(self, stamp_ns: int, positions: Mapping[str, np.ndarray]) -> None:
        """Where the cubes and the bowl are."""
        if self._open is not None and stamp_ns >= self._open.started_ns:
            self._open.task_monitor.update(stamp_ns, positions)

    def diagnostics(self, node: str, level: int, message: str, values: Mapping[str, str]) -> None:
        """A node's status, by its name without the namespace."""
        self.status[node] = (level, message, values)
        middle, high = keys.percentile(keys.INFERENCE, 50), keys.percentile(keys.INFERENCE, 99)
        if middle in values:
            self._inference.append((float(values[middle]), float(values[high])))
        if node == "grids_follower" and self._open is not None:
            if level == 0:
                self._following = True
            elif self._following:  # it followed a chunk and holds now
                self._following = False
                self._open.holds.append(message)

    @property
    def live_rate_hz(self) -> float:
        """target_pose per second, of late."""
        return len(self._targets) / LIVE_S

    def value(self, node: str, key: str, default: str = "") -> str:
        """A value from a node's last diagnostics."""
        return self.status[node][2].get(key, default) if node in self.status else default

    def summary(self) -> dict[str, object]:
        """The figures of the whole run; see README.md for what each means."""
        rows = [episode.row() for episode in self.episodes]
        periods = [period for episode in self.episodes for period in episode.periods_ms]
        ages = [age for episode in self.episodes for age in episode.chunk_ages_ms]
        p50 = float(np.median([pair[0] for pair in self._inference])) if self._inference else None
        p99 = max(pair[1] for pair in self._inference) if self._inference else None
        policy = self._last["grids_policy"][2] if "grids_policy" in self._last else {}
        return {
            "episodes": len(rows),
            "successes": sum(row["success"] for row in rows),
            "wrong_objects": sum(bool(row["wrong_object"]) for row in rows),
            "control_rate_hz": control_rate(periods),
            "target_period_ms": percentiles(periods),
            "inference_ms": {"p50": p50, "p99": p99},
            "chunk_age_ms": percentiles(ages),
            "deadline_misses": int(policy.get(keys.DEADLINE_MISSES, "0")),
            "tokens_per_camera": _number(policy.get(keys.TOKENS, "")),
            "chunks": sum(row["chunks"] for row in rows),
            "holds": sum(len(row["holds"]) for row in rows),
            "rows": rows,
        }


def percentiles(samples: Sequence[float]) -> dict[str, float | None]:
    """p50 and p99; None without samples."""
    if not samples:
        return {"p50": None, "p99": None}
    middle, high = np.percentile(samples, (50, 99))
    return {"p50": round(float(middle), 3), "p99": round(float(high), 3)}


def control_rate(periods_ms: Sequence[float]) -> dict[str, float | None]:
    """mean: targets over time. p1: what all but the slowest hundredth of the periods kept."""
    if not periods_ms:
        return {"mean": None, "p1": None}
    return {
        "mean": round(1e3 / float(np.mean(periods_ms)), 2),
        "p1": round(1e3 / float(np.percentile(periods_ms, 99)), 2),
    }


def _number(text: str) -> int | str:
    return int(text) if text.isdigit() else text

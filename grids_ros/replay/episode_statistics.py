"""What is counted while a bag goes by, and the figures made of it. A few hundred bytes per inference are kept."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from grids_ros.control.limits import BINDING

MEAN_OF_CAMERA = ("moved", "picture", "slip", "spread", "collapsed")


class Table:
    """Rows of floats under names; every row of a name has one width."""

    def __init__(self):
        self._columns: dict[str, tuple[int, array]] = {}

    def add(self, name: str, row: Sequence[float] | np.ndarray) -> None:
        width, values = self._columns.setdefault(name, (len(row), array("f")))
        if width != len(row):
            raise ValueError(f"{name} has rows of {width}, got one of {len(row)}")
        values.extend(row)

    def get(self, name: str) -> np.ndarray:
        """(rows, width); (0, 1) for a name without rows."""
        width, values = self._columns.get(name, (1, ()))
        return np.asarray(values, dtype=np.float64).reshape(-1, width)

    def names(self) -> list[str]:
        return sorted(self._columns)

    def __iadd__(self, other: Table) -> Table:
        for name, (width, values) in other._columns.items():
            self._columns.setdefault(name, (width, array("f")))[1].extend(values)
        return self


@dataclass
class EpisodeStatistics:
    """Of one variant in one episode; adding them up gives a bag's, and the whole.

    ticks: of inference. missed: of these, while the policy was busy. silent: of these, without an observation, or with
    one that the policy refused; `not_ready` says why.
    """

    rows: Table = field(default_factory=Table)
    not_ready: Counter[str] = field(default_factory=Counter)
    ticks: int = 0
    missed: int = 0
    silent: int = 0
    shadow_ticks: int = 0
    limited: Counter[str] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    largest_cut_mm: float = 0.0

    def __iadd__(self, other: EpisodeStatistics) -> EpisodeStatistics:
        self.rows += other.rows
        for name in ("not_ready", "limited", "held", "refused"):
            getattr(self, name).update(getattr(other, name))
        for name in ("ticks", "missed", "silent", "shadow_ticks"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest_cut_mm = max(self.largest_cut_mm, other.largest_cut_mm)
        return self

    def cameras(self) -> list[str]:
        return [name.partition("/")[2] for name in self.rows.names() if name.startswith("spread/")]

    def figures(self) -> dict:
        """The deterministic part, rounded; None for what could not be measured."""
        rows = self.rows
        position = rows.get("position_mm")
        return {
            "inferences": len(rows.get("time_s")),
            "no_chunk_share": _share(self.silent, self.ticks),
            "scored_steps": int(np.isfinite(position).sum()),
            "position_mm": _by_step(position),
            "still_mm": _by_step(rows.get("still_mm")),
            "rotation_deg": _by_step(rows.get("rotation_deg")),
            "gripper_mm": _by_step(rows.get("gripper_mm")),
            "joint_deg": _by_step(rows.get("joint_deg")),
            "jerk_m_s3": {"chunks": _mean(rows.get("jerk")), "recorded": _mean(rows.get("recorded_jerk"))},
            "chunk_to_chunk": {"mm": _mean(rows.get("apart_mm")), "deg": _mean(rows.get("apart_deg"))},
            "from_first": {"mm": _mean(rows.get("from_first_mm")), "deg": _mean(rows.get("from_first_deg"))},
            "instruction": {
                name: _mean(rows.get(f"other_{name}")) for name in ("change_mm", "error_mm", "right_error_mm")
            },
            "limits": self._limits(),
            "coordinates": {
                camera: {name: _mean(rows.get(f"{name}/{camera}")) for name in MEAN_OF_CAMERA}
                for camera in self.cameras()
            },
            "missed_ticks": self.missed,
            "no_observation": dict(sorted(self.not_ready.items())),
        }

    def _limits(self) -> dict:
        ticks = self.shadow_ticks
        return {
            "share_of_ticks": {name: _share(self.limited[name], ticks) for name in ("any", *BINDING)},
            "largest_cut_mm": round(self.largest_cut_mm, 2),
            "held_share": _share(sum(self.held.values()), ticks),
            "held": dict(sorted(self.held.items())),
            "refused_chunks": dict(sorted(self.refused.items())),
        }

    def timings(self, rate_hz: float) -> dict:
        """What depends on the machine [ms], and how many inferences took longer than the node's period."""
        latency = self.rows.get("latency_s")[:, 0] * 1e3
        if not len(latency):
            return {}
        quantiles = {f"p{q}": round(float(np.percentile(latency, q)), 2) for q in (50, 95, 99)}
        return {
            "inference_ms": {"mean": round(float(latency.mean()), 2), **quantiles},
            "deadline_misses": int((latency > 1e3 / rate_hz).sum()),
            "rate_hz": rate_hz,
        }


def _share(count: int, ticks: int) -> float | None:
    return round(count / ticks, 4) if ticks else None


def _mean(rows: np.ndarray) -> float | None:
    finite = rows[np.isfinite(rows)]
    return round(float(finite.mean()), 4) if len(finite) else None


def _by_step(rows: np.ndarray) -> dict:
    """Mean and 95th percentile over all steps, and the same at each step of the horizon."""
    columns = [column[np.isfinite(column)] for column in rows.T]
    finite = rows[np.isfinite(rows)]
    return {
        "mean": _mean(rows),
        "p95": round(float(np.percentile(finite, 95)), 4) if len(finite) else None,
        "by_step": [_mean(column) for column in columns],
        "p95_by_step": [round(float(np.percentile(c, 95)), 4) if len(c) else None for c in columns],
    }


def without_values(reason: str) -> str:
    """A reason without its age, position or distance, so that equal ones are counted together."""
    reason = re.sub(r" \d+\.\d{3} s( ago)?\b", "", re.sub(r"\d+\.\d{3} s old", "too old", reason))
    reason = re.sub(r" at -?\d+\.\d+ is beyond", " is beyond", reason)
    return re.sub(r" \d+ mm and \d+\.\d+ rad from", " away from", reason)

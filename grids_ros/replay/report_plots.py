"""The report's plots, as SVG text that goes into the page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from grids_ros.replay.bag_replay import BagResult

COLOURS = ("#2563eb", "#ea580c", "#059669", "#9333ea", "#dc2626", "#0891b2")
STILL = "#9ca3af"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "grids_ros",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": "#374151",
    "xtick.color": "#6b7280",
    "ytick.color": "#6b7280",
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.7,
}


def colours(labels: Sequence[str]) -> dict[str, str]:
    """One each, in order."""
    return {label: COLOURS[index % len(COLOURS)] for index, label in enumerate(labels)}


def over_horizon(overall: Mapping[str, dict], name: str, unit: str, still: bool) -> str:
    """Mean (line) and 95th percentile (dashed) at each step of the horizon, one colour per variant."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(3.7, 2.6)
        if still:
            steps = next(iter(overall.values()))["still_mm"]["by_step"]
            axes.plot(np.arange(1, len(steps) + 1), _floats(steps), color=STILL, lw=1.5, label="standing still")
        for label, colour in colours(list(overall)).items():
            figures = overall[label][name]
            steps = np.arange(1, len(figures["by_step"]) + 1)
            axes.plot(steps, _floats(figures["by_step"]), color=colour, lw=2, marker="o", ms=3, label=label)
            axes.plot(steps, _floats(figures["p95_by_step"]), color=colour, lw=1, ls="--", alpha=0.6)
        axes.set_xlabel("horizon step")
        axes.set_ylabel(unit)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8, labelcolor="#374151")
        return _svg(figure)


def over_time(result: BagResult) -> str:
    """Mean error of each chunk over the bag's time; episodes as bands."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(11.4, 2.2)
        for index, episode in enumerate(result.episodes):
            axes.axvspan(episode.start_s, episode.stop_s, color="#f3f4f6" if index % 2 else "#e0ecff", lw=0, alpha=0.7)
        for label, colour in colours(list(result.statistics)).items():
            for number, statistics in sorted(result.statistics[label].items()):
                times, rows = statistics.rows.get("time_s")[:, 0], statistics.rows.get("position_mm")
                first = label if number == min(result.statistics[label]) else None
                axes.plot(times, _row_means(rows), color=colour, lw=1.2, marker=".", ms=3, label=first)
        axes.set_xlabel("time in the bag [s]")
        axes.set_ylabel("position error [mm]")
        axes.set_ylim(bottom=0)
        if len(result.statistics) > 1:
            axes.legend(frameon=False, fontsize=8)
        return _svg(figure)


def _row_means(rows: np.ndarray) -> np.ndarray:
    """NaN for a row without any figure."""
    finite = np.isfinite(rows)
    counts = finite.sum(axis=1)
    sums = np.where(finite, rows, 0.0).sum(axis=1)
    return np.divide(sums, counts, out=np.full(len(rows), np.nan), where=counts > 0)


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _axes(width: float, height: float):
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return text.getvalue().partition("<svg")[1] + text.getvalue().partition("<svg")[2]

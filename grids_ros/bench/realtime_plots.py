"""The bench as a picture: how the period is kept, and the commanded path across transitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from grids_ros.bench.realtime_metrics import CommandedPath

SHOWN_TICKS = 150
COLOURS = {"latest": "tab:red", "blend": "tab:orange", "rtc": "tab:blue"}


def draw(
    stamps: Mapping[str, np.ndarray], paths: Mapping[str, Sequence[CommandedPath]], period_s: float, picture: Path
) -> None:
    """stamps: condition to those of its commands (n,) [ns]. paths: join to its episodes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(12, 6), layout="constrained", sharey="row")
    nominal = 1e3 * period_s
    bins = np.linspace(nominal - 1.0, nominal + 1.0, 81)
    for axis, (name, at) in zip(axes[0], stamps.items(), strict=False):
        periods = np.diff(at) / 1e6
        axis.hist(periods.clip(bins[0], bins[-1]), bins, color="0.35", log=True)
        axis.set(title=f"target_pose, {name}", xlabel="period [ms], beyond the ends: at the ends")
    axes[0][0].set_ylabel("periods")
    for axis, (join, episodes) in zip(axes[1], paths.items(), strict=True):
        path = episodes[0]
        seconds = period_s * np.arange(SHOWN_TICKS)
        positions = 1e3 * path.positions[:SHOWN_TICKS]
        for name, style, way in zip("xyz", ("-", "--", ":"), (positions - positions[0]).T, strict=True):
            axis.plot(seconds[: len(way)], way, style, color=COLOURS[join], lw=1.2, label=name)
        for transition in path.transitions[path.transitions < SHOWN_TICKS]:
            axis.axvline(period_s * transition, color="0.85", lw=0.8, zorder=0)
        axis.set(title=f"commanded path, {join}", xlabel="time [s]; a line at each transition")
        axis.legend(loc="lower left")
    axes[1][0].set_ylabel("from the start [mm]")
    figure.savefig(picture, dpi=110)
    plt.close(figure)

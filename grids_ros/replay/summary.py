"""summary.json: the same bag gives the same file, except under "timings". Two of them are compared here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grids_ros.files import write_whole
from grids_ros.replay.bag_replay import BagResult
from grids_ros.replay.episode_statistics import EpisodeStatistics

VERSION = 1
# What a regression is judged by: the path in an `overall`, and a floor below which a difference means nothing.
# More is worse in all of them.
GATES = (
    (("position_mm", "mean"), 0.1),
    (("position_mm", "p95"), 0.1),
    (("rotation_deg", "mean"), 0.05),
    (("gripper_mm", "mean"), 0.1),
    (("joint_deg", "mean"), 0.05),
    (("jerk_m_s3", "chunks"), 0.1),
    (("chunk_to_chunk", "mm"), 0.1),
    (("chunk_to_chunk", "deg"), 0.05),
    (("limits", "share_of_ticks", "any"), 0.005),
    (("limits", "held_share"), 0.005),
    (("no_chunk_share",), 0.005),
)


class BaselineError(ValueError):
    """A baseline that cannot be compared with: says why."""


def added(episodes: Sequence[EpisodeStatistics]) -> EpisodeStatistics:
    """The sum, in new statistics."""
    total = EpisodeStatistics()
    for statistics in episodes:
        total += statistics
    return total


def summarise(results: Sequence[BagResult], labels: Sequence[str], rate_hz: float, latency: str) -> dict:
    """Everything of a replay, by bag, variant and episode."""
    totals = {label: added([t for r in results for t in r.statistics[label].values()]) for label in labels}
    return {
        "version": VERSION,
        "rate_hz": rate_hz,
        "latency": latency,
        "bags": [_bag(result, labels) for result in results],
        "overall": {label: total.figures() for label, total in totals.items()},
        "episodes": {
            label: [
                {"bag": result.name, "episode": number, **statistics.figures()}
                for result in results
                for number, statistics in sorted(result.statistics[label].items())
            ]
            for label in labels
        },
        "timings": {
            "variants": {label: total.timings(rate_hz) for label, total in totals.items()},
            **_cost(results),
        },
    }


def _cost(results: Sequence[BagResult]) -> dict:
    """What replay itself took: in all, and beyond the models as a share of their time."""
    wall_s, model_s = sum(r.wall_s for r in results), sum(r.model_s for r in results)
    share = round((wall_s - model_s) / model_s, 4) if model_s else None
    return {"wall_s": round(wall_s, 2), "model_s": round(model_s, 2), "beyond_the_model": share}


def _bag(result: BagResult, labels: Sequence[str]) -> dict:
    figures = {label: added(list(result.statistics[label].values())).figures() for label in labels}
    return {
        "name": result.name,
        "duration_s": result.duration_s,
        "topics": result.topics,
        "reference": result.reference,
        "episodes": [vars(episode) for episode in result.episodes],
        "notes": list(result.notes),
        "loss": result.loss,
        "position_mm": {label: figures[label]["position_mm"]["mean"] for label in labels},
        "no_chunk_share": {label: figures[label]["no_chunk_share"] for label in labels},
    }


def worst_first(summary: dict, label: str) -> list[tuple[str, float | None]]:
    """The bags by their mean position error [mm]; one without a figure comes first."""
    errors = [(bag["name"], bag["position_mm"][label]) for bag in summary["bags"]]
    return sorted(errors, key=lambda entry: -(float("inf") if entry[1] is None else entry[1]))


def write(summary: dict, path: Path) -> None:
    write_whole(path, json.dumps(summary, indent=1, sort_keys=True) + "\n")


def read_baseline(path: Path) -> dict:
    """Raises BaselineError for what is no summary of this version."""
    try:
        baseline = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise BaselineError(f"cannot read the baseline {path}: {error}") from error
    known = isinstance(baseline, dict) and baseline.get("version") == VERSION
    if not known or not isinstance(baseline.get("overall"), dict):
        raise BaselineError(f"{path} is no summary.json of version {VERSION}")
    return baseline


def regressions(summary: dict, baseline: dict, tolerance: float) -> list[str]:
    """What is worse than the baseline by more than `tolerance` (0.1: by a tenth), in words.

    A figure that the baseline has and this run has not is worse. Raises BaselineError as `matched` does.
    """
    found = []
    for label, its in matched(list(summary["overall"]), baseline):
        now, then = summary["overall"][label], baseline["overall"][its]
        for path, floor in GATES:
            name, new, old = ".".join(path), _at(now, path), _at(then, path)
            if old is None:
                continue
            if new is None:
                found.append(f"{label}: {name} was {old:g} and could not be measured")
            elif new > old * (1.0 + tolerance) + floor:
                found.append(f"{label}: {name} is {new:g}, was {old:g}")
    return found


def matched(labels: Sequence[str], baseline: dict) -> list[tuple[str, str]]:
    """Labels of this run, each with the label in the baseline that it is held against: its own.

    One alone on each side is matched whatever its label. Raises BaselineError when none matches.
    """
    then = list(baseline["overall"])
    if len(labels) == len(then) == 1:
        return [(labels[0], then[0])]
    both = [(label, label) for label in labels if label in then]
    if not both:
        raise BaselineError(f"the baseline has {', '.join(then)}; this run has {', '.join(labels)}")
    return both


def _at(values: Any, path: Sequence[str]) -> float | None:
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    return values

"""report.html: one file that needs nothing else, for the person who decides whether the policy gets the arm."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from grids_ros.replay import plots
from grids_ros.replay.bag import Result
from grids_ros.replay.findings import findings

TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class Row:
    """A line of the table of figures: one cell per variant; `best` is the index of the smallest, or None."""

    name: str
    unit: str
    cells: tuple[str, ...]
    best: int | None
    meaning: str


# Name, unit, path in the figures, decimals, whether less is better, and what it means.
LINES = (
    ("Position error", "mm", ("position_mm", "mean"), 1, True, "chunk against the recorded motion, all steps"),
    ("Position error, p95", "mm", ("position_mm", "p95"), 1, True, "95 of 100 steps are closer than this"),
    ("Standing still", "mm", ("still_mm", "mean"), 1, False, "what an arm that does nothing would score"),
    ("Rotation error", "deg", ("rotation_deg", "mean"), 2, True, "angle to the recorded orientation"),
    ("Gripper error", "mm", ("gripper_mm", "mean"), 1, True, "opening against what was commanded"),
    ("Chunk to chunk", "mm", ("chunk_to_chunk", "mm"), 1, True, "two consecutive chunks where they overlap"),
    ("Chunk to chunk", "deg", ("chunk_to_chunk", "deg"), 2, True, "the same, in rotation"),
    ("From the first column", "mm", ("from_first", "mm"), 2, False, "its chunk on the same frame, mean over the steps"),
    ("From the first column", "deg", ("from_first", "deg"), 2, False, "the same, in rotation"),
    ("Jerk", "m/s³", ("jerk_m_s3", "chunks"), 1, True, "of the chunks, root mean square"),
    ("Jerk as recorded", "m/s³", ("jerk_m_s3", "recorded"), 1, False, "of the recorded motion at the same steps"),
    ("Other instruction: change", "mm", ("instruction", "change_mm"), 1, False, "near 0: the words are not heard"),
    ("Other instruction: error", "mm", ("instruction", "error_mm"), 1, False, "should be above the next line"),
    ("Right one, same frames", "mm", ("instruction", "right_error_mm"), 1, True, "error, on every tenth frame"),
    ("No chunk", "%", ("no_chunk_share",), 1, True, "share of the ticks of inference; the reasons are below"),
    ("Limits act", "%", ("limits", "share_of_ticks", "any"), 1, True, "share of the follower's ticks, any limit"),
    ("… lead", "%", ("limits", "share_of_ticks", "lead"), 1, True, "target too far ahead of the measured arm"),
    ("… workspace", "%", ("limits", "share_of_ticks", "workspace"), 1, True, "target outside of the box"),
    ("… speed", "%", ("limits", "share_of_ticks", "speed"), 1, True, "target faster than allowed"),
    ("… acceleration", "%", ("limits", "share_of_ticks", "acceleration"), 1, True, "target too sudden, or braking"),
    ("Largest cut", "mm", ("limits", "largest_cut_mm"), 1, True, "between what was asked and what was let through"),
    ("Held", "%", ("limits", "held_share"), 1, True, "share of ticks without a chunk to follow"),
)
OF_CAMERA = (
    ("points move", "moved", "per frame, of the image"),
    ("picture moves", "picture", "beneath the points"),
    ("slip", "slip", "of the points over the picture"),
    ("spread", "spread", "of the points around their centre"),
    ("in a corner", "collapsed", "share of frames"),
)


def write_report(summary: dict, results: Sequence[Result], path: Path, worse: Sequence[str]) -> None:
    """worse: what the comparison with a baseline found."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    overall, labels = summary["overall"], list(summary["overall"])
    timings = summary["timings"]["variants"]
    page = environment.get_template(TEMPLATE).render(
        summary=summary,
        labels=labels,
        colours=plots.colours(labels),
        findings={label: findings(overall[label], timings[label]) for label in labels},
        rows=[_row(overall, *line) for line in LINES if len(labels) > 1 or line[2][0] != "from_first"],
        cameras=[row for label in labels for row in _camera_rows(label, overall[label])],
        timings=timings,
        horizon=[Markup(svg) for svg in _horizon_plots(overall)],
        bags=[_bag(result) for result in results],
        episodes=_episodes(summary),
        worse=worse,
    )
    path.write_text(page)


def _horizon_plots(overall: dict) -> list[str]:
    if not any(figures["inferences"] for figures in overall.values()):
        return []
    return [
        plots.over_horizon(overall, "position_mm", "position error [mm]", still=True),
        plots.over_horizon(overall, "rotation_deg", "rotation error [deg]", still=False),
        plots.over_horizon(overall, "gripper_mm", "gripper error [mm]", still=False),
    ]


def _row(overall: dict, name: str, unit: str, path: tuple, digits: int, less: bool, meaning: str) -> Row:
    values = []
    for figures in overall.values():
        for key in path:
            figures = figures[key]
        values.append(figures if figures is None else figures * (100.0 if unit == "%" else 1.0))
    known = [value for value in values if value is not None]
    best = values.index(min(known)) if less and len(known) > 1 and min(known) < max(known) else None
    return Row(name, unit, tuple(_number(value, digits) for value in values), best, meaning)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _camera_rows(label: str, figures: dict) -> list[dict]:
    return [
        {
            "label": label,
            "camera": camera,
            "cells": [_number(None if of[key] is None else 100.0 * of[key], 1) for _, key, _ in OF_CAMERA],
        }
        for camera, of in figures["coordinates"].items()
    ]


def _bag(result: Result) -> dict:
    """What the template needs of one bag; pictures as base64."""
    stills = [
        {
            "time": f"{still.time_s:.1f}",
            "episode": still.episode + 1,
            "instruction": still.instruction,
            "jpeg": base64.b64encode(still.jpeg).decode(),
        }
        for still in result.stills
    ]
    return {"result": result, "stills": stills, "plot": Markup(plots.over_time(result)) if result.episodes else ""}


def _episodes(summary: dict) -> list[dict]:
    """One line per bag and episode, with each variant's error."""
    lines = []
    for bag in summary["bags"]:
        for episode in bag["episodes"]:
            cells = []
            for label, tallies in summary["episodes"].items():
                of = next((t for t in tallies if (t["bag"], t["episode"]) == (bag["name"], episode["number"])), None)
                position = of["position_mm"]["mean"] if of else None
                still = of["still_mm"]["mean"] if of else None
                cells.append({"label": label, "position": _number(position, 1), "still": _number(still, 1), "of": of})
            lines.append({"bag": bag["name"], **episode, "cells": cells})
    return lines

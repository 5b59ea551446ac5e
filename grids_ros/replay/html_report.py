"""report.html: one file that needs nothing else, for the person who decides whether the policy gets the arm."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from grids_ros.files import write_whole
from grids_ros.replay import report_plots
from grids_ros.replay.bag_replay import BagResult
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
    ("Joint error", "deg", ("joint_deg", "mean"), 2, True, "mean over the joints, against the recorded ones"),
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
    ("… tracking error", "%", ("limits", "share_of_ticks", "tracking_error"), 1, True, "target too far from the arm"),
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


def write_report(summary: dict, results: Sequence[BagResult], path: Path, worse: Sequence[str]) -> None:
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
        colours=report_plots.colours(labels),
        findings={label: findings(overall[label], timings[label]) for label in labels},
        rows=_rows(overall),
        cameras=[row for label in labels for row in _camera_rows(label, overall[label])],
        timings=timings,
        horizon=[Markup(svg) for svg in _horizon_plots(overall)],
        bags=[_bag(result) for result in results],
        episodes=_episodes(summary),
        worse=worse,
    )
    write_whole(path, page)


def _horizon_plots(overall: dict) -> list[str]:
    if not any(figures["inferences"] for figures in overall.values()):
        return []
    return [
        report_plots.over_horizon(overall, "position_mm", "position error [mm]", still=True),
        report_plots.over_horizon(overall, "rotation_deg", "rotation error [deg]", still=False),
        report_plots.over_horizon(overall, "gripper_mm", "gripper error [mm]", still=False),
    ]


def _rows(overall: dict) -> list[Row]:
    """Without comparisons where there is one policy, and without joints where none speaks them."""
    left_out = set() if len(overall) > 1 else {"from_first"}
    if all(figures["joint_deg"]["mean"] is None for figures in overall.values()):
        left_out.add("joint_deg")
    return [_row(overall, *line) for line in LINES if line[2][0] not in left_out]


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


def _bag(result: BagResult) -> dict:
    """What the template needs of one bag; pictures as base64."""
    overlay_frames = [
        {
            "time": f"{frame.time_s:.1f}",
            "episode": frame.episode + 1,
            "instruction": frame.instruction,
            "jpeg": base64.b64encode(frame.jpeg).decode(),
        }
        for frame in result.overlay_frames
    ]
    return {
        "result": result,
        "overlay_frames": overlay_frames,
        "plot": Markup(report_plots.over_time(result)) if result.episodes else "",
    }


def _episodes(summary: dict) -> list[dict]:
    """One line per bag and episode, with each variant's error."""
    lines = []
    for bag in summary["bags"]:
        for episode in bag["episodes"]:
            cells = []
            for label, statistics in summary["episodes"].items():
                of = next((t for t in statistics if (t["bag"], t["episode"]) == (bag["name"], episode["number"])), None)
                position = of["position_mm"]["mean"] if of else None
                still = of["still_mm"]["mean"] if of else None
                cells.append({"label": label, "position": _number(position, 1), "still": _number(still, 1), "of": of})
            lines.append({"bag": bag["name"], **episode, "cells": cells})
    return lines

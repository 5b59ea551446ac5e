"""The options of `grids replay`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg
from tyro.constructors import PrimitiveConstructorSpec

from grids_ros.options import WORKERS, Cluster, Place, Range, RobotOptions

MEASURED = "measured"
REPORT, SUMMARY = "report.html", "summary.json"
SCORED_BAGS = ".grids_replay_scored"  # folder of results in OUT, until the report holds them all
LONGEST_DELAY_S = 60.0


def span(texts: list[str]) -> tuple[float, float]:
    """ "12:30" to (12.0, 30.0); either side may be left out. Raises ValueError."""
    start, sign, stop = texts[0].partition(":")
    try:
        seconds = float(start or 0.0), float(stop or "inf")
    except ValueError:
        seconds = 0.0, 0.0
    if not sign or not 0.0 <= seconds[0] < seconds[1]:
        raise ValueError(f"{texts[0]!r}, expected START:STOP in seconds from the bag's start, such as 12:30")
    return seconds


def delay(texts: list[str]) -> float | None:
    """Milliseconds to seconds; None for "measured". Raises ValueError."""
    if texts[0] == MEASURED:
        return None
    try:
        value = float(texts[0]) / 1e3
    except ValueError:
        value = -1.0
    if not 0.0 <= value < LONGEST_DELAY_S:
        raise ValueError(f"{texts[0]!r}, expected milliseconds such as 80, or {MEASURED!r}")
    return value


_SPAN = PrimitiveConstructorSpec(1, "START:STOP", span, lambda value: True, lambda value: [f"{value[0]}:{value[1]}"])
_DELAY = PrimitiveConstructorSpec(
    1, "MS", delay, lambda value: True, lambda value: [MEASURED if value is None else f"{value * 1e3:g}"]
)


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """Score a policy on recorded topics, open loop.

    Exit codes: 0 scored; 1 worse than the baseline; 2 an option, parameter or checkpoint that cannot be used; 3 a bag
    that cannot be replayed, or nothing in it to score; 4 scored, but a part of a bag could not be read.
    """

    bags: Positional[Annotated[tuple[Path, ...], arg(metavar="BAG ...", help_behavior_hint="(required)")]]
    """rosbag2 folder or file"""
    checkpoint: Annotated[tuple[Path, ...], Place.FOLDER]
    """folder, or several to compare"""
    tokens: Annotated[tuple[str, ...], arg(metavar="K ...")] = ()
    """compare at these, such as: 16 4 dense"""
    denoising_steps: Annotated[tuple[int, ...], Range(1, 1000)] = ()
    """compare at these, such as: 10 5 2"""
    precision: tuple[Literal["auto", "float32", "bfloat16", "float8"], ...] = ()
    """compare in these, such as: auto float8"""
    out: Annotated[Path, Place.OUT_FOLDER] = Path("out/replay")
    """folder of the report"""
    range: Annotated[UseAppendAction[tuple[Annotated[tuple[float, float], _SPAN], ...]], arg(metavar="START:STOP")] = ()
    """only this part of each bag [s]"""
    latency: Annotated[float | None, _DELAY] = 0.0
    """delay of the chunks in milliseconds, or `measured`"""
    join: Literal["latest", "rtc"] = "latest"
    """latest scores each chunk by itself; rtc: each goes on from the last, as in the node on an arm that obeys"""
    other_instruction: str = ""
    """to probe with; default: others of the training data"""
    write_bag: bool = False
    """also write a bag with chunks, sampled points and overlays"""
    baseline: Annotated[Path | None, Place.FILE] = None
    """summary.json that must not be undercut"""
    tolerance: Annotated[float, Range(0)] = 0.1
    """how much worse is too much"""
    workers: Annotated[int, WORKERS] = os.cpu_count() or 1
    """processes at most, one for each bag"""
    cluster: Cluster = ""
    """score the bags on this Ray cluster, whose nodes have them under the same paths"""
    robot: RobotOptions = RobotOptions()

    def left(self) -> str:
        """After an interruption."""
        scored = len(list((self.out / SCORED_BAGS).glob("*.json")))
        if scored:
            return f"{self.out} holds no new report; {scored} bags are scored, a second start goes on with the others"
        return f"{self.out} holds no new report"

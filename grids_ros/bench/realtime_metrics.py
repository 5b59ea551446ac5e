"""From recorded commands to figures. No ROS: arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MISSED = 1.5  # a period longer than so many nominal ones lacks a tick
AFTER_TRANSITION_TICKS = 20  # after a transition that are measured: the time in which a chunk is faded in
STILL_M = 1e-6  # a step shorter than this is no motion


def period_figures(stamps_ns: np.ndarray, period_s: float) -> dict[str, float | int]:
    """How well the stamps (n,) of at least two commands keep the nominal period."""
    periods_ms = np.diff(stamps_ns) / 1e6
    errors = np.abs(periods_ms - 1e3 * period_s)
    return {
        "commands": len(stamps_ns),
        "period_p50_ms": round(float(np.median(periods_ms)), 4),
        "error_p50_ms": round(float(np.median(errors)), 4),
        "error_p99_ms": round(float(np.percentile(errors, 99)), 4),
        "error_max_ms": round(float(errors.max()), 4),
        "missed_ticks": int(np.rint(periods_ms[periods_ms > MISSED * 1e3 * period_s] / (1e3 * period_s) - 1).sum()),
    }


def lateness_figures(late_s: Sequence[float], missed: Sequence[int]) -> dict[str, float | int]:
    """Of a loop's own clock: how long after its deadline each tick began [s], and deadlines missed before it."""
    late_ms = 1e3 * np.asarray(late_s)
    return {
        "ticks": len(late_ms),
        "late_p50_ms": round(float(np.median(late_ms)), 4),
        "late_p99_ms": round(float(np.percentile(late_ms, 99)), 4),
        "late_max_ms": round(float(late_ms.max()), 4),
        "missed_ticks": int(np.sum(missed)),
    }


def stage_figures(medians_ms: Sequence[float], chunk_delays_ms: Sequence[float]) -> dict[str, float]:
    """From an image's stamp to its chunk, stage by stage [ms].

    medians_ms: of the image's transport, the observation's age when its inference begins, and the four stages of the
    inference, as the policy node reports them. chunk_delays_ms: from the stamp to the reception of the chunk, by a
    listener. What transport leaves of the age is a wait; what the stages leave of the delay is the chunk's transport.
    """
    transport, age, observing, preprocessing, model, sending = medians_ms
    total = float(np.median(chunk_delays_ms))
    figures = {
        "image_transport": transport,
        "wait": age - transport,
        "observing": observing,
        "preprocessing": preprocessing,
        "model": model,
        "sending": sending,
        "chunk_transport": total - age - observing - preprocessing - model - sending,
        "total": total,
    }
    return {name: round(value, 2) for name, value in figures.items()}


@dataclass(frozen=True, eq=False)
class CommandedPath:
    """The commands of one run. positions: (n, 3) [m], one for each tick. chunks: (n,), which chunk each is from."""

    positions: np.ndarray
    chunks: np.ndarray

    @property
    def transitions(self) -> np.ndarray:
        """Index of the first command of each chunk but the first."""
        return 1 + np.flatnonzero(np.diff(self.chunks))


def transition_figures(paths: Sequence[CommandedPath]) -> dict[str, float | int]:
    """Jumps at the transitions between chunks, in units of the median step inside a chunk.

    At each transition: the largest step of the command, and the largest change of that step in one tick, until the new
    chunk is faded in. Both means are over the transitions. A continuous command has a step of about 1.
    """
    inside, steps_at, changes_at = [], [], []
    for path in paths:
        ways = np.diff(path.positions, axis=0)
        steps = np.linalg.norm(ways, axis=1)
        changes = np.linalg.norm(np.diff(ways, axis=0), axis=1)
        free = np.ones(len(steps), bool)
        for transition in path.transitions:
            after = slice(transition - 1, transition - 1 + AFTER_TRANSITION_TICKS)
            free[after] = False
            if transition >= 2 and transition + AFTER_TRANSITION_TICKS <= len(steps):
                steps_at.append(steps[after].max())
                changes_at.append(changes[transition - 2 : transition - 2 + AFTER_TRANSITION_TICKS].max())
        inside.append(steps[free & (steps > STILL_M)])
    median = float(np.median(np.concatenate(inside)))
    return {
        "transitions": len(steps_at),
        "median_step_mm": round(1e3 * median, 3),
        "position_jump": round(float(np.mean(steps_at)) / median, 3),
        "velocity_jump": round(float(np.mean(changes_at)) / median, 3),
        "position_jump_max": round(float(np.max(steps_at)) / median, 3),
        "velocity_jump_max": round(float(np.max(changes_at)) / median, 3),
    }


def jump_ratio(figures: Mapping[str, Mapping[str, float]], mode: str) -> float:
    """The jump of a mode over that of `latest`: the worse of position and velocity."""
    kinds = ("position_jump", "velocity_jump")
    return round(max(figures[mode][kind] / figures["latest"][kind] for kind in kinds), 3)


def hold_figures(stamps_ns: np.ndarray, positions: np.ndarray, end_ns: int) -> dict[str, float | int]:
    """What the command (n,), (n, 3) did when no chunk came after the one that ended at `end_ns`."""
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    moving_after = steps[stamps_ns[1:] > end_ns] > STILL_M
    return {
        "ticks_until_held": int(np.flatnonzero(moving_after)[-1] + 1) if moving_after.any() else 0,
        "commands_while_held": int((stamps_ns > end_ns).sum()),
    }


def largest_step_mm(positions: np.ndarray) -> float:
    """Of commands (n, 3) [m] from one to the next."""
    return round(1e3 * float(np.linalg.norm(np.diff(positions, axis=0), axis=1).max()), 3)

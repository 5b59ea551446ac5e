"""From episodes to figures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest

from grids_ros.evaluate.episode import EpisodeResult


def wilson(successes: int, episodes: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a success rate (E. B. Wilson, 1927)."""
    interval = binomtest(successes, episodes).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def newcombe(both: int, first: int, second: int, neither: int) -> tuple[float, float, float]:
    """The difference of two success rates in the same scenes, first less second, and its 95 % interval.

    Counts of scenes: both succeeded, the first alone, the second alone, neither. Wilson's limits of both rates, joined
    by their correlation: R. G. Newcombe, Statistics in Medicine 17, 1998, pages 2635 to 2650, method 10.
    """
    scenes, ours, theirs = both + first + second + neither, both + first, both + second
    (p1, (l1, u1)), (p2, (l2, u2)) = ((n / scenes, wilson(n, scenes)) for n in (ours, theirs))
    together = float(both * neither - first * second)
    if together > 0:  # corrected for continuity
        together = max(0.0, together - scenes / 2)
    spread = ours * (scenes - ours) * theirs * (scenes - theirs)
    correlation = together / math.sqrt(spread) if spread else 0.0

    def reach(one: float, other: float) -> float:
        return math.sqrt(one * one - 2 * correlation * one * other + other * other)

    return p1 - p2, p1 - p2 - reach(p1 - l1, u2 - p2), p1 - p2 + reach(u1 - p1, p2 - l2)


def summarise(results: Sequence[EpisodeResult]) -> dict:
    """The figures of at least one episode; times in seconds of simulation, latencies in milliseconds of this machine.

    `coordinate_motion`: standard deviation of each sampled coordinate over all inferences, averaged over the points,
    as a fraction of the image, by camera.
    """
    successes, episodes = sum(result.success for result in results), len(results)
    wrong = sum(bool(result.wrong) for result in results)
    times = [result.time_s for result in results if result.success]
    latencies = np.concatenate([result.inference_ms for result in results])
    colours: dict[str, tuple[int, int]] = {}
    for result in results:
        won, of = colours.get(result.colour, (0, 0))
        colours[result.colour] = (won + result.success, of + 1)
    return {
        "success_rate": round(successes / episodes, 4),
        "successes": successes,
        "episodes": episodes,
        "wilson_95": [round(bound, 4) for bound in wilson(successes, episodes)],
        "wrong_objects": wrong,
        "wrong_object_rate": round(wrong / episodes, 4),
        "time_to_success_s": round(float(np.median(times)), 2) if times else None,
        "inference_ms": {name: round(float(np.percentile(latencies, q)), 1) for name, q in (("p50", 50), ("p99", 99))},
        "by_colour": {colour: f"{won} of {of}" for colour, (won, of) in sorted(colours.items())},
        "coordinate_motion": {
            camera: round(float(np.concatenate([r.coordinates[camera] for r in results]).std(0).mean()), 4)
            for camera in results[0].coordinates
        },
        "failed_seeds": [result.seed for result in results if not result.success],
    }

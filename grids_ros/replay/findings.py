"""The figures in plain words: what somebody who is about to connect the arm should know first."""

from __future__ import annotations

from dataclasses import dataclass

from grids_ros.control.limits import BINDING

GOOD, FAIR, BAD = "good", "fair", "bad"
DEAF_MM = 5.0  # a chunk that another instruction changes by less than this hardly hears
JERKY = 3.0  # times the recorded jerk
OFTEN = 0.05  # share of ticks without a chunk, or of frames in a corner, that is worth a word; half of them is bad
LIMITED = 0.05  # share of ticks at which a limit acts that is worth a word
NARROW = 0.05  # spread of the coordinates below which they look at one place; fraction of the image


@dataclass(frozen=True)
class Finding:
    """level: GOOD, FAIR or BAD."""

    level: str
    text: str


def findings(figures: dict, timings: dict) -> list[Finding]:
    """Of one variant's overall figures; nothing is said about what could not be measured."""
    if not figures["inferences"]:
        return [Finding(BAD, "Nothing was inferred: the policy never had an observation.")]
    said = [_silent(figures), _motion(figures), _smooth(figures), _hears(figures), *_looks(figures), _held(figures)]
    said += [_limits(figures), _time(timings)]
    return [finding for finding in said if finding]


def _level(share: float) -> str:
    return BAD if share >= 0.5 else FAIR


def _silent(figures: dict) -> Finding | None:
    share, reasons = figures["no_chunk_share"], figures["no_observation"]
    if share is None or share < OFTEN:
        return None
    text = f"No chunk at {share:.0%} of the ticks of inference, most often: {max(reasons, key=reasons.get)}."
    return Finding(_level(share), f"{text} All else is said of the rest.")


def _motion(figures: dict) -> Finding | None:
    off, still = figures["position_mm"]["mean"], figures["still_mm"]["mean"]
    if off is None:
        return Finding(BAD, "No step could be scored: the recorded motion does not cover the chunks.")
    if still < 1.0:
        return Finding(FAIR, f"{off:.1f} mm off on average, but the recorded arm hardly moved ({still:.1f} mm).")
    share = 1.0 - off / still
    text = f"{off:.1f} mm off on average; an arm that stands still would be {still:.1f} mm off"
    if share <= 0.0:
        return Finding(BAD, f"{text}. The policy is worse than doing nothing.")
    return Finding(GOOD if share > 0.5 else FAIR, f"{text}: {share:.0%} of the recorded motion is predicted.")


def _smooth(figures: dict) -> Finding | None:
    chunks, recorded = figures["jerk_m_s3"]["chunks"], figures["jerk_m_s3"]["recorded"]
    if chunks is None or not recorded:
        return None
    ratio = chunks / recorded
    return Finding(FAIR if ratio > JERKY else GOOD, f"Chunks have {ratio:.1f} times the jerk of the recorded motion.")


def _hears(figures: dict) -> Finding | None:
    change = figures["instruction"]["change_mm"]
    if change is None:
        return None
    right, other = figures["instruction"]["right_error_mm"], figures["instruction"]["error_mm"]
    text = f"Another instruction on the same frames moves the chunk by {change:.1f} mm"
    if right is not None and other is not None:
        text += f" (error {right:.0f} mm with the right one, {other:.0f} mm with the other)"
    deaf = change < DEAF_MM
    return Finding(BAD if deaf else GOOD, text + (": the policy hardly hears what it is told." if deaf else "."))


def _looks(figures: dict) -> list[Finding]:
    said = []
    for camera, of in figures["coordinates"].items():
        if of["collapsed"] >= OFTEN:
            text = f"Camera {camera}: the sampled points sit in a corner {of['collapsed']:.0%} of the time."
            said.append(Finding(_level(of["collapsed"]), text))
        elif of["spread"] is not None and of["spread"] < NARROW:
            said.append(Finding(FAIR, f"Camera {camera}: all sampled points look at nearly the same place."))
        elif of["moved"] is not None:
            said.append(
                Finding(
                    GOOD,
                    f"Camera {camera}: sampled points move {of['moved']:.1%} of the image per frame, "
                    f"the picture beneath them {of['picture']:.1%}.",
                )
            )
    return said


def _held(figures: dict) -> Finding | None:
    share, reasons = figures["limits"]["held_share"], figures["limits"]["held"]
    if share is None or share < OFTEN:
        return None
    text = f"The follower would have held at {share:.0%} of its ticks, most often: {max(reasons, key=reasons.get)}."
    return Finding(_level(share), text)


def _limits(figures: dict) -> Finding | None:
    shares = figures["limits"]["share_of_ticks"]
    if shares["any"] is None:
        return None
    if shares["any"] < LIMITED:
        return Finding(GOOD, f"The safety limits would have acted at {shares['any']:.1%} of the follower's ticks.")
    worst = max(BINDING, key=shares.get)
    return Finding(
        FAIR,
        f"The safety limits would have acted at {shares['any']:.0%} of the follower's ticks, most often {worst}; "
        f"they cut up to {figures['limits']['largest_cut_mm']:.0f} mm.",
    )


def _time(timings: dict) -> Finding | None:
    if not timings:
        return None
    p99, misses, rate = timings["inference_ms"]["p99"], timings["deadline_misses"], timings["rate_hz"]
    late = f"{misses} would have missed their deadline at {rate:g} Hz"
    text = f"99 of 100 inferences took at most {p99:.0f} ms here; {late}."
    level = BAD if p99 > 1e3 / rate else FAIR if misses else GOOD
    return Finding(level, text)

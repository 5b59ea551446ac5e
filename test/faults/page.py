"""The outcomes as lines of a terminal, and as a page of the documentation."""

from __future__ import annotations

from faults.measure import LIMITS
from faults.run import Outcome

SAID = 110  # characters of a reason that are shown
COLUMNS = {"before": 8, "step": 8, "speed": 8, "accel": 8, "turn": 7, "t.acc": 8, "hold": 7, "resume": 8}
HEAD = f"{'fault':<52}{''.join(f'{name:>{width}}' for name, width in COLUMNS.items())}   reason"
INTRODUCTION = """# Faults

`make faults` writes this page. It runs the follower as a process of its own, lets it follow chunks, injects each fault
over DDS, and listens to `target_pose` with a lossless queue. From `camera` on, three processes run: the simulated arm,
the policy with the shipped checkpoint, and the follower. Before is the speed of the target when the fault begins. Each
row shows the largest values in a window from 0.4 s before the fault until 0.4 s after the arm moves again. Hold and
resume are counted in control ticks: from the begin of the fault to a target at rest, and from its end to a target in
motion.

Limits: speed {speed:g} m/s, acceleration {acceleration:g} m/s², turning {turning:g} rad/s, turning acceleration
{turning_acceleration:g} rad/s².

{total} faults, {failed} with a problem. Largest values of all rows: {worst}.

Units: m/s, mm, m/s, m/s², rad/s, rad/s², s, s. The reason is that in `/diagnostics`.

| fault | before | step | speed | acceleration | turning | turning acceleration | hold | resume | reason |
| --- | --: | --: | --: | --: | --: | --: | --: | --: | --- |
"""


def _cells(outcome: Outcome) -> list[str]:
    e = outcome.extremes
    hold = "" if outcome.hold_s is None else f"{outcome.hold_s:.2f}"
    resume = "" if outcome.resume_s is None else f"{outcome.resume_s:.2f}"
    numbers = (1e3 * e.step, e.speed, e.acceleration, e.turning_speed, e.turning_acceleration)
    return [f"{outcome.before:.2f}", *(f"{number:.2f}" for number in numbers), hold, resume]


def _reason(outcome: Outcome) -> str:
    said = outcome.said if len(outcome.said) <= SAID else f"{outcome.said[:SAID].rsplit(' ', 1)[0]} …"
    return " ".join([said, *(f"PROBLEM: {problem}" for problem in outcome.problems)])


def row(outcome: Outcome) -> str:
    """For the terminal."""
    cells = "".join(f"{cell:>{width}}" for cell, width in zip(_cells(outcome), COLUMNS.values(), strict=True))
    return f"{f'{outcome.fault.kind}: {outcome.fault.name}':<52}{cells}   {_reason(outcome)}"


def page(outcomes: list[Outcome]) -> str:
    """As Markdown."""
    extremes = [outcome.extremes for outcome in outcomes]
    worst = (
        f"step {1e3 * max(e.step for e in extremes):.2f} mm, speed {max(e.speed for e in extremes):.4f} m/s, "
        f"acceleration {max(e.acceleration for e in extremes):.4f} m/s², "
        f"turning {max(e.turning_speed for e in extremes):.4f} rad/s, "
        f"turning acceleration {max(e.turning_acceleration for e in extremes):.4f} rad/s²"
    )
    head = INTRODUCTION.format(
        speed=LIMITS.linear_speed,
        acceleration=LIMITS.linear_acceleration,
        turning=LIMITS.angular_speed,
        turning_acceleration=LIMITS.angular_acceleration,
        total=len(outcomes),
        failed=sum(bool(outcome.problems) for outcome in outcomes),
        worst=worst,
    )
    lines = []
    for outcome in outcomes:
        reason = _reason(outcome).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
        cells = [f"{outcome.fault.kind}: {outcome.fault.name.replace('<', '&lt;')}", *_cells(outcome), reason]
        lines.append(f"| {' | '.join(cells)} |")
    return head + "\n".join(lines) + "\n"

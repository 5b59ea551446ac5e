"""One fault: motion, the fault, motion again, and what the stream of targets did."""

from __future__ import annotations

import time
from dataclasses import dataclass

from faults.injections import Fault
from faults.measure import PERIOD_S, REST, Extremes, extremes, moves_after, rests_after, speed_at_end
from faults.rig import MOVING_TURNS, RESTART, Rig

ENDS_S = 15.0  # for a process to end


@dataclass(frozen=True)
class Outcome:
    """One row of the table.

    before: speed of the target when the fault began [m/s]. hold_s, resume_s: None where the target never rested, or
    never moved again.
    """

    fault: Fault
    before: float
    extremes: Extremes
    hold_s: float | None
    resume_s: float | None
    said: str
    problems: tuple[str, ...]


def run(rig: Rig, fault: Fault) -> Outcome:
    """Inject `fault` into a follower in motion. What goes wrong with the driver itself is a problem of the row."""
    if not rig.running():
        rig.start()
    rig.restore()
    problems = []
    try:
        rig.prepare()
    except TimeoutError as error:
        problems.append(str(error))
    before = speed_at_end(rig.targets)
    first, said = max(0, len(rig.targets) - MOVING_TURNS), len(rig.said)
    begun = rig.targets[-1].number
    with fault.inject(rig):
        for _ in range(fault.turns):
            rig.turn()
        ended = rig.targets[-1].number
    hold = rests_after(rig.targets[first:], begun)
    resume = None
    if fault.ends:
        problems += _ends(rig)
    else:
        problems += _resumes(rig)
        resume = moves_after(rig.targets, ended)
        resume = resume and resume % RESTART  # of another process: since it has begun
    texts = list(dict.fromkeys(rig.said[said:]))
    found = [text for text in texts if fault.said and fault.said in text]
    if fault.said and not found:
        problems.append(f"nobody said {fault.said!r}")
    if fault.holds and hold is None:
        problems.append("the target did not come to rest")
    measured = extremes(rig.targets[first:])
    if not measured.within:
        problems.append("beyond a limit")
    shown = found or [text for text in texts if text.startswith("holding")] or texts
    return Outcome(
        fault, before, measured, _seconds(hold), _seconds(resume), shown[0] if shown else "", tuple(problems)
    )


def _resumes(rig: Rig) -> list[str]:
    ended = rig.problems()
    if ended:
        return ended
    try:
        rig.resume()
    except TimeoutError as error:
        return [f"it does not go on: {error}"]
    return []


def _ends(rig: Rig) -> list[str]:
    """The stream ends at rest. A node that was shut down lives on, and is ended here."""
    if rig.process.poll() is None:
        rig.process.terminate()
    end_s = time.monotonic() + ENDS_S
    while rig.process.poll() is None and time.monotonic() < end_s:
        rig.turn()
    if rig.process.poll() is None:
        rig.process.kill()
        rig.process.wait()
        return [f"it did not end within {ENDS_S:g} s"]
    for _ in range(REST):  # what is still on its way
        rig.turn()
    last = rig.targets[-3:]
    still = all((target.position == last[-1].position).all() for target in last)
    return [] if still else ["the stream ended in motion"]


def _seconds(ticks: int | None) -> float | None:
    return None if ticks is None else ticks * PERIOD_S

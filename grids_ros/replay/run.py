"""One policy on the ticks of a bag: when it infers, its scores, and the follower in the recording's shadow."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from grids_ros.data.settings import Settings
from grids_ros.datatypes import NANOSECONDS, ActionChunk, PolicyOutput, Pose
from grids_ros.replay import judge, look
from grids_ros.replay.policies import Answer
from grids_ros.replay.recorded import Recorded
from grids_ros.replay.shadow import Shadow
from grids_ros.replay.tally import Tally, kind
from grids_ros.replay.ticks import AFTER_NS, Tick

PROBE_EVERY = 10  # inferences; each probe under another instruction costs one inference more


@dataclass(frozen=True, eq=False)
class _Pending:
    """A chunk whose future has not been read yet. other: the chunk of the same frame under another instruction."""

    tally: Tally
    chunk: ActionChunk
    measured: Pose
    other: ActionChunk | None


@dataclass(frozen=True, eq=False)
class Turn:
    """A tick of one policy. infers: it is asked. other: a second instruction to ask it, or "". missed: it was busy."""

    tick: Tick
    infers: bool = False
    other: str = ""
    missed: bool = False


class Turns:
    """Which ticks one policy infers at, as its node would: not while it is busy, nor without a new observation.

    To be asked about every tick in turn, and told of each answer before the next.
    """

    def __init__(self, latency_s: float | None, words: Sequence[str]):
        """latency_s: from observation to chunk [s]; None: as measured. words: instructions to probe it with."""
        self._latency_s, self._words = latency_s, tuple(words)
        self._episode, self._busy_until_ns, self._inferences = -1, 0, 0
        self._last_stamp_ns = -1

    def at(self, tick: Tick) -> Turn:
        if tick.episode != self._episode or tick.back:
            self._episode, self._busy_until_ns, self._inferences = tick.episode, 0, 0
        if tick.episode < 0:
            return Turn(tick)
        if tick.now_ns < self._busy_until_ns:
            return Turn(tick, missed=True)
        if tick.observation is None or tick.observation.stamp_ns == self._last_stamp_ns:
            return Turn(tick)
        return Turn(tick, infers=True, other=self._other(tick))

    def _other(self, tick: Tick) -> str:
        """Now and then, the next instruction that the policy knows beside the tick's; "" where it has none."""
        others = [words for words in self._words if words != tick.instruction]
        if not others or self._inferences % PROBE_EVERY:
            return ""
        return others[self._inferences // PROBE_EVERY % len(others)]

    def answered(self, turn: Turn, answer: Answer) -> None:
        if answer.output is not None:
            self._inferences += 1
            self._last_stamp_ns = turn.tick.observation.stamp_ns
            self._busy_until_ns = turn.tick.now_ns + self.delay_ns(answer.output)

    def delay_ns(self, output: PolicyOutput) -> int:
        """From an observation to its chunk [ns]."""
        return round((output.latency_s["total"] if self._latency_s is None else self._latency_s) * NANOSECONDS)


class Run:
    """Scores one policy; `episodes` grows by a Tally for each, `model_s` by the time that it inferred.

    zero_ns: where the rows' time starts.
    """

    def __init__(self, settings: Settings, recorded: Recorded, turns: Turns, zero_ns: int):
        self.episodes: dict[int, Tally] = {}
        self.turns = turns
        self._settings, self._recorded, self._zero_ns = settings, recorded, zero_ns
        self._pending: deque[_Pending] = deque()
        self._episode = -1
        self._shadow: Shadow | None = None
        self.model_s = 0.0
        self._begin(-1, 0)

    def _begin(self, episode: int, now_ns: int) -> None:
        self._end_shadow()
        self._episode = episode
        self._before: ActionChunk | None = None
        self._seen: dict[str, np.ndarray] = {}
        if episode >= 0:
            self._tally = self.episodes.setdefault(episode, Tally())
            frame = self._settings.policy["base_frame"]
            self._shadow = Shadow(self._settings.follower, frame, now_ns)

    def _end_shadow(self) -> None:
        shadow, self._shadow = self._shadow, None
        if shadow is not None:
            self._tally.shadow_ticks += shadow.ticks
            for name in ("limited", "held", "refused"):
                getattr(self._tally, name).update(getattr(shadow, name))
            self._tally.largest_cut_mm = max(self._tally.largest_cut_mm, shadow.largest_cut_mm)

    def tick(
        self,
        turn: Turn,
        answer: Answer | None,
        flows: Mapping[str, np.ndarray | None],
        first: PolicyOutput | None = None,
    ) -> None:
        """Take a tick, once it is known what the policy said to it. first: what the first of those compared said."""
        tick = turn.tick
        output = answer.output if answer is not None else None
        if flows and output is None:
            self._seen = {}  # the next flows are from this picture on, of which this policy has no points
        if tick.cut_ns is not None or tick.back:
            self._judge(list(self._pending), tick.cut_ns)
            self._pending.clear()
        if tick.episode != self._episode or tick.back:
            self._begin(tick.episode, tick.now_ns)
        if self._shadow is not None:
            if tick.paused:
                self._shadow.skip(tick.now_ns)
            self._shadow.run(tick.now_ns, tick.arrived)
        if tick.episode >= 0:
            self._count(turn, answer)
        if output is not None:
            self._shadow.send(output.chunk, tick.now_ns + self.turns.delay_ns(output))
            self._score(tick, answer, flows)
            self._compare(output, first)
        while self._pending and self._has_passed(self._pending[0].chunk, tick.now_ns):
            self._judge([self._pending.popleft()])

    def finish(self) -> None:
        """Nothing more of this span will be read: judge what is still waiting."""
        self._end_shadow()
        self._judge(self._pending)
        self._pending.clear()

    def _count(self, turn: Turn, answer: Answer | None) -> None:
        """Why there is no inference, or how long it took."""
        self._tally.ticks += 1
        self._tally.missed += turn.missed
        if answer is None:
            if not turn.missed:
                self._tally.silent += turn.tick.observation is None
                self._tally.not_ready.update(map(kind, turn.tick.reasons))
        elif answer.output is None:
            self._tally.silent += 1
            self._tally.not_ready[answer.refused] += 1
        else:
            self.model_s += answer.seconds
            self._tally.rows.add("latency_s", [answer.output.latency_s["total"]])

    def _score(self, tick: Tick, answer: Answer, flows: Mapping[str, np.ndarray | None]) -> None:
        """What can be said at once; the rest waits for the recording to go on."""
        output = answer.output
        rows, chunk = self._tally.rows, output.chunk
        rows.add("time_s", [(tick.now_ns - self._zero_ns) / NANOSECONDS])
        rows.add("jerk", [judge.jerk(chunk.positions, chunk.times)])
        if self._before is not None:
            apart_mm, apart_deg = judge.disagreement(chunk, self._before)
            rows.add("apart_mm", [apart_mm])
            rows.add("apart_deg", [apart_deg])
        self._before = chunk
        for camera, coordinates in output.coordinates.items():
            rows.add(f"spread/{camera}", [look.spread(coordinates)])
            rows.add(f"collapsed/{camera}", [look.collapsed(coordinates)])
            if camera in self._seen and flows.get(camera) is not None:
                figures = look.motion(coordinates, self._seen[camera], flows[camera])
                for name, value in zip(("moved", "picture", "slip"), figures, strict=True):
                    rows.add(f"{name}/{camera}", [value])
        self._seen = dict(output.coordinates)
        other = answer.other.chunk if answer.other is not None else None
        self._pending.append(_Pending(self._tally, chunk, tick.observation.pose, other))

    def _compare(self, output: PolicyOutput, first: PolicyOutput | None) -> None:
        """How far a chunk is from that of the first policy, on the same observation."""
        if first is not None and first is not output:
            from_mm, from_deg = judge.disagreement(output.chunk, first.chunk)
            self._tally.rows.add("from_first_mm", [from_mm])
            self._tally.rows.add("from_first_deg", [from_deg])

    def _has_passed(self, chunk: ActionChunk, now_ns: int) -> bool:
        """Whether all that the chunk speaks of has been read, or has not come although it is long past."""
        return self._recorded.knows(chunk.end_ns) or chunk.end_ns < now_ns - AFTER_NS

    def _judge(self, chunks: Iterable[_Pending], until_ns: int | None = None) -> None:
        """Score chunks against the recording. until_ns: when their episode ended, if it has."""
        for done in chunks:
            rows = done.tally.rows
            errors = judge.errors(done.chunk, done.measured, self._recorded, until_ns)
            for name, row in errors.items():
                rows.add(name, row)
            if done.other is not None:
                wrong = judge.errors(done.other, done.measured, self._recorded, until_ns)
                change = np.linalg.norm(done.chunk.positions - done.other.positions, axis=1) * judge.MM
                rows.add("other_change_mm", [change.mean()])
                rows.add("other_right_error_mm", [_mean(errors["position_mm"])])
                rows.add("other_error_mm", [_mean(wrong["position_mm"])])


def _mean(row: np.ndarray) -> float:
    return float(row[np.isfinite(row)].mean()) if np.isfinite(row).any() else float("nan")

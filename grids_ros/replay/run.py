"""One policy on the ticks of a bag: inferences, their scores, and the follower in the recording's shadow."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from grids_ros.datatypes import NANOSECONDS, ActionChunk, Observation, PolicyOutput, Pose
from grids_ros.policy.preprocess import InputError
from grids_ros.policy.runtime import Policy
from grids_ros.replay import judge, look
from grids_ros.replay.recorded import Recorded
from grids_ros.replay.settings import Settings
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


class Run:
    """Scores one policy; `episodes` grows by a Tally for each, `model_s` by the time that it inferred.

    latency_s: from observation to chunk [s]; None: as measured. words: instructions that the policy knows, to probe
    it with. zero_ns: where the rows' time starts.
    """

    def __init__(
        self,
        policy: Policy,
        settings: Settings,
        recorded: Recorded,
        latency_s: float | None,
        words: Sequence[str],
        zero_ns: int,
    ):
        self.episodes: dict[int, Tally] = {}
        self._policy, self._settings, self._recorded = policy, settings, recorded
        self._latency_s, self._words, self._zero_ns = latency_s, tuple(words), zero_ns
        self._period_ns = round(NANOSECONDS / settings.policy["rate_hz"])
        self._pending: deque[_Pending] = deque()
        self._episode = -1
        self._shadow: Shadow | None = None
        self.model_s = 0.0
        self._begin(-1, 0)

    def _begin(self, episode: int, now_ns: int) -> None:
        self._end_shadow()
        self._episode, self._inferences = episode, 0
        self._busy_until_ns = 0
        self._before: ActionChunk | None = None
        self._seen: dict[str, np.ndarray] = {}
        if episode >= 0:
            self._tally = self.episodes.setdefault(episode, Tally())
            frame = self._settings.policy["base_frame"]
            self._shadow = Shadow(self._settings.follower, frame, now_ns)

    def _end_shadow(self) -> None:
        shadow, self._shadow = self._shadow, None
        if shadow is not None:
            self._tally.shadow_ticks += shadow.ticks - shadow.silent
            for name in ("limited", "held", "refused"):
                getattr(self._tally, name).update(getattr(shadow, name))
            self._tally.largest_cut_mm = max(self._tally.largest_cut_mm, shadow.largest_cut_mm)

    def tick(self, tick: Tick, flows: Mapping[str, np.ndarray | None]) -> PolicyOutput | None:
        """Infer as the node would; None where it would not."""
        if tick.cut_ns is not None or tick.back:
            self._judge(list(self._pending), tick.cut_ns)
            self._pending.clear()
        if tick.episode != self._episode or tick.back:
            self._begin(tick.episode, tick.now_ns)
        if self._shadow is not None:
            self._shadow.run(tick.now_ns, tick.arrived)
        output = self._infer(tick) if tick.episode >= 0 else None
        if output is not None:
            self._score(tick, output, flows)
        while self._pending and self._has_passed(self._pending[0].chunk, tick.now_ns):
            self._judge([self._pending.popleft()])
        return output

    def finish(self) -> None:
        """Nothing more will be read: judge what is still waiting."""
        self._end_shadow()
        self._judge(self._pending)

    def _infer(self, tick: Tick) -> PolicyOutput | None:
        if tick.now_ns < self._busy_until_ns:
            self._tally.missed += 1
            return None
        if tick.observation is None:
            self._tally.not_ready.update(map(kind, tick.reasons))
            return None
        try:
            output = self._policy.infer(tick.observation)
        except InputError as error:
            self._tally.not_ready[str(error)] += 1
            return None
        measured_s = output.latency_s["total"]
        self.model_s += measured_s
        delay_ns = round((measured_s if self._latency_s is None else self._latency_s) * NANOSECONDS)
        self._busy_until_ns = tick.now_ns + delay_ns
        self._shadow.send(output.chunk, tick.now_ns + delay_ns)
        self._tally.rows.add("latency_s", [measured_s])
        return output

    def _score(self, tick: Tick, output: PolicyOutput, flows: Mapping[str, np.ndarray | None]) -> None:
        """What can be said at once; the rest waits for the recording to go on."""
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
        other = self._probe(tick.observation) if self._inferences % PROBE_EVERY == 0 else None
        self._inferences += 1
        self._pending.append(_Pending(self._tally, chunk, tick.observation.pose, other))

    def _probe(self, observation: Observation) -> ActionChunk | None:
        """The chunk of the same frame under the next instruction that the policy knows, or None where it has none."""
        others = [words for words in self._words if words != observation.instruction]
        if not others:
            return None
        words = others[self._inferences // PROBE_EVERY % len(others)]
        seen = observation
        changed = Observation(seen.stamp_ns, seen.images, seen.pose, seen.gripper, words)
        try:
            output = self._policy.infer(changed)
        except InputError:
            return None
        self.model_s += output.latency_s["total"]
        return output.chunk

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

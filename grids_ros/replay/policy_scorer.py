"""One policy on the ticks of a bag: when it infers, its scores, and the follower beside the recording."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from grids_ros.data.settings import Settings
from grids_ros.datatypes import NANOSECONDS, ActionChunk, PolicyOutput, Pose
from grids_ros.replay import metrics, sampling_motion
from grids_ros.replay.episode_statistics import EpisodeStatistics, without_values
from grids_ros.replay.policy_process import InferenceReply
from grids_ros.replay.recorded_motion import RecordedMotion
from grids_ros.replay.replayed_session import ReplayedSession, SessionStep
from grids_ros.replay.shadow_follower import ShadowFollower
from grids_ros.replay.ticks import AFTER_NS, Tick


@dataclass(frozen=True, eq=False)
class _PendingChunk:
    """A chunk whose future has not been read yet. other: the chunk of the same frame under another instruction."""

    statistics: EpisodeStatistics
    chunk: ActionChunk
    measured: Pose
    other: ActionChunk | None


class PolicyScorer:
    """Scores one policy; `episodes` grows by EpisodeStatistics for each, `model_s` by the time that it inferred.

    zero_ns: where the rows' time starts. joints: those that it speaks, none for tool poses.
    """

    def __init__(
        self,
        settings: Settings,
        recorded: RecordedMotion,
        session: ReplayedSession,
        zero_ns: int,
        joints: Sequence[str] = (),
    ):
        self._joints = tuple(joints)
        self.episodes: dict[int, EpisodeStatistics] = {}
        self.session = session
        self._settings, self._recorded, self._zero_ns = settings, recorded, zero_ns
        self._pending: deque[_PendingChunk] = deque()
        self._episode = -1
        self._shadow: ShadowFollower | None = None
        self.model_s = 0.0
        self._begin(-1, 0)

    def _begin(self, episode: int, now_ns: int) -> None:
        self._end_shadow()
        self._episode = episode
        self._before: ActionChunk | None = None
        self._seen: dict[str, np.ndarray] = {}
        if episode >= 0:
            self._statistics = self.episodes.setdefault(episode, EpisodeStatistics())
            frame = self._settings.policy.base_frame
            self._shadow = ShadowFollower(self._settings.follower, frame, now_ns)

    def _end_shadow(self) -> None:
        shadow, self._shadow = self._shadow, None
        if shadow is not None:
            self._statistics.shadow_ticks += shadow.ticks
            for name in ("limited", "held", "refused"):
                getattr(self._statistics, name).update(getattr(shadow, name))
            self._statistics.largest_cut_mm = max(self._statistics.largest_cut_mm, shadow.largest_cut_mm)

    def tick(
        self,
        session_step: SessionStep,
        reply: InferenceReply | None,
        flows: Mapping[str, np.ndarray | None],
        first: PolicyOutput | None = None,
    ) -> None:
        """Take a tick, once it is known what the policy said to it. first: what the first of those compared said."""
        tick = session_step.tick
        output = reply.output if reply is not None else None
        if flows and output is None:
            self._seen = {}  # the next flows are from this picture on, of which this policy has no points
        if tick.cut_ns is not None or tick.back:
            self._score_against_recording(list(self._pending), tick.cut_ns)
            self._pending.clear()
        if tick.episode != self._episode or tick.back:
            self._begin(tick.episode, tick.now_ns)
        if self._shadow is not None:
            if tick.paused:
                self._shadow.skip(tick.now_ns)
            self._shadow.run(tick.now_ns, tick.arrived)
        if tick.episode >= 0:
            self._count(session_step, reply)
        if reply is not None and output is not None and self._shadow is not None:
            self._shadow.send(output.chunk, tick.now_ns + self.session.delay_ns(output))
            self._score(tick, reply, flows)
            self._compare(output, first)
        while self._pending and self._has_passed(self._pending[0].chunk, tick.now_ns):
            self._score_against_recording([self._pending.popleft()])

    def finish(self) -> None:
        """Nothing more of this span will be read: score what is still waiting."""
        self._end_shadow()
        self._score_against_recording(self._pending)
        self._pending.clear()

    def _count(self, session_step: SessionStep, reply: InferenceReply | None) -> None:
        """Why there is no inference, or how long it took."""
        self._statistics.ticks += 1
        self._statistics.missed += session_step.missed
        if reply is None:
            if not session_step.missed:
                self._statistics.silent += session_step.tick.observation is None
                self._statistics.not_ready.update(map(without_values, session_step.tick.reasons))
        elif reply.output is None:
            self._statistics.silent += 1
            self._statistics.not_ready[without_values(reply.refused)] += 1
        else:
            self.model_s += reply.seconds
            self._statistics.rows.add("latency_s", [reply.output.latency_s["total"]])

    def _score(self, tick: Tick, reply: InferenceReply, flows: Mapping[str, np.ndarray | None]) -> None:
        """What can be said at once; the rest waits for the recording to go on."""
        output, observation = reply.output, tick.observation
        assert output is not None and observation is not None  # there is no output without an observation
        rows, chunk = self._statistics.rows, output.chunk
        rows.add("time_s", [(tick.now_ns - self._zero_ns) / NANOSECONDS])
        rows.add("jerk", [metrics.jerk(chunk.positions, chunk.times)])
        if self._before is not None:
            apart_mm, apart_deg = metrics.disagreement(chunk, self._before)
            rows.add("apart_mm", [apart_mm])
            rows.add("apart_deg", [apart_deg])
        self._before = chunk
        for camera, coordinates in output.coordinates.items():
            rows.add(f"spread/{camera}", [sampling_motion.spread(coordinates)])
            rows.add(f"collapsed/{camera}", [sampling_motion.collapsed(coordinates)])
            flow = flows.get(camera)
            if camera in self._seen and flow is not None:
                figures = sampling_motion.motion(coordinates, self._seen[camera], flow)
                for name, value in zip(("moved", "picture", "slip"), figures, strict=True):
                    rows.add(f"{name}/{camera}", [value])
        self._seen = dict(output.coordinates)
        other = reply.other.chunk if reply.other is not None else None
        self._pending.append(_PendingChunk(self._statistics, chunk, observation.pose, other))

    def _compare(self, output: PolicyOutput, first: PolicyOutput | None) -> None:
        """How far a chunk is from that of the first policy, on the same observation."""
        if first is not None and first is not output:
            from_mm, from_deg = metrics.disagreement(output.chunk, first.chunk)
            self._statistics.rows.add("from_first_mm", [from_mm])
            self._statistics.rows.add("from_first_deg", [from_deg])

    def _has_passed(self, chunk: ActionChunk, now_ns: int) -> bool:
        """Whether all that the chunk speaks of has been read, or has not come although it is long past."""
        return self._recorded.knows(chunk.end_ns) or chunk.end_ns < now_ns - AFTER_NS

    def _score_against_recording(self, chunks: Iterable[_PendingChunk], until_ns: int | None = None) -> None:
        """Score chunks against the recording. until_ns: when their episode ended, if it has."""
        for done in chunks:
            rows = done.statistics.rows
            errors = metrics.errors(done.chunk, done.measured, self._recorded, until_ns, self._joints)
            for name, row in errors.items():
                rows.add(name, row)
            if done.other is not None:
                wrong = metrics.errors(done.other, done.measured, self._recorded, until_ns)
                change = np.linalg.norm(done.chunk.positions - done.other.positions, axis=1) * metrics.MM
                rows.add("other_change_mm", [change.mean()])
                rows.add("other_right_error_mm", [_mean(errors["position_mm"])])
                rows.add("other_error_mm", [_mean(wrong["position_mm"])])


def _mean(row: np.ndarray) -> float:
    return float(row[np.isfinite(row)].mean()) if np.isfinite(row).any() else float("nan")

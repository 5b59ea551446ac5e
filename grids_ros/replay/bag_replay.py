"""One bag from its first message to its last, all variants side by side; each picture is decoded once.

The policies infer in a process of their own. While they do, the tick before is scored and drawn, and the messages up
to the next one are read: with two cores a replay takes hardly longer than its inferences.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from grids_ros import memory
from grids_ros.data.reader import BagError, BagReader
from grids_ros.data.recording import Recording, open_recording
from grids_ros.data.robot import recorded_robot
from grids_ros.data.settings import Settings, find_topics, mistyped_topics
from grids_ros.datatypes import NANOSECONDS
from grids_ros.replay.annotated_bag import AnnotatedBag
from grids_ros.replay.episode_statistics import EpisodeStatistics
from grids_ros.replay.overlay_video import OverlayFrame, OverlayVideo
from grids_ros.replay.policy_process import InferenceReply, InferenceRequest, PolicyProcess
from grids_ros.replay.policy_scorer import PolicyScorer
from grids_ros.replay.recorded_motion import RecordedMotion
from grids_ros.replay.replayed_session import ReplayedSession, SessionStep
from grids_ros.replay.sampling_motion import OpticalFlow
from grids_ros.replay.ticks import Span, Tick, TickGenerator
from grids_ros.replay.variants import Variant


@dataclass(frozen=True)
class ReplayJob:
    """What to replay, and how; travels to a process of its own.

    name: of this bag and no other, in what is written. ranges: (start, stop) in seconds from the bag's first message;
    empty: all of it. latency_s: None: as measured. join: of chunks, one of JOINS. probe: another instruction to try on
    the same frames, or empty for those that the policy was trained with. threads: of torch, 0 for its own choice.
    film, copy: files to write; copy None for no new bag.
    """

    bag: Path
    name: str
    variants: tuple[Variant, ...]
    settings: Settings
    ranges: tuple[tuple[float, float], ...]
    latency_s: float | None
    join: str
    probe: str
    threads: int
    film: Path
    copy: Path | None
    alone: bool = True  # the only bag: it has a progress bar of its own


@dataclass(frozen=True)
class EpisodeSpan:
    """Where an episode was; times in seconds from the bag's first message."""

    number: int
    instruction: str
    start_s: float
    stop_s: float


@dataclass(frozen=True)
class BagResult:
    """What came of a ReplayJob.

    statistics: by label and number of the episode. notes: what the reader of a report should know. contract: what the
    numbers of a LeRobot data set mean; empty for a bag.
    """

    name: str
    topics: dict[str, str]
    reference: str
    duration_s: float
    episodes: tuple[EpisodeSpan, ...]
    statistics: dict[str, dict[int, EpisodeStatistics]]
    overlay_frames: tuple[OverlayFrame, ...]
    notes: tuple[str, ...]
    loss: str
    wall_s: float
    model_s: float
    contract: tuple[str, ...] = ()


def replay(job: ReplayJob) -> BagResult:
    """Raises BagError for a bag that cannot be replayed, CheckpointError for a policy that cannot be loaded."""
    memory.reuse()
    with open_recording(job.bag, job.settings) as source:
        if source.empty:
            raise BagError(f"{job.bag} is empty{f': {source.loss}' if source.loss else ''}")
        robot = recorded_robot(source, job.settings)
        with PolicyProcess(job.variants, job.settings.policy, job.threads, robot) as policies:
            return _Replay(job, source, policies).result()


class _Replay:
    """The state of one bag's replay."""

    def __init__(self, job: ReplayJob, source: Recording, policies: PolicyProcess):
        self._job, self._source, self._policies, self._cameras = job, source, policies, policies.cameras
        self._topics = find_topics(source, job.settings, self._cameras)
        self._zero_ns = source.start_ns
        self._joints = tuple(dict.fromkeys(name for joints in policies.joints.values() for name in joints))
        self._recorded = RecordedMotion(
            tuple(self._topics), job.settings.policy, job.settings.gripper_scale, self._joints
        )
        self._runs = {
            label: PolicyScorer(
                job.settings,
                self._recorded,
                ReplayedSession(job.latency_s, (job.probe,) if job.probe else words, job.join),
                self._zero_ns,
                policies.joints[label],
            )
            for label, words in policies.instructions.items()
        }
        self._last_steps: dict[str, SessionStep] = {}  # of the last tick
        self._flows = {camera: OpticalFlow() for camera in self._cameras}
        self._episodes: dict[int, EpisodeSpan] = {}
        self._sizes: dict[str, set] = {camera: set() for camera in self._cameras}
        self._jumps = 0

    def result(self) -> BagResult:
        started = time.perf_counter()
        job, rate = self._job, self._job.settings.policy.rate_hz
        generator = TickGenerator(self._source, self._topics, self._cameras, job.settings.policy, self._joints)
        spans = self._spans()
        total = sum(span.stop_ns - span.start_ns for span in spans) / NANOSECONDS
        with ExitStack() as stack:
            film = stack.enter_context(OverlayVideo(job.film, rate, self._cameras, tuple(self._runs), self._zero_ns))
            copy = stack.enter_context(self._annotated(job.copy)) if job.copy else None
            form = "{desc}: {percentage:3.0f}% |{bar}| {n:.0f}/{total:.0f} s of bag [{elapsed}<{remaining}, {rate_fmt}]"
            bar = stack.enter_context(
                tqdm(total=total, desc=job.name, unit="s", bar_format=form, disable=not job.alone, mininterval=0.5)
            )
            for span in spans:
                for tick in generator.ticks(span):
                    self._tick(tick, film, copy)
                    bar.update(min(1.0 / rate, bar.total - bar.n))
                self._finish(film, copy)
            film.wait()
            if copy:
                if isinstance(self._source, BagReader):
                    copy.originals(self._source, spans, self._topics.get("instruction", ""))
        return BagResult(
            name=job.name,
            topics=dict(sorted(self._topics.items())),
            reference=self._recorded.motion,
            duration_s=round(total, 3),
            episodes=tuple(self._episodes[number] for number in sorted(self._episodes)),
            statistics={label: run.episodes for label, run in self._runs.items()},
            overlay_frames=tuple(film.overlay_frames),
            notes=tuple(self._notes()),
            loss=self._source.loss,
            wall_s=time.perf_counter() - started,
            model_s=sum(run.model_s for run in self._runs.values()),
            contract=() if isinstance(self._source, BagReader) else tuple(self._source.contract),
        )

    def _annotated(self, path: Path) -> AnnotatedBag:
        policy = self._job.settings.policy
        return AnnotatedBag(path, policy.base_frame, policy.tool_frame, tuple(self._runs))

    def _spans(self) -> list[Span]:
        """Raises BagError for a range that lies outside of the bag."""
        said = self._job.settings.instruction or None
        length_s = (self._source.end_ns - self._zero_ns) / NANOSECONDS
        for start, stop in self._job.ranges:
            if start >= length_s:
                raise BagError(f"--range {start:g}:{stop:g} begins after the end of {self._job.bag}: {length_s:.1f} s")
        ranges = self._job.ranges or ((0.0, length_s),)
        return [
            Span(self._zero_ns + round(a * NANOSECONDS), self._zero_ns + round(min(b, length_s) * NANOSECONDS), said)
            for a, b in ranges
        ]

    def _tick(self, tick: Tick, film: OverlayVideo, copy: AnnotatedBag | None) -> None:
        """Ask the policies about a tick; while they infer, take the one before."""
        before, replies = self._last_steps, self._replies()
        self._last_steps = {label: run.session.at(tick) for label, run in self._runs.items()}
        asked = {
            label: InferenceRequest(session_step.other, session_step.inference.continuation)
            for label, session_step in self._last_steps.items()
            if session_step.inference is not None
        }
        if asked and tick.observation is not None:
            self._policies.submit(tick.observation, asked)
        self._take(before, replies, film, copy)

    def _finish(self, film: OverlayVideo, copy: AnnotatedBag | None) -> None:
        """A span is over: what is still open is scored by it, and nothing of it by the next."""
        self._take(self._last_steps, self._replies(), film, copy)
        self._last_steps = {}
        for run in self._runs.values():
            run.finish()
        self._recorded.forget()

    def _replies(self) -> dict[str, InferenceReply]:
        """To the last tick, by label."""
        replies = self._policies.replies()
        for label, reply in replies.items():
            self._runs[label].session.completed(self._last_steps[label], reply)
        return replies

    def _take(
        self,
        session_steps: Mapping[str, SessionStep],
        replies: Mapping[str, InferenceReply],
        film: OverlayVideo,
        copy: AnnotatedBag | None,
    ) -> None:
        """Everything that is done with a tick once its answers are there. Before the first one there is none."""
        for tick in [session_step.tick for session_step in session_steps.values()][:1]:
            for role, received_ns, message in tick.arrived:
                self._recorded.add(role, received_ns, message)
            self._jumps += tick.back
            if tick.episode >= 0:
                self._mark(tick)
            flows = self._flow(tick, any(session_step.inference is not None for session_step in session_steps.values()))
            outputs = {label: reply.output for label, reply in replies.items() if reply.output is not None}
            first = outputs.get(next(iter(self._runs)))
            for label, run in self._runs.items():
                run.tick(session_steps[label], replies.get(label), flows, first)
            if outputs:
                film.add(tick, outputs)
                if copy:
                    copy.add(tick, outputs, tick.frames)

    def _flow(self, tick: Tick, inferred: bool) -> dict:
        """Camera to how its picture moved since the last inference; nothing across a tick without pictures.

        inferred: by any of the policies.
        """
        if tick.observation is None:
            for flow in self._flows.values():
                flow.forget()
        if not inferred or tick.observation is None:
            return {}
        for camera, image in tick.observation.images.items():
            self._sizes[camera].add(image.shape[:2])
        return {camera: self._flows[camera].to(image) for camera, image in tick.observation.images.items()}

    def _mark(self, tick: Tick) -> None:
        at_s = round((tick.now_ns - self._zero_ns) / NANOSECONDS, 3)
        known = self._episodes.get(tick.episode)
        start_s = known.start_s if known else at_s
        self._episodes[tick.episode] = EpisodeSpan(tick.episode, tick.instruction, start_s, at_s)

    def _notes(self) -> list[str]:
        notes = list(self._source.notes)
        if self._jumps:
            notes.append(f"the clock jumped back {self._jumps} times; replay started afresh there")
        for camera, sizes in self._sizes.items():
            if len(sizes) > 1:
                listed = ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
                notes.append(f"images of camera {camera!r} changed size: {listed}")
        if not self._episodes:
            notes.append("no episode: the instruction is empty throughout; --instruction says what was done")
        notes += [f"{fault}: left out" for fault in mistyped_topics(self._source, self._topics)]
        for role, (count, why) in self._recorded.passed_over.items():
            notes.append(f"{count} messages on {role} were passed over, the last: {why}")
        if self._recorded.motion == "current_pose":
            notes.append("no target_pose to go by: chunks are held against the measured motion")
        if self._recorded.grip == "joint_states":
            notes.append("no gripper_command to go by: chunks are held against the measured opening")
        if self._joints and self._recorded.posture == "joint_states":
            notes.append("no target_joint to go by: chunks are held against the measured joints")
        figures = [statistics.figures() for run in self._runs.values() for statistics in run.episodes.values()]
        if any(of["inferences"] for of in figures) and not any(of["scored_steps"] for of in figures):
            notes.append(f"no step of any chunk could be scored: {self._recorded.why_unknown()}")
        return notes

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
from grids_ros.data.settings import Settings, find_topics, left_out
from grids_ros.data.source import BagError, Source
from grids_ros.datatypes import NANOSECONDS
from grids_ros.replay.film import Film, Still
from grids_ros.replay.look import Flow
from grids_ros.replay.policies import Answer, Policies
from grids_ros.replay.recorded import Recorded
from grids_ros.replay.run import Run, Turn, Turns
from grids_ros.replay.tally import Tally
from grids_ros.replay.ticks import Clockwork, Span, Tick
from grids_ros.replay.variants import Variant
from grids_ros.replay.written import Annotated


@dataclass(frozen=True)
class Job:
    """What to replay, and how; travels to a process of its own.

    name: of this bag and no other, in what is written. ranges: (start, stop) in seconds from the bag's first message;
    empty: all of it. latency_s: None: as measured. probe: words to test the policy's hearing with, or empty for those
    it was trained with. threads: of torch, 0 for its own choice. film, copy: files to write; copy None for no new bag.
    """

    bag: Path
    name: str
    variants: tuple[Variant, ...]
    settings: Settings
    ranges: tuple[tuple[float, float], ...]
    latency_s: float | None
    probe: str
    threads: int
    film: Path
    copy: Path | None
    place: int = 0  # of its progress bar


@dataclass(frozen=True)
class Episode:
    """Where an episode was; times in seconds from the bag's first message."""

    number: int
    instruction: str
    start_s: float
    stop_s: float


@dataclass(frozen=True)
class Result:
    """What came of a Job. tallies: label to episode number to Tally. notes: what the reader of a report should know."""

    name: str
    topics: dict[str, str]
    reference: str
    duration_s: float
    episodes: tuple[Episode, ...]
    tallies: dict[str, dict[int, Tally]]
    stills: tuple[Still, ...]
    notes: tuple[str, ...]
    loss: str
    wall_s: float
    model_s: float


def replay(job: Job) -> Result:
    """Raises BagError for a bag that cannot be replayed, CheckpointError for a policy that cannot be loaded."""
    memory.reuse()
    with Source(job.bag) as source:
        if source.empty:
            raise BagError(f"{job.bag} is empty{f': {source.loss}' if source.loss else ''}")
        with Policies(job.variants, job.settings.policy, job.threads) as policies:
            return _Replay(job, source, policies).result()


class _Replay:
    """The state of one bag's replay."""

    def __init__(self, job: Job, source: Source, policies: Policies):
        self._job, self._source, self._policies, self._cameras = job, source, policies, policies.cameras
        self._topics = find_topics(source, job.settings, self._cameras)
        self._zero_ns = source.start_ns
        self._recorded = Recorded(tuple(self._topics), job.settings.policy, job.settings.gripper_scale)
        self._runs = {
            label: Run(
                job.settings,
                self._recorded,
                Turns(job.latency_s, (job.probe,) if job.probe else words),
                self._zero_ns,
            )
            for label, words in policies.instructions.items()
        }
        self._asked: dict[str, Turn] = {}  # of the last tick
        self._flows = {camera: Flow() for camera in self._cameras}
        self._episodes: dict[int, Episode] = {}
        self._sizes: dict[str, set] = {camera: set() for camera in self._cameras}
        self._jumps = 0

    def result(self) -> Result:
        started = time.perf_counter()
        job, rate = self._job, self._job.settings.policy["rate_hz"]
        clockwork = Clockwork(self._source, self._topics, self._cameras, job.settings.policy)
        spans = self._spans()
        total = sum(span.stop_ns - span.start_ns for span in spans) / NANOSECONDS
        with ExitStack() as stack:
            film = stack.enter_context(Film(job.film, rate, self._cameras, tuple(self._runs), self._zero_ns))
            copy = stack.enter_context(self._annotated()) if job.copy else None
            form = "{desc}: {percentage:3.0f}% |{bar}| {n:.0f}/{total:.0f} s of bag [{elapsed}<{remaining}, {rate_fmt}]"
            bar = stack.enter_context(
                tqdm(total=total, desc=job.name, unit="s", bar_format=form, position=job.place, mininterval=0.5)
            )
            for span in spans:
                for tick in clockwork.ticks(span):
                    self._tick(tick, film, copy)
                    bar.update(min(1.0 / rate, bar.total - bar.n))
                self._finish(film, copy)
            film.wait()
            if copy:
                copy.originals(self._source, spans, self._topics.get("instruction", ""))
        return Result(
            name=job.name,
            topics=dict(sorted(self._topics.items())),
            reference=self._recorded.motion,
            duration_s=round(total, 3),
            episodes=tuple(self._episodes[number] for number in sorted(self._episodes)),
            tallies={label: run.episodes for label, run in self._runs.items()},
            stills=tuple(film.stills),
            notes=tuple(self._notes()),
            loss=self._source.loss,
            wall_s=time.perf_counter() - started,
            model_s=sum(run.model_s for run in self._runs.values()),
        )

    def _annotated(self) -> Annotated:
        policy = self._job.settings.policy
        return Annotated(self._job.copy, policy["base_frame"], policy["tool_frame"], tuple(self._runs))

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

    def _tick(self, tick: Tick, film: Film, copy: Annotated | None) -> None:
        """Ask the policies about a tick; while they infer, take the one before."""
        before, answers = self._asked, self._answers()
        self._asked = {label: run.turns.at(tick) for label, run in self._runs.items()}
        asked = {label: turn.other for label, turn in self._asked.items() if turn.infers}
        if asked:
            self._policies.ask(tick.observation, asked)
        self._take(before, answers, film, copy)

    def _finish(self, film: Film, copy: Annotated | None) -> None:
        """A span is over: what is still open is judged by it, and nothing of it by the next."""
        self._take(self._asked, self._answers(), film, copy)
        self._asked = {}
        for run in self._runs.values():
            run.finish()
        self._recorded.forget()

    def _answers(self) -> dict[str, Answer]:
        """To the last tick, by label."""
        answers = self._policies.answers()
        for label, answer in answers.items():
            self._runs[label].turns.answered(self._asked[label], answer)
        return answers

    def _take(
        self, turns: Mapping[str, Turn], answers: Mapping[str, Answer], film: Film, copy: Annotated | None
    ) -> None:
        """Everything that is done with a tick once its answers are there. Before the first one there is none."""
        for tick in [turn.tick for turn in turns.values()][:1]:
            for role, received_ns, message in tick.arrived:
                self._recorded.add(role, received_ns, message)
            self._jumps += tick.back
            if tick.episode >= 0:
                self._mark(tick)
            flows = self._flow(tick, any(turn.infers for turn in turns.values()))
            outputs = {label: answer.output for label, answer in answers.items() if answer.output is not None}
            first = outputs.get(next(iter(self._runs)))
            for label, run in self._runs.items():
                run.tick(turns[label], answers.get(label), flows, first)
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
        if not inferred:
            return {}
        for camera, image in tick.observation.images.items():
            self._sizes[camera].add(image.shape[:2])
        return {camera: self._flows[camera].to(image) for camera, image in tick.observation.images.items()}

    def _mark(self, tick: Tick) -> None:
        at_s = round((tick.now_ns - self._zero_ns) / NANOSECONDS, 3)
        known = self._episodes.get(tick.episode)
        start_s = known.start_s if known else at_s
        self._episodes[tick.episode] = Episode(tick.episode, tick.instruction, start_s, at_s)

    def _notes(self) -> list[str]:
        notes = []
        if self._jumps:
            notes.append(f"the clock jumped back {self._jumps} times; replay started afresh there")
        for camera, sizes in self._sizes.items():
            if len(sizes) > 1:
                listed = ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
                notes.append(f"images of camera {camera!r} changed size: {listed}")
        if not self._episodes:
            notes.append("no episode: the instruction is empty throughout")
        notes += [f"{fault}: left out" for fault in left_out(self._source, self._topics)]
        if self._recorded.motion == "current_pose":
            notes.append("no target_pose to go by: chunks are held against the measured motion")
        if self._recorded.grip == "joint_states":
            notes.append("no gripper_command to go by: chunks are held against the measured opening")
        figures = [tally.figures() for run in self._runs.values() for tally in run.episodes.values()]
        if any(of["inferences"] for of in figures) and not any(of["scored_steps"] for of in figures):
            notes.append(f"no step of any chunk could be scored: {self._recorded.why_unknown()}")
        return notes

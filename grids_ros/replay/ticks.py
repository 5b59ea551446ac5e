"""The node's inference ticks on the bag's clock: at each, the observation of that instant, or why there is none.

A tick sees every message that was received up to its instant, in order of arrival, as the node does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from grids_ros.data.bags import APART_NS
from grids_ros.data.reader import BagError
from grids_ros.datatypes import NANOSECONDS, Observation
from grids_ros.observation.buffer import IMAGE, JOINTS, POSE, NotReady, ObservationBuffer
from grids_ros.observation.messages import to_ns
from grids_ros.parameters import PolicyParameters

BEFORE_NS = 2 * NANOSECONDS  # read before a span, as the node would have been running by then
AFTER_NS = 5 * NANOSECONDS  # read after it: what was recorded then judges the last chunks
PAUSE_NS = 10 * NANOSECONDS  # without a single message: the clock is taken on in one step
BACK_NS = NANOSECONDS // 2  # a clock that goes back by more was set anew


@dataclass(frozen=True)
class Span:
    """A stretch of a bag to be scored, by time of reception [ns], both ends included.

    instruction: what is to be done throughout; None: as the bag's topic says.
    """

    start_ns: int
    stop_ns: int
    instruction: str | None = None


@dataclass(frozen=True, eq=False)
class Tick:
    """One instant at which the node would start to infer.

    episode: counts from 0; -1 outside of any. arrived: role, time of reception [ns] and message of everything since
    the last tick, in order. observation: None when `reasons` say why there is none. frames: camera to the frame
    of its images. cut_ns: when, since the last tick, the instruction changed or a marker came, which ends an episode.
    back: the clock jumped back. paused: the clock was taken on to this tick in one step, as nothing was recorded.
    instructions: arrival and words of each that changed since the last tick.
    """

    now_ns: int
    episode: int
    instruction: str
    arrived: Sequence[tuple[str, int, object]]
    observation: Observation | None
    reasons: tuple[str, ...]
    frames: Mapping[str, str]
    cut_ns: int | None = None
    back: bool = False
    paused: bool = False
    instructions: Sequence[tuple[int, str]] = ()


class TickGenerator:
    """Ticks of one bag. `episodes` is where counting goes on in the next span of the same bag."""

    def __init__(
        self,
        source: Any,
        topics: Mapping[str, str],
        cameras: Sequence[str],
        settings: PolicyParameters,
        joints: Sequence[str] = (),
    ):
        """source: a Recording. settings: the policy node's parameters. joints: those that observations hold.

        Raises BagError for a bag whose stamps are of another clock.
        """
        self._source, self._cameras, self._settings = source, tuple(cameras), settings
        self._joints = tuple(joints)
        self._role_of = {f"/{topic}": role for role, topic in topics.items()}
        held = source.topics
        self._connections = {role: held[topic] for role, topic in topics.items()}
        self._period_ns = round(NANOSECONDS / settings.rate_hz)
        self.episodes = 0
        self._check_clock()

    def _check_clock(self) -> None:
        """By the first pose: with stamps of another clock nothing would be said but how old every stream is."""
        for _, received_ns, message in islice(self._source.messages(self._connections["current_pose"]), 1):
            apart_ns = abs(received_ns - to_ns(message.header.stamp))
            if apart_ns > APART_NS:
                apart = f"{apart_ns / NANOSECONDS:.1f} s from its arrival"
                raise BagError(
                    f"{self._source.path}: current_pose is stamped {apart}: stamps are empty or on another clock; "
                    "record a simulation with --use-sim-time"
                )

    def ticks(self, span: Span) -> Iterator[Tick]:
        """Every tick in the span, and after it ticks without an observation while the recording still judges.

        Each span starts like a node that was started `BEFORE_NS` before it.
        """
        buffer = ObservationBuffer.of(self._settings, self._cameras, self._joints)
        state = _State(buffer, self._instruction_at(span), self.episodes)
        for received_ns, message in self._latest_before(span, "gripper_command"):
            state.add("gripper_command", received_ns, message)  # sent on change, and seldom besides
        at_ns = span.start_ns + self._period_ns
        last_ns, paused = None, False
        for role, received_ns, message in self._messages(span):
            if last_ns is not None and received_ns < last_ns - BACK_NS:
                yield state.tick(at_ns, reference_only=True, back=True)
                at_ns = received_ns + self._period_ns
            last_ns = received_ns
            while at_ns < received_ns:
                yield state.tick(at_ns, reference_only=at_ns > span.stop_ns, paused=paused)
                idle = received_ns - at_ns
                paused = idle > PAUSE_NS
                at_ns += self._period_ns * max(1, idle // self._period_ns if paused else 1)
            state.add(role, received_ns, message)
        yield state.tick(at_ns, reference_only=at_ns > span.stop_ns, paused=paused)
        self.episodes = state.episodes

    def _messages(self, span: Span) -> Iterator[tuple[str, int, object]]:
        """Role, time of reception and message, of the span and of what lies around it."""
        wanted = [connection for connections in self._connections.values() for connection in connections]
        if span.instruction is not None:
            wanted = [c for c in wanted if self._role_of["/" + c.topic.lstrip("/")] != "instruction"]
        start_ns = max(0, span.start_ns - BEFORE_NS)
        for connection, received_ns, message in self._source.messages(wanted, start_ns, span.stop_ns + AFTER_NS):
            yield self._role_of["/" + connection.topic.lstrip("/")], received_ns, message

    def _instruction_at(self, span: Span) -> str:
        """What a node started at the span's beginning would be told: the topic is latched."""
        if span.instruction is not None:
            return span.instruction
        return next((message.data.strip() for _, message in self._latest_before(span, "instruction")), "")

    def _latest_before(self, span: Span, role: str) -> list[tuple[int, Any]]:
        """Time of reception and message of a role's last one before the span is read; empty where there is none.

        Looks back in steps that double: a topic that speaks often costs no reading of all that lies before the span.
        """
        connections, until_ns = self._connections.get(role, []), max(0, span.start_ns - BEFORE_NS)
        back_ns = BEFORE_NS
        while connections and until_ns > self._source.start_ns:
            found = deque(self._source.messages(connections, until_ns - back_ns, until_ns), maxlen=1)
            if found or until_ns - back_ns <= self._source.start_ns:
                return [(received_ns, message) for _, received_ns, message in found]
            back_ns *= 2
        return []


class _State:
    """What is known between two ticks. `episodes` counts those that had a tick."""

    def __init__(self, buffer: ObservationBuffer, instruction: str, first_episode: int):
        self._buffer, self._instruction = buffer, instruction
        self._arrived: list[tuple[str, int, object]] = []
        self._new = True
        self._cut_ns: int | None = None
        self._instructions: list[tuple[int, str]] = []
        self.episodes = first_episode

    def add(self, role: str, received_ns: int, message) -> None:
        if role == "instruction":
            if message.data.strip() != self._instruction:
                self._instruction = message.data.strip()
                self._instructions.append((received_ns, self._instruction))
                self._cut(received_ns)
        elif role == "marker":
            self._cut(received_ns)
        elif role.startswith(IMAGE):
            self._buffer.add(role, message, received_ns)
        else:
            self._arrived.append((role, received_ns, message))
            if role in (POSE, JOINTS):
                self._buffer.add(role, message, received_ns)

    def _cut(self, received_ns: int) -> None:
        self._new = True
        if self._cut_ns is None:
            self._cut_ns = received_ns

    def tick(self, now_ns: int, reference_only: bool, back: bool = False, paused: bool = False) -> Tick:
        """judged_only: past the span's end, where nothing is inferred any more."""
        arrived, self._arrived = self._arrived, []
        cut_ns, self._cut_ns = self._cut_ns, None
        changes, self._instructions = tuple(self._instructions), []
        reasons: tuple[str, ...] = ()
        observation, episode = None, -1
        if not reference_only and self._instruction:
            self.episodes += self._new
            self._new, episode = False, self.episodes - 1
            try:
                observation = self._buffer.observe(self._instruction, now_ns)
            except NotReady as error:
                reasons = error.reasons
        frames = self._buffer.frames
        seen = observation, reasons, frames
        return Tick(now_ns, episode, self._instruction, arrived, *seen, cut_ns, back, paused, changes)

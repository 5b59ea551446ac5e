"""The PolicySession of one policy on the ticks of a bag, with the delays given or as measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from grids_ros.control.session import Inference, PolicySession, Skip
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Observation, PolicyOutput
from grids_ros.observation.buffer import NotReady
from grids_ros.replay.policy_process import InferenceReply
from grids_ros.replay.ticks import Tick

PROBE_EVERY = 10  # inferences; each probe under another instruction costs one inference more


@dataclass(frozen=True, eq=False)
class SessionStep:
    """A tick of one policy. inference: to be run, or None. other: a second instruction to ask it, or "".

    missed: the inference before had not ended.
    """

    tick: Tick
    inference: Inference | None = None
    other: str = ""
    missed: bool = False


class _InFlight(NamedTuple):
    """A chunk that the node would publish at this instant."""

    due_ns: int
    inference: Inference
    chunk: ActionChunk


class ReplayedSession:
    """Drives a PolicySession as the node does. To be given every tick in turn, and each answer before the next."""

    def __init__(self, latency_s: float | None, probes: Sequence[str], join: str = "latest"):
        """latency_s: from observation to chunk [s]; None: as measured. probes: instructions to probe the policy with.

        join: how chunks follow each other, one of JOINS. With rtc each goes on from the one before it, as on an arm
        that obeys; the recorded arm does not.
        """
        self._latency_s, self._probes, self._join = latency_s, tuple(probes), join
        self._session = PolicySession(join)
        self._in_flight: _InFlight | None = None
        self._episode, self._inferences = -1, 0

    def at(self, tick: Tick) -> SessionStep:
        """What the node does at this tick."""
        if tick.back:
            self._session, self._in_flight = PolicySession(self._join), None
        if tick.episode != self._episode or tick.back:
            self._episode, self._inferences = tick.episode, 0
        for at_ns, words in tick.instructions:
            self._deliver(at_ns)
            self._session.instruct(words)
        self._deliver(tick.now_ns)
        self._session.instruct(tick.instruction)
        if tick.episode < 0:
            return SessionStep(tick)
        try:
            step = self._session.begin(tick.now_ns, lambda words, now_ns: _observation_of(tick), follower=False)
        except NotReady:
            return SessionStep(tick)
        if isinstance(step, Skip):
            return SessionStep(tick, missed=step is Skip.BUSY)
        return SessionStep(tick, step, self._other(tick))

    def _deliver(self, until_ns: int) -> None:
        """The node publishes, or drops, what is due by then."""
        if self._in_flight is not None and self._in_flight.due_ns <= until_ns:
            due_ns, inference, chunk = self._in_flight
            self._session.finish(inference, chunk, due_ns)
            self._in_flight = None

    def _other(self, tick: Tick) -> str:
        """Now and then, the next instruction that the policy knows beside the tick's; "" where it has none."""
        others = [words for words in self._probes if words != tick.instruction]
        if not others or self._inferences % PROBE_EVERY:
            return ""
        return others[self._inferences // PROBE_EVERY % len(others)]

    def completed(self, session_step: SessionStep, reply: InferenceReply) -> None:
        """What came of the inference of the last tick."""
        inference = session_step.inference
        if inference is None:
            raise ValueError("no inference had begun at this tick")
        if reply.output is None:
            self._session.refuse(inference)
            return
        self._inferences += 1
        due_ns = session_step.tick.now_ns + self.delay_ns(reply.output)
        self._in_flight = _InFlight(due_ns, inference, reply.output.chunk)

    def delay_ns(self, output: PolicyOutput) -> int:
        """From an observation to its chunk [ns]."""
        return round((output.latency_s["total"] if self._latency_s is None else self._latency_s) * NANOSECONDS)


def _observation_of(tick: Tick) -> Observation:
    if tick.observation is None:
        raise NotReady(tick.reasons)
    return tick.observation

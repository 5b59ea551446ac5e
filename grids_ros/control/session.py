"""One run of a policy, from the first observation to the last chunk: the decisions, without clock, ROS or model.

The policy node, evaluation, replay and `record --policy` drive the same session. It decides when to infer, on which
observation, what the new chunk goes on from, with how many tokens, and whether the chunk that came of it may be sent.
Whoever drives it makes the observation, runs the model and tells the time.

    instruct      the words that hold from now on
    command       a pose that was commanded to the arm
    begin         start an inference, or say why not
    finish        its chunk is ready: True when it may be sent
    refuse, fail  it gave no chunk
    account       how long it took in all

A session is used from one thread at a time. `begin` and the call that ends the inference alternate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto

from grids_ros.control.continuity import CommandMotion, Continuation, Continuity
from grids_ros.control.token_budget import TokenBudget
from grids_ros.control.trajectory import JOINS
from grids_ros.datatypes import ActionChunk, Observation

Observe = Callable[[str, int], Observation]  # instruction and instant [ns] to observation; raises NotReady


class Skip(Enum):
    """Why no inference starts although there is an observation, or might be one."""

    BUSY = auto()  # the inference before has not ended
    USED_UP = auto()  # the newest observation was inferred on already


@dataclass(frozen=True, eq=False)
class Inference:
    """One inference to run.

    began_ns: when it was begun. continuation: what its chunk goes on from; None: it starts afresh. budget: which gave
    the number of `tokens` per camera; None where that number never changes. words: how many instructions came before.
    """

    observation: Observation
    began_ns: int
    continuation: Continuation | None
    budget: TokenBudget | None
    tokens: int | None
    words: int


class PolicySession:
    """See the module. `delay_s`, `tokens` and `failures` are for reports."""

    def __init__(self, join: str, budget: TokenBudget | None = None):
        """join: how chunks follow each other, one of JOINS. budget: of tokens, where their number may change.

        Raises ValueError for another join.
        """
        if join not in JOINS:
            raise ValueError(f"join is {join!r}, expected one of {', '.join(JOINS)}")
        self.budget = budget
        self.instruction = ""
        self.failures = 0  # inferences in a row that failed
        self._join, self._continuity, self._command_motion = join, Continuity(), CommandMotion()
        self._words = 0
        self._used_ns: int | None = None  # stamp of the observation that was used up last
        self._running: Inference | None = None

    @property
    def busy(self) -> bool:
        """Whether an inference has begun and not ended."""
        return self._running is not None

    @property
    def delay_s(self) -> float | None:
        """From an observation to its chunk, as planned for [s]; None before it was measured."""
        return self._continuity.delay_s

    def instruct(self, instruction: str) -> bool:
        """The words that hold from now on; empty: nothing is to be done. Returns whether they are new.

        A chunk that is being computed for other words will not be sent, and the next one goes on from none.
        """
        instruction = instruction.strip()
        if instruction == self.instruction:
            return False
        self.instruction = instruction
        self._words += 1
        self._continuity.forget()
        return True

    def command(self, position: Iterable[float], quaternion: Iterable[float]) -> None:
        """A pose that the follower commanded, (3,) [m] and (4,) xyzw."""
        self._command_motion.update(position, quaternion)

    def begin(self, now_ns: int, observe: Observe, follower: bool = True) -> Inference | Skip:
        """Start the next inference, if it is time for one. Raises NotReady when there is no observation.

        observe: gives the observation at `now_ns`. follower: whether somebody commands the arm: one who repeats the
        same pose stands still, and then nothing goes on from the last chunk.
        """
        if self._running is not None:
            return Skip.BUSY
        observation = observe(self.instruction, now_ns)
        if observation.stamp_ns == self._used_ns:  # the follower refuses a second chunk of one stamp
            return Skip.USED_UP
        continuation = None
        if self._join == "rtc":
            held = not self._command_motion.moved_since_last_call() and follower
            continuation = self._continuity.at(observation, held)
        tokens = self.budget.tokens if self.budget is not None else None
        self._running = Inference(observation, now_ns, continuation, self.budget, tokens, self._words)
        return self._running

    def finish(self, inference: Inference, chunk: ActionChunk, now_ns: int) -> bool:
        """The inference ended with `chunk`, which can reach the follower at `now_ns`. True: it is to be sent.

        A chunk for words that no longer hold is dropped, and its observation may be used again.
        """
        self._end(inference)
        self.failures = 0
        if not self.holds(inference):
            return False
        self._continuity.arrived(chunk, now_ns)
        self._used_ns = inference.observation.stamp_ns
        return True

    def refuse(self, inference: Inference) -> None:
        """The policy refused the observation, or its instruction. It may be tried again."""
        self._end(inference)

    def fail(self, inference: Inference) -> None:
        """The inference broke off for a reason that nobody expected: its observation is used up."""
        if inference is self._running:  # else its chunk was sent, and something failed afterwards
            self._running = None
        self.failures += 1
        self._used_ns = inference.observation.stamp_ns

    def holds(self, inference: Inference) -> bool:
        """Whether the words are still those that the inference began with."""
        return inference.words == self._words

    def account(self, inference: Inference, busy_s: float) -> str:
        """How long the inference took in all [s]. Returns why the number of tokens changes, or ""."""
        if inference.budget is None:
            return ""
        before = inference.budget.tokens
        inference.budget.add(busy_s)
        return inference.budget.reason if inference.budget.tokens != before else ""

    def _end(self, inference: Inference) -> None:
        if inference is not self._running:
            raise RuntimeError("this inference has not begun, or has ended already")
        self._running = None

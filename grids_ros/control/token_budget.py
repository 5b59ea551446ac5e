"""How many tokens per camera a policy can afford: fewer when its deadline is being missed, more when there is room.

A device may be no faster with fewer tokens (on a GPU the launches count, not the arithmetic). That shows only when
it is tried, under the load of the moment; so a smaller number is kept only when it was faster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

BLOCK = 10  # inferences on which a decision rests
MISSED = 3  # of them later than the deadline: it is being missed
FASTER = 0.9  # a number of tokens is faster when its median latency is at most so much of the other's
ROOM = 0.8  # of the deadline: what nine of ten inferences may take, as far as can be foreseen, with more tokens
TRIALS = 2  # a number that was not faster so often is not tried again


class TokenBudget:
    """Chooses one of the numbers of tokens; told how long each inference took. `tokens` is for the next one.

    reason: why it is this number, in words.
    """

    def __init__(self, budgets: Sequence[int], deadline_s: float):
        """budgets: the numbers to choose from. It starts with the largest."""
        self._budgets, self._deadline_s = sorted(budgets, reverse=True), deadline_s
        self.tokens, self.reason = self._budgets[0], "no deadline was missed"
        self._block: list[float] = []
        self._tried_from: tuple[int, float] | None = None  # the number before the one on trial, its median latency [s]
        self._given_up: list[tuple[int, float]] = []  # larger numbers, the next one last, and how much slower each was
        self._not_faster: Counter[int] = Counter()

    def add(self, latency_s: float) -> None:
        """Of an inference with `tokens`."""
        self._block.append(latency_s)
        if len(self._block) == BLOCK:
            latencies, self._block = np.array(self._block), []
            if self._tried_from is not None:
                self._judge(float(np.median(latencies)), *self._tried_from)
            elif (latencies > self._deadline_s).sum() >= MISSED:
                self._tried_from = self.tokens, float(np.median(latencies))
                self._try_fewer(self.tokens)
            elif self._given_up:
                self._raise_with_room(float(np.quantile(latencies, 0.9)))

    def _judge(self, median_s: float, before: int, before_s: float) -> None:
        """The number on trial had this median latency, the one before it `before_s`."""
        if median_s > FASTER * before_s:
            self._not_faster[self.tokens] += 1
            self._try_fewer(before)
            return
        self._given_up.append((before, before_s / median_s))
        self._tried_from = None
        self.reason = f"{before} missed the deadline; {self.tokens} takes {median_s / before_s:.0%} of its time"

    def _try_fewer(self, before: int) -> None:
        """On trial next: the largest smaller number that may yet be faster; else the one before the trial stays."""
        candidates = [n for n in self._budgets if n < self.tokens and self._not_faster[n] < TRIALS]
        if candidates:
            self.tokens, self.reason = candidates[0], f"{before} misses the deadline; trying {candidates[0]}"
            return
        self.tokens, self._tried_from = before, None
        smaller = before > self._budgets[-1]
        self.reason = f"{before} misses the deadline; {'fewer are no faster' if smaller else 'there is no fewer'}"

    def _raise_with_room(self, latency_s: float) -> None:
        more, slower = self._given_up[-1]
        if latency_s * slower <= ROOM * self._deadline_s:
            self._given_up.pop()
            self.tokens, self.reason = more, "there is room again"

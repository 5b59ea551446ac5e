"""How late the ticks of a control loop were, by its own clock: a histogram, and the series behind it."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import accumulate, islice

BOUNDS_MS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
KEPT = 60_000  # ticks: ten minutes at 100 Hz
_FINE_MS = tuple(0.001 * 1.05**step for step in range(300))  # up to 2 s, for percentiles within 5 %
_SLICE = 500  # ticks that are written in one call: no other thread waits longer than for these


class Lateness:
    """Counts of all ticks since the activation; the series of the last `KEPT`. One thread adds, any may read.

    Reading never keeps the thread that adds waiting: nothing sorts or writes the whole series in one call.
    """

    def __init__(self):
        self.missed = 0
        self._counts, self._fine = [0] * (len(BOUNDS_MS) + 1), [0] * (len(_FINE_MS) + 1)
        self._series: deque[tuple[int, int]] = deque(maxlen=KEPT)

    def add(self, late_s: float, missed: int) -> None:
        """One tick: how long after its deadline [s], and how many deadlines passed without a tick before it."""
        late_ms = 1e3 * late_s
        self._counts[bisect_left(BOUNDS_MS, late_ms)] += 1
        self._fine[bisect_left(_FINE_MS, late_ms)] += 1
        self._series.append((round(1e6 * late_s), missed))
        self.missed += missed

    def histogram(self) -> dict[str, int]:
        """Upper bound of the lateness [ms] to the number of ticks in that bin; "more" above the last bound."""
        return dict(zip((*(f"{bound:g}" for bound in BOUNDS_MS), "more"), self._counts, strict=True))

    def percentile_ms(self, share: float) -> float:
        """This share of all ticks were no later [ms], rounded up by at most 5 %; NaN without any."""
        counted = list(accumulate(self._fine))
        if not counted[-1]:
            return float("nan")
        return _FINE_MS[min(bisect_left(counted, share * counted[-1]), len(_FINE_MS) - 1)]

    def text(self) -> str:
        """The histogram as one line: `0.05:5912 0.1:31 ...`, bins without ticks left out."""
        return " ".join(f"{bound}:{count}" for bound, count in self.histogram().items() if count)

    def to_json(self) -> str:
        """The series: late_us [us] of each kept tick, oldest first, and missed deadlines before it."""
        ticks, series = sum(self._counts), self._series.copy()
        late = ",".join(_slices(late_us for late_us, _ in series))
        missed = ",".join(_slices(count for _, count in series))
        return f'{{"late_us": [{late}], "missed": [{missed}], "ticks": {ticks}, "missed_ticks": {self.missed}}}'


def _slices(numbers: Iterable[int]) -> Iterator[str]:
    """The numbers as text, some at a time."""
    left = iter(numbers)
    while part := list(islice(left, _SLICE)):
        yield ",".join(map(str, part))

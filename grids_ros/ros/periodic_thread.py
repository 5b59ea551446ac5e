"""A thread that ticks on absolute deadlines.

rclpy's timers wait for their turn among all callbacks. Here the n-th tick is
due at start + n * period whatever happened before: no drift, and after a stall the next deadline, not a burst. What
takes time is prepared a little ahead of the deadline, so that the tick itself has only to send it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

AHEAD_S = 0.003  # a command takes 0.4 ms, 1.3 ms when the processor is busy


def next_tick(n: int, start_s: float, period_s: float, now_s: float) -> int:
    """Which tick comes after tick n: the first one whose deadline has not passed yet."""
    return max(n + 1, math.ceil((now_s - start_s) / period_s))


def _sleep_until(instant_s: float) -> None:
    time.sleep(max(0.0, instant_s - time.monotonic()))


class PeriodicThread:
    """Calls `prepare()`, and then at the deadline `tick(late_s, missed)`, once per period, until `stop`.

    Both in a thread of its own; `prepare` at most AHEAD_S, or half a period, before the deadline.
    late_s: how long after its deadline [s]. missed: how many deadlines passed without a tick just before it.
    What they raise ends the thread and goes to `failed`, in that thread.
    """

    def __init__(
        self,
        period_s: float,
        prepare: Callable[[], None],
        tick: Callable[[float, int], None],
        failed: Callable[[BaseException], None],
        name: str,
    ):
        self._period_s, self._ahead_s = period_s, min(AHEAD_S, 0.5 * period_s)
        self._prepare, self._tick, self._failed = prepare, tick, failed
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether there will be another tick."""
        return self._thread.is_alive() and not self._stopping

    def stop(self) -> None:
        """End the thread, after the tick that is under way."""
        self._stopping = True
        self._thread.join()

    def _run(self) -> None:
        start_s, last, n = time.monotonic(), 0, 1
        while True:
            due_s = start_s + n * self._period_s
            _sleep_until(due_s - self._ahead_s)
            if self._stopping:
                return
            try:
                self._prepare()
                _sleep_until(due_s)
                self._tick(time.monotonic() - due_s, n - last - 1)
            except BaseException as error:  # noqa: BLE001 - handed over
                self._failed(error)
                return
            last, n = n, next_tick(n, start_s, self._period_s, time.monotonic())

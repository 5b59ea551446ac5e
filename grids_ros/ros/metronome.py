"""A thread that ticks on absolute deadlines.

rclpy's timers wait for their turn among all callbacks. Here the n-th tick is
due at start + n * period whatever happened before: no drift, and after a stall the next deadline, not a burst.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable


def next_tick(n: int, start_s: float, period_s: float, now_s: float) -> int:
    """Which tick comes after tick n: the first one whose deadline has not passed yet."""
    return max(n + 1, math.ceil((now_s - start_s) / period_s))


class Metronome:
    """Calls `tick(late_s, missed)` once per period, in a thread of its own, until `stop`.

    late_s: how long after its deadline [s]. missed: how many deadlines passed without a tick just before it.
    What `tick` raises ends the thread and goes to `failed`, in that thread.
    """

    def __init__(
        self, period_s: float, tick: Callable[[float, int], None], failed: Callable[[BaseException], None], name: str
    ):
        self._period_s, self._tick, self._failed = period_s, tick, failed
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, after the tick that is under way."""
        self._stopping = True
        self._thread.join()

    def _run(self) -> None:
        start_s, last, n = time.monotonic(), 0, 1
        while True:
            time.sleep(max(0.0, start_s + n * self._period_s - time.monotonic()))
            if self._stopping:
                return
            try:
                self._tick(time.monotonic() - start_s - n * self._period_s, n - last - 1)
            except BaseException as error:  # noqa: BLE001 - handed over
                self._failed(error)
                return
            last, n = n, next_tick(n, start_s, self._period_s, time.monotonic())

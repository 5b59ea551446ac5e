"""The node's clock, and why it cannot be trusted: no /clock, one that stands still, times that are no ROS times."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.node import Node
from rosgraph_msgs.msg import Clock

from grids_ros.datatypes import NANOSECONDS

STILL_S = 2.0  # a simulated clock that has not moved for so long stands still
_FIRST_INVALID_S = 2**31  # builtin_interfaces/Time holds seconds below this


class ClockWatch:
    """What came on /clock. With `use_sim_time` off, nothing does, and the system's clock has no fault."""

    def __init__(self):
        self._invalid = ""
        self._moved_s: float | None = None  # monotonic time at which the clock last moved
        self._last_ns = 0

    def checked(self, callback: Callable[[Clock], None]) -> Callable[[Clock], None]:
        """rclpy's callback for /clock, which raises for a negative time and so would end the process."""

        def on_clock(message: Clock) -> None:
            sec, nanosec = message.clock.sec, message.clock.nanosec
            stamp_ns = sec * NANOSECONDS + nanosec
            if not 0 <= stamp_ns < _FIRST_INVALID_S * NANOSECONDS or sec < 0:
                self._invalid = f"/clock is {stamp_ns / NANOSECONDS:.0f} s, expected 0 to 2^31 s"
                return
            self._invalid = ""
            if stamp_ns != self._last_ns or self._moved_s is None:
                self._last_ns, self._moved_s = stamp_ns, time.monotonic()
            callback(message)

        return on_clock

    def fault(self, node: Node) -> str:
        """Why the time of `node` cannot be used; empty if it can."""
        if not node.get_parameter("use_sim_time").value:
            return ""
        if self._invalid:
            return self._invalid
        if self._moved_s is None:
            publishers = node.count_publishers("/clock")
            heard = "nobody publishes /clock" if publishers == 0 else "no time has come on /clock yet"
            return f"use_sim_time is set and {heard}"
        still_s = time.monotonic() - self._moved_s
        return f"/clock has stood still for {still_s:.0f} s" if still_s > STILL_S else ""

"""What a node says about itself on /diagnostics: at 1 Hz, and at once when its state or its reason changes."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Mapping

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from grids_ros.diagnostic_keys import percentile
from grids_ros.ros import qos

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
PERIOD_S = 1.0
_NUMBER = re.compile(r"\d+(\.\d+)?")


class Diagnostics:
    """One DiagnosticStatus, kept current. `update`, `post` and `publish` may be called from any thread."""

    def __init__(self, node: Node, values: Callable[[], Mapping[str, object]]):
        """values: asked for the key-value pairs whenever a message goes out."""
        self._node = node
        self._values = values
        self._lock = threading.Lock()
        self._level, self._message = WARN, "unconfigured"
        self._pending: deque[tuple[bytes, str]] = deque()
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(PERIOD_S, self.publish, clock=steady)
        self._waiting = node.create_guard_condition(self.flush)

    @property
    def message(self) -> str:
        """The reason that is being reported."""
        return self._message

    def update(self, level: bytes, message: str) -> None:
        """Set the state; published at once if it changed in more than its numbers."""
        with self._lock:
            self._pending.clear()
        self._set(level, message)

    def post(self, level: bytes, message: str) -> None:
        """The same for a thread that must not wait for the middleware: the executor publishes, state by state."""
        with self._lock:
            last = self._pending[-1] if self._pending else (self._level, self._message)
            if not _differ(last, (level, message)):
                if not self._pending:
                    self._message = message  # its numbers: for the next message of the timer
                return
            self._pending.append((level, message))
        self._waiting.trigger()

    def flush(self) -> None:
        """Publish what `post` left, for a thread that keeps the executor waiting, or has ended it."""
        while self._pending:
            self._set(*self._pending.popleft())

    def _set(self, level: bytes, message: str) -> None:
        with self._lock:
            changed = _differ((self._level, self._message), (level, message))
            self._level, self._message = level, message
        if changed:
            self.publish()

    def publish(self) -> None:
        """Send the present state."""
        name = self._node.get_fully_qualified_name()
        with self._lock:
            status = DiagnosticStatus(level=self._level, name=name, message=self._message, hardware_id=name)
        status.values = [KeyValue(key=key, value=_text(value)) for key, value in self._values().items()]
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)


def _differ(first: tuple[bytes, str], second: tuple[bytes, str]) -> bool:
    """Whether two states differ in more than their numbers."""
    return (first[0], _NUMBER.sub("#", first[1])) != (second[0], _NUMBER.sub("#", second[1]))


def _text(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


class Window:
    """The last `length` samples of a quantity, and their percentiles."""

    def __init__(self, length: int):
        self._samples: deque[float] = deque(maxlen=length)

    def add(self, sample: float) -> None:
        """Take one sample; appending is atomic, so that another thread may read meanwhile."""
        self._samples.append(sample)

    def mean(self) -> float:
        """Mean, NaN while empty."""
        samples = self._samples.copy()
        return float(np.mean(samples)) if samples else float("nan")

    def percentiles_ms(self, name: str) -> dict[str, float]:
        """Median and 99th percentile of times [s], in milliseconds; nothing while empty."""
        samples = self._samples.copy()
        if not samples:
            return {}
        middle, high = 1e3 * np.percentile(samples, (50, 99))
        return {percentile(name, 50): float(middle), percentile(name, 99): float(high)}

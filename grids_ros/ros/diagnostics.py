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

from grids_ros.ros import qos

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
PERIOD_S = 1.0
_NUMBER = re.compile(r"\d+(\.\d+)?")


class Diagnostics:
    """One DiagnosticStatus, kept current. `update` and `publish` may be called from any thread."""

    def __init__(self, node: Node, values: Callable[[], Mapping[str, object]]):
        """values: asked for the key-value pairs whenever a message goes out."""
        self._node = node
        self._values = values
        self._lock = threading.Lock()
        self._level, self._message = WARN, "unconfigured"
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(PERIOD_S, self.publish, clock=steady)

    @property
    def message(self) -> str:
        """The reason that is being reported."""
        return self._message

    def update(self, level: bytes, message: str) -> None:
        """Set the state; published at once if it changed in more than its numbers."""
        with self._lock:
            changed = (level, _NUMBER.sub("#", message)) != (self._level, _NUMBER.sub("#", self._message))
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

    def percentiles(self, name: str, factor: float = 1.0) -> dict[str, float]:
        """`name_p50` and `name_p99`, times `factor`; nothing while empty."""
        samples = self._samples.copy()
        if not samples:
            return {}
        middle, high = np.percentile(samples, (50, 99)) * factor
        return {f"{name}_p50": float(middle), f"{name}_p99": float(high)}

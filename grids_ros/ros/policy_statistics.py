"""Rates and latencies of the policy, for its diagnostics."""

from __future__ import annotations

import time

from grids_ros import diagnostic_keys as keys
from grids_ros.control.session import Inference
from grids_ros.datatypes import NANOSECONDS, PolicyOutput
from grids_ros.ros.diagnostics import Window

WINDOW = 100  # inferences over which rates and latencies are reported
STAGES = (keys.OBSERVING, keys.PREPROCESSING, keys.MODEL, keys.SENDING)  # of an inference, until its chunk is published


class PolicyStatistics:
    """Of one activation. Times are monotonic [s]; two threads may use it at once."""

    def __init__(self):
        self.deadline_misses = self.published = self.dropped = self.failed = 0
        self.began_s = 0.0  # the inference that is under way
        self.last_chunk_s: float | None = None
        self._latencies, self._overheads = Window(WINDOW), Window(WINDOW)
        self._ages, self._periods = Window(WINDOW), Window(WINDOW)
        self._stages = {name: Window(WINDOW) for name in STAGES}
        self._logged: set[str] = set()

    def inferred(self, inference: Inference, latency_s: float) -> None:
        """An inference ended after so long in the policy."""
        self._latencies.add(latency_s)
        self._ages.add((inference.began_ns - inference.observation.stamp_ns) / NANOSECONDS)

    def sent(self, output: PolicyOutput, started_s: float) -> None:
        """Its chunk has been published; the policy was called at `started_s`."""
        now_s, told = time.perf_counter(), output.latency_s
        preprocessing_s, model_s = told.get("preprocess", 0.0), told.get("model", now_s - started_s)
        self._overheads.add(now_s - self.began_s - model_s)
        sending_s = now_s - started_s - preprocessing_s - model_s
        for name, spent_s in zip(STAGES, (started_s - self.began_s, preprocessing_s, model_s, sending_s), strict=True):
            self._stages[name].add(spent_s)
        if self.last_chunk_s is not None:
            self._periods.add(now_s - self.last_chunk_s)
        self.last_chunk_s = now_s
        self.published += 1

    def failure(self, message: str) -> bool:
        """An inference failed. Returns whether this is the first time with this message."""
        self.failed += 1
        new = message not in self._logged
        self._logged.add(message)
        return new

    def values(self) -> dict[str, object]:
        """Names and values, as /diagnostics shows them."""
        period = self._periods.mean()
        return {
            keys.ACTUAL_HZ: 1.0 / period if period > 0.0 else 0.0,
            **self._latencies.percentiles_ms(keys.INFERENCE),
            **self._overheads.percentiles_ms(keys.OVERHEAD),
            **self._ages.percentiles_ms(keys.OBSERVATION_AGE),
            **{key: ms for name, times in self._stages.items() for key, ms in times.percentiles_ms(name).items()},
            keys.DEADLINE_MISSES: self.deadline_misses,
            "Chunks published": self.published,
            "Chunks dropped": self.dropped,
            "Inferences failed": self.failed,
        }

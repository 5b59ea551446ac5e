"""The options of `grids bench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from grids_ros.options import Place, Range


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Measure timing. The last line is JSON.

    realtime: the three processes under load, killed and late; where chunks join. Needs rclpy. gpu: the runtime on one
    GPU, checked and measured in at most nine minutes.
    Exit codes: 0 measured; 1 something failed; 2 an option, a checkpoint or a device that cannot be used.
    """

    what: Positional[Literal["realtime", "gpu"]] = "realtime"
    """which measurement"""
    dry: bool = False
    """gpu: its steps on the CPU, at the demo's size"""
    seconds: Annotated[float, Range(1, 86_400)] = 60.0
    """per condition [s]"""
    out: Annotated[Path, Place.OUT_FOLDER] = Path("out/bench")
    """folder of the table, the figures and the plots"""
    checkpoint: Annotated[Path, Place.FOLDER] = Path("models/demo")
    """folder"""

    def left(self) -> str:
        """After an interruption."""
        return f"{self.out} holds no new results"


def run(options: BenchOptions) -> int:
    """The exit code."""
    if options.what == "gpu":
        from grids_ros.bench import gpu

        return gpu.run(options.out, options.dry)
    from grids_ros.bench import realtime_bench

    return realtime_bench.run(options.checkpoint, options.seconds, options.out)

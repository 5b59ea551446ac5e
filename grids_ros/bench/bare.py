"""A loop that does nothing but keep the follower's time: what it is late by, the machine took, and nobody's code.

python -m grids_ros.bench.bare SECONDS; prints its `period_figures` as JSON.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from grids_ros.bench.figures import period_figures
from grids_ros.control.defaults import FOLLOWER
from grids_ros.ros import realtime
from grids_ros.ros.metronome import Metronome


def main() -> int:
    realtime.enter()
    stamps: list[int] = []
    failures: list[BaseException] = []
    loop = Metronome(
        FOLLOWER.period_s,
        prepare=lambda: None,
        tick=lambda late_s, missed: stamps.append(time.time_ns()),
        failed=failures.append,
        name="bare",
    )
    time.sleep(float(sys.argv[1]))
    loop.stop()
    if failures:
        raise failures[0]
    print(json.dumps(period_figures(np.array(stamps), FOLLOWER.period_s)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

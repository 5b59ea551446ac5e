"""A loop that only keeps the follower's period: its lateness is the machine's, and no code's.

python -m grids_ros.bench.reference_loop SECONDS; prints its `lateness_figures` as JSON.
"""

from __future__ import annotations

import json
import sys
import time

from grids_ros.bench.realtime_metrics import lateness_figures
from grids_ros.control.defaults import FOLLOWER
from grids_ros.ros import realtime
from grids_ros.ros.periodic_thread import PeriodicThread


def main() -> int:
    realtime.enter()
    ticks: list[tuple[float, int]] = []
    failures: list[BaseException] = []
    loop = PeriodicThread(
        FOLLOWER.period_s,
        prepare=lambda: None,
        tick=lambda late_s, missed: ticks.append((late_s, missed)),
        failed=failures.append,
        name="reference",
    )
    time.sleep(float(sys.argv[1]))
    loop.stop()
    if failures:
        raise failures[0]
    print(json.dumps(lateness_figures(*zip(*ticks, strict=True))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

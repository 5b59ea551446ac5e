"""The policy node under stress: python -m grids_ros.bench.stressed_policy busy_threads|late_chunks --ros-args ...

busy_threads: Python threads that never rest, in the policy\'s own process. late_chunks: each comes a horizon too late.
"""

from __future__ import annotations

import sys
import threading
import time

from grids_ros.policy.runtime import Policy
from grids_ros.ros import policy_node

BUSY_THREADS = 2
STRESSES = ("busy_threads", "late_chunks")


def burn() -> None:
    """Keep the interpreter busy, for ever."""
    while True:
        sum(range(1000))


def delay_chunks() -> None:
    """Make every inference take longer than its chunk lasts."""
    infer = Policy.infer

    def late(self, *args, **options):
        output = infer(self, *args, **options)
        time.sleep(float(output.chunk.times[-1]))
        return output

    setattr(Policy, "infer", late)  # noqa: B010 - a method is replaced


def main() -> int:
    stress = sys.argv.pop(1)
    if stress == "busy_threads":
        for _ in range(BUSY_THREADS):
            threading.Thread(target=burn, daemon=True).start()
    elif stress == "late_chunks":
        delay_chunks()
    else:
        raise SystemExit(f"stress is {stress!r}, expected one of {', '.join(STRESSES)}")
    return policy_node.main()


if __name__ == "__main__":
    sys.exit(main())

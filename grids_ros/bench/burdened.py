"""The policy node on a bad day: python -m grids_ros.bench.burdened hog|late --ros-args ...

hog: Python threads that never rest, in the policy's own process. late: every chunk comes a horizon too late.
"""

from __future__ import annotations

import sys
import threading
import time

from grids_ros.policy.runtime import Policy
from grids_ros.ros import policy_node

HOGS = 2
BURDENS = ("hog", "late")


def hog() -> None:
    """Burn the interpreter, for ever."""
    while True:
        sum(range(1000))


def dawdle() -> None:
    """Make every inference take longer than its chunk lasts."""
    infer = Policy.infer

    def late(self, *args, **options):
        output = infer(self, *args, **options)
        time.sleep(float(output.chunk.times[-1]))
        return output

    Policy.infer = late


def main() -> int:
    burden = sys.argv.pop(1)
    if burden == "hog":
        for _ in range(HOGS):
            threading.Thread(target=hog, daemon=True).start()
    elif burden == "late":
        dawdle()
    else:
        raise SystemExit(f"burden is {burden!r}, expected one of {', '.join(BURDENS)}")
    return policy_node.main()


if __name__ == "__main__":
    sys.exit(main())

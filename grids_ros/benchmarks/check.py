"""python -m grids_ros.benchmarks.check SUITE: whether the benchmark's environment works."""

from __future__ import annotations

import sys

from grids_ros.benchmarks.client import BenchmarkError, BenchmarkProcess
from grids_ros.benchmarks.options import family_of


def main() -> int:
    """Open the suite, reset its first task and render once. Exit code 2 and the reason where that fails."""
    suite = sys.argv[1]
    try:
        with BenchmarkProcess(family_of(suite), suite) as process:
            state = process.reset(0, 0)
            image = process.render(process.description.cameras[0], 64)
            versions = ", ".join(f"{name} {version}" for name, version in process.description.versions.items())
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{suite} works ({versions}): {state.instruction!r}, image {image.shape}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

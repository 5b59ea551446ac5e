"""python -m grids_ros bench realtime: what is promised of time, measured."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m grids_ros bench", description=__doc__.splitlines()[0])
    benches = parser.add_subparsers(dest="bench", required=True)
    realtime = benches.add_parser("realtime", help="the three processes under load, killed and late; joints of chunks")
    realtime.add_argument("--seconds", type=float, default=60.0, help="per condition (default: %(default)s)")
    realtime.add_argument("--out", type=Path, default=Path("out/bench"), help="folder (default: %(default)s)")
    realtime.add_argument("--checkpoint", type=Path, default=Path("models/demo"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    if not options.seconds >= 1.0:
        parser.error(f"--seconds is {options.seconds}, expected at least 1")
    if not options.checkpoint.is_dir():
        parser.error(f"checkpoint folder {options.checkpoint} does not exist")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. The last line of output is one JSON object."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    from grids_ros.bench.realtime import run

    return run(options.checkpoint, options.seconds, options.out)


if __name__ == "__main__":
    sys.exit(main())

"""python -m grids_ros bench realtime | model: what is promised of time, measured."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

SIZES = ("demo", "full")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m grids_ros bench", description=__doc__.splitlines()[0])
    benches = parser.add_subparsers(dest="bench", required=True)
    realtime = benches.add_parser("realtime", help="the three processes under load, killed and late; joints of chunks")
    realtime.add_argument("--seconds", type=float, default=60.0, help="per condition (default: %(default)s)")
    realtime.add_argument("--out", type=Path, default=Path("out/bench"), help="folder (default: %(default)s)")
    realtime.add_argument("--checkpoint", type=Path, default=Path("models/demo"), help="default: %(default)s")
    model = benches.add_parser("model", help="transformers' PI0 beside the runtime: operations, bytes, time; no ROS")
    model.add_argument(
        "--size", choices=SIZES, default="demo", help="full needs 12 GB of memory (default: %(default)s)"
    )
    model.add_argument("--cameras", type=int, default=2, help="default: %(default)s")
    model.add_argument("--tokens", type=int, nargs="+", default=[64, 16, 4], help="per camera (default: 64 16 4)")
    model.add_argument("--merge", type=int, default=0, help="one more row: image tokens merged in each vision layer")
    model.add_argument("--runs", type=int, default=200, help="of each row, after warm-up (default: %(default)s)")
    model.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default: %(default)s)")
    model.add_argument("--out", type=Path, default=Path("out/bench"), help="folder (default: %(default)s)")
    options = parser.parse_args(arguments)
    (_check_model if options.bench == "model" else _check_realtime)(parser, options)
    return options


def _check_model(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    for name in ("cameras", "runs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}, expected at least 1")
    for tokens in options.tokens:
        if not 1 <= tokens <= 256:
            parser.error(f"--tokens {tokens}: expected 1 to 256, the cells of an image")


def _check_realtime(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if not options.seconds >= 1.0:
        parser.error(f"--seconds is {options.seconds}, expected at least 1")
    if not options.checkpoint.is_dir():
        parser.error(f"checkpoint folder {options.checkpoint} does not exist")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. The last line of output is one JSON object."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    if options.bench == "model":
        from grids_ros.bench import model

        rows = options.cameras, options.tokens, options.merge
        return model.run(options.size, *rows, options.runs, options.device, options.out)
    from grids_ros.bench import realtime

    return realtime.run(options.checkpoint, options.seconds, options.out)


if __name__ == "__main__":
    sys.exit(main())

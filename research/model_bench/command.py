"""python -m research model: transformers' PI0 beside the runtime; operations, bytes, time. Needs no ROS."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

CELLS = 256  # of an image
RUNS, ON_A_CPU = 200, 5  # of each row; a CPU takes seconds for one run of a large model


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m research model", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--size",
        choices=("demo", "full", "pi05", "smolvla"),
        default="demo",
        help="full (π0) and pi05 need 12 GB (default: %(default)s)",
    )
    parser.add_argument("--cameras", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 16, 4], help="per camera (default: 64 16 4)")
    told = f"of each row, after warm-up (default: {RUNS}; on a CPU {ON_A_CPU} of the larger sizes, 7 min and more)"
    parser.add_argument("--runs", type=int, help=told)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.runs is None:
        options.runs = ON_A_CPU if options.device == "cpu" and options.size != "demo" else RUNS
    for name in ("cameras", "runs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}, expected at least 1")
    for tokens in options.tokens:
        if not 1 <= tokens <= CELLS:
            parser.error(f"--tokens {tokens}: expected 1 to {CELLS}, the cells of an image")
    return options


def main(arguments: Sequence[str]) -> int:
    """Entry point. The last line of output is one JSON object."""
    options = parse(arguments)
    if options.size == "smolvla":  # has 64 cells in all
        options.tokens = [tokens for tokens in options.tokens if tokens < 64]
    from research.model_bench import bench

    return bench.run(options.size, options.cameras, options.tokens, options.runs, options.device, options.out)

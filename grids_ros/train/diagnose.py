"""python -m grids_ros diagnose CHECKPOINT BAG...: is the policy blind, and does its sampler look?

What `train` asks of the episodes that it holds out, asked of any bags that the policy was not trained on; kept in the
checkpoint's provenance and card.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from grids_ros.data.settings import add_options, chosen
from grids_ros.policy.checkpoint import load
from grids_ros.policy.errors import CheckpointError, InputError
from grids_ros.train.__main__ import find_bags, read, window_of
from grids_ros.train.diagnosis import keep


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m grids_ros diagnose", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="folder")
    parser.add_argument("bags", nargs="+", type=Path, help="rosbag2 folders, or folders of them, of other episodes")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="read the bags (default: %(default)s)")
    add_options(parser)
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error(f"--workers is {options.workers}, expected at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. The last line of output is one JSON object; 1 and the reason for what cannot be used."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        checkpoint = load(options.checkpoint)
        samples = read(find_bags(options.bags), chosen(options), window_of(checkpoint), options.workers)
        print(json.dumps(keep(checkpoint, options.checkpoint, samples)))
    except (CheckpointError, InputError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

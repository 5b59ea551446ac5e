"""grids diagnose CHECKPOINT BAG...: is the policy blind, and does its sampler look?

What `train` measures on the episodes that it holds out, measured on any bags that the policy was not trained on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from grids_ros import cli
from grids_ros.data.settings import chosen
from grids_ros.options import refuse, require_apart
from grids_ros.policy.checkpoint import load
from grids_ros.policy.errors import CheckpointError, InputError
from grids_ros.policy.provenance import read_provenance
from grids_ros.train.__main__ import find_bags, read, window_of
from grids_ros.train.diagnosis import keep
from grids_ros.train.options import DiagnoseOptions


def run(options: DiagnoseOptions) -> int:
    """Measure, and print one JSON object last; the exit code."""
    try:
        checkpoint = load(options.checkpoint)
        read_provenance(options.checkpoint)  # it is to be written
        bags, settings = find_bags(options.bags), chosen(options.robot)
        require_apart([options.checkpoint], bags)
        window = window_of(checkpoint, bags, settings)
        samples = read(bags, settings, window, options.workers)
        print(json.dumps(keep(checkpoint, options.checkpoint, samples, window.robot)))
    except (CheckpointError, InputError, ValueError) as error:
        return refuse(error)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    return cli.call("diagnose", arguments)


if __name__ == "__main__":
    sys.exit(main())

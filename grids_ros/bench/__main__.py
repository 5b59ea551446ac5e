"""python -m grids_ros.bench: the same as `grids bench`."""

import sys

from grids_ros import cli

if __name__ == "__main__":
    sys.exit(cli.call("bench"))

"""python -m grids_ros COMMAND: one of those below, each of which imports what it needs when it is called."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

SUMMARIES = {
    "demo": "the simulated arm, the policy and the follower as three processes; leaves out/demo/ (make demo)",
    "sim": "only the simulated arm, as a ROS 2 node; takes --ros-args",
    "record": "scripted demonstrations as rosbag2",
    "train": "a policy from bags, from scratch or with GridS on a dense checkpoint",
    "diagnose": "whether a policy is blind, and whether its sampler looks, on bags that it has not seen",
    "average": "a policy between two checkpoints: what was learnt anew, and what was known before",
    "convert": "a checkpoint of lerobot, openpi or the GridS authors as one of ours",
    "evaluate": "a checkpoint in closed loop, without ROS",
    "table": "what pruning costs: GridS, dense and other pruners trained alike and compared",
    "replay": "a checkpoint scored on recorded bags, without ROS",
    "bench": "what is promised of time, measured: bench realtime, bench model",
}


def demo(arguments: Sequence[str]) -> int:
    """Needs rclpy."""
    import argparse
    from pathlib import Path

    parser = argparse.ArgumentParser(prog="python -m grids_ros demo", description=SUMMARIES["demo"])
    parser.add_argument("--checkpoint", type=Path, default=Path("models/demo"), help="folder (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=6, help="how many (default: %(default)s; the tasks take turns)")
    parser.add_argument("--seed", type=int, default=10_000, help="of the first scene (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.episodes < 1:
        parser.error(f"--episodes is {options.episodes}, expected 1 or more")
    from grids_ros.demo.run import run

    return run(options.checkpoint, options.episodes, options.seed, options.out)


def sim(arguments: Sequence[str]) -> int:
    """Needs rclpy."""
    from grids_ros.ros.sim_node import main

    return main([sys.argv[0], *arguments])


def record(arguments: Sequence[str]) -> int:
    from grids_ros.data.record import main

    return main(arguments)


def train(arguments: Sequence[str]) -> int:
    from grids_ros.train.__main__ import main

    return main(arguments)


def diagnose(arguments: Sequence[str]) -> int:
    from grids_ros.train.diagnose import main

    return main(arguments)


def average(arguments: Sequence[str]) -> int:
    from grids_ros.train.average import main

    return main(arguments)


def convert(arguments: Sequence[str]) -> int:
    from grids_ros.convert.__main__ import main

    return main(arguments)


def evaluate(arguments: Sequence[str]) -> int:
    from grids_ros.evaluate.__main__ import main

    return main(arguments)


def table(arguments: Sequence[str]) -> int:
    from grids_ros.table.__main__ import main

    return main(arguments)


def replay(arguments: Sequence[str]) -> int:
    from grids_ros.replay.__main__ import main

    return main(arguments)


def bench(arguments: Sequence[str]) -> int:
    """bench realtime needs rclpy."""
    from grids_ros.bench.__main__ import main

    return main(arguments)


OURS = (demo, sim, record, train, diagnose, average, convert, evaluate, table, replay, bench)
COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {command.__name__: command for command in OURS}


def main() -> int:
    """Entry point."""
    usage = "usage: python -m grids_ros COMMAND ...\n\n"
    usage += "\n".join(f"  {name:<10} {text}" for name, text in SUMMARIES.items())
    usage += "\n\nEach says more with --help."
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(usage)
        return 0
    name, *arguments = sys.argv[1:]
    if name not in COMMANDS:
        print(f"unknown command {name!r}, expected one of {', '.join(COMMANDS)}\n\n{usage}", file=sys.stderr)
        return 2
    return COMMANDS[name](arguments) or 0


if __name__ == "__main__":
    sys.exit(main())

"""grids COMMAND: one command for everything that is no ROS node.

Also `python -m grids_ros COMMAND`, and `ros2 run grids_ros grids COMMAND` on a robot. A command's options are read and
checked before anything heavy is imported. Exit codes: 0 done; 1 failed, or fewer successes than asked for; 2 an option
or a file that cannot be used, said in one line before the work; 130 interrupted. `replay` has more.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from grids_ros.interruption import INTERRUPTED, interruptible
from grids_ros.options import UsageError, read, refuse


@dataclass(frozen=True)
class Command:
    """summary: for the list of commands. options, run: "module:name" of the dataclass, and of what takes it."""

    summary: str
    options: str
    run: str


COMMANDS = {  # what a roboticist needs first comes first
    "replay": Command(
        "score a checkpoint on recorded bags, open loop; needs no ROS",
        "grids_ros.replay.options:ReplayOptions",
        "grids_ros.replay.__main__:run",
    ),
    "convert": Command(
        "convert a checkpoint of lerobot, openpi or the GridS authors",
        "grids_ros.convert.options:Conversion",
        "grids_ros.convert.__main__:run",
    ),
    "train": Command(
        "train a policy on bags: from scratch, or GridS on a dense checkpoint",
        "grids_ros.train.options:TrainOptions",
        "grids_ros.train.__main__:run",
    ),
    "evaluate": Command(
        "count the successes of a checkpoint in closed loop, in simulation; needs no ROS",
        "grids_ros.evaluate.options:EvaluateOptions",
        "grids_ros.evaluate.__main__:run",
    ),
    "record": Command(
        "record scripted demonstrations of the simulated arm as rosbag2",
        "grids_ros.sim.record_options:RecordOptions",
        "grids_ros.sim.record:run",
    ),
    "export": Command(
        "write the episodes of bags as a LeRobot data set",
        "grids_ros.data.lerobot.command:ExportOptions",
        "grids_ros.data.lerobot.command:run",
    ),
    "view": Command(
        "show a bag in Rerun: images, sampled points, chunk and target",
        "grids_ros.visualisation.bag_view:ViewOptions",
        "grids_ros.visualisation.bag_view:run",
    ),
    "demo": Command(
        "run the simulated arm, the policy and the follower as three processes (make demo)",
        "grids_ros.demo.options:DemoOptions",
        "grids_ros.demo.options:run",
    ),
    "diagnose": Command(
        "measure on bags whether a policy uses its cameras, and whether its sampler looks",
        "grids_ros.train.options:DiagnoseOptions",
        "grids_ros.train.diagnose:run",
    ),
    "doctor": Command(
        "check this machine and the running ROS graph, and say what to do",
        "grids_ros.doctor:DoctorOptions",
        "grids_ros.doctor:run",
    ),
    "bench": Command(
        "measure the timing of the three processes under load",
        "grids_ros.bench.options:BenchOptions",
        "grids_ros.bench.options:run",
    ),
}
PASSED_ON = {  # commands that read their own arguments
    "sim": ("run the simulated arm alone, as a ROS 2 node; takes --ros-args", "grids_ros.ros.sim_node:main"),
}
WITH_BENCHMARK = {  # the same commands with --benchmark: scenes that other people made
    "evaluate": Command(
        "count the successes of a checkpoint on a published benchmark",
        "grids_ros.benchmarks.options:BenchmarkOptions",
        "grids_ros.benchmarks.evaluate:run",
    ),
    "record": Command(
        "record a scripted expert on a published benchmark",
        "grids_ros.benchmarks.options:BenchmarkRecordOptions",
        "grids_ros.benchmarks.record_demonstrations:run",
    ),
}
ORDER = (
    *("replay", "convert", "train", "evaluate", "doctor", "view", "record", "export", "demo", "sim", "diagnose"),
    "bench",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that is named; its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(usage())
        return 0
    name, *rest = given
    if name in PASSED_ON:
        return _found(PASSED_ON[name][1])([f"grids {name}", *rest] if name == "sim" else rest) or 0
    if name not in COMMANDS:
        return refuse(f"grids: unknown command {name!r}, expected one of {', '.join(ORDER)}")
    return call(name, rest)


def call(name: str, arguments: Sequence[str] | None = None, **more: Any) -> int:
    """Run one command; its exit code. more: what its `run` takes beside the options.

    Raises SystemExit for --help and for options that cannot be used.
    """
    given = sys.argv[1:] if arguments is None else arguments
    command, options = _command(name, given), None
    try:
        options = parse(name, given)
        run = _found(command.run)
        interruptible()
        return run(options, **more)
    except UsageError as error:
        return refuse(f"grids {name}: {error}")
    except KeyboardInterrupt:
        left = options.left() if options is not None and hasattr(options, "left") else "nothing was written"
        print(f"\ngrids {name}: interrupted; {left}", file=sys.stderr)
        return INTERRUPTED


def parse(name: str, arguments: Sequence[str]) -> Any:
    """The options of one command. Raises SystemExit for --help and for options that cannot be used."""
    return read(_found(_command(name, arguments).options), name, arguments)


def _command(name: str, arguments: Sequence[str]) -> Command:
    """`--benchmark` chooses another set of options."""
    benchmark = any(argument.partition("=")[0] == "--benchmark" for argument in arguments)
    return WITH_BENCHMARK[name] if benchmark and name in WITH_BENCHMARK else COMMANDS[name]


def summaries() -> dict[str, str]:
    """Command to one line, in the order of the help."""
    known = {name: command.summary for name, command in COMMANDS.items()}
    known |= {name: summary for name, (summary, _) in PASSED_ON.items()}
    return {name: known[name] for name in ORDER}


def usage() -> str:
    """The list of commands."""
    lines = "\n".join(f"  {name:<10} {summary}" for name, summary in summaries().items())
    return f"usage: grids COMMAND ...\n\n{lines}\n\ngrids COMMAND --help lists the options of a command."


def _found(named: str) -> Any:
    module, _, name = named.partition(":")
    return getattr(import_module(module), name)

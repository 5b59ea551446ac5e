"""python -m research compare DEMOS... --out DIR: what pruning costs; variants trained alike, on the same scenes."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from grids_ros.files import digest
from grids_ros.pieces import ClusterError, WorkerLost
from grids_ros.train.__main__ import find_bags
from grids_ros.train.recipe import Recipe
from research.comparison.page import write
from research.comparison.plan import VARIANTS, Plan, Settings
from research.comparison.results import read
from research.comparison.scenes import SCENES, STATES
from research.comparison.work import Machine, TableError, Work


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m research compare", description=__doc__.splitlines()[0])
    parser.add_argument("bags", nargs="*", type=Path, help="rosbag2 folders, or folders of them; none: --report only")
    parser.add_argument("--out", type=Path, required=True, help="folder of the work; what is there is not done again")
    parser.add_argument("--report", type=Path, help="write what there is to this Markdown file, with plots beside it")
    beside = "tables of other starts, to be told together with this one"
    parser.add_argument("--beside", nargs="+", type=Path, default=[], metavar="DIR", help=beside)
    scored = "where policies are scored: this package's simulation, or LIBERO and LIBERO-PRO (default: %(default)s)"
    parser.add_argument("--scenes", choices=list(SCENES), default="simulation", help=scored)
    told = f"of {', '.join(VARIANTS)} (default: every one)"
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME", help=told)
    for name, nargs, values, but in (("tasks", "+", "tasks", ""), ("ood", "*", "kinds", " but lan")):
        told = "; ".join(f"{scenes}: {', '.join(getattr(SCENES[scenes], values))}" for scenes in SCENES)
        parser.add_argument(f"--{name}", nargs=nargs, metavar="NAME", help=f"{told} (default: every one{but})")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each variant (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=3000, help="of each training (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=Recipe.batch, help="default: %(default)s")
    defaults = ", ".join(f"{scenes.episodes} {scenes.of}" for scenes in SCENES.values())
    parser.add_argument("--episodes", type=int, help=f"default: {defaults}; more in LIBERO add to what is there")
    parser.add_argument("--start", type=Path, help="dense checkpoint whose weights every variant starts with")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of an evaluation (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of a training (default: %(default)s)")
    cluster = "do the jobs on this Ray cluster, whose nodes have all folders under the same paths"
    parser.add_argument("--cluster", default="", metavar="ADDRESS", help=cluster)
    options = parser.parse_args(arguments)
    scenes = SCENES[options.scenes]
    for name, known, usual in (("tasks", scenes.tasks, scenes.tasks), ("ood", scenes.kinds, scenes.usual)):
        if getattr(options, name) is None:
            setattr(options, name, list(usual))
        for one in set(getattr(options, name)) - set(known):
            parser.error(f"--{name} is {one!r}, with --scenes {options.scenes} expected of {', '.join(known)}")
    options.episodes = scenes.episodes if options.episodes is None else options.episodes
    if options.scenes == "libero" and options.episodes > STATES:
        parser.error(f"--episodes is {options.episodes}, a task of LIBERO has {STATES} initial states")
    for name in ("seeds", "steps", "batch", "episodes", "workers", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}, expected at least 1")
    if not options.bags and not options.report:
        parser.error("nothing to do: expected bags to train on, or --report FILE of what is in --out")
    if options.beside and not options.report:
        parser.error("--beside goes with --report: what is told together")
    if options.start and not options.start.is_dir():
        parser.error(f"--start {options.start}: there is no such folder")
    return options


def chosen(names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Those of `known` that are named, in its order."""
    return tuple(name for name in known if name in names)


def identity(folder: Path, files: Iterable[Path]) -> str:
    """Name of a folder and digest of these files in it: another one of the same name makes another table."""
    return f"{folder.resolve().name}, sha256 {digest(files)}"


def start_of(checkpoint: Path) -> str:
    """Identity of what every variant starts with. Raises TableError for one that is not dense, or cannot be read."""
    try:
        sampler = json.loads((checkpoint / "grids.json").read_text())["sampler"]
        if sampler:
            pruned = f"it has a sampler of {sampler['tokens']} tokens, which one variant would begin with"
            raise TableError(f"--start {checkpoint}: {pruned}; expected a dense one, as `train --tokens 0` makes it")
        return identity(checkpoint, [checkpoint / "model.safetensors"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TableError(f"--start {checkpoint}: {type(error).__name__}: {error}") from error


def work(options: argparse.Namespace) -> None:
    """Train and evaluate what is not there yet. Raises TableError when it cannot."""
    try:
        bags = find_bags(options.bags)
    except ValueError as error:
        raise TableError(error) from error
    start = start_of(options.start) if options.start else None
    data = tuple(identity(bag, sorted(path for path in bag.rglob("*") if path.is_file())) for bag in bags)
    settings = Settings(data, options.steps, options.batch, options.episodes, start, options.scenes)
    scenes = SCENES[options.scenes]
    tasks, kinds = chosen(options.tasks, scenes.tasks), chosen(options.ood, scenes.kinds)
    plan = Plan(chosen(options.variants, VARIANTS), options.seeds, tasks, kinds)
    machine = Machine(options.workers, options.threads)
    Work(options.out, settings, bags, options.start, machine, options.cluster).run(plan)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 and the reason when a job fails."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # what was started ends as well
    try:
        if options.bags:
            work(options)
        if options.report:
            write(read(options.out, *options.beside), options.report)
            print(options.report)
    except (ClusterError, TableError, WorkerLost) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

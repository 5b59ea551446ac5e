"""python -m grids_ros evaluate --checkpoint DIR: success in closed loop over unseen scenes, counted."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from grids_ros.control.defaults import FOLLOWER
from grids_ros.control.timeline import JOINS
from grids_ros.evaluate.episode import Result, Step, play
from grids_ros.evaluate.report import summarise
from grids_ros.evaluate.video import Video
from grids_ros.sim.disturbance import Detour
from grids_ros.sim.scene import Scene
from grids_ros.sim.tasks import TASKS, UNSEEN_SEEDS, Task
from grids_ros.sim.variation import KINDS
from grids_ros.train.card import record_evaluation

if TYPE_CHECKING:
    from grids_ros.policy.runtime import Policy

FIRST_SEED = UNSEEN_SEEDS.start

_mine: tuple = ()  # policy and scene of a worker process: loaded once, used for all of its episodes


def load(options: argparse.Namespace) -> Policy:
    """What is evaluated. Raises CheckpointError for a checkpoint that cannot do what is asked."""
    from grids_ros.policy.runtime import Policy

    policy = Policy.load(options.checkpoint, tokens=options.tokens, merge=options.merge)
    if options.hold_coordinates:
        policy.hold_coordinates()
    return policy


def prepare(options: argparse.Namespace) -> None:
    """Load what a worker process keeps. One thread each: the episodes are what runs in parallel."""
    global _mine
    import torch

    torch.set_num_threads(1)
    policy = load(options)
    policy.warm_up()
    _mine = policy, Scene(ood=options.ood)


def run(task: Task, seed: int, delay_s: float, join: str, video: Path | None, detour: Detour | None) -> Result:
    """One episode in a worker process; its result, and its film when there is a folder for it."""
    policy, scene = _mine
    film = Video(video / f"{seed}_{task.colour}.mp4") if video else None
    for event in play(policy, scene, task, seed, repeat(delay_s), replace(FOLLOWER, join=join), detour):
        if isinstance(event, Result):
            if film:
                film.close()
            return event
        if film and isinstance(event, Step):
            film.add(event)
    raise RuntimeError(f"the episode with seed {seed} ended without a result")


def named_first(tasks: Sequence[Task], i: int) -> Task:
    """With --swap, before the i-th task: the next of them that is about another cube."""
    return next(other for other in (*tasks[i + 1 :], *tasks[:i]) if other.colour != tasks[i].colour)


def evaluate(options: argparse.Namespace) -> list[Result]:
    """All episodes, in the order of their seeds; the tasks take turns."""
    tasks = TASKS[options.task]
    workers = min(options.workers, options.episodes)
    how = options.delay / 1e3, options.join, options.video
    with ProcessPoolExecutor(workers, get_context("spawn"), prepare, (options,)) as pool:
        jobs = []
        for i in range(options.episodes):
            task = tasks[i % len(tasks)]
            detour = Detour(named_first(tasks, i % len(tasks)), options.swap) if options.swap else None
            jobs.append(pool.submit(run, task, options.seed + i, *how, detour))
        won, results = 0, []
        with tqdm(as_completed(jobs), total=len(jobs), desc="evaluating", unit="episode") as bar:
            for job in bar:
                results.append(job.result())
                won += results[-1].success
                bar.set_postfix_str(f"{won} of {len(results)} succeeded")
    return sorted(results, key=lambda result: result.seed)


def unseen(options: argparse.Namespace) -> bool:
    """Whether `record` refuses all of these scenes, so that nobody has trained on one."""
    return options.seed in UNSEEN_SEEDS and options.seed + options.episodes - 1 in UNSEEN_SEEDS


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m grids_ros evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=Path("models/demo"), help="folder (default: %(default)s)")
    parser.add_argument("--task", choices=TASKS, default="lift", help="default: %(default)s")
    parser.add_argument("--ood", choices=KINDS, help="evaluate out of distribution: what is unlike in every scene")
    parser.add_argument("--tokens", type=int, help="per camera, one of the numbers it was trained with")
    parser.add_argument("--merge", type=int, default=0, help="image tokens per vision layer (default: %(default)s)")
    parser.add_argument(
        "--hold-coordinates", action="store_true", help="read where its diagnosis read on average: does it look?"
    )
    parser.add_argument("--episodes", type=int, default=60, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help="of the first scene (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: %(default)s)")
    parser.add_argument("--delay", type=float, default=60.0, help="observation to chunk [ms] (default: %(default)s)")
    parser.add_argument("--join", choices=JOINS, default=FOLLOWER.join, help="of chunks (default: %(default)s)")
    parser.add_argument(
        "--swap", type=float, metavar="M", help="ask for another cube first, until the tool is so near to it [m]"
    )
    parser.add_argument("--video", type=Path, help="folder for an MP4 of each episode")
    parser.add_argument("--json", type=Path, help="file for the last line of output as well")
    parser.add_argument("--card", action="store_true", help="write the result into the checkpoint's card as well")
    options = parser.parse_args(arguments)
    for name in ("episodes", "workers"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}, expected at least 1")
    if not options.delay >= 0.0:
        parser.error(f"--delay is {options.delay}, expected at least 0")
    if options.card and (options.merge or options.hold_coordinates):
        parser.error("--card keeps what the policy does as it is: not with --merge or --hold-coordinates")
    if options.card and not unseen(options):
        kept = f"{UNSEEN_SEEDS.start} to {UNSEEN_SEEDS.stop - 1}"
        parser.error(f"--card tells of scenes that no demonstration has: expected seeds within {kept}")
    if options.swap is not None and not options.swap > 0.0:
        parser.error(f"--swap is {options.swap}, expected more than 0")
    if not options.checkpoint.is_dir():
        parser.error(f"checkpoint folder {options.checkpoint} does not exist")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. The last line of output is one JSON object; 1 and the reason for a checkpoint that cannot do it."""
    from grids_ros.policy.errors import CheckpointError, InputError

    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:  # a process of the pool that fails to start does not say why
        policy = load(options)
        for task in TASKS[options.task]:
            policy.check(task.instruction)
    except (CheckpointError, InputError) as error:
        print(error, file=sys.stderr)
        return 1
    if not unseen(options):
        print("some of these scenes may have been recorded, and trained on", file=sys.stderr)
    if options.video:
        options.video.mkdir(parents=True, exist_ok=True)
    results, tokens = evaluate(options), policy.tokens_per_camera
    setting = {"task": options.task, "ood": options.ood, "first_seed": options.seed, "tokens_per_camera": tokens}
    setting |= {"merge": options.merge, "coordinates_held": options.hold_coordinates}
    timing = {"delay_ms": options.delay, "join": options.join, "swap_m": options.swap}
    summary = {**setting, **timing, **summarise(results)}
    if options.card:
        record_evaluation(options.checkpoint, summary)
    if options.json:
        options.json.write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""grids evaluate --checkpoint DIR: success in closed loop over unseen scenes, counted."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path

from tqdm import tqdm

from grids_ros import cli
from grids_ros.control.defaults import FOLLOWER
from grids_ros.evaluate.episode import EpisodeResult, Step, rollout
from grids_ros.evaluate.episode_video import EpisodeVideo
from grids_ros.evaluate.options import EvaluateOptions
from grids_ros.evaluate.success_rates import summarise
from grids_ros.files import write_whole
from grids_ros.options import refuse
from grids_ros.pieces import ClusterError, WorkerLost, Workers, outcomes
from grids_ros.policy.checkpoint import record_evaluation
from grids_ros.sim.disturbance import Detour
from grids_ros.sim.scene import Scene
from grids_ros.sim.tasks import TASKS, Task

_mine: tuple = ()  # policy and scene of a worker process: loaded once, used for all of its episodes


def prepare(options: EvaluateOptions) -> None:
    """Load what a worker process keeps. One thread each: the episodes are what runs in parallel."""
    global _mine
    import torch

    torch.set_num_threads(1)
    policy = options.load()
    policy.warm_up()
    _mine = policy, Scene(ood=options.ood)


def episode(
    task: Task, seed: int, delay_s: float, join: str, video: Path | None, detour: Detour | None
) -> EpisodeResult:
    """One episode in a worker process; its result, and its video when there is a folder for it."""
    policy, scene = _mine
    episode_video = EpisodeVideo(video / f"{seed}_{task.colour}.mp4") if video else None
    for event in rollout(policy, scene, task, seed, repeat(delay_s), replace(FOLLOWER, join=join), detour):
        if isinstance(event, EpisodeResult):
            if episode_video:
                episode_video.close()
            return event
        if episode_video and isinstance(event, Step):
            episode_video.add(event)
    raise RuntimeError(f"the episode with seed {seed} ended without a result")


def named_first(tasks: Sequence[Task], i: int) -> Task:
    """With --swap, before the i-th task: the next of them that is about another cube."""
    return next(other for other in (*tasks[i + 1 :], *tasks[:i]) if other.colour != tasks[i].colour)


def evaluate(options: EvaluateOptions) -> list[EpisodeResult]:
    """All episodes, in the order of their seeds; the tasks take turns. Raises ClusterError and WorkerLost."""
    tasks = TASKS[options.task]
    how = options.delay / 1e3, options.join, options.video
    pieces = []
    for i in range(options.episodes):
        detour = Detour(named_first(tasks, i % len(tasks)), options.swap) if options.swap else None
        pieces.append((tasks[i % len(tasks)], options.seed + i, *how, detour))
    results: list[EpisodeResult] = []
    workers = Workers(options.workers, options.cluster, prepare, (options,))
    with tqdm(total=len(pieces), desc="evaluating", unit="episode") as bar:
        for outcome in outcomes(_episode, pieces, workers):
            results.append(outcome.value())
            bar.update()
            bar.set_postfix_str(f"{sum(result.success for result in results)} of {len(results)} succeeded")
    return sorted(results, key=lambda result: result.seed)


def _episode(piece: tuple) -> EpisodeResult:
    return episode(*piece)


def run(options: EvaluateOptions) -> int:
    """Count, and print one JSON object last; the exit code."""
    from grids_ros.policy.errors import CheckpointError, InputError
    from grids_ros.policy.provenance import read_provenance

    try:  # a process of the pool that fails to start does not say why
        policy = options.load()
        if options.card:
            read_provenance(options.checkpoint)
        for task in TASKS[options.task]:
            policy.check(task.instruction)
    except (CheckpointError, InputError) as error:
        return refuse(error)
    if not options.unseen:
        print("some of these scenes may have been recorded, and trained on", file=sys.stderr)
    if options.video:
        options.video.mkdir(parents=True, exist_ok=True)
    try:
        results = evaluate(options)
    except ClusterError as error:
        return refuse(error)
    except WorkerLost as error:
        print(error, file=sys.stderr)
        return 1
    tokens = policy.tokens_per_camera
    setting = {"task": options.task, "ood": options.ood, "first_seed": options.seed, "tokens_per_camera": tokens}
    timing = {"delay_ms": options.delay, "join": options.join, "swap_m": options.swap}
    summary = {**setting, **timing, **summarise(results)}
    if options.card:
        record_evaluation(options.checkpoint, summary)
    if options.json:
        write_whole(options.json, json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    return cli.call("evaluate", arguments)


if __name__ == "__main__":
    sys.exit(main())

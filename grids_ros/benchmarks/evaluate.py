"""A checkpoint on a benchmark's fixed initial states: episodes in parallel processes, results that survive a cut."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from grids_ros.benchmarks import actions
from grids_ros.benchmarks.benchmark_video import BenchmarkVideo, write_sheet
from grids_ros.benchmarks.client import BenchmarkError, BenchmarkProcess, Description, State
from grids_ros.benchmarks.options import BenchmarkOptions, family_of
from grids_ros.benchmarks.settings import begin
from grids_ros.control.session import Inference, PolicySession
from grids_ros.datatypes import Observation, PolicyOutput
from grids_ros.evaluate.success_rates import wilson
from grids_ros.files import OutputError, digest, locked, write_whole
from grids_ros.options import UsageError
from grids_ros.pieces import ClusterError, WorkerLost, Workers, outcomes

if TYPE_CHECKING:
    from grids_ros.policy.runtime import Policy

EPISODES, SUMMARY, SHEET = "episodes.jsonl", "summary.json", "sheet.png"


@dataclass(frozen=True)
class BenchmarkEpisode:
    """One result: the task and its initial state, success, environment steps, and why the policy refused, if it did."""

    task: int
    state: int
    success: bool
    steps: int
    inference_ms: float
    instruction: str
    error: str = ""


class Worker(NamedTuple):
    """What a process keeps between episodes."""

    policy: Policy
    process: BenchmarkProcess
    options: BenchmarkOptions
    per_step: bool


_mine: list[Worker] = []


def run(options: BenchmarkOptions) -> int:
    """Entry point. Raises UsageError for what cannot be used, before the work."""
    from grids_ros.policy.errors import CheckpointError

    try:
        with BenchmarkProcess(family_of(options.benchmark), options.benchmark) as process:
            description = process.description
        policy = options.load()
    except (BenchmarkError, CheckpointError) as error:
        raise UsageError(str(error)) from error
    options = replace(options, cameras=options.cameras or description.cameras[:2])
    _check(options, description, policy)
    settings = {"versions": description.versions, "tokens_per_camera": policy.tokens_per_camera, **_settings(options)}
    del policy  # the workers have their own
    try:
        with locked(options.out):
            return _score(options, description, settings)
    except (ClusterError, OutputError) as error:
        raise UsageError(str(error)) from error
    except (BenchmarkError, WorkerLost) as error:
        print(error, file=sys.stderr)
        return 1


def _score(options: BenchmarkOptions, description: Description, settings: dict) -> int:
    """Play what is missing, write and print what there is. Raises BenchmarkError, ClusterError and WorkerLost."""
    tasks = options.tasks or tuple(range(len(description.tasks)))
    begin(options.out, settings)
    done = _done(options.out / EPISODES)
    states = range(options.episodes_per_task)
    wanted = [(task, state) for task in tasks for state in states]  # making the scene of another task takes seconds
    played = _rollout_all(options, [pair for pair in wanted if pair not in done])
    episodes = [done[pair] for pair in wanted if pair in done] + played
    summary = summarise(episodes, description.tasks, settings)
    write_whole(options.out / SUMMARY, json.dumps(summary, indent=2) + "\n")
    write_sheet(options.out, tasks, description.tasks, episodes, options.out / SHEET)
    print(table(summary))
    print(json.dumps(summary))
    return 0


def _check(options: BenchmarkOptions, description: Description, policy: Policy) -> None:
    name, tasks, cameras = options.benchmark, description.tasks, description.cameras
    for task in options.tasks:
        if not 0 <= task < len(tasks):
            raise UsageError(f"--tasks is {task}, {name} has 0 to {len(tasks) - 1}")
    for camera in options.cameras:
        if camera not in cameras:
            raise UsageError(f"--cameras is {camera!r}, {name} has {', '.join(cameras)}")
    if len(policy.cameras) > len(options.cameras):
        named = ", ".join(policy.cameras)
        raise UsageError(f"the checkpoint has cameras {named}, --cameras names {len(options.cameras)}")
    if options.episodes_per_task > description.states:
        given = f"--episodes-per-task is {options.episodes_per_task}"
        raise UsageError(f"{given}, a task of {name} has {description.states} initial states")
    if _per_step(options, policy) and options.replan_steps > policy.chunk_size:
        raise UsageError(f"--replan-steps is {options.replan_steps}, a chunk has {policy.chunk_size} actions")


def _per_step(options: BenchmarkOptions, policy: Policy) -> bool:
    return options.actions == "step" or (options.actions == "auto" and policy.per_step_actions)


def _settings(options: BenchmarkOptions) -> dict[str, object]:
    """What a result depends on; a folder holds results of one of these alone."""
    kept = ("benchmark", "replan_steps", "actions", "image_size", "cameras")
    from grids_ros.policy.checkpoint import WEIGHTS
    from grids_ros.policy.folder import current

    weights = digest([current(options.checkpoint, WEIGHTS)])
    whose = {"checkpoint": str(options.checkpoint.resolve()), "weights": f"sha256 {weights}"}
    return {name: getattr(options, name) for name in kept} | whose


def _done(path: Path) -> dict[tuple[int, int], BenchmarkEpisode]:
    """The episodes that a file holds, by task and state. What a kill left of a line is removed from it."""
    if not path.exists():
        return {}
    whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    write_whole(path, "".join(whole))
    return {(one.task, one.state): one for one in (BenchmarkEpisode(**json.loads(line)) for line in whole)}


def _prepare(options: BenchmarkOptions) -> None:
    import torch

    torch.set_num_threads(1)
    policy = options.load()
    process = BenchmarkProcess(family_of(options.benchmark), options.benchmark)
    _mine[:] = [Worker(policy, process, options, _per_step(options, policy))]


def _rollout_all(options: BenchmarkOptions, todo: Sequence[tuple[int, int]]) -> list[BenchmarkEpisode]:
    """Play what is missing; each result is on disk as soon as it is known."""
    played: list[BenchmarkEpisode] = []
    if not todo:
        return played
    workers = Workers(options.workers, options.cluster, _prepare, (options,))
    with (
        open(options.out / EPISODES, "a") as log,
        tqdm(total=len(todo), desc=options.benchmark, unit="episode") as bar,
    ):
        for outcome in outcomes(_rollout, todo, workers):
            played.append(outcome.value())
            log.write(json.dumps(asdict(played[-1])) + "\n")
            log.flush()
            bar.update()
            bar.set_postfix_str(f"{sum(e.success for e in played)} of {len(played)} succeeded")
    return played


def _rollout(piece: tuple[int, int]) -> BenchmarkEpisode:
    """One episode, a task and its initial state, in a worker process."""
    task, state = piece
    worker = _mine[0]
    options, limit = worker.options, worker.process.description.limit_steps
    video = BenchmarkVideo(options.out / f"task{task}-state{state}.mp4") if state < options.films else None
    try:
        return rollout(worker, task, state, limit, video)
    finally:
        if video:
            video.close()


def rollout(worker: Worker, task: int, state: int, limit: int, video: BenchmarkVideo | None = None) -> BenchmarkEpisode:
    """One episode: observe, infer, execute `replan_steps` actions, until success or the limit.

    The environment stands still while the policy infers: each chunk arrives at the instant of its observation.
    """
    from grids_ros.policy.errors import InputError

    policy, process, options, per_step = worker
    rate, session = process.description.rate_hz, PolicySession("latest")
    measured, latencies, step = process.reset(task, state), [], 0
    session.instruct(measured.instruction)
    planned = np.zeros((0, 7))
    while step < limit and not measured.success:
        if step % options.replan_steps == 0:
            try:
                observation, output = _infer(worker, session, measured, actions.stamp_ns(step, rate))
            except InputError as error:
                return BenchmarkEpisode(task, state, False, step, 0.0, measured.instruction, str(error))
            latencies.append(1e3 * output.latency_s.get("total", 0.0))
            planned = actions.per_step(output.chunk, observation.pose) if per_step else planned
            if video:
                video.add(observation, output)
        index = step % options.replan_steps
        if per_step:
            action = planned[min(index, len(planned) - 1)]
        else:
            action = actions.at_time(output.chunk, measured.pose, actions.stamp_ns(step + 1, rate))
        measured = process.step(action)
        step += 1
    mean = float(np.mean(latencies)) if latencies else 0.0
    return BenchmarkEpisode(task, state, measured.success, step, round(mean, 1), measured.instruction)


def _infer(worker: Worker, session: PolicySession, measured: State, now_ns: int) -> tuple[Observation, PolicyOutput]:
    """One inference of the session, and its observation. Raises InputError for what the policy refuses."""
    policy, process, options, _ = worker
    inference = session.begin(now_ns, partial(observe, process, policy.cameras, options, measured))
    assert isinstance(inference, Inference)  # the one before has ended, and the observation is a new one
    output = policy.infer(inference.observation, continuation=inference.continuation)
    session.finish(inference, output.chunk, now_ns)
    return inference.observation, output


def observe(
    process: BenchmarkProcess,
    cameras: Sequence[str],
    options: BenchmarkOptions,
    measured: State,
    instruction: str,
    now_ns: int,
) -> Observation:
    """What the policy is shown at this instant of the environment's clock [ns]."""
    rendered = {
        name: process.render(theirs, options.image_size) for name, theirs in zip(cameras, options.cameras, strict=False)
    }
    return Observation(now_ns, rendered, measured.pose, measured.opening, instruction)


def summarise(episodes: Sequence[BenchmarkEpisode], names: Sequence[str], settings: dict) -> dict:
    """Counts and 95 % Wilson intervals, by task and in all."""
    by_task = {}
    for task in sorted({episode.task for episode in episodes}):
        mine = [episode for episode in episodes if episode.task == task]
        failed = sorted(episode.state for episode in mine if not episode.success)
        by_task[names[task]] = {**_count(mine), "failed_states": failed}
    return {**settings, **_count(episodes), "tasks": by_task}


def _count(episodes: Sequence[BenchmarkEpisode]) -> dict:
    won = sum(episode.success for episode in episodes)
    errors = sorted({episode.error for episode in episodes if episode.error})
    low, high = wilson(won, len(episodes)) if episodes else (0.0, 1.0)
    steps = [episode.steps for episode in episodes if episode.success]
    return {
        "successes": won,
        "episodes": len(episodes),
        "success_rate": round(won / max(1, len(episodes)), 4),
        "wilson_95": [round(low, 4), round(high, 4)],
        "median_steps": float(np.median(steps)) if steps else None,
        **({"refused": sum(bool(episode.error) for episode in episodes), "reasons": errors} if errors else {}),
    }


def table(summary: dict) -> str:
    """For the terminal."""
    rows = [*summary["tasks"].items(), ("all", summary)]
    width = max(len(name) for name, _ in rows)
    return "\n".join(
        f"  {name:<{width}}  {row['successes']:>4} of {row['episodes']:<4} "
        f"{row['wilson_95'][0]:.0%} to {row['wilson_95'][1]:.0%}"
        for name, row in rows
    )

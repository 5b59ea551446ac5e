"""A scripted expert on a benchmark's tasks, as rosbag2: one bag per task, never a fixed initial state."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from grids_ros.benchmarks import actions
from grids_ros.benchmarks.client import BenchmarkError, BenchmarkProcess, State
from grids_ros.benchmarks.options import BenchmarkRecordOptions, family_of
from grids_ros.benchmarks.settings import begin
from grids_ros.data.writer import BagWriter
from grids_ros.datatypes import NANOSECONDS, Pose
from grids_ros.files import OutputError, locked, replacing
from grids_ros.options import UsageError
from grids_ros.pieces import WorkerLost, Workers, outcomes

ATTEMPTS = 4  # at one placement, each with another grasp
AFTER_STEPS = 4  # recorded after success
PAUSE_NS = NANOSECONDS  # between two episodes
MARGIN_NS = 1_000_000  # of the instruction before the first message
CAMERAS = ("base", "wrist")  # the first two of the benchmark's
FINGERS = ("fr3_finger_joint1", "fr3_finger_joint2")  # the nodes' default, so that training needs no parameter
Write = Callable[[BagWriter], None]


@dataclass
class BenchmarkDemonstration:
    """One episode, kept until it is known to have succeeded; stamps start at `begun_ns`."""

    process: BenchmarkProcess
    begun_ns: int
    image_size: int
    steps_per_image: int
    writes: list[Write] = field(default_factory=list)
    ended_ns: int = 0
    instruction: str = ""

    def run(self, task: int, seed: int, attempt: int) -> bool:
        """Play the expert; False when it fails or needs longer than the benchmark allows."""
        process, rate = self.process, self.process.description.rate_hz
        state = process.randomize(task, seed)
        self.instruction = state.instruction
        advice = process.expert(attempt=attempt, restart=True)
        opening, after = None, 0
        for step in range(process.description.limit_steps):
            now_ns = self.begun_ns + actions.stamp_ns(step, rate)
            if step % self.steps_per_image == 0:
                self._observe(now_ns, state, advice.places)
            wanted = 0.0 if advice.action[6] > 0.0 else 0.08
            self._command(now_ns, state, advice.action, None if wanted == opening else wanted)
            opening = wanted
            state = process.step(advice.action)
            advice = process.expert()
            after += state.success
            if advice.failed or after >= AFTER_STEPS or (advice.ended and not state.success):
                break
        self.ended_ns = self.begun_ns + actions.stamp_ns(step + 1, rate)
        self._observe(self.ended_ns, state, advice.places)
        return state.success and not advice.failed

    def _observe(self, now_ns: int, state: State, places: np.ndarray) -> None:
        images = {
            name: self.process.render(camera, self.image_size)
            for name, camera in zip(CAMERAS, self.process.description.cameras, strict=False)
        }
        joints = [*state.joints, state.opening / 2, state.opening / 2]
        objects = [Pose(place, (0.0, 0.0, 0.0, 1.0)) for place in places]

        def write(bag: BagWriter) -> None:
            for name, image in images.items():
                bag.image(name, now_ns, image)
            bag.current_pose(now_ns, state.pose)
            bag.joint_states(now_ns, [*self.process.description.joints, *FINGERS], joints, np.zeros(len(joints)))
            if objects:
                bag.object_poses(now_ns, objects)

        self.writes.append(write)

    def _command(self, now_ns: int, state: State, action: np.ndarray, opening: float | None) -> None:
        target = actions.target_of(np.clip(action, -1.0, 1.0), state.pose)
        self.writes.append(lambda bag: bag.target_pose(now_ns, target))
        if opening is not None:
            self.writes.append(lambda bag: bag.gripper_command(now_ns, opening))

    def write(self, bag: BagWriter) -> None:
        """The whole episode, between its instruction and an empty one."""
        bag.instruction(self.begun_ns - MARGIN_NS, self.instruction)
        for write in self.writes:
            write(bag)
        bag.instruction(self.ended_ns + MARGIN_NS, "")


def run(options: BenchmarkRecordOptions) -> int:
    """Entry point; the last line of output is JSON. Raises UsageError for what cannot be used, before the work.

    The exit code is 1 where the expert cannot do a task.
    """
    try:
        with BenchmarkProcess(family_of(options.benchmark), options.benchmark) as process:
            names = process.description.tasks
    except BenchmarkError as error:
        raise UsageError(str(error)) from error
    tasks = options.tasks or tuple(range(len(names)))
    for task in tasks:
        if not 0 <= task < len(names):
            raise UsageError(f"--tasks is {task}, {options.benchmark} has 0 to {len(names) - 1}")
    kept = ("benchmark", "episodes_per_task", "seed", "image_size", "image_rate_hz")
    try:
        with locked(options.out):
            begin(options.out, {name: getattr(options, name) for name in kept})
            todo = [task for task in tasks if not (options.out / _folder(task)).exists()]
            counts: dict[str, object] = {names[task]: "recorded earlier" for task in tasks if task not in todo}
            counts |= _record_tasks(options, todo, names)
    except OutputError as error:
        raise UsageError(str(error)) from error
    except (BenchmarkError, WorkerLost) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"benchmark": options.benchmark, "placements_and_attempts": counts}))
    return 0


def _record_tasks(options: BenchmarkRecordOptions, todo: Sequence[int], names: Sequence[str]) -> dict[str, object]:
    """Record these tasks, each in a process; what came of them by name."""
    counts: dict[str, object] = {}
    with tqdm(total=len(todo), desc=options.benchmark, unit="task") as bar:
        for outcome in outcomes(_record_task, [(options, task) for task in todo], Workers(options.workers)):
            counts[names[todo[outcome.index]]] = outcome.value()
            bar.update()
    return counts


def _folder(task: int) -> str:
    return f"task{task:02d}"


def _record_task(piece: tuple[BenchmarkRecordOptions, int]) -> dict[str, int]:
    return record_task(*piece)


def record_task(options: BenchmarkRecordOptions, task: int) -> dict[str, int]:
    """One bag, which appears when it is complete; how many placements and attempts it took.

    Raises BenchmarkError where hardly any placement succeeds.
    """
    rate = int(options.image_rate_hz)
    placements = attempts = done = 0
    begun_ns = NANOSECONDS
    with (
        BenchmarkProcess(family_of(options.benchmark), options.benchmark) as process,
        replacing(options.out / _folder(task)) as part,
        BagWriter(part) as bag,
    ):
        every = round(process.description.rate_hz / rate)
        while done < options.episodes_per_task:
            if placements > 10 + 4 * options.episodes_per_task:
                raise BenchmarkError(f"task {task}: {done} of {placements} placements succeeded")
            for attempt in range(ATTEMPTS):
                attempts += 1
                episode = BenchmarkDemonstration(process, begun_ns, options.image_size, every)
                if episode.run(task, options.seed + 100_000 * task + placements, attempt):
                    episode.write(bag)
                    begun_ns = episode.ended_ns + PAUSE_NS
                    done += 1
                    break
            placements += 1
    return {"placements": placements, "attempts": attempts, "episodes": done}

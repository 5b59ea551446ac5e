"""grids record: scripted demonstrations in the simulated scene, as rosbag2, in bags of up to 25.

Some episodes are disturbed: the arm is driven aside, an object is shoved, a stacked cube is knocked down, or another
cube was named at first; and the demonstrator recovers. With --policy every episode is begun by a policy, and those that
it does not finish are taken over. Nothing is recorded meanwhile, so `target_pose` never says what a policy should not
do; the recovery is what there is to learn.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from grids_ros import cli
from grids_ros.data.writer import BagWriter
from grids_ros.datatypes import NANOSECONDS, Pose
from grids_ros.evaluate.episode import PolicyLike
from grids_ros.files import OutputError, locked, write_whole
from grids_ros.options import refuse
from grids_ros.pieces import ClusterError, WorkerLost, Workers, outcomes
from grids_ros.sim import mujoco_model
from grids_ros.sim.disturbance import Knock, Push, Shove, knock, plan, stray
from grids_ros.sim.expert import PERIOD_S, Expert
from grids_ros.sim.prelude import TAKEN_OVER_S, Prelude, attempted, detoured
from grids_ros.sim.record_options import PROGRESS, RecordOptions, recorded
from grids_ros.sim.scene import Scene
from grids_ros.sim.tasks import TASKS, SuccessMonitor, Task, in_turn
from grids_ros.sim.urdf import arm_urdf, robot

TICKS_PER_IMAGE = 2  # of the demonstrator: images, poses and joints every 0.1 s
AFTER_SUCCESS_S = 1.4  # a chunk of 1.2 s after the frame of success still lies within
LIMIT_S = 12.0  # a demonstration without success by then is discarded; counts anew when it is undone

LARGEST_BAG = 25  # demonstrations: what an interruption of a process loses
STOP = ".grids_record_stop"  # file in OUT that ends a recording after the episodes under way

_PAUSE_NS = 2 * NANOSECONDS  # between two episodes
TRIED = ".grids_record_tried"  # in OUT while recording: a byte for each episode
KEPT, DISCARDED = b"1", b"0"
_MARGIN_NS = NANOSECONDS // 1000  # between an instruction and the messages that it encloses

Write = Callable[[BagWriter], None]


class Demonstration:
    """One episode, kept in memory until it is known to have succeeded."""

    def __init__(
        self,
        scene: Scene,
        task: Task,
        start_ns: int,
        disturbances: Sequence[Push | Shove] = (),
        knock: Knock | None = None,
        prelude: Prelude | None = None,
    ):
        """start_ns: of the scene's time. knock: what undoes the first success. prelude: what goes before."""
        self._scene, self._task, self._start_ns = scene, task, start_ns
        self._disturbances, self._knock, self._prelude = list(disturbances), knock, prelude
        self._begun_ns = start_ns
        self._events: list[Write] = []
        self._commanded: float | None = None

    def _now_ns(self) -> int:
        return self._start_ns + round(self._scene.time_s * 1000) * (NANOSECONDS // 1000)

    def run(self) -> bool:
        """Act until a while after success; False when it does not come in time."""
        if self._prelude and not self._prelude(self._scene):
            return False
        self._begun_ns, since_s = self._now_ns(), self._scene.time_s
        expert, monitor = Expert(self._task), SuccessMonitor(self._task)
        done_s, tick = None, 0
        while done_s is None or self._scene.time_s < done_s + AFTER_SUCCESS_S:
            if self._scene.time_s > since_s + LIMIT_S:
                return False
            if tick % TICKS_PER_IMAGE == 0:
                if done_s is None and self._disturb():
                    continue
                if self._undo():
                    done_s, since_s, monitor = None, self._scene.time_s, SuccessMonitor(self._task)
                    continue
                self._observe()
            target, opening = expert.act(self._scene)
            self._command(self._now_ns(), target, opening)
            self._scene.step(target, opening, PERIOD_S)
            tick += 1
            if done_s is None and monitor.update(self._scene):
                done_s = self._scene.time_s
        self._observe()
        return self._task.success(self._scene)

    def _disturb(self) -> bool:
        """The next disturbance, if it is due."""
        if not self._disturbances or not self._disturbances[0].due(self._scene, self._task):
            return False
        self._suffer(self._disturbances.pop(0))
        return True

    def _undo(self) -> bool:
        """The knock, if it is due."""
        if self._knock is None or not self._knock.due(self._scene, self._task):
            return False
        self._suffer(self._knock)
        self._knock = None
        return True

    def _suffer(self, event: Push | Shove | Knock) -> None:
        stamp = self._now_ns()
        event.apply(self._scene)
        self._command(stamp, None, self._scene.gripper_target)

    def _observe(self) -> None:
        scene, stamp = self._scene, self._now_ns()
        images = {name: scene.render(name).copy() for name in scene.cameras}
        pose, joints, velocities = scene.tool_pose(), scene.joint_positions(), scene.joint_velocities()
        positions, turns = scene.object_positions(), scene.object_quaternions()
        objects = [Pose(positions[name], turns[name]) for name in mujoco_model.OBJECTS]

        def write(bag: BagWriter) -> None:
            for name, image in images.items():
                bag.image(name, stamp, image)
            bag.current_pose(stamp, pose)
            bag.joint_states(stamp, scene.joint_names, joints, velocities)
            bag.object_poses(stamp, objects)

        self._events.append(write)

    def _command(self, stamp: int, target: Pose | None, opening: float) -> None:
        if target is not None:
            joints = self._scene.joints_at(target)
            self._events.append(lambda bag: bag.target_pose(stamp, target))
            self._events.append(lambda bag: bag.target_joint(stamp, mujoco_model.ARM_JOINTS, joints))
        if opening != self._commanded:
            self._commanded = opening
            self._events.append(lambda bag: bag.gripper_command(stamp, opening))

    def write(self, bag: BagWriter) -> None:
        """The whole episode, between its instruction and an empty one."""
        bag.instruction(self._begun_ns - _MARGIN_NS, self._task.instruction)
        for event in self._events:
            event(bag)
        bag.instruction(self.end_ns, "")

    @property
    def end_ns(self) -> int:
        """When the empty instruction ends it."""
        return self._now_ns() + _MARGIN_NS


def record(
    path: Path,
    tasks: Sequence[Task],
    episodes: Sequence[int],
    seed: int,
    report: Callable[[bool], None],
    size: int,
    policy: PolicyLike | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """A bag with these episodes (numbers: the scene, and which of the tasks, follow from them), images of `size` px.

    policy: what begins each of them, in place of disturbances. `report` hears of each whether it is in. Stamps are
    simulated time, with a pause between episodes. stopped: whether to end before the next episode.
    """
    scene, start_ns = Scene(seed, size), NANOSECONDS
    with BagWriter(path) as bag:
        bag.robot_description(start_ns, arm_urdf())
        for number in episodes:
            if stopped():
                break
            scene.reset(seed + number)
            task = tasks[number % len(tasks)]
            if policy:
                until_s = np.random.default_rng([seed, number]).uniform(*TAKEN_OVER_S)
                events, undone = [], None
                prelude: Prelude | None = attempted(policy, task, seed + number, until_s)
            else:
                events = plan(np.random.default_rng([seed, number]), task)
                undone = knock(np.random.default_rng([seed, number, 2]), task)
                detour = stray(np.random.default_rng([seed, number, 1]), task)
                prelude = detoured(detour) if detour else None
            demonstration = Demonstration(scene, task, start_ns, events, undone, prelude)
            succeeded = demonstration.run()
            if succeeded:
                demonstration.write(bag)
                start_ns = demonstration.end_ns + _PAUSE_NS
            report(succeeded)
    scene.close()


@dataclass(frozen=True)
class _Piece:
    """Episodes with these numbers, for the bag part_INDEX."""

    index: int
    numbers: tuple[int, ...]
    options: RecordOptions


def _work(piece: _Piece) -> tuple[list[int], int]:
    """The numbers of the episodes that were tried, and how many of them are in the bag."""
    options = piece.options
    tried: list = []
    stop = options.out / STOP
    if stop.exists():
        return [], 0
    cv2.setNumThreads(1)
    tasks = in_turn(tuple(TASKS) if options.task == "all" else (options.task,))
    policy = _load(options.policy) if options.policy else None
    path = options.out / f"part_{piece.index:03d}"

    def report(succeeded: bool) -> None:
        tried.append(succeeded)
        with open(options.out / TRIED, "ab") as file:
            file.write(KEPT if succeeded else DISCARDED)

    record(path, tasks, piece.numbers, options.seed, report, options.image_size, policy, stop.exists)
    return list(piece.numbers[: len(tried)]), sum(tried)


def _load(checkpoint: Path) -> PolicyLike:
    import torch

    from grids_ros.policy.runtime import Policy

    torch.set_num_threads(1)
    policy = Policy.load(checkpoint, robot=robot)
    policy.warm_up()
    return policy


def _pieces(options: RecordOptions, done: Sequence[int]) -> list[_Piece]:
    """What is left, in bags with new names."""
    left = [number for number in range(options.episodes) if number not in set(done)]
    size = min(LARGEST_BAG, -(-len(left) // options.workers)) or 1
    first = max([int(path.name[5:8]) for path in options.out.glob("part_[0-9][0-9][0-9]*")], default=-1) + 1
    parts = [tuple(left[start : start + size]) for start in range(0, len(left), size)]
    return [_Piece(first + index, numbers, options) for index, numbers in enumerate(parts)]


@contextmanager
def _stopping(stop: Path, say: Callable[[str], None]) -> Iterator[None]:
    """The first Ctrl-C lets the episodes under way end, by a file that every process sees; a second one is at once.

    Raises KeyboardInterrupt at the end.
    """
    stop.unlink(missing_ok=True)
    default = signal.getsignal(signal.SIGINT)

    def interrupted(_number: int, _frame: object) -> None:
        stop.touch()
        signal.signal(signal.SIGINT, default)
        say("ending with the episodes that are under way")

    in_main = threading.current_thread() is threading.main_thread()
    if in_main:
        signal.signal(signal.SIGINT, interrupted)
    try:
        yield
        if stop.exists():
            raise KeyboardInterrupt
    finally:
        stop.unlink(missing_ok=True)
        if in_main:
            signal.signal(signal.SIGINT, default)


@contextmanager
def _shown(tried: Path, bar: tqdm, discarded: int) -> Iterator[None]:
    """Count each episode as soon as it has been tried: every process adds a byte to the file.

    discarded: before this start.
    """
    tried.write_bytes(b"")
    before, ended = bar.n, threading.Event()

    def show() -> None:
        outcomes_so_far = tried.read_bytes()
        bar.n = min(bar.total, before + len(outcomes_so_far))
        bar.set_postfix(discarded=discarded + outcomes_so_far.count(DISCARDED))

    def follow() -> None:
        while not ended.wait(0.5):
            show()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        show()
        tried.unlink()


def _record_all(options: RecordOptions) -> tuple[int, list[str]]:
    """How many demonstrations are in the bags, and what went wrong. What is done is kept in OUT after each bag.

    Raises KeyboardInterrupt once every process has written its bag, and ClusterError.
    """
    progress = {"asked": options.asked(), "done": [], "kept": 0} | recorded(options.out)
    pieces, faults = _pieces(options, progress["done"]), []
    workers = Workers(options.workers, options.cluster)
    with (
        tqdm(total=options.episodes, initial=len(progress["done"]), unit="episode", smoothing=0.05) as bar,
        _stopping(options.out / STOP, lambda text: bar.write(text, file=sys.stderr)),
        _shown(options.out / TRIED, bar, len(progress["done"]) - progress["kept"]),
    ):
        for outcome in outcomes(_work, pieces, workers):
            try:
                tried, kept = outcome.value()
            except WorkerLost as error:
                faults.append(f"part_{pieces[outcome.index].index:03d}: {error}")
                continue
            progress["done"] += tried
            progress["kept"] += kept
            write_whole(options.out / PROGRESS, json.dumps(progress) + "\n")
    return progress["kept"], faults


def run(options: RecordOptions) -> int:
    """Record; the exit code."""
    from grids_ros.policy.errors import CheckpointError

    try:
        if options.policy:
            _load(options.policy)  # a process that fails to start does not say why
    except CheckpointError as error:
        return refuse(error)
    try:
        with locked(options.out):
            kept, faults = _record_all(options)
    except (ClusterError, OutputError) as error:
        return refuse(error)
    print(f"{kept} demonstrations in {options.out}, {options.episodes - kept} discarded")
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults or not kept else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    return cli.call("record", arguments)


if __name__ == "__main__":
    sys.exit(main())

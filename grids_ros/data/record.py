"""python -m grids_ros record: scripted demonstrations in the simulated scene, as rosbag2, one bag per process.

Some episodes are disturbed: the arm is driven aside for a moment, and the demonstrator recovers. Nothing is recorded
meanwhile, so `target_pose` never says what a policy should not do; the recovery is what there is to learn from.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection, get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from grids_ros.data.bags import BagWriter
from grids_ros.datatypes import NANOSECONDS, Pose
from grids_ros.sim import model
from grids_ros.sim.expert import PERIOD_S, Expert
from grids_ros.sim.scene import Scene
from grids_ros.sim.tasks import LIFT_TASKS, SuccessMonitor, Task

TICKS_PER_IMAGE = 2  # of the demonstrator: images, poses and joints every 0.1 s
AFTER_SUCCESS_S = 1.4  # a chunk of 1.2 s after the frame of success still lies within
LIMIT_S = 12.0  # an episode without success by then is discarded

_PAUSE_NS = 2 * NANOSECONDS  # between two episodes
_MARGIN_NS = NANOSECONDS // 1000  # between an instruction and the messages that it encloses
_DISTURBED = 0.5  # part of the episodes with a push
_NEAR = 0.05  # from the cube: close to grasping it [m]
_PUSH_TIMES_S = (0.3, 0.4, 0.5)
_PUSH_M, _PUSH_YAW = 0.08, 0.6
_LOWEST = 0.015  # of the tool after a push: the fingers stay off the table [m]

Event = Callable[[BagWriter], None]


@dataclass(frozen=True)
class Push:
    """A disturbance, once: after `after_s`, or when the tool first comes near the cube if `near`, whichever is later.

    gripper: the opening that the hand is driven to as well [m], or None.
    """

    after_s: float
    near: bool
    translation: np.ndarray
    yaw: float
    duration_s: float
    gripper: float | None


def plan_pushes(rng: np.random.Generator) -> list[Push]:
    """None in half of the episodes, else one or two, in the order of their times."""
    count = int(rng.integers(1, 3)) if rng.random() < _DISTURBED else 0
    pushes = []
    for after_s in np.sort(rng.uniform(0.1, 2.2, count)):
        low, high = [-_PUSH_M, -_PUSH_M, -_PUSH_M / 2], [_PUSH_M] * 3
        gripper = float(rng.choice([0.0, model.MAX_OPENING])) if rng.random() < 0.3 else None
        pushes.append(
            Push(
                float(after_s),
                bool(rng.random() < 0.4),
                rng.uniform(low, high),
                float(rng.uniform(-_PUSH_YAW, _PUSH_YAW)),
                float(rng.choice(_PUSH_TIMES_S)),
                gripper,
            )
        )
    return pushes


class Demonstration:
    """One episode, kept in memory until it is known to have succeeded."""

    def __init__(self, scene: Scene, task: Task, start_ns: int, pushes: Sequence[Push]):
        self._scene, self._task, self._start_ns = scene, task, start_ns
        self._pushes = list(pushes)
        self._events: list[Event] = []
        self._commanded: float | None = None

    def _now_ns(self) -> int:
        return self._start_ns + round(self._scene.time_s * 1000) * (NANOSECONDS // 1000)

    def run(self) -> bool:
        """Act until a while after success; False when it does not come in time."""
        expert, monitor = Expert(self._task), SuccessMonitor(self._task)
        done_s, tick = None, 0
        while done_s is None or self._scene.time_s < done_s + AFTER_SUCCESS_S:
            if self._scene.time_s > LIMIT_S:
                return False
            if tick % TICKS_PER_IMAGE == 0:
                if done_s is None and self._disturb():
                    continue
                self._observe()
            target, opening = expert.act(self._scene)
            self._command(target, opening)
            self._scene.step(target, opening, PERIOD_S)
            tick += 1
            if done_s is None and monitor.update(self._scene):
                done_s = self._scene.time_s
        self._observe()
        return self._task.success(self._scene)

    def _disturb(self) -> bool:
        """Push if one is due."""
        if not self._pushes or self._scene.time_s < self._pushes[0].after_s:
            return False
        push, tool = self._pushes[0], self._scene.tool_pose().position
        if push.near and np.linalg.norm(tool - self._scene.object_positions()[self._task.colour]) > _NEAR:
            return False
        self._pushes.pop(0)
        if push.gripper is not None:
            self._command(None, push.gripper)
            self._scene.step(None, push.gripper, 0.0)
        down = max(push.translation[2], min(0.0, _LOWEST - tool[2]))
        self._scene.push(np.array([*push.translation[:2], down]), push.yaw, push.duration_s)
        return True

    def _observe(self) -> None:
        scene, stamp = self._scene, self._now_ns()
        images = {name: scene.render(name).copy() for name in scene.cameras}
        pose, joints, velocities = scene.tool_pose(), scene.joint_positions(), scene.joint_velocities()
        positions, turns = scene.object_positions(), scene.object_quaternions()
        objects = [Pose(positions[name], turns[name]) for name in model.OBJECTS]

        def write(bag: BagWriter) -> None:
            for name, image in images.items():
                bag.image(name, stamp, image)
            bag.current_pose(stamp, pose)
            bag.joint_states(stamp, scene.joint_names, joints, velocities)
            bag.object_poses(stamp, objects)

        self._events.append(write)

    def _command(self, target: Pose | None, opening: float) -> None:
        stamp = self._now_ns()
        if target is not None:
            self._events.append(lambda bag: bag.target_pose(stamp, target))
        if opening != self._commanded:
            self._commanded = opening
            self._events.append(lambda bag: bag.gripper_command(stamp, opening))

    def write(self, bag: BagWriter) -> None:
        """The whole episode, between its instruction and an empty one."""
        bag.instruction(self._start_ns - _MARGIN_NS, self._task.instruction)
        for event in self._events:
            event(bag)
        bag.instruction(self.end_ns, "")

    @property
    def end_ns(self) -> int:
        """When the empty instruction ends it."""
        return self._now_ns() + _MARGIN_NS


def record(path: Path, episodes: Sequence[int], seed: int, report: Callable[[bool], None], image_size: int) -> None:
    """A bag with these episodes (numbers: scene and colour follow from them); `report` hears of each whether it is in.

    Stamps are simulated time, with a pause between episodes.
    """
    scene, start_ns = Scene(seed, image_size), NANOSECONDS
    with BagWriter(path) as bag:
        for number in episodes:
            scene.reset(seed + number)
            pushes = plan_pushes(np.random.default_rng([seed, number]))
            demonstration = Demonstration(scene, LIFT_TASKS[number % len(LIFT_TASKS)], start_ns, pushes)
            succeeded = demonstration.run()
            if succeeded:
                demonstration.write(bag)
                start_ns = demonstration.end_ns + _PAUSE_NS
            report(succeeded)
    scene.close()


def _work(sender: connection.Connection, path: Path, episodes: list[int], seed: int, image_size: int) -> None:
    import cv2

    cv2.setNumThreads(1)
    record(path, episodes, seed, sender.send, image_size)


def _record_in_parallel(out: Path, count: int, seed: int, workers: int, image_size: int) -> tuple[int, list[int]]:
    """How many demonstrations are in the bags, and the exit codes of the processes that broke off."""
    context, processes, pipes = get_context("spawn"), [], []
    for index, numbers in enumerate(np.array_split(np.arange(count), workers)):
        receiver, sender = context.Pipe(duplex=False)
        arguments = (sender, out / f"part_{index:03d}", numbers.tolist(), seed, image_size)
        processes.append(context.Process(target=_work, args=arguments, daemon=True))
        processes[-1].start()
        sender.close()  # so that the pipe ends with its process
        pipes.append(receiver)
    kept = 0
    with tqdm(total=count, unit="episode", smoothing=0.05) as bar:
        while pipes:
            for pipe in connection.wait(pipes):
                try:
                    kept += pipe.recv()
                    bar.update()
                except EOFError:
                    pipes.remove(pipe)
            bar.set_postfix(discarded=bar.n - kept)
    for process in processes:
        process.join()
    return kept, [process.exitcode for process in processes if process.exitcode]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 when a process broke off or no demonstration succeeded."""
    parser = argparse.ArgumentParser(prog="python -m grids_ros record", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the bags part_000, part_001, ...")
    parser.add_argument("--episodes", type=int, default=900, help="how many to attempt (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first scene, one more each (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument("--image-size", type=int, default=224, help="side of the images [px] (default: %(default)s)")
    options = parser.parse_args(arguments)
    for name in ("episodes", "workers", "image_size"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}, expected 1 or more")
    if list(options.out.glob("part_*")):
        parser.error(f"{options.out} holds bags already; give --out a new folder")
    options.out.mkdir(parents=True, exist_ok=True)
    workers = min(options.workers, options.episodes)
    kept, broken = _record_in_parallel(options.out, options.episodes, options.seed, workers, options.image_size)
    print(f"{kept} demonstrations in {options.out}, {options.episodes - kept} discarded")
    if broken:
        print(f"{len(broken)} of {workers} processes broke off, exit codes {broken}: their bags are incomplete")
    return 1 if broken or not kept else 0


if __name__ == "__main__":
    raise SystemExit(main())

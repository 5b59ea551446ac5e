"""python -m grids_ros record: scripted demonstrations in the simulated scene, as rosbag2, one bag per process.

Some episodes are disturbed: the arm is driven aside, an object is shoved, a stacked cube is knocked down, or another
cube was named at first; and the demonstrator recovers. With --policy every episode is begun by a policy, and those that
it does not finish are taken over. Nothing is recorded meanwhile, so `target_pose` never says what a policy should not
do; the recovery is what there is to learn.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from multiprocessing import connection, get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from grids_ros.data.bags import BagWriter
from grids_ros.data.leads import TAKEN_OVER_S, Lead, attempted, detoured
from grids_ros.datatypes import NANOSECONDS, Pose
from grids_ros.evaluate.episode import Infers
from grids_ros.sim import model
from grids_ros.sim.disturbance import Knock, Push, Shove, knock, plan, stray
from grids_ros.sim.expert import PERIOD_S, Expert
from grids_ros.sim.scene import Scene
from grids_ros.sim.tasks import TASKS, UNSEEN_SEEDS, SuccessMonitor, Task, in_turn

TICKS_PER_IMAGE = 2  # of the demonstrator: images, poses and joints every 0.1 s
AFTER_SUCCESS_S = 1.4  # a chunk of 1.2 s after the frame of success still lies within
LIMIT_S = 12.0  # a demonstration without success by then is discarded; counts anew when it is undone

_PAUSE_NS = 2 * NANOSECONDS  # between two episodes
_MARGIN_NS = NANOSECONDS // 1000  # between an instruction and the messages that it encloses

Event = Callable[[BagWriter], None]


class Demonstration:
    """One episode, kept in memory until it is known to have succeeded."""

    def __init__(
        self,
        scene: Scene,
        task: Task,
        start_ns: int,
        disturbances: Sequence[Push | Shove] = (),
        knock: Knock | None = None,
        lead: Lead | None = None,
    ):
        """start_ns: of the scene's time. knock: what undoes the first success. lead: what goes before."""
        self._scene, self._task, self._start_ns = scene, task, start_ns
        self._disturbances, self._knock, self._lead = list(disturbances), knock, lead
        self._begun_ns = start_ns
        self._events: list[Event] = []
        self._commanded: float | None = None

    def _now_ns(self) -> int:
        return self._start_ns + round(self._scene.time_s * 1000) * (NANOSECONDS // 1000)

    def run(self) -> bool:
        """Act until a while after success; False when it does not come in time."""
        if self._lead and not self._lead(self._scene):
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
        objects = [Pose(positions[name], turns[name]) for name in model.OBJECTS]

        def write(bag: BagWriter) -> None:
            for name, image in images.items():
                bag.image(name, stamp, image)
            bag.current_pose(stamp, pose)
            bag.joint_states(stamp, scene.joint_names, joints, velocities)
            bag.object_poses(stamp, objects)

        self._events.append(write)

    def _command(self, stamp: int, target: Pose | None, opening: float) -> None:
        if target is not None:
            self._events.append(lambda bag: bag.target_pose(stamp, target))
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
    policy: Infers | None = None,
) -> None:
    """A bag with these episodes (numbers: the scene, and which of the tasks, follow from them), images of `size` px.

    policy: what begins each of them, in place of disturbances. `report` hears of each whether it is in. Stamps are
    simulated time, with a pause between episodes.
    """
    scene, start_ns = Scene(seed, size), NANOSECONDS
    with BagWriter(path) as bag:
        for number in episodes:
            scene.reset(seed + number)
            task = tasks[number % len(tasks)]
            if policy:
                until_s = np.random.default_rng([seed, number]).uniform(*TAKEN_OVER_S)
                events, undone, lead = [], None, attempted(policy, task, seed + number, until_s)
            else:
                events = plan(np.random.default_rng([seed, number]), task)
                undone = knock(np.random.default_rng([seed, number, 2]), task)
                detour = stray(np.random.default_rng([seed, number, 1]), task)
                lead = detoured(detour) if detour else None
            demonstration = Demonstration(scene, task, start_ns, events, undone, lead)
            succeeded = demonstration.run()
            if succeeded:
                demonstration.write(bag)
                start_ns = demonstration.end_ns + _PAUSE_NS
            report(succeeded)
    scene.close()


def _work(sender: connection.Connection, path: Path, episodes: list[int], options: argparse.Namespace) -> None:
    import cv2

    cv2.setNumThreads(1)
    tasks = in_turn(tuple(TASKS) if options.task == "all" else (options.task,))
    policy = _load(options.policy) if options.policy else None
    record(path, tasks, episodes, options.seed, sender.send, options.image_size, policy)


def _load(checkpoint: Path) -> Infers:
    import torch

    from grids_ros.policy.runtime import Policy

    torch.set_num_threads(1)
    policy = Policy.load(checkpoint)
    policy.warm_up()
    return policy


def _record_in_parallel(options: argparse.Namespace) -> tuple[int, list[int]]:
    """How many demonstrations are in the bags, and the exit codes of the processes that broke off."""
    context, processes, pipes = get_context("spawn"), [], []
    for index, numbers in enumerate(np.array_split(np.arange(options.episodes), options.workers)):
        receiver, sender = context.Pipe(duplex=False)
        arguments = (sender, options.out / f"part_{index:03d}", numbers.tolist(), options)
        processes.append(context.Process(target=_work, args=arguments, daemon=True))
        processes[-1].start()
        sender.close()  # so that the pipe ends with its process
        pipes.append(receiver)
    kept = 0
    with tqdm(total=options.episodes, unit="episode", smoothing=0.05) as bar:
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
    parser.add_argument("--task", choices=[*TASKS, "all"], default="lift", help="all: in turn (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=900, help="how many to attempt (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first scene, one more each (default: %(default)s)")
    parser.add_argument("--policy", type=Path, help="checkpoint that begins each episode, to be taken over from")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument("--image-size", type=int, default=224, help="side of the images [px] (default: %(default)s)")
    options = parser.parse_args(arguments)
    for name in ("episodes", "workers", "image_size"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}, expected 1 or more")
    if options.seed < UNSEEN_SEEDS.stop and options.seed + options.episodes > UNSEEN_SEEDS.start:
        kept = f"{UNSEEN_SEEDS.start} to {UNSEEN_SEEDS.stop - 1}"
        parser.error(f"--seed is {options.seed}, for {options.episodes} episodes: {kept} are kept for `evaluate`")
    if list(options.out.glob("part_*")):
        parser.error(f"{options.out} holds bags already; give --out a new folder")
    if options.policy and not options.policy.is_dir():
        parser.error(f"--policy {options.policy}: there is no such folder")
    options.out.mkdir(parents=True, exist_ok=True)
    options.workers = min(options.workers, options.episodes)
    kept, broken = _record_in_parallel(options)
    print(f"{kept} demonstrations in {options.out}, {options.episodes - kept} discarded")
    if broken:
        print(f"{len(broken)} of {options.workers} processes broke off, exit codes {broken}: their bags are incomplete")
    return 1 if broken or not kept else 0


if __name__ == "__main__":
    raise SystemExit(main())

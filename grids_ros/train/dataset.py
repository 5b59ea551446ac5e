"""Bags to training samples, with the very preprocessing that the robot runs.

A sample is one observation of an episode, as the policy node would have had it, and the targets that followed its
stamp, one per step of the chunk. Where `target_pose` is interrupted, as while a demonstration is disturbed, nobody
knows what the arm should have been told, and no sample reaches across.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from grids_ros.data.bags import Episode, pass_over, read_episodes
from grids_ros.data.reader import BagError
from grids_ros.data.targets import joints_at, targets_at
from grids_ros.data.topics import Topics
from grids_ros.datatypes import NANOSECONDS
from grids_ros.observation.buffer import Snapshot
from grids_ros.observation.images import ImageError, to_rgb
from grids_ros.pieces import Workers, outcomes
from grids_ros.policy.joints import RobotModel, refuse_disagreement
from grids_ros.policy.preprocess import ImageFit, letterbox
from grids_ros.policy.spaces import MATRIX, RELATIVE, Actions, States

MAX_LABEL_SKEW_NS = 60_000_000  # between an observation and the positions of objects that label it
LABELS = 4  # objects whose positions label a sample, at most


@dataclass(frozen=True)
class Window:
    """How samples are cut: the cameras in order, the side of their square images [px], steps and seconds per step.

    state, action: what the numbers of a sample mean. image: how the images are fitted. robot: where they are of
    joints, the robot whose they are.
    """

    cameras: tuple[str, ...]
    image_size: int
    horizon: int
    step_s: float
    state: States = MATRIX
    action: Actions = RELATIVE
    image: ImageFit = field(default_factory=ImageFit)
    robot: RobotModel | None = None

    @property
    def joints(self) -> tuple[str, ...]:
        """The joints that samples are made of; none for tool poses."""
        return self.state.joints or self.action.joints


@dataclass(frozen=True, eq=False)
class Samples:
    """Training data in memory.

    images: uint8 (N, cameras, S, S, 3), or what decodes them as they are indexed (train/frames). states: (N, numbers).
    actions: (N, horizon, numbers). objects: (N, LABELS, 3) [m] in the base frame, NaN where unknown. instructions: N
    strings. episodes: (N,) which episode each sample is from. tools: (N, 7) measured tool poses in the base frame,
    position [m] and quaternion xyzw. sizes: (N, cameras, 2), height and width of each image before it was fitted [px].
    """

    images: Any
    states: np.ndarray
    actions: np.ndarray
    objects: np.ndarray
    instructions: np.ndarray
    episodes: np.ndarray
    tools: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.states)

    def rows(self, which: np.ndarray) -> Samples:
        """The samples that a mask or an index array names."""
        images = self.images[which] if isinstance(self.images, np.ndarray) else self.images.subset(which)
        return Samples(images, *(getattr(self, f.name)[which] for f in fields(self)[1:]))


def _nearest(stamps: np.ndarray, stamp_ns: int) -> int | None:
    if len(stamps) == 0:
        return None
    index = int(np.abs(stamps - stamp_ns).argmin())
    return index if abs(int(stamps[index]) - stamp_ns) <= MAX_LABEL_SKEW_NS else None


def _labels(episode: Episode, stamp_ns: int) -> np.ndarray:
    """Where the objects are, (LABELS, 3) [m]; NaN for those that the recording does not tell of.

    Raises ValueError for more of them.
    """
    labels, index = np.full((LABELS, 3), np.nan), _nearest(episode.objects[0], stamp_ns)
    if index is not None:
        places = episode.objects[1][index]
        if len(places) > LABELS:
            raise ValueError(f"object_poses has {len(places)} poses, expected at most {LABELS}")
        labels[: len(places)] = places
    return labels


def samples_of(episode: Episode, window: Window, passed_over: dict[str, tuple[int, str]] | None = None):
    """Each sample of an episode: (images, state, actions, objects, tool, sizes), as `Samples` holds them.

    passed_over: counts the observations whose images are damaged, as `Episode.passed_over`.
    """
    passed_over = {} if passed_over is None else passed_over
    fitting = _Fitting(window)
    steps_ns = (np.arange(1, window.horizon + 1) * window.step_s * NANOSECONDS).astype(np.int64)
    for snapshot in episode.observations:
        targets = targets_at(episode, snapshot.stamp_ns + steps_ns)
        joints = fitting.joints(episode, snapshot, steps_ns)
        if targets is None or joints is None:
            continue
        try:
            shown = [to_rgb(snapshot.images[name][1]) for name in window.cameras]
        except ImageError as error:
            pass_over(passed_over, "observation", str(error))
            continue
        images = [np.rint(letterbox(image, window.image_size, window.image)).astype(np.uint8) for image in shown]
        objects = _labels(episode, snapshot.stamp_ns)
        pose, measured = snapshot.pose, joints.get("measured")
        state = window.state.encode(pose, snapshot.gripper, measured)
        actions = window.action.to_actions(pose, *targets, **joints, step_s=window.step_s)
        tool = np.concatenate([pose.position, pose.quaternion])
        yield np.stack(images), state, actions, objects, tool, np.array([image.shape[:2] for image in shown])


class _Fitting:
    """The joints of samples, of a robot that they must fit."""

    def __init__(self, window: Window):
        """Raises KinematicsError for a robot without these joints or frames."""
        self._names = window.joints
        self._kinematics: Any = None  # where there are joints
        if self._names:
            from grids_ros.kinematics import Kinematics

            robot = window.robot
            assert robot is not None  # a window of joints has one
            self._kinematics = Kinematics(robot.urdf, self._names, robot.base, robot.tool)

    def joints(self, episode: Episode, snapshot: Snapshot, steps_ns: np.ndarray) -> dict[str, np.ndarray] | None:
        """Measured (n,) and target (steps, n) positions, by these names; None where a target is not known.

        Empty for tool poses. Raises ValueError where forward kinematics puts the tool elsewhere than it was measured.
        """
        if not self._names:
            return {}
        measured = np.array([snapshot.joints[name] for name in self._names])
        refuse_disagreement(snapshot.pose, self._kinematics.pose(measured), self._kinematics)
        targets = joints_at(episode, snapshot.stamp_ns + steps_ns)
        return None if targets is None else {"measured": measured, "targets": targets}


def _load_bag(bag: Path, topics: Topics, window: Window) -> Samples:
    columns: tuple[list, ...] = ([], [], [], [], [], [])
    instructions: list[str] = []
    episodes: list[int] = []
    passed_over: dict[str, tuple[int, str]] = {}
    fingers = False
    for number, episode in enumerate(read_episodes(bag, topics)):
        fingers = fingers or len(episode.grippers[0]) > 0
        for name, (count, fault) in episode.passed_over.items():
            pass_over(passed_over, name, fault, count)
        try:
            for sample in samples_of(episode, window, passed_over):
                for column, value in zip(columns, sample, strict=True):
                    column.append(value)
                instructions.append(episode.instruction)
                episodes.append(number)
        except ValueError as error:
            raise BagError(f"{bag}: {error}") from error
    told = "; ".join(f"{count} of {name} passed over, as: {fault}" for name, (count, fault) in passed_over.items())
    if not instructions:
        why = f"no stretch of {window.horizon} targets follows any image"
        if not fingers:
            why = f"no {topics.joint_states} within an episode has {', '.join(topics.fingers)}, see finger_joints"
        raise BagError(f"{bag} holds no training sample: {f'{told}; ' if told else ''}{why}")
    if told:
        print(f"{bag.name}: {told}", file=sys.stderr)
    images, states, actions, objects, tools, sizes = (np.stack(column) for column in columns)
    return Samples(images, states, actions, objects, np.array(instructions), np.array(episodes), tools, sizes)


def load(bags: Mapping[Path, Topics], window: Window, workers: int) -> Samples:
    """All samples of these bags, decoded in parallel processes. Raises BagError."""
    pieces = [(bag, topics, window) for bag, topics in bags.items()]
    found: dict[int, dict[str, np.ndarray]] = {}
    for outcome in tqdm(outcomes(_load_piece, pieces, Workers(workers)), "reading bags", len(pieces), unit="bag"):
        found[outcome.index] = _columns(outcome.value())
    parts = [found.pop(index) for index in range(len(pieces))]
    first = 0
    for part in parts:
        part["episodes"] = part["episodes"] + first
        first = part["episodes"].max() + 1
    names = [f.name for f in fields(Samples)]
    return Samples(**{name: _concatenated([part.pop(name) for part in parts]) for name in names})


def _load_piece(piece: tuple[Path, Topics, Window]) -> Samples:
    return _load_bag(*piece)


def _columns(samples: Samples) -> dict[str, np.ndarray]:
    return {f.name: getattr(samples, f.name) for f in fields(samples)}


def _concatenated(arrays: list[np.ndarray]) -> np.ndarray:
    """The arrays as one, each freed once it is copied: images of many bags fill the memory."""
    whole = np.empty((sum(map(len, arrays)), *arrays[0].shape[1:]), np.result_type(*arrays))
    end = len(whole)
    while arrays:
        part = arrays.pop()
        whole[end - len(part) : end] = part
        end -= len(part)
    return whole

"""Bags to training samples, with the very preprocessing that the robot runs.

A sample is one image set of an episode, the state at its stamp, and the targets that followed it, one per step of
the chunk. Where `target_pose` is interrupted, as while a demonstration is disturbed, nobody knows what the arm should
have been told, and no sample reaches across.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation, Slerp
from tqdm import tqdm

from grids_ros.data.bags import MAX_GAP_NS, BagError, Episode, Topics, read_episodes
from grids_ros.datatypes import NANOSECONDS, Pose
from grids_ros.images import to_rgb
from grids_ros.policy.preprocess import letterbox
from grids_ros.policy.spaces import MATRIX, RELATIVE, ActionSpace, StateSpace

MAX_SKEW_NS = 60_000_000  # between an image and the pose, the opening or the other cameras' images paired with it


@dataclass(frozen=True)
class Window:
    """How samples are cut: the cameras in order, the side of their square images [px], steps and seconds per step.

    state, action: what the numbers of a sample mean.
    """

    cameras: tuple[str, ...]
    image_size: int
    horizon: int
    step_s: float
    state: StateSpace = MATRIX
    action: ActionSpace = RELATIVE


@dataclass(frozen=True, eq=False)
class Samples:
    """Training data in memory.

    images: uint8 (N, cameras, S, S, 3). states: (N, numbers). actions: (N, horizon, 7). objects: (N, objects, 3) [m] in
    the base frame, NaN where unknown. instructions: N strings. episodes: (N,) which episode each sample is from.
    """

    images: np.ndarray
    states: np.ndarray
    actions: np.ndarray
    objects: np.ndarray
    instructions: np.ndarray
    episodes: np.ndarray

    def __len__(self) -> int:
        return len(self.states)

    def rows(self, which: np.ndarray) -> Samples:
        """The samples that a mask or an index array names."""
        return Samples(*(getattr(self, f.name)[which] for f in fields(self)))


def targets_at(episode: Episode, times_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Target positions (n, 3), quaternions (n, 4) and openings (n,) at these stamps; None across an interruption."""
    stamps, positions, quaternions = episode.targets
    after = np.searchsorted(stamps, times_ns)
    if after[0] == 0 or after[-1] == len(stamps):
        return None
    if np.diff(stamps)[after[0] - 1 : after[-1]].max() > MAX_GAP_NS:
        return None
    seconds, wanted = (stamps - stamps[0]) / NANOSECONDS, (times_ns - stamps[0]) / NANOSECONDS
    near = slice(after[0] - 1, after[-1] + 1)
    turns = Slerp(seconds[near], Rotation.from_quat(quaternions[near]))(wanted)
    moved = np.stack([np.interp(wanted, seconds, positions[:, axis]) for axis in range(3)], axis=1)
    openings = _openings_at(episode, times_ns)
    return (moved, turns.as_quat(), openings) if openings is not None else None


def _openings_at(episode: Episode, times_ns: np.ndarray) -> np.ndarray | None:
    """What was asked of the hand, and as long as nothing was, how far it was open: (n,) [m]; None where none knows."""
    stamps, commands = episode.gripper_commands
    latest = np.searchsorted(stamps, times_ns, side="right") - 1
    asked = latest >= 0
    if asked.all():
        return commands[latest]
    measured_at, measured = episode.grippers
    if not len(measured_at):
        return None
    openings = np.interp(times_ns - measured_at[0], measured_at - measured_at[0], measured)
    openings[asked] = commands[latest[asked]]
    return openings


def _nearest(stamps: np.ndarray, stamp_ns: int) -> int | None:
    if len(stamps) == 0:
        return None
    index = int(np.abs(stamps - stamp_ns).argmin())
    return index if abs(int(stamps[index]) - stamp_ns) <= MAX_SKEW_NS else None


def samples_of(episode: Episode, window: Window):
    """Each sample of an episode: (images, state, actions, objects)."""
    steps_ns = (np.arange(1, window.horizon + 1) * window.step_s * NANOSECONDS).astype(np.int64)
    stamps = {name: np.array([stamp for stamp, _ in episode.images[name]], np.int64) for name in window.cameras}
    pose_stamps, positions, quaternions = episode.poses
    opening_stamps, openings = episode.grippers
    for stamp_ns in stamps[window.cameras[0]]:
        targets = targets_at(episode, stamp_ns + steps_ns)
        pictures = {name: _nearest(stamps[name], stamp_ns) for name in window.cameras}
        at, grip = _nearest(pose_stamps, stamp_ns), _nearest(opening_stamps, stamp_ns)
        if targets is None or at is None or grip is None or None in pictures.values():
            continue
        pose = Pose(positions[at], quaternions[at])
        images = [letterbox(to_rgb(episode.images[n][i][1]), window.image_size) for n, i in pictures.items()]
        seen = _nearest(episode.objects[0], stamp_ns)
        objects = episode.objects[1][seen] if seen is not None else np.full((4, 3), np.nan)
        state, actions = window.state.encode(pose, openings[grip]), window.action.to_actions(pose, *targets)
        yield np.stack(images), state, actions, objects


def _load_bag(bag: Path, topics: Topics, window: Window) -> Samples:
    columns: tuple[list, ...] = ([], [], [], [])
    instructions, episodes, fingers, passed_over = [], [], False, {}
    for number, episode in enumerate(read_episodes(bag, topics)):
        fingers = fingers or len(episode.grippers[0]) > 0
        for name, (count, fault) in episode.passed_over.items():
            passed_over[name] = (passed_over.get(name, (0, ""))[0] + count, fault)
        for sample in samples_of(episode, window):
            for column, value in zip(columns, sample, strict=False):
                column.append(value)
            instructions.append(episode.instruction)
            episodes.append(number)
    told = "; ".join(f"{count} of {name} passed over, as: {fault}" for name, (count, fault) in passed_over.items())
    if not instructions:
        why = f"no stretch of {window.horizon} targets follows any image"
        if not fingers:
            why = f"no {topics.joint_states} within an episode has {', '.join(topics.fingers)}, see finger_joints"
        raise BagError(f"{bag} holds no training sample: {f'{told}; ' if told else ''}{why}")
    if told:
        print(f"{bag.name}: {told}", file=sys.stderr)
    return Samples(*(np.stack(column) for column in columns), np.array(instructions), np.array(episodes))


def load(bags: Mapping[Path, Topics], window: Window, workers: int) -> Samples:
    """All samples of these bags, decoded in parallel processes. Raises BagError."""
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    with pool:
        jobs = [pool.submit(_load_bag, bag, topics, window) for bag, topics in bags.items()]
        parts = [_columns(job.result()) for job in tqdm(jobs, desc="reading bags", unit="bag")]
        del jobs[:]  # they hold their results
    first = 0
    for part in parts:
        part["episodes"] = part["episodes"] + first
        first = part["episodes"].max() + 1
    names = [f.name for f in fields(Samples)]
    return Samples(**{name: _concatenated([part.pop(name) for part in parts]) for name in names})


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

"""A LeRobot data set to training samples: numbers in memory, images decoded when they are needed."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from grids_ros.control.trajectory import Trajectory
from grids_ros.data.damage import BagError
from grids_ros.data.lerobot.dataset import Dataset, DatasetError, Extremes, Rows, constant_notes
from grids_ros.data.lerobot.meaning import Meaning, are_steps
from grids_ros.data.lerobot.metadata import DatasetEpisode
from grids_ros.data.lerobot.plausible import check_plausible
from grids_ros.data.lerobot.reader import LeRobotReader, frames_of
from grids_ros.data.lerobot.video import VideoFile
from grids_ros.data.recording import open_recording
from grids_ros.data.settings import Settings, find_topics
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Pose
from grids_ros.train.dataset import LABELS, Samples, Window
from grids_ros.train.frames import Frames, Joined, features_of
from grids_ros.train.parallel import World

NUMBERS = ("states", "actions", "objects", "instructions", "tools", "sizes")


@dataclass
class _Read:
    """What a process read of a data set. places: episode and frame of each sample. extremes: of states and actions."""

    places: list[tuple[int, int]] = field(default_factory=list)
    states: list[np.ndarray] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    tools: list[np.ndarray] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    extremes: tuple[Extremes, ...] = ()


def dataset_samples(path: Path, settings: Settings, window: Window, world: World | None = None) -> Samples:
    """All samples of a data set, whose episodes are divided among the processes: each reads its share of the numbers.

    Raises DatasetError, and BagError for cameras that it lacks.
    """
    world = world or World()
    with open_recording(path, settings) as opened:
        reader: Any = opened  # a LeRobotReader, for `path` is a data set
        dataset = reader.dataset
        features = features_of(find_topics(reader, settings, window.cameras), reader.topics, window.cameras)
    numbers = world.part(range(len(dataset.episodes)))
    parts = world.each(lambda: _part(reader, numbers, features, settings, window), BagError)
    if world.rank == 0:
        cameras = [f"camera {name} is {feature}" for name, feature in zip(window.cameras, features, strict=True)]
        for note in [*cameras, *_notes(reader, parts)]:
            print(f"{dataset.path.name}: {note}", file=sys.stderr)
    places = np.array([place for part in parts for place in part.places])
    if not len(places):
        raise DatasetError(f"{dataset.path} holds no training sample: no stretch of {window.horizon} steps of actions")
    states, actions = (np.concatenate([np.stack(c) for c in each if c]) for each in _columns(parts))
    tasks = np.array([task for part in parts for task in part.tasks])
    seen = tuple(_size(dataset, dataset.episodes[places[0, 0]], feature) for feature in features)
    images = Frames(dataset, places, features, window.image_size, window.image, seen)
    sizes = np.broadcast_to(np.array(seen), (len(places), len(features), 2))
    objects = np.full((len(places), LABELS, 3), np.nan)
    tools = np.array([tool for part in parts for tool in part.tools])
    return Samples(images, states, actions, objects, tasks, places[:, 0], tools, sizes)


def _size(dataset: Dataset, episode: DatasetEpisode, feature: str) -> tuple[int, int]:
    """Height and width of a camera's first image [px]."""
    height, width, _ = next(frames_of(dataset, episode, feature)).shape
    return height, width


def _columns(parts: Sequence[_Read]) -> tuple[list, list]:
    return [part.states for part in parts], [part.actions for part in parts]


def _part(
    reader: LeRobotReader, numbers: Sequence[int], features: tuple[str, ...], settings: Settings, window: Window
) -> _Read:
    """The samples of the episodes with these numbers. Raises DatasetError."""
    dataset, read = reader.dataset, _Read()
    _check_videos(dataset, [dataset.episodes[number] for number in numbers], features)
    for number in numbers:
        rows = dataset.rows(dataset.episodes[number])
        for frame, state, actions, tool in _of_episode(rows, reader.meaning, window, dataset, read.left_out):
            task = settings.instruction or rows.tasks[frame]
            if not task:
                raise DatasetError(f"{dataset.path}: frames have no task; --instruction says what was done")
            read.places.append((number, frame))
            read.states.append(state)
            read.actions.append(actions)
            read.tasks.append(task)
            read.tools.append(tool)
    read.notes, read.extremes = [*reader.facts, *reader.damage], dataset.extremes
    return read


def _notes(reader: LeRobotReader, parts: Sequence[_Read]) -> list[str]:
    notes = list(dict.fromkeys(note for part in parts for note in part.notes))
    left_out = sum((part.left_out for part in parts), Counter())
    notes += [f"{count} frames are left out: {why}" for why, count in left_out.items()]
    numbers = reader.dataset.state, reader.dataset.action
    seen = [Extremes(each.size) for each in numbers]
    for part in parts:
        for whole, share in zip(seen, part.extremes, strict=True):
            whole.add(np.stack([share.lowest, share.highest]))
    return notes + constant_notes(numbers, seen)


def joined(parts: Sequence[Samples]) -> Samples:
    """Samples of several recordings as one; episodes are numbered on."""
    if len(parts) == 1:
        return parts[0]
    return in_order(parts)


def in_order(parts: Sequence[Samples]) -> Samples:
    """The same, of one or more; its images stay where they are."""
    first, episodes = 0, []
    for part in parts:
        episodes.append(part.episodes + first)
        first = episodes[-1].max() + 1
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in NUMBERS}
    images = Joined.of([part.images for part in parts])
    return Samples(images=images, **columns, episodes=np.concatenate(episodes))


def _check_videos(dataset: Dataset, episodes: Sequence[DatasetEpisode], features: tuple[str, ...]) -> None:
    """Every video is there, is long enough for these episodes, and has the data set's rate. Raises DatasetError."""
    ends: dict[Path, float] = {}
    for episode in episodes:
        for video in (episode.videos[feature] for feature in features if feature in episode.videos):
            last_s = video.from_s + (episode.length - 1) / dataset.fps
            ends[video.file] = max(ends.get(video.file, 0.0), last_s)
    for path, last_s in ends.items():
        with VideoFile(path) as file:
            file.check_rate(dataset.fps)
            next(iter(file.frames([last_s], dataset.fps)), None)


def _of_episode(
    rows: Rows, meaning: Meaning, window: Window, dataset, left_out: Counter[str]
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Frame, state, actions and tool pose of each sample."""
    states = positions, quaternions, openings = meaning.states(rows.states)
    check_plausible(dataset, meaning, rows, states)
    joints, step_s = meaning.joints(rows.states), 1.0 / dataset.fps
    own = meaning.targets(states, rows.actions, joints, step_s)
    chosen = _order(meaning, window)
    known = np.isfinite(np.column_stack([positions, quaternions, openings])).all(axis=1)
    need = int(np.ceil(window.horizon * window.step_s * dataset.fps - 1e-6))
    for frame in range(len(rows.states) - need + 1):
        if not known[frame] or not np.isfinite(own.positions[frame : frame + need]).all():
            left_out["the state or an action is NaN or infinite"] += 1
            continue
        pose, measured = Pose(positions[frame], quaternions[frame]), None if joints is None else joints[frame]
        part = slice(frame, frame + need)
        if are_steps(meaning):
            chunk = meaning.chunk(0, pose, rows.actions[part], step_s, measured)
        else:
            told = None if own.joints is None else own.joints[part]
            times = step_s * np.arange(1, need + 1)
            chunk = ActionChunk(0, times, own.positions[part], own.quaternions[part], own.gripper[part], told)
        targets, asked = _resampled(pose, chunk, window), _joints_at(chunk, measured, window)
        if chosen is not None and measured is not None and asked is not None:
            measured, asked = measured[chosen], asked[:, chosen]
        state = window.state.encode(pose, openings[frame], measured)
        actions = window.action.to_actions(pose, *targets, measured, asked, window.step_s)
        yield frame, state, actions, np.r_[pose.position, pose.quaternion]


def _order(meaning: Meaning, window: Window) -> list[int] | None:
    """Where the joints of the policy are among those of the data set; None for a policy of tool poses.

    Raises DatasetError for joints that the set does not have.
    """
    wanted = getattr(window.state, "joints", ())
    if not wanted:
        return None
    held = meaning.kinematics.joints if meaning.kinematics else ()
    if missing := [name for name in wanted if name not in held]:
        raise DatasetError(
            f"the policy speaks of joints, and convention {meaning.name} of this data set has no {', '.join(missing)}"
        )
    return [held.index(name) for name in wanted]


def _joints_at(chunk: ActionChunk, measured: np.ndarray | None, window: Window) -> np.ndarray | None:
    """The joints of a chunk at the policy's own steps, (horizon, joints) [rad or m]."""
    if chunk.joints is None or measured is None:
        return None
    wanted, known = window.step_s * np.arange(1, window.horizon + 1), np.concatenate([[0.0], chunk.times])
    path = np.concatenate([measured[None], chunk.joints])
    return np.stack([np.interp(wanted, known, column) for column in path.T], axis=1)


def _resampled(pose: Pose, chunk, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The targets of a chunk at the policy's own steps: positions, quaternions, openings."""
    times = window.step_s * np.arange(1, window.horizon + 1)
    if len(chunk.times) == window.horizon and np.allclose(chunk.times, times, atol=1e-6):
        return chunk.positions, chunk.quaternions, chunk.gripper
    stamps = np.rint(np.concatenate([[0.0], chunk.times]) * NANOSECONDS).astype(np.int64)
    positions = np.concatenate([pose.position[None], chunk.positions])
    quaternions = np.concatenate([pose.quaternion[None], chunk.quaternions])
    wanted = np.minimum(np.rint(times * NANOSECONDS).astype(np.int64), stamps[-1])
    holds = np.clip(np.ceil(times / chunk.times[0] - 1e-6).astype(int) - 1, 0, len(chunk.gripper) - 1)
    return *Trajectory.of_stamps(stamps, positions, quaternions).at(wanted), chunk.gripper[holds]

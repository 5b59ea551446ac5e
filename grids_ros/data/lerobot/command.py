"""grids export BAG... --out DIR: the episodes of bags as a LeRobot data set, v3.0."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from tqdm import tqdm
from tyro.conf import Positional, arg

from grids_ros.options import Place, Range, RobotOptions, UsageError, refuse, require_apart


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write the episodes of bags as a LeRobot data set, v3.0, which lerobot's own loader opens.

    Frames are on a grid: each is the observation that the policy node would have had, its state, and the target one
    frame later. Where the cameras or `target_pose` pause, an episode ends and the next begins. Choose --convention: the
    meaning of states and actions, as `convert` names it. Exit codes: 0 written; 2 an option or a bag that cannot be
    used.
    """

    bags: Positional[Annotated[tuple[Path, ...], arg(metavar="BAG ...", help_behavior_hint="(required)")]]
    """rosbag2 folders, or folders of them"""
    out: Annotated[Path, Place.OUT_FOLDER]
    """folder of the data set; must not exist"""
    cameras: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ("base", "wrist")
    """the first one sets the pace"""
    fps: Annotated[float, Range(0, 1000)] = 0.0
    """frames per second; 0 takes the rate of the observations"""
    codec: Literal["av1", "h264", "png"] = "av1"
    """of the images; png loses nothing, and puts them into the tables"""
    robot: RobotOptions = RobotOptions()
    """of the bags"""

    def check(self) -> None:
        """Raises UsageError for a folder that exists."""
        if self.out.exists() and (not self.out.is_dir() or list(self.out.iterdir())):
            raise UsageError(f"--out {self.out} exists already, expected a new folder")


def run(options: ExportOptions) -> int:
    """Export; the exit code."""
    from grids_ros.convert.conventions import CONVENTIONS
    from grids_ros.data.bags import BagError, read_episodes
    from grids_ros.data.lerobot.export import DatasetWriter
    from grids_ros.data.lerobot.meaning import speaks_of_poses
    from grids_ros.data.recording import find_recordings
    from grids_ros.data.settings import chosen, topics_of
    from grids_ros.files import OutputError, replacing, require_writable
    from grids_ros.parameters import ParameterError

    name = options.robot.convention or "grids"
    spoken = [known for known, about in CONVENTIONS.items() if speaks_of_poses(about)]
    if name not in spoken:
        return refuse(f"--convention {name!r}, expected one of {', '.join(spoken)}")
    try:
        settings = chosen(options.robot)
        require_writable(options.out)
        bags, left_out = find_recordings(options.bags)
        for reason in left_out:
            print(f"left out: {reason}", file=sys.stderr)
        require_apart([options.out], [*bags, *filter(None, [options.robot.params_file])])
        topics = {bag: topics_of(bag, settings, options.cameras) for bag in bags}
        fps = options.fps or _rate(read_episodes(bags[0], topics[bags[0]]))
        count = 0
        with replacing(options.out) as part, DatasetWriter(part, _layout(options, name, fps)) as writer:
            for bag in tqdm(bags, desc="exporting", unit="bag"):
                count += _add(writer, bag.name, read_episodes(bag, topics[bag]), fps, name, options)
            episodes = writer.episodes
    except (BagError, ParameterError, OutputError) as error:
        return refuse(error)
    print(f"{count} frames of {episodes} episodes at {fps:g} Hz in {options.out}, convention {name}")
    return 0


def _add(writer, bag: str, episodes: Iterator, fps: float, name: str, options: ExportOptions) -> int:
    """Append the episodes of a bag, and print what of it is passed over; the number of frames."""
    from grids_ros.data.bags import pass_over, told

    count = 0
    passed_over: dict[str, tuple[int, str]] = {}
    for episode in episodes:
        for role, (times, fault) in episode.passed_over.items():
            pass_over(passed_over, role, fault, times)
        for indices in _stretches(episode, fps):
            frames = _frames(episode, indices, fps, name, options, passed_over)
            for sound, piece in groupby(frames, key=lambda frame: frame is not None):
                count += writer.add_episode(episode.instruction, piece) if sound else 0
    if passed_over:
        print(f"{bag}: {told(passed_over)}", file=sys.stderr)
    return count


def _layout(options: ExportOptions, name: str, fps: float):
    from grids_ros.convert.conventions import CONVENTIONS
    from grids_ros.data.lerobot.export import Layout

    convention = CONVENTIONS[name]
    action = ("x", "y", "z", "rx", "ry", "rz", "gripper")
    states = {
        7: action,
        8: (*action[:6], "left_finger", "right_finger"),
        10: ("x", "y", "z", "r11", "r21", "r31", "r12", "r22", "r32", "gripper"),
    }
    return Layout(fps, tuple(options.cameras), states[convention.state.size], action, name, options.codec)


def _rate(episodes: Iterator) -> float:
    """How often there is an observation [Hz], rounded to what cameras do. Raises BagError."""
    from grids_ros.data.bags import BagError

    stamps = [np.array([snapshot.stamp_ns for snapshot in episode.observations]) for episode in episodes]
    gaps = np.concatenate([np.diff(column) for column in stamps] or [np.zeros(0)])
    if not len(gaps):
        raise BagError("the first bag has no two observations that follow each other: --fps sets the rate")
    rate = 1e9 / float(np.median(gaps))
    return round(rate) if rate > 2.0 else round(rate, 3)


def _stretches(episode, fps: float) -> list[list[int]]:
    """Indices of the observations that lie on one grid each, with a target one frame later."""
    from grids_ros.data.targets import targets_at

    period_ns, stretches = 1e9 / fps, []
    stamps = np.array([snapshot.stamp_ns for snapshot in episode.observations], np.int64)
    row: list[int] = []
    for index in _on_grid(stamps, period_ns):
        follows = bool(row) and abs(stamps[index] - stamps[row[0]] - len(row) * period_ns) <= period_ns / 2
        if row and not follows:
            stretches.append(row)
            row = []
        if targets_at(episode, stamps[index : index + 1] + round(period_ns)) is not None:
            row = [*row, index]
        elif row:
            stretches.append(row)
            row = []
    return [*stretches, row] if row else stretches


def _on_grid(stamps: np.ndarray, period_ns: float) -> list[int]:
    """Of stamps that may come faster than the grid, those nearest to its instants; a pause begins the grid anew."""
    chosen: list[int] = []
    due_ns = None
    for index, stamp_ns in enumerate(stamps):
        if due_ns is None or stamp_ns > due_ns + period_ns / 2:
            due_ns = float(stamp_ns)
        later = stamps[index + 1] if index + 1 < len(stamps) else None
        better = later is not None and abs(later - due_ns) < abs(stamp_ns - due_ns)
        if stamp_ns >= due_ns - period_ns / 2 and not better:
            chosen.append(index)
            due_ns += period_ns
    return chosen


def _frames(
    episode,
    indices: Sequence[int],
    fps: float,
    name: str,
    options: ExportOptions,
    passed_over: dict[str, tuple[int, str]],
) -> Iterator:
    """The frames of a stretch, in the convention's numbers; None for one whose images cannot be decoded.

    passed_over: counts these, as `Episode.passed_over`.
    """
    from grids_ros.convert.conventions import CONVENTIONS
    from grids_ros.data.bags import pass_over
    from grids_ros.data.lerobot.export import Frame
    from grids_ros.data.recording import grippers_of
    from grids_ros.data.targets import targets_at
    from grids_ros.observation.images import ImageError, to_rgb

    convention = CONVENTIONS[name]
    of_state, of_action = grippers_of(options.robot)
    of_action = convention.gripper or of_action
    for index in indices:
        snapshot = episode.observations[index]
        try:
            images = {camera: to_rgb(snapshot.images[camera][1]) for camera in options.cameras}
        except ImageError as error:
            pass_over(passed_over, "observation", str(error))
            yield None
            continue
        targets: Any = targets_at(episode, np.array([snapshot.stamp_ns + round(1e9 / fps)]))
        state = convention.state.encode(snapshot.pose, snapshot.gripper)
        action = convention.action.to_actions(snapshot.pose, *targets)[0]
        action = action / np.array([convention.metres] * 3 + [convention.radians] * 3 + [1.0])
        if of_action is not None:
            action[6] = of_action.closed + action[6] / of_action.metres * (of_action.open - of_action.closed)
        if of_state is not None and convention.gripper is None:
            state[-1] = of_state.closed + state[-1] / of_state.metres * (of_state.open - of_state.closed)
        yield Frame(images, state, action)

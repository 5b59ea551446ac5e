"""A LeRobot data set on disk: its features, and the rows of its tables. metadata.py reads its tasks and episodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from grids_ros.data.damage import first_line
from grids_ros.data.lerobot.metadata import INFO, DatasetEpisode, Metadata
from grids_ros.data.lerobot.tables import (
    DatasetError,
    cell,
    column_names,
    matrix,
    numbers_of,
    places_of,
)
from grids_ros.hub import announce, is_hub_id

STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
STATES = ((STATE,), ("state",), ("joint_position", "gripper_position"))  # of lerobot, openpi, openpi's DROID
ACTIONS = ((ACTION,), ("actions",))


@dataclass(frozen=True)
class Numbers:
    """The numbers of a state or an action: those of one feature, or of several one behind the other.

    names: of each number; empty where the set does not name every one.
    """

    features: tuple[str, ...]
    size: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        return " + ".join(self.features)


@dataclass(frozen=True, eq=False)
class Rows:
    """The numbers of an episode, one row per frame.

    timestamps: (n,) [s]. states: (n, numbers). actions: (n, numbers). tasks: n texts.
    """

    timestamps: np.ndarray
    states: np.ndarray
    actions: np.ndarray
    tasks: tuple[str, ...]


class Extremes:
    """The least and the largest finite value of each number, of the rows that were read."""

    def __init__(self, size: int):
        self.lowest, self.highest = np.full(size, np.inf), np.full(size, -np.inf)

    def add(self, rows: np.ndarray) -> None:
        """rows: (n, numbers)."""
        finite = np.isfinite(rows)
        self.lowest = np.minimum(self.lowest, np.where(finite, rows, np.inf).min(axis=0, initial=np.inf))
        self.highest = np.maximum(self.highest, np.where(finite, rows, -np.inf).max(axis=0, initial=-np.inf))

    def constant(self) -> list[int]:
        """The numbers that never change."""
        return np.flatnonzero(self.lowest == self.highest).tolist()


def constant_notes(numbers: Sequence[Numbers], extremes: Sequence[Extremes]) -> list[str]:
    """What never changes, in words."""
    found = [(str(each), seen.constant()) for each, seen in zip(numbers, extremes, strict=True)]
    return [f"numbers {', '.join(map(str, which))} of {name} are constant" for name, which in found if which]


def is_dataset(path: Path) -> bool:
    """Whether a folder is a LeRobot data set."""
    return (Path(path) / INFO).is_file()


def located(name: Path | str) -> Path:
    """The folder of a data set: local, or of a hub id such as `lerobot/pusht`, downloaded. Raises DatasetError."""
    path = Path(name)
    if path.exists() or not is_hub_id(path.as_posix()):
        return path
    from huggingface_hub import snapshot_download

    announce(path.as_posix(), "data set")
    try:
        return Path(snapshot_download(path.as_posix(), repo_type="dataset"))
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{name} is no folder, and no data set that could be fetched: {first_line(error)}"
        ) from error


class Dataset:
    """A data set, opened: its metadata is read and checked, its rows and frames are read on demand.

    notes: what is unusual, in words. damage: what is lost. fps: frames per second. cameras: name to feature. state,
    action: the numbers that they are made of, with their extremes in what was read.
    """

    def __init__(self, path: Path, state: Sequence[str] = (), action: Sequence[str] = ()):
        """state, action: features that hold them, in order; default: as lerobot or openpi name them.

        Raises DatasetError.
        """
        self.path = Path(path)
        self.notes: list[str] = []
        self._metadata = Metadata(self.path)
        self.info, self.features = self._metadata.info, self._metadata.features
        self.state = self._numbers(state, STATES, "--state-features")
        self.action = self._numbers(action, ACTIONS, "--action-features")
        self.extremes = Extremes(self.state.size), Extremes(self.action.size)
        self.fps: float = self.info["fps"]
        self.cameras = {
            key.removeprefix(IMAGES).removeprefix("observation."): key for key in self.features if self._shows(key)
        }
        self.tasks, self.episodes = self._metadata.tasks(), tuple(self._metadata.episodes())
        ends = np.cumsum([episode.length for episode in self.episodes]).tolist()
        self._first = {episode.index: end - episode.length for episode, end in zip(self.episodes, ends, strict=True)}
        self.damage = self._metadata.damage(self.episodes)

    def names(self, feature: str) -> tuple[str, ...]:
        """The names of a feature's numbers; empty where it has none."""
        names = self.features[feature].get("names")
        if isinstance(names, dict):
            names = list(names.values())
        if not isinstance(names, list):
            return ()
        return tuple(str(name) for part in names for name in (part if isinstance(part, list) else [part]))

    def rows(self, episode: DatasetEpisode) -> Rows:
        """The numbers of an episode. Raises DatasetError for a table that contradicts the metadata."""
        table = self._of_episode(episode)
        if len(table) != episode.length:
            raise DatasetError(
                f"{episode.data}: episode {episode.index} has {len(table)} rows, expected {episode.length}"
            )
        timestamps = matrix(table, "timestamp", episode.data, 1)[:, 0]
        self._check_times(episode, timestamps)
        states, actions = (
            np.column_stack([matrix(table, name, episode.data, self._size(name)) for name in numbers.features])
            for numbers in (self.state, self.action)
        )
        for seen, values in zip(self.extremes, (states, actions), strict=True):
            seen.add(values)
        return Rows(timestamps, states, actions, self._texts(episode, table))

    def pictures(self, episode: DatasetEpisode, feature: str, frames: Iterable[int]) -> Iterator[bytes]:
        """Encoded pictures of a camera whose images lie in the tables. Raises DatasetError."""
        places = places_of(episode.data, episode.index)
        for frame in frames:
            entry = cell(episode.data, feature, int(places[frame]))
            yield self._picture(entry, f"{episode.data}: {feature} of frame {frame} of episode {episode.index}")

    def constant_notes(self) -> list[str]:
        """Which numbers never changed in what was read."""
        return constant_notes((self.state, self.action), self.extremes)

    def _numbers(self, given: Sequence[str], usual: Sequence[tuple[str, ...]], option: str) -> Numbers:
        """What a state or an action is made of. usual: the features that it may be, without `given`."""
        listed = ", ".join(name for name in self.features if not self._shows(name))
        chosen = tuple(given) or next((each for each in usual if set(each) <= set(self.features)), ())
        if not chosen:
            expected = " or ".join(" and ".join(each) for each in usual)
            raise DatasetError(
                f"{self.path} has no feature {expected}, it has {listed}: {option} names others, in order"
            )
        if wrong := [name for name in chosen if name not in self.features or self._shows(name)]:
            raise DatasetError(
                f"{option} is {' '.join(chosen)}: {wrong[0]} is no feature of numbers, expected {listed}"
            )
        sizes = {name: self._size(name) for name in chosen}
        named = all(len(self.names(name)) == size for name, size in sizes.items())
        names = tuple(each for name in chosen for each in self.names(name)) if named else ()
        return Numbers(chosen, sum(sizes[name] for name in chosen), names)

    def _shows(self, feature: str) -> bool:
        """Whether it is a camera."""
        return self.features[feature]["dtype"] in ("video", "image")

    def _size(self, feature: str) -> int:
        """How many numbers it has."""
        shape = self.features[feature]["shape"]
        if len(shape) != 1 or not shape[0]:
            raise DatasetError(f"{self.path / INFO}: features.{feature}.shape is {list(shape)}, expected one number")
        return shape[0]

    def _picture(self, entry: object, where: str) -> bytes:
        """An encoded picture out of a table: its bytes, or those of the file that it names. where: for an error."""
        data, name = (entry.get(key) if isinstance(entry, dict) else None for key in ("bytes", "path"))
        if isinstance(data, bytes) and data:
            return data
        if not isinstance(name, str) or not name:
            raise DatasetError(f"{where} is neither bytes nor a path")
        file = self.path / name
        try:
            held = self._metadata.holds(file)
            data = file.read_bytes() if held else b""
        except (OSError, ValueError) as error:
            raise DatasetError(f"{where}: cannot read {file}: {first_line(error)}") from error
        if not held:
            raise DatasetError(f"{where}: {name} leads out of the data set")
        return data

    def _of_episode(self, episode: DatasetEpisode) -> pa.Table:
        held = column_names(episode.data)
        images = self._metadata.of_type("image")
        numbers = [*self.state.features, *self.action.features, "timestamp"]
        lacking = [name for name in (*numbers, *images) if name not in held]
        if lacking:
            has = ", ".join(held)
            raise DatasetError(
                f"{episode.data} has no column {', '.join(lacking)}, it has {has}: were features renamed?"
            )
        columns = dict.fromkeys([*numbers, *(name for name in ("index", "task_index") if name in held)])
        table = numbers_of(episode.data, tuple(columns)).take(places_of(episode.data, episode.index))
        if "index" in held:
            expected = self._first[episode.index] + np.arange(len(table))
            if (matrix(table, "index", episode.data, 1)[:, 0] != expected).any():
                self._note("`index` is not contiguous, as after a merge: frames are taken by their episode")
        return table

    def _check_times(self, episode: DatasetEpisode, timestamps: np.ndarray) -> None:
        expected = np.arange(len(timestamps)) / self.fps
        apart = np.abs(timestamps - expected)
        if len(apart) and not apart.max() <= 0.5 / self.fps:
            worst = int(apart.argmax())
            raise DatasetError(
                f"{episode.data}: frame {worst} of episode {episode.index} is at {timestamps[worst]:.4f} s, "
                f"expected {expected[worst]:.4f} s at {self.fps:g} fps"
            )

    def _texts(self, episode: DatasetEpisode, table: pa.Table) -> tuple[str, ...]:
        """The task of each frame."""
        held = "task_index" in table.column_names
        task_of = matrix(table, "task_index", episode.data, 1)[:, 0].tolist() if held else []
        unknown = [index for index in task_of if index not in self.tasks]
        if task_of and not unknown:
            return tuple(self.tasks[index] for index in task_of)
        if len(episode.tasks) == 1:
            return episode.tasks * episode.length
        why = f"task_index {unknown[0]:g} has no text" if unknown else "there is no task_index"
        self._note(f"tasks are missing: {why}; --instruction says what was done")
        return ("",) * episode.length

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

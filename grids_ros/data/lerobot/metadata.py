"""The metadata of a LeRobot data set: info.json, its tasks and its episodes, and where each of them lies.

v3.0 keeps many episodes in each parquet and mp4 file, v2.0 and v2.1 one. Source: lerobot `datasets/utils.py` (0.3.3,
0.4.4) and https://huggingface.co/docs/lerobot/lerobot-dataset-v3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from grids_ros.data.damage import first_line
from grids_ros.data.lerobot.tables import DatasetError, checked, read_json, read_lines, read_table
from grids_ros.policy.schema import Array, Integer, Object, Optional, Real, Rule, Table, Text

INFO = "meta/info.json"
VERSIONS = ("v2.0", "v2.1", "v3.0")
MOST = 2**40  # of a count
COUNT = Integer(0, MOST)


class _Anything:
    """A value that is looked at later."""

    def check(self, key: str, value: object) -> object:
        return value


_FEATURE = Object(
    {"dtype": Text(), "shape": Array(COUNT, most=8), "names": _Anything()}, defaults={"names": None}, others=True
)
_INFO = Object(
    {
        "codebase_version": Text(),
        "fps": Real(1e-3, 1000.0),
        "features": Table(Text(), _FEATURE),
        "data_path": Text(),
        "video_path": Optional(Text()),
        "chunks_size": Optional(Integer(1, MOST)),
        "total_episodes": Optional(COUNT),
        "total_frames": Optional(COUNT),
        "grids_convention": Optional(Text()),
    },
    defaults=dict.fromkeys(("video_path", "chunks_size", "total_episodes", "total_frames", "grids_convention")),
    others=True,
)
_TASKS = Optional(Array(Text(), most=MOST))
_EPISODE: dict[str, Rule] = {"episode_index": COUNT, "length": COUNT, "tasks": _TASKS}
_TASK = Object({"task_index": COUNT, "task": Text()}, others=True)


@dataclass(frozen=True)
class Video:
    """Where an episode's frames of one camera lie: file, and the time of its first frame there [s]."""

    file: Path
    from_s: float


@dataclass(frozen=True)
class DatasetEpisode:
    """One episode. tasks: texts. data: its parquet file. videos: by feature, of the cameras that are videos."""

    index: int
    length: int
    tasks: tuple[str, ...]
    data: Path
    videos: Mapping[str, Video] = field(default_factory=dict)


class Metadata:
    """What meta/ says, checked. features: by name. info: the rest of info.json."""

    def __init__(self, path: Path):
        """Raises DatasetError."""
        self.path = path
        self.info = checked(path / INFO, _INFO, read_json(path / INFO))
        self.features: dict[str, dict] = self.info["features"]
        self._version = self.info["codebase_version"]
        if self._version not in VERSIONS:
            raise DatasetError(f"{path}: codebase_version is {self._version}, expected one of {', '.join(VERSIONS)}")

    def of_type(self, dtype: str) -> list[str]:
        """The features of this dtype."""
        return [name for name, feature in self.features.items() if feature["dtype"] == dtype]

    def tasks(self) -> dict[int, str]:
        """Task index to its text."""
        lines, table = self.path / "meta/tasks.jsonl", self.path / "meta/tasks.parquet"
        if self._version == "v3.0":
            if not table.exists():
                return {}
            content = read_table(table)
            texts = next((name for name in content.column_names if name != "task_index"), None)
            if texts is None:
                return {}
            found = content.rename_columns([name if name != texts else "task" for name in content.column_names])
            return dict(_tasks_of(table, found.to_pylist()))
        return dict(_tasks_of(lines, read_lines(lines))) if lines.exists() else {}

    def episodes(self) -> Iterator[DatasetEpisode]:
        """In the order of the files."""
        return self._episodes_of_v3() if self._version == "v3.0" else self._episodes_of_v2()

    def _episodes_of_v3(self) -> Iterator[DatasetEpisode]:
        files = sorted((self.path / "meta/episodes").glob("chunk-*/file-*.parquet"))
        if not files:
            raise DatasetError(f"{self.path} has no meta/episodes: it was never finalised")
        keys = self.of_type("video")
        for file in files:
            table = read_table(file)
            wanted = ["episode_index", "length", "tasks", "data/chunk_index", "data/file_index"]
            parts = ("chunk_index", "file_index", "from_timestamp")
            wanted += [f"videos/{key}/{part}" for key in keys for part in parts]
            lacking = [name for name in wanted if name not in table.column_names and name != "tasks"]
            if lacking:
                raise DatasetError(f"{file} lacks {', '.join(lacking)}: were features renamed?")
            rule = Object({**_EPISODE, **_places(wanted)}, defaults={"tasks": None}, others=True)
            rows = table.select([name for name in wanted if name in table.column_names]).to_pylist()
            for number, entry in enumerate(rows):
                row = checked(file, rule, entry, f"row {number}: ")
                place = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
                videos = {}
                for key in keys:
                    at = {part: row[f"videos/{key}/{part}"] for part in parts}
                    videos[key] = Video(self._file("video_path", video_key=key, **at), float(at["from_timestamp"]))
                data = self._file("data_path", **place)
                yield DatasetEpisode(row["episode_index"], row["length"], row["tasks"] or (), data, videos)

    def _episodes_of_v2(self) -> Iterator[DatasetEpisode]:
        file = self.path / "meta/episodes.jsonl"
        if not file.exists():
            raise DatasetError(f"{self.path} has no meta/episodes.jsonl")
        rule = Object(_EPISODE, defaults={"tasks": None}, others=True)
        for line, said in enumerate(read_lines(file), 1):
            entry = checked(file, rule, said, f"line {line}: ")
            number = entry["episode_index"]
            place = {"episode_index": number, "episode_chunk": number // (self.info["chunks_size"] or 1000)}
            videos = {
                key: Video(self._file("video_path", video_key=key, **place), 0.0) for key in self.of_type("video")
            }
            data = self._file("data_path", **place)
            yield DatasetEpisode(number, entry["length"], entry["tasks"] or (), data, videos)

    def _file(self, template: str, **place) -> Path:
        """A file by a template of info.json; inside the data set, whatever the template says."""
        try:
            file = self.path / str(self.info[template]).format(**place)
        except (KeyError, IndexError, ValueError) as error:
            raise DatasetError(f"{self.path / INFO}: {template} cannot be used: {first_line(error)}") from error
        if not self.holds(file):
            raise DatasetError(f"{self.path / INFO}: {template} leads out of the data set")
        return file

    def holds(self, file: Path) -> bool:
        """Whether a file lies in the data set; it may be a link, as in the hub's cache, but no folder above it."""
        return file.parent.resolve().is_relative_to(self.path.resolve())

    def damage(self, episodes: Sequence[DatasetEpisode]) -> list[str]:
        """What of these is lost, in words. Raises DatasetError where their tables are missing."""
        missing = sorted({episode.data.name for episode in episodes if not episode.data.exists()})
        if missing:
            raise DatasetError(f"{self.path} lacks {len(missing)} data files, such as {missing[0]}")
        frames = sum(episode.length for episode in episodes)
        found = {"total_episodes": len(episodes), "total_frames": frames}
        stated = {name: self.info[name] for name in found if self.info[name] is not None}
        return [
            f"{name} is {number}, the episodes have {found[name]}"
            for name, number in stated.items()
            if number != found[name]
        ]


def _tasks_of(path: Path, entries: Sequence[object]) -> Iterator[tuple[int, str]]:
    for number, entry in enumerate(entries):
        task = checked(path, _TASK, entry, f"task {number}: ")
        yield task["task_index"], task["task"]


def _places(names: Sequence[str]) -> dict[str, Rule]:
    """The rules for where an episode's rows and frames lie."""
    return {name: Real(0.0, 1e9) if name.endswith("timestamp") else COUNT for name in names if "/" in name}

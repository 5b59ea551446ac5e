"""Bags to a LeRobot data set, v3.0, as lerobot's own loader opens it.

Source of the layout: lerobot 0.4.4 `datasets/lerobot_dataset.py`, `datasets/utils.py`, `datasets/compute_stats.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from grids_ros.data.damage import BagError
from grids_ros.data.lerobot.dataset import ACTION, IMAGES, STATE

CODECS = ("av1", "h264", "png")
_ENCODERS = {"av1": ("libsvtav1", {"crf": "20", "preset": "8"}), "h264": ("libx264", {"crf": "16"})}
KEY_FRAMES = 2  # one frame in so many: whoever trains reads at random
FILE_BYTES = 200 << 20  # of a file, after which the next episode begins another
STATISTICS_IMAGES = 100  # of each camera
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


@dataclass(frozen=True, eq=False)
class Frame:
    """A row of the set: images by camera, uint8 RGB (H, W, 3); state and action, (n,)."""

    images: Mapping[str, np.ndarray]
    state: np.ndarray
    action: np.ndarray


@dataclass(frozen=True)
class Layout:
    """What a set holds. names: of the numbers of states and actions. convention: as `convert` knows it."""

    fps: float
    cameras: tuple[str, ...]
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    convention: str
    codec: str = "av1"
    robot: str = "grids_ros"


class DatasetWriter:
    """A v3.0 set that grows by episodes, in a new folder. A context manager; complete when it ends."""

    def __init__(self, folder: Path, layout: Layout):
        self._folder, self._layout = folder, layout
        self._tasks: dict[str, int] = {}
        self._episodes: list[dict] = []
        self._numbers: dict[str, list[np.ndarray]] = {STATE: [], ACTION: []}
        self._pictures: dict[str, list[np.ndarray]] = {camera: [] for camera in layout.cameras}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._index = 0
        self._data = _Tables(folder)
        videos = layout.cameras if layout.codec != "png" else ()
        self._videos = {camera: _Videos(folder, IMAGES + camera, layout) for camera in videos}

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._data.close()
        for video in self._videos.values():
            video.close()
        if kind is None:
            self._finish()

    @property
    def episodes(self) -> int:
        """How many there are."""
        return len(self._episodes)

    def add_episode(self, task: str, frames: Iterable[Frame]) -> int:
        """Append an episode; the number of its frames. Raises BagError for images that change their size."""
        rows: dict[str, list] = {STATE: [], ACTION: []}
        pictures: dict[str, list[bytes]] = {camera: [] for camera in self._layout.cameras}
        places = {camera: video.begin() for camera, video in self._videos.items()}
        count = 0
        for frame in frames:
            rows[STATE].append(frame.state)
            rows[ACTION].append(frame.action)
            for camera, image in frame.images.items():
                self._check_size(camera, image)
                if count % max(1, 1 + self._index // 200) == 0 and len(self._pictures[camera]) < STATISTICS_IMAGES:
                    self._pictures[camera].append(image[::4, ::4].copy())
                if camera in self._videos:
                    self._videos[camera].add(image)
                else:
                    pictures[camera].append(cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())
            count += 1
        if count:
            self._append(task, rows, pictures, places, count)
        return count

    def _append(self, task: str, rows: dict, pictures: dict, places: dict, count: int) -> None:
        number, fps = len(self._episodes), self._layout.fps
        task_index = self._tasks.setdefault(task, len(self._tasks))
        columns = {name: _lists(np.array(values, np.float32)) for name, values in rows.items()}
        for camera, encoded in pictures.items():
            if encoded:
                columns[IMAGES + camera] = _images(encoded, number)
        columns |= {
            "timestamp": pa.array((np.arange(count) / fps).astype(np.float32)),
            "frame_index": pa.array(np.arange(count)),
            "episode_index": pa.array(np.full(count, number)),
            "index": pa.array(self._index + np.arange(count)),
            "task_index": pa.array(np.full(count, task_index)),
        }
        chunk, file = self._data.add(pa.table(columns))
        entry = {
            "episode_index": number,
            "tasks": [task],
            "length": count,
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": self._index,
            "dataset_to_index": self._index + count,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        for camera, (video_chunk, video_file, first) in places.items():
            key = f"videos/{IMAGES}{camera}"
            entry |= {f"{key}/chunk_index": video_chunk, f"{key}/file_index": video_file}
            entry |= {f"{key}/from_timestamp": first / fps, f"{key}/to_timestamp": (first + count) / fps}
        for name in (STATE, ACTION):
            self._numbers[name].append(np.array(rows[name], np.float64))
        self._episodes.append(entry)
        self._index += count

    def _check_size(self, camera: str, image: np.ndarray) -> None:
        shape = self._shapes.setdefault(camera, image.shape)
        if image.shape != shape:
            before, after = (f"{width}x{height}" for height, width, _ in (shape, image.shape))
            raise BagError(f"images of camera {camera!r} change from {before} to {after}")

    def _finish(self) -> None:
        if not self._episodes:
            raise BagError("there is no frame to export")
        meta = self._folder / "meta"
        (meta / "episodes/chunk-000").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(self._episodes), meta / "episodes/chunk-000/file-000.parquet")
        _write_tasks(self._tasks, meta / "tasks.parquet")
        (meta / "stats.json").write_text(json.dumps(self._statistics(), indent=4))
        (meta / "info.json").write_text(json.dumps(self._info(), indent=4))

    def _info(self) -> dict:
        layout = self._layout
        numbers = {STATE: layout.state_names, ACTION: layout.action_names}
        features: dict[str, dict] = {
            name: {"dtype": "float32", "shape": [len(names)], "names": list(names)} for name, names in numbers.items()
        }
        for camera in layout.cameras:
            about = {"dtype": "image" if layout.codec == "png" else "video", "shape": list(self._shapes[camera])}
            features[IMAGES + camera] = about | {"names": ["height", "width", "channels"]}
        features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
        for name in ("frame_index", "episode_index", "index", "task_index"):
            features[name] = {"dtype": "int64", "shape": [1], "names": None}
        return {
            "codebase_version": "v3.0",
            "robot_type": layout.robot,
            "total_episodes": len(self._episodes),
            "total_frames": self._index,
            "total_tasks": len(self._tasks),
            "chunks_size": 1000,
            "data_files_size_in_mb": FILE_BYTES >> 20,
            "video_files_size_in_mb": FILE_BYTES >> 20,
            "fps": int(layout.fps) if float(layout.fps).is_integer() else layout.fps,
            "splits": {"train": f"0:{len(self._episodes)}"},
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": None
            if layout.codec == "png"
            else "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
            "features": features,
            "grids_convention": layout.convention,
        }

    def _statistics(self) -> dict:
        statistics = {name: _moments(np.concatenate(parts), self._index) for name, parts in self._numbers.items()}
        for camera, pictures in self._pictures.items():
            pixels = np.concatenate([picture.reshape(-1, 3) for picture in pictures]) / 255.0
            of_colours = _moments(pixels, len(pictures))
            shaped = {key: np.reshape(value, (3, 1, 1)).tolist() for key, value in of_colours.items() if key != "count"}
            statistics[IMAGES + camera] = shaped | {"count": of_colours["count"]}
        return statistics


class _Tables:
    """The parquet files of the rows, one after the other."""

    def __init__(self, folder: Path):
        self._folder, self._number = folder / "data", -1
        self._writer: pq.ParquetWriter | None = None
        self._path = self._folder

    def add(self, table: pa.Table) -> tuple[int, int]:
        """Append an episode; chunk and file index of where it lies."""
        if self._writer is None or self._path.stat().st_size > FILE_BYTES:
            self.close()
            self._number += 1
            self._path = _numbered(self._folder, self._number, "parquet")
            self._writer = pq.ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)
        return divmod(self._number, 1000)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _Videos:
    """The videos of one camera, episodes end to end."""

    def __init__(self, folder: Path, key: str, layout: Layout):
        self._folder, self._layout = folder / "videos" / key, layout
        self._number, self._count, self._path = -1, 0, self._folder
        self._container: Any = None  # of av
        self._stream: Any = None

    def begin(self) -> tuple[int, int, int]:
        """Chunk and file index of where the next episode lies, and the number of its first frame there."""
        if self._container is None or self._path.stat().st_size > FILE_BYTES:
            self.close()
            self._number, self._count = self._number + 1, 0
            self._path = _numbered(self._folder, self._number, "mp4")
            self._container = av.open(str(self._path), "w")
            self._stream = None
        return *divmod(self._number, 1000), self._count

    def add(self, image: np.ndarray) -> None:
        if self._stream is None:
            self._stream = self._opened(image)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts, frame.time_base = self._count, 1 / Fraction(self._layout.fps).limit_denominator(1001)
        for packet in self._stream.encode(frame):
            self._container.mux(packet)
        self._count += 1

    def _opened(self, image: np.ndarray):
        height, width = image.shape[:2]
        if height % 2 or width % 2:
            raise BagError(f"images are {width}x{height}: videos have even sides; --codec png takes any")
        os.environ.setdefault("SVT_LOG", "1")  # or the AV1 encoder prints its settings
        name, options = _ENCODERS[self._layout.codec]
        stream = self._container.add_stream(name, rate=Fraction(self._layout.fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {**options, "g": str(KEY_FRAMES)}
        return stream

    def close(self) -> None:
        if self._container is not None:
            if self._stream is not None:
                for packet in self._stream.encode():
                    self._container.mux(packet)
            self._container.close()
            self._container = None


def _numbered(folder: Path, number: int, suffix: str) -> Path:
    chunk, file = divmod(number, 1000)
    path = folder / f"chunk-{chunk:03d}" / f"file-{file:03d}.{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _lists(values: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _images(encoded: Sequence[bytes], episode: int) -> pa.StructArray:
    names = [f"episode-{episode:06d}/frame-{number:06d}.png" for number in range(len(encoded))]
    return pa.StructArray.from_arrays([pa.array(encoded, pa.binary()), pa.array(names)], ["bytes", "path"])


def _write_tasks(tasks: Mapping[str, int], path: Path) -> None:
    """The tasks as pandas would write them, with the text as the index: lerobot looks them up there."""
    table = pa.table({"task_index": list(tasks.values()), "task": list(tasks)})
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
        for name, kind, numpy in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    about = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.2.0"}
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(about)}), path)


def _moments(values: np.ndarray, count: int) -> dict:
    """min, max, mean, std and quantiles of each column."""
    figures = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    figures |= {name: np.quantile(values, share, axis=0) for name, share in QUANTILES.items()}
    return {name: value.tolist() for name, value in figures.items()} | {"count": [count]}

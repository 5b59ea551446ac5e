"""Images of LeRobot data sets, decoded when a batch needs them: memory does not grow with the set.

Which frames a batch needs follows from the seed and the step, so that the batches to come are decoded in advance.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grids_ros.data.lerobot.dataset import Dataset, DatasetError
from grids_ros.data.lerobot.reader import picture
from grids_ros.data.lerobot.video import VideoFile
from grids_ros.policy.preprocess import ImageFit, letterbox

OPEN_FILES = 8  # videos, of each thread
AHEAD = 3  # batches that are decoded in advance
THREADS = 2
RUN = 8  # frames between two that are read in one go rather than by a seek


@dataclass(frozen=True, eq=False)
class Frames:
    """Like an array uint8 (N, cameras, S, S, 3), of the frames of one data set.

    places: (N, 2), episode and frame of each row. features: of the cameras, in order. sizes: height and width of their
    images [px].
    """

    dataset: Dataset
    places: np.ndarray
    features: tuple[str, ...]
    size: int
    fit: ImageFit
    sizes: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.places)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.places), len(self.features), self.size, self.size, 3

    def subset(self, which: np.ndarray) -> Frames:
        """The rows that a mask or an index array names, still undecoded."""
        return Frames(self.dataset, self.places[which], self.features, self.size, self.fit, self.sizes)

    def __getitem__(self, which: np.ndarray | slice) -> np.ndarray:
        """Decode rows. Raises DatasetError."""
        places = self.places[which]
        images = np.empty((len(places), *self.shape[1:]), np.uint8)
        for camera, feature in enumerate(self.features):
            for row, image in self._decoded(places, feature):
                if self.fit.padding != -1.0 and image.shape[:2] != self.sizes[camera]:
                    self._refuse_size(feature, image, self.sizes[camera])
                images[row, camera] = np.rint(letterbox(image, self.size, self.fit))
        return images

    def _refuse_size(self, feature: str, image: np.ndarray, first: tuple[int, int]) -> None:
        """Raises DatasetError: where the padding lies follows from the size, and it is not black."""
        (height, width), (high, wide) = image.shape[:2], first
        raise DatasetError(
            f"{self.dataset.path}: images of {feature} change from {wide}x{high} to {width}x{height}: a policy whose "
            f"padding is {self.fit.padding:g} takes images of one size"
        )

    def _decoded(self, places: np.ndarray, feature: str):
        """Row and RGB frame, file by file, in order of time."""
        order = np.lexsort((places[:, 1], places[:, 0]))
        if self.dataset.features[feature]["dtype"] == "image":
            for row in order:
                episode = self.dataset.episodes[places[row, 0]]
                (data,) = self.dataset.pictures(episode, feature, [places[row, 1]])
                yield row, picture(data, episode.data)
            return
        fps = self.dataset.fps
        run: list = []
        for row in order:
            video = self.dataset.episodes[places[row, 0]].videos[feature]
            at_s = video.from_s + places[row, 1] / fps
            if run and (video.file != run[0][2] or not 0.0 < at_s - run[-1][1] <= RUN / fps):
                yield from _read(run, fps)
                run = []
            run.append((row, at_s, video.file))
        yield from _read(run, fps)


def _read(run: Sequence[tuple[int, float, Path]], fps: float):
    if run:
        images = _opened(run[0][2]).frames([at_s for _, at_s, _ in run], fps)
        yield from zip((row for row, _, _ in run), images, strict=True)


@dataclass(frozen=True, eq=False)
class Joined:
    """Images of several recordings, one behind the other: arrays in memory, or Frames."""

    parts: tuple[np.ndarray | Frames, ...]
    part_of: np.ndarray
    row_of: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[np.ndarray | Frames]) -> Joined:
        counts = [len(part) for part in parts]
        rows = np.concatenate([np.arange(count) for count in counts])
        return cls(tuple(parts), np.repeat(np.arange(len(parts)), counts), rows)

    def __len__(self) -> int:
        return len(self.part_of)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.part_of), *self.parts[0].shape[1:]

    def subset(self, which: np.ndarray) -> Joined:
        return Joined(self.parts, self.part_of[which], self.row_of[which])

    def __getitem__(self, which: np.ndarray | slice) -> np.ndarray:
        parts, rows = self.part_of[which], self.row_of[which]
        images = np.empty((len(parts), *self.shape[1:]), np.uint8)
        for number, part in enumerate(self.parts):
            mine = np.flatnonzero(parts == number)
            if len(mine):
                images[mine] = part[rows[mine]]
        return images


class Prefetch:
    """Images of the batches to come. decode: step to the images of its batch; called in threads."""

    def __init__(self, decode: Callable[[int], np.ndarray]):
        self._decode = decode
        self._pool = ThreadPoolExecutor(THREADS, "decode")
        self._waiting: dict[int, Future[np.ndarray]] = {}

    def at(self, step: int) -> np.ndarray:
        """The images of this step; the next ones are being decoded meanwhile."""
        for ahead in range(step, step + 1 + AHEAD):
            if ahead not in self._waiting:
                self._waiting[ahead] = self._pool.submit(self._decode, ahead)
        for passed in [known for known in self._waiting if not step <= known <= step + AHEAD]:
            self._waiting.pop(passed).cancel()
        return self._waiting.pop(step).result()


class _Files(threading.local):
    """Open videos of a thread, the latest last."""

    def __init__(self):
        self.held: OrderedDict[Path, VideoFile] = OrderedDict()


_files = _Files()


def _opened(path: Path) -> VideoFile:
    if path in _files.held:
        _files.held.move_to_end(path)
        return _files.held[path]
    while len(_files.held) >= OPEN_FILES:
        _files.held.popitem(last=False)[1].close()
    _files.held[path] = VideoFile(path)
    return _files.held[path]


def features_of(topics: Mapping[str, str], streams: Mapping[str, list], cameras: Sequence[str]) -> tuple[str, ...]:
    """The data set's feature of each camera. topics: role to topic. streams: the reader's topics."""
    return tuple(streams[topics[f"image:{camera}"]][0].feature for camera in cameras)

"""Frames of a LeRobot video by their times, in whatever codec FFmpeg reads (AV1 mostly)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from grids_ros.data.damage import first_line
from grids_ros.data.lerobot.dataset import DatasetError

TOLERANCE_S = 1e-4  # lerobot's own
MAX_SIDE = 16384


class VideoFile:
    """One mp4, open for reading. A context manager."""

    def __init__(self, path: Path):
        """Raises DatasetError for a file that is no video."""
        self.path = path
        try:
            self._container = av.open(str(path))
            self._stream = self._container.streams.video[0]
        except (OSError, ValueError, IndexError, av.FFmpegError) as error:
            raise DatasetError(f"cannot read {path}: {first_line(error)}") from error
        self._stream.thread_type = "AUTO"
        if max(self._stream.width, self._stream.height) > MAX_SIDE:
            raise DatasetError(f"{path}: frames are {self._stream.width}x{self._stream.height}")

    def close(self) -> None:
        self._container.close()

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def check_rate(self, fps: float) -> None:
        """Raises DatasetError when the video's own rate contradicts the data set's."""
        rate = self._stream.average_rate
        if rate is not None and abs(float(rate) - fps) > 0.02 * fps:
            raise DatasetError(f"{self.path} has {float(rate):g} frames per second, the data set states {fps:g}")

    def frames(self, times_s: Sequence[float] | np.ndarray, fps: float) -> Iterator[np.ndarray]:
        """RGB frames (H, W, 3) at these increasing times of the file [s].

        Raises DatasetError for a time at which the video has no frame.
        """
        if not len(times_s):
            return
        half = min(TOLERANCE_S, 0.25 / fps)
        wanted = iter(times_s)
        at_s: float = next(wanted)
        before = None
        for time_s, frame in self._decoded(max(0.0, at_s - half)):
            while time_s >= at_s - half:
                if time_s > at_s + half:
                    raise DatasetError(_missing(self.path, at_s, before, time_s))
                yield frame.to_ndarray(format="rgb24")
                following = next(wanted, None)
                if following is None:
                    return
                at_s = following
            before = time_s
        raise DatasetError(_missing(self.path, at_s, before, None))

    def _decoded(self, from_s: float) -> Iterator[tuple[float, av.VideoFrame]]:
        """Time [s] and frame, from the last key frame before `from_s` on."""
        base: Any = self._stream.time_base  # every video stream has one
        try:
            self._container.seek(int(from_s / base), stream=self._stream, backward=True)
            for frame in self._container.decode(self._stream):
                if frame.pts is not None:
                    yield float(frame.pts * base), frame
        except av.FFmpegError as error:
            raise DatasetError(f"{self.path} is damaged: {first_line(error)}") from error


def _missing(path: Path, at_s: float, before: float | None, after: float | None) -> str:
    around = " and ".join(f"{time_s:.4f} s" for time_s in (before, after) if time_s is not None) or "none"
    if after is None:
        return f"{path} is shorter than its episode: no frame at {at_s:.4f} s, the last is at {around}"
    return f"{path} has no frame at {at_s:.4f} s, but at {around}: the frame rate contradicts the data set"

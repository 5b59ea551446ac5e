"""A video of one episode: both overlays side by side, one frame per inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np

from grids_ros.control.defaults import CHUNK_RATE_HZ
from grids_ros.evaluate.episode import Step
from grids_ros.files import complete, part_of
from grids_ros.visualisation import overlay

HEIGHT = 448  # [px]


class EpisodeVideo:
    """An H.264 file that grows frame by frame; `close` ends it."""

    def __init__(self, path: Path):
        self._path = path
        self._container = av.open(str(part_of(path)), "w", format="mp4")
        self._stream: Any = None  # of av, once the size of a frame is known

    def add(self, step: Step) -> None:
        """The overlays of one inference."""
        seen, points = step.observation, step.output.coordinates
        nowhere = np.zeros((0, 2))
        frame = np.concatenate(
            [overlay.draw(image, points.get(n, nowhere), seen.instruction, HEIGHT) for n, image in seen.images.items()],
            axis=1,
        )
        frame = np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])  # yuv420p wants even
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=round(CHUNK_RATE_HZ))
            self._stream.height, self._stream.width = frame.shape[:2]
            self._stream.pix_fmt = "yuv420p"
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

    def close(self) -> None:
        """Write what is still held back; the file takes its name."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()
        complete(part_of(self._path), self._path)

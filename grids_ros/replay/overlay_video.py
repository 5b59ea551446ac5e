"""The overlays of every inference as MP4, and a bounded number of them for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from grids_ros.datatypes import PolicyOutput
from grids_ros.files import complete, part_of, remove
from grids_ros.replay.ticks import Tick
from grids_ros.visualisation import overlay

TILE = 240  # height of a camera's picture [px]
REPORT_FRAMES = 60  # at most so many pictures of a bag go into the report; at least half as many of a long one
ABREAST = 4  # so many tiles fit beside each other on a page
QUALITY = 80  # of their JPEG
NOWHERE = np.zeros((0, 2))


@dataclass(frozen=True)
class OverlayFrame:
    """One picture for the report: JPEG, cameras from left to right, variants beside or below each other."""

    time_s: float
    episode: int
    instruction: str
    jpeg: bytes


class OverlayVideo:
    """Grows by one frame per tick that some policy inferred at. A context manager.

    Frames are drawn and encoded in a thread of their own, one behind the replay: OpenCV, the encoder and torch let go
    of the interpreter while they work.
    """

    def __init__(self, path: Path, rate_hz: float, cameras: Sequence[str], labels: Sequence[str], zero_ns: int):
        self._path, self._rate, self._zero_ns = path, rate_hz, zero_ns
        self._cameras, self._labels = tuple(cameras), tuple(labels)
        self._container: Any = None  # of av, once the size of a frame is known
        self._stream: Any = None
        self._widths: dict[str, int] = {}
        self.frames, self._every = 0, 1
        self.overlay_frames: list[OverlayFrame] = []
        self._thread = ThreadPoolExecutor(1, "film")
        self._last: Future | None = None

    def __enter__(self) -> OverlayVideo:
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        """The film takes its name when it is complete; an earlier one stays until then."""
        if kind is None:
            self.wait()
        self._thread.shutdown()
        if self._container is not None:
            self._container.mux(self._stream.encode())
            self._container.close()
            if kind is None:
                complete(part_of(self._path), self._path)
            else:
                remove(part_of(self._path))

    def add(self, tick: Tick, outputs: Mapping[str, PolicyOutput]) -> None:
        """outputs: label to what was inferred at this tick."""
        self.wait()
        self._last = self._thread.submit(self._draw, tick, outputs)

    def wait(self) -> None:
        """Until the last frame is drawn. Raises what went wrong there."""
        if self._last is not None:
            self._last.result()

    def _draw(self, tick: Tick, outputs: Mapping[str, PolicyOutput]) -> None:
        rows = [self._row(tick, label, outputs.get(label)) for label in self._labels]
        frame = (np.hstack if len(rows) * len(self._cameras) <= ABREAST else np.vstack)(rows)
        if self._stream is None:
            self._open(frame)
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        if self.frames % self._every == 0:
            self._keep(tick, frame)
        self.frames += 1

    def _row(self, tick: Tick, label: str, output: PolicyOutput | None) -> np.ndarray:
        tiles, observation = [], tick.observation
        assert observation is not None  # some policy inferred on it
        for camera in self._cameras:
            image = observation.images[camera]
            width = self._widths.setdefault(camera, round(TILE * image.shape[1] / image.shape[0]) // 2 * 2)
            tile = cv2.resize(np.ascontiguousarray(image), (width, TILE))
            points = output.coordinates.get(camera, NOWHERE) if output is not None else NOWHERE
            tiles.append(overlay.draw(tile, points, label if len(self._labels) > 1 else tick.instruction))
        return np.hstack(tiles)

    def _open(self, frame: np.ndarray) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(part_of(self._path)), "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=max(1, round(self._rate)))
        self._stream.height, self._stream.width = frame.shape[:2]
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": "23", "preset": "ultrafast"}

    def _keep(self, tick: Tick, frame: np.ndarray) -> None:
        """Every n-th frame; n doubles when there are too many, so that their number is bounded in any bag's length."""
        _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        time_s = (tick.now_ns - self._zero_ns) / 1e9
        self.overlay_frames.append(OverlayFrame(time_s, tick.episode, tick.instruction, jpeg.tobytes()))
        if len(self.overlay_frames) >= REPORT_FRAMES:
            self.overlay_frames = self.overlay_frames[::2]
            self._every *= 2

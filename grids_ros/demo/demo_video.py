"""The video and the contact sheet, made from the recorded bag: the overlays of both cameras with what was asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from grids_ros.datatypes import NANOSECONDS
from grids_ros.observation.images import to_rgb

RATE_HZ = 10
TILE = 448  # side of one camera's picture in the video [px]
SMALL = 168  # and in the contact sheet [px]
BAR = 48  # height of the caption [px]
COLUMNS = 6  # moments per episode in the contact sheet
WHITE, DARK = (255, 255, 255), (24, 24, 28)
GREEN, RED = (110, 220, 120), (255, 120, 100)


@dataclass(frozen=True)
class EpisodeCaption:
    """What is written over one episode. Stamps in the nodes' clock [ns]; done_ns is None without success.

    done: what the cube is after success, in words.
    """

    number: int
    instruction: str
    started_ns: int
    ended_ns: int
    done_ns: int | None
    done: str
    wrong: str = ""

    def result(self, at_ns: int) -> tuple[str, tuple[int, int, int]]:
        """What is known at an instant, and its colour."""
        if self.done_ns is not None and at_ns >= self.done_ns:
            return f"{self.done} after {(self.done_ns - self.started_ns) / NANOSECONDS:.1f} s", GREEN
        if at_ns >= self.ended_ns:
            return f"not {self.done}{f', but {self.wrong}' if self.wrong else ''}", RED
        return f"{(at_ns - self.started_ns) / NANOSECONDS:4.1f} s", WHITE


def make(bag: Path, scenes: Sequence[EpisodeCaption], cameras: Sequence[str], video: Path, sheet: Path) -> int:
    """Write both files; the number of frames in the video. Without a single overlay nothing is written, and 0."""
    rows: list[list[np.ndarray]] = []
    frames = 0
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=RATE_HZ)
        stream.width, stream.height = TILE * len(cameras), TILE + BAR
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "20", "preset": "veryfast"}
        for scene in scenes:
            moments = np.linspace(scene.started_ns, scene.ended_ns, COLUMNS)
            row: list[np.ndarray] = []
            for at_ns, pictures in resample(bag, cameras, scene.started_ns, scene.ended_ns):
                while len(row) < COLUMNS and at_ns >= moments[len(row)] - NANOSECONDS // RATE_HZ:
                    row.append(_tiles(pictures, SMALL))
                picture = _captioned(_tiles(pictures, TILE), scene, at_ns)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                frames += 1
            if row:
                row += [row[-1]] * (COLUMNS - len(row))
                rows.append([_captioned(np.hstack(row), scene, scene.ended_ns)])
        container.mux(stream.encode())
    if frames:
        cv2.imwrite(str(sheet), cv2.cvtColor(np.vstack([row[0] for row in rows]), cv2.COLOR_RGB2BGR))
    else:
        video.unlink()
    return frames


def resample(bag: Path, cameras: Sequence[str], start_ns: int, end_ns: int) -> Iterator[tuple[int, list[np.ndarray]]]:
    """At a constant rate: an instant [ns] and the newest overlay of each camera, once there is one of each."""
    newest: dict[str, np.ndarray] = {}
    at_ns, period_ns = start_ns, NANOSECONDS // RATE_HZ
    for stamp_ns, camera, picture in _overlays(bag, cameras, start_ns, end_ns):
        while at_ns < stamp_ns and len(newest) == len(cameras):
            yield at_ns, [newest[name] for name in cameras]
            at_ns += period_ns
        if len(newest) < len(cameras):
            at_ns = max(at_ns, stamp_ns)
        newest[camera] = picture
    while at_ns <= end_ns and len(newest) == len(cameras):
        yield at_ns, [newest[name] for name in cameras]
        at_ns += period_ns


def _overlays(bag: Path, cameras: Sequence[str], start_ns: int, end_ns: int) -> Iterator[tuple[int, str, np.ndarray]]:
    topics = {f"/overlay/{name}/image_raw": name for name in cameras}
    with AnyReader([bag], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        connections = [connection for connection in reader.connections if connection.topic in topics]
        margin = NANOSECONDS  # a message is received later than it was stamped
        for connection, _, data in reader.messages(connections, start=start_ns, stop=end_ns + margin):
            message: Any = reader.deserialize(data, connection.msgtype)
            stamp_ns = message.header.stamp.sec * NANOSECONDS + message.header.stamp.nanosec
            if start_ns <= stamp_ns <= end_ns:
                yield stamp_ns, topics[connection.topic], to_rgb(message)


def _tiles(pictures: Sequence[np.ndarray], side: int) -> np.ndarray:
    how = cv2.INTER_AREA if side < pictures[0].shape[0] else cv2.INTER_CUBIC
    return np.hstack([cv2.resize(picture, (side, side), interpolation=how) for picture in pictures])


def _captioned(picture: np.ndarray, scene: EpisodeCaption, at_ns: int) -> np.ndarray:
    result, colour = scene.result(at_ns)
    bar = np.full((BAR, picture.shape[1], 3), DARK, np.uint8)
    cv2.putText(
        bar, f"{scene.number}  {scene.instruction}", (14, 32), cv2.FONT_HERSHEY_SIMPLEX, 0.8, WHITE, 1, cv2.LINE_AA
    )
    (width, _), _ = cv2.getTextSize(result, cv2.FONT_HERSHEY_SIMPLEX, 0.8, 1)
    where = (picture.shape[1] - width - 14, 32)
    cv2.putText(bar, result, where, cv2.FONT_HERSHEY_SIMPLEX, 0.8, colour, 1, cv2.LINE_AA)
    return np.vstack([bar, picture])

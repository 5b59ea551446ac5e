"""Videos of episodes and one sheet of pictures: what the policy saw, with the sampling points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from grids_ros.datatypes import Observation, PolicyOutput
from grids_ros.files import replacing
from grids_ros.visualisation import overlay

SIZE, RATE_HZ, COLUMNS = 192, 4.0, 8


class BenchmarkVideo:
    """One episode as MP4, a frame for each inference, and its frames beside it as one PNG for the sheet."""

    def __init__(self, path: Path):
        self._path = path
        self._frames: list[np.ndarray] = []

    def add(self, observation: Observation, output: PolicyOutput) -> None:
        """One inference: every camera with its sampling points."""
        tiles = []
        for name, image in observation.images.items():
            points = output.coordinates.get(name, np.zeros((0, 2)))
            tiles.append(overlay.draw(image, points, size=SIZE))
        tiles[0] = overlay.draw(tiles[0], np.zeros((0, 2)), caption=observation.instruction)
        self._frames.append(np.hstack(tiles))

    def close(self) -> None:
        """Write both files."""
        if not self._frames:
            return
        import av

        with replacing(self._path) as part, av.open(str(part), "w", format="mp4") as container:
            height, width = self._frames[0].shape[:2]
            stream = container.add_stream("h264", rate=int(RATE_HZ), options={"crf": "23"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for frame in self._frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        strip = np.hstack([self._frames[i] for i in np.linspace(0, len(self._frames) - 1, COLUMNS // 2).astype(int)])
        cv2.imwrite(str(self._path.with_suffix(".png")), cv2.cvtColor(strip, cv2.COLOR_RGB2BGR))


def write_sheet(folder: Path, tasks: Sequence[int], names: Sequence[str], episodes: Sequence, path: Path) -> None:
    """One row for each task: the first video's frames, the task's name and its count."""
    rows = []
    for task in tasks:
        strips = sorted(folder.glob(f"task{task}-state*.png"))
        if not strips:
            continue
        strip = cv2.imread(str(strips[0]))
        if strip is None:
            continue
        mine = [episode for episode in episodes if episode.task == task]
        label = f"{names[task].replace('_', ' ')}: {sum(e.success for e in mine)} of {len(mine)}"
        band = np.zeros((28, strip.shape[1], 3), np.uint8)
        cv2.putText(band, label, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (255, 255, 255), 1, cv2.LINE_AA)
        rows.append(np.vstack([band, strip]))
    if rows:
        cv2.imwrite(str(path), np.vstack([row for row in rows if row.shape[1] == rows[0].shape[1]]))

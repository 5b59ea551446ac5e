"""python -m grids_ros.sim.sheet FILE.png: one scene as demonstrations have it, and under each kind of variation."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from grids_ros.sim.scene import Scene
from grids_ros.sim.variation import KINDS

SEEDS = (100_003, 100_011)  # a row of both cameras for each
SIDE, CAPTION = 176, 22  # [px]


def column(kind: str | None, seed: int) -> np.ndarray:
    """Both cameras, one above the other, under a caption; uint8 RGB."""
    scene = Scene(seed, SIDE, kind)
    caption = np.full((CAPTION, SIDE, 3), 255, np.uint8)
    cv2.putText(caption, kind or "as recorded", (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)
    images = np.concatenate([caption, *(scene.render(camera) for camera in scene.cameras)])
    scene.close()
    return np.pad(images, ((0, 0), (0, 4), (0, 0)), constant_values=255)


def main(arguments: list[str]) -> int:
    """Entry point."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    rows = [np.concatenate([column(kind, seed) for kind in (None, *KINDS)], axis=1) for seed in SEEDS]
    _, png = cv2.imencode(".png", cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR))
    Path(arguments[0]).write_bytes(png.tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

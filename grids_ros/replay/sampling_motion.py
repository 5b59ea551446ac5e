"""How sampled coordinates move against the picture, how they spread, and whether they collapse into a corner."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

FLOW_SIDE = 96  # pictures are brought to this size for the optical flow [px]
CORNER = 0.06  # a coordinate nearer than this to a corner, along both axes, is in it; fraction of the image
COLLAPSED = 0.5  # share of a camera's coordinates in one corner from which on it counts as collapsed


class OpticalFlow:
    """Dense optical flow (DIS) from the last picture of one camera to this one."""

    def __init__(self):
        self._method: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._last: np.ndarray | None = None

    def to(self, rgb: np.ndarray) -> np.ndarray | None:
        """(FLOW_SIDE, FLOW_SIDE, 2), in fractions of the image, x right and y down; None for the first picture."""
        small = cv2.resize(np.ascontiguousarray(rgb), (FLOW_SIDE, FLOW_SIDE), interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        last, self._last = self._last, grey
        return None if last is None else self._method.calc(last, grey, None) / FLOW_SIDE

    def forget(self) -> None:
        """The next picture is a first one."""
        self._last = None


def spread(coordinates: np.ndarray) -> float:
    """Root mean square distance of K coordinates (K, 2) from their centre, as a fraction of the image.

    NaN for a single one, which is its own centre.
    """
    if len(coordinates) < 2:
        return float("nan")
    return float(np.sqrt(((coordinates - coordinates.mean(axis=0)) ** 2).sum(axis=1).mean()))


def collapsed(coordinates: np.ndarray) -> bool:
    """Whether at least half of K coordinates (K, 2) sit in one corner of the image."""
    near = np.minimum(coordinates, 1.0 - coordinates) < CORNER
    corner = (coordinates > 0.5) @ (1, 2)
    counts = np.bincount(corner[near.all(axis=1)], minlength=4)
    return bool(counts.max() >= COLLAPSED * len(coordinates))


def motion(coordinates: np.ndarray, before: np.ndarray, flow: np.ndarray) -> tuple[float, float, float]:
    """Mean over K coordinates (K, 2) since the last frame, as fractions of the image.

    How far each moved; how far the picture moved where it was; how far it slipped over the picture, which is 0 for a
    coordinate that stays on the thing it looks at.
    """
    cells = np.clip((before * FLOW_SIDE).astype(int), 0, FLOW_SIDE - 1)
    carried = flow[cells[:, 1], cells[:, 0]]
    moved = coordinates - before
    own, beneath, slip = (float(np.linalg.norm(v, axis=1).mean()) for v in (moved, carried, moved - carried))
    return own, beneath, slip

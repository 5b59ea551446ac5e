"""What a scene is made of, for viewers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grids_ros.datatypes import Pose


@dataclass(frozen=True, eq=False)
class Shape:
    """A box or an upright cylinder, for viewers. body: what it moves with. size: its extent along its axes (3,) [m].

    pose: in the frame of its body, or of the base where `body` is "". colour: RGB, 0 to 1.
    """

    body: str
    box: bool
    size: np.ndarray
    pose: Pose
    colour: tuple[float, float, float]

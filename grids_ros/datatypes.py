"""What passes between the stages: frozen, validated, with shapes, units and frames.

Conventions (REP-103): metres, radians, seconds; quaternions are (x, y, z, w) and unit; a pose is that of
the *tool frame* in the *base frame* unless its name says otherwise. Stamps are integer nanoseconds of the
node's clock, so that ages are exact and replay is repeatable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

CAMERAS = ("base", "wrist")  # of the simulation and of a new policy, in the policy's order
NANOSECONDS = 1_000_000_000
UNIT_TOLERANCE = 1e-3  # how far from 1 the norm of a quaternion may be before it is refused


def _finite(name: str, values, shape: tuple[int | None, ...]) -> np.ndarray:
    """`values` as a read-only float64 array of `shape` (None: any length); ValueError says what is wrong.

    A dozen poses are made in every tick of the follower: on so few numbers NumPy's own reductions would take most of
    the tick.
    """
    array = np.array(values, dtype=np.float64)
    if array.shape != shape and (
        array.ndim != len(shape) or any(want not in (None, have) for want, have in zip(shape, array.shape, strict=True))
    ):
        expected = tuple("n" if want is None else want for want in shape)
        raise ValueError(f"{name} has shape {array.shape}, expected {expected}")
    if not all(map(math.isfinite, array.ravel().tolist())):
        raise ValueError(f"{name} contains NaN or infinity")
    array.setflags(write=False)
    return array


def _unit(name: str, quaternions: np.ndarray) -> np.ndarray:
    norms = np.sqrt(np.add.reduce(quaternions * quaternions, axis=-1, keepdims=True))
    worst = max(norms.ravel().tolist(), key=lambda norm: abs(norm - 1.0))
    if abs(worst - 1.0) > UNIT_TOLERANCE:
        raise ValueError(f"{name} is not normalised: norm {worst:.4g}, expected 1 within {UNIT_TOLERANCE:g}")
    unit = quaternions / norms
    unit.setflags(write=False)
    return unit


@dataclass(frozen=True, eq=False)
class Pose:
    """Pose of the tool frame in the base frame.

    position: shape (3,) [m]; quaternion: shape (4,), xyzw, unit within `UNIT_TOLERANCE` (then normalised).
    Raises ValueError for a wrong shape, NaN or infinity, or a quaternion that is not normalised.
    """

    position: np.ndarray
    quaternion: np.ndarray

    if TYPE_CHECKING:  # any sequence of numbers will do

        def __init__(self, position: ArrayLike, quaternion: ArrayLike) -> None: ...

    def __post_init__(self):
        object.__setattr__(self, "position", _finite("position", self.position, (3,)))
        object.__setattr__(self, "quaternion", _unit("quaternion", _finite("quaternion", self.quaternion, (4,))))


@dataclass(frozen=True, eq=False)
class Observation:
    """What the policy sees at one instant.

    stamp_ns: acquisition time, that of the image that all others are aligned with, node clock [ns].
    images: camera name to uint8 RGB, shape (H, W, 3), REP-103 optical frame.
    pose: measured tool pose at the stamp.
    gripper: measured opening between the fingers at the stamp [m].
    instruction: what to do; never empty.
    image_stamps_ns: camera name to the acquisition time of its image, node clock [ns].
    joints: joint name to its measured position at the stamp [rad or m]; empty unless the policy needs joints.
    """

    stamp_ns: int
    images: Mapping[str, np.ndarray]
    pose: Pose
    gripper: float
    instruction: str
    image_stamps_ns: Mapping[str, int] = field(default_factory=dict)
    joints: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if not self.instruction:
            raise ValueError("instruction is empty: an empty instruction means hold, not an observation")
        if not np.isfinite(self.gripper):
            raise ValueError("gripper opening is NaN or infinite")
        for name, image in self.images.items():
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"image {name!r} is {image.dtype} {image.shape}, expected uint8 (H, W, 3)")


@dataclass(frozen=True, eq=False)
class ActionChunk:
    """A stretch of future tool poses and gripper openings, as a function of time.

    stamp_ns: the observation's stamp [ns].
    times: shape (n,), seconds after the stamp at which each step is reached; positive, strictly increasing.
    positions: shape (n, 3) [m], base frame. quaternions: shape (n, 4), xyzw, unit.
    gripper: shape (n,), opening between the fingers [m].
    joints: shape (n, joints), positions [rad or m] whose tool poses these are; None for a policy of poses.
    Raises ValueError for wrong shapes, no step, NaN or infinity, unnormalised quaternions, unordered times.
    """

    stamp_ns: int
    times: np.ndarray
    positions: np.ndarray
    quaternions: np.ndarray
    gripper: np.ndarray
    joints: np.ndarray | None = None

    def __post_init__(self):
        times = _finite("times", self.times, (None,))
        n = len(times)
        if n == 0:
            raise ValueError("an action chunk needs at least one step")
        if times[0] <= 0.0 or (np.diff(times) <= 0.0).any():
            raise ValueError("times must be positive and strictly increasing")
        object.__setattr__(self, "times", times)
        object.__setattr__(self, "positions", _finite("positions", self.positions, (n, 3)))
        quaternions = _finite("quaternions", self.quaternions, (n, 4))
        object.__setattr__(self, "quaternions", _unit("quaternions", quaternions))
        object.__setattr__(self, "gripper", _finite("gripper", self.gripper, (n,)))
        if self.joints is not None:
            object.__setattr__(self, "joints", _finite("joints", self.joints, (n, None)))

    def __len__(self) -> int:
        return len(self.times)

    @property
    def end_ns(self) -> int:
        """The instant of the last step, node clock [ns]; from here on the last pose is held."""
        return self.stamp_ns + round(float(self.times[-1]) * NANOSECONDS)


@dataclass(frozen=True, eq=False)
class PolicyOutput:
    """One inference.

    chunk: the actions. coordinates: camera name to where its tokens were read, shape (K, 2), as fractions
    (x to the right, y down, both in [0, 1]) of that camera's own image; empty for the dense model.
    latency_s: monotonic time by stage ("preprocess", "model", "total") [s].
    """

    chunk: ActionChunk
    coordinates: Mapping[str, np.ndarray]
    latency_s: Mapping[str, float] = field(default_factory=dict)

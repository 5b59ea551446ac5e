"""How a scene may differ from those that demonstrations are recorded in: evaluation out of distribution.

Each kind is drawn from the scene's seed alone, so that a scene under "all" has the very distractors, table, light and
cameras that it has under each kind by itself. What a kind does not name stays as it was, but for the arm's start where
the objects are elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

Colour = tuple[float, float, float]  # red, green, blue in [0, 1]


@dataclass(frozen=True)
class Region:
    """A rectangle of the table between `low` and `high`, each (x, y) [m, base frame], less the rectangle `without`."""

    low: tuple[float, float]
    high: tuple[float, float]
    without: Region | None = None

    def __contains__(self, point: np.ndarray) -> bool:
        inside = bool(np.all(self.low <= point) and np.all(point <= self.high))
        return inside and (self.without is None or point not in self.without)


@dataclass(frozen=True)
class Distractor:
    """An object that no demonstration has. shape, size: MuJoCo's; height: of its centre when it rests [m]."""

    shape: str
    size: tuple[float, ...]
    height: float
    colour: Colour


@dataclass(frozen=True)
class Table:
    """What the objects stand on. look: "mat", of one colour on the usual table, "checker" or "speckled"."""

    look: str
    colours: tuple[Colour, Colour]


@dataclass(frozen=True)
class Light:
    """A lamp far away that shines along `direction`, and what comes from everywhere; colours times intensity."""

    direction: tuple[float, float, float] = (0.15, 0.45, -1.0)
    lamp: Colour = (0.50, 0.50, 0.48)
    ambient: Colour = (0.42, 0.42, 0.43)


@dataclass(frozen=True)
class Shift:
    """A camera's displacement: [m] in the frame it is mounted on, and a rotation vector [rad] about its own axes."""

    translation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)


WORKSPACE = Region((0.40, -0.19), (0.62, 0.19))  # where demonstrations have their objects
AROUND = Region((0.35, -0.235), (0.66, 0.235), WORKSPACE)  # where they have none
DISTRACTED = Region((0.32, -0.32), (0.72, 0.32))  # where distractors stand, clear of the objects


@dataclass(frozen=True)
class Variation:
    """A scene's differences; none by default. `cameras` has those that were moved."""

    distractors: tuple[Distractor, ...] = ()
    table: Table | None = None
    light: Light = field(default_factory=Light)
    cameras: Mapping[str, Shift] = field(default_factory=lambda: MappingProxyType({}))
    region: Region = WORKSPACE


_SHAPES = (
    ("cylinder", (0.024, 0.020), 0.020),
    ("sphere", (0.022,), 0.022),
    ("box", (0.036, 0.014, 0.012), 0.012),
    ("ellipsoid", (0.030, 0.020, 0.017), 0.017),
    ("box", (0.014, 0.014, 0.026), 0.026),
)
_PAINTS: tuple[Colour, ...] = ((0.95, 0.50, 0.08), (0.48, 0.20, 0.62), (0.10, 0.66, 0.68), (0.92, 0.45, 0.62))
_CLOTHS: tuple[Colour, ...] = (
    (0.16, 0.40, 0.42),
    (0.42, 0.28, 0.52),
    (0.15, 0.15, 0.17),
    (0.90, 0.90, 0.88),
    (0.62, 0.36, 0.20),
    (0.40, 0.47, 0.28),
)


def _direction(rng: np.random.Generator) -> np.ndarray:
    """Any direction in space, as likely as any other; shape (3,)."""
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)


def _distractors(rng: np.random.Generator) -> dict[str, Any]:
    shapes, paints = rng.permutation(len(_SHAPES))[:3], rng.permutation(len(_PAINTS))
    drawn = ((*_SHAPES[i], _PAINTS[j]) for i, j in zip(shapes, paints, strict=False))
    return {"distractors": tuple(Distractor(kind, size, height, paint) for kind, size, height, paint in drawn)}


def _table(rng: np.random.Generator) -> dict[str, Any]:
    first, second = rng.permutation(len(_CLOTHS))[:2]
    return {"table": Table(str(rng.choice(["mat", "checker", "speckled"])), (_CLOTHS[first], _CLOTHS[second]))}


def _light(rng: np.random.Generator) -> dict[str, Any]:
    """Half as bright or half as bright again, from another side, and not quite white."""
    low, high = ((0.5, 0.7), (1.3, 1.6))[rng.integers(2)]
    strength = rng.uniform(low, high) * rng.uniform(0.85, 1.15, 3)
    angle = rng.uniform(-np.pi, np.pi)
    direction = (0.8 * np.cos(angle), 0.8 * np.sin(angle), -1.0)
    usual = Light()
    return {"light": Light(direction, tuple(strength * usual.lamp), tuple(strength * usual.ambient))}


def _camera(rng: np.random.Generator) -> dict[str, Any]:
    """The camera beside the table moves by 2 to 5 cm and 2 to 4 degrees, the one on the wrist by about a third as far,
    and turns by about half as much."""
    reaches = {"base": ((0.02, 0.05), (2.0, 4.0)), "wrist": ((0.006, 0.015), (1.0, 2.5))}
    shifts = {
        name: Shift(
            tuple(rng.uniform(*metres) * _direction(rng)), tuple(np.deg2rad(rng.uniform(*degrees)) * _direction(rng))
        )
        for name, (metres, degrees) in reaches.items()
    }
    return {"cameras": MappingProxyType(shifts)}


def _positions(rng: np.random.Generator) -> dict[str, Any]:
    return {"region": AROUND}


_DRAWS = {
    "distractors": _distractors,
    "table": _table,
    "light": _light,
    "camera": _camera,
    "positions": _positions,
}
KINDS = (*_DRAWS, "all")


def draw(kind: str, seed: int) -> Variation:
    """The variation of this kind for the scene with this seed. Raises ValueError that lists the known kinds."""
    if kind not in KINDS:
        raise ValueError(f"no variation is called {kind!r}; known: {', '.join(KINDS)}")
    differences: dict[str, Any] = {}
    for index, (name, one) in enumerate(_DRAWS.items()):
        if kind in (name, "all"):
            differences.update(one(np.random.default_rng([index, seed])))
    return Variation(**differences)

"""What a checkpoint of another project says, in one form whatever the project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from grids_ros.policy.preprocess import ImageFit
from grids_ros.policy.prompt import PromptFormat
from grids_ros.policy.weights import LazyTensor

MODES = {  # a mode of normalisation: the two statistics that it needs
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
    "IDENTITY": (),
}


class ConversionError(ValueError):
    """A checkpoint that cannot be brought over: says what was found, and what would be valid."""


@dataclass(frozen=True, eq=False)
class Scale:
    """normalised = (value - mean) / std, number by number, shape (n,) each; every published normalisation is that.

    extremes: the least and the largest values in the data (n,) each, where they are known.
    """

    mean: np.ndarray
    std: np.ndarray
    extremes: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True, eq=False)
class ForeignCheckpoint:
    """A checkpoint of another project.

    family: "pi0", "pi05" or "smolvla". kind: whose. tensors: by the names there. cameras: the image features in the
    order of the model, each with the name that the robot's camera had. state_names, action_names: of the numbers, where
    the checkpoint has them. chunk: its steps, None where it does not say.
    states, actions: how they are normalised, or None for a base that was never fine-tuned. periods: the shortest and
    the longest of the time embedding. tokenizer: where it comes from, as the checkpoint says. prompt: how its text is
    made. frame: the tokens that begin and end it, or None. image: how camera images are fitted. image_size: the side of
    the square that they become, None where the checkpoint does not say.
    self_attention_every: of SmolVLA's expert, see its configuration. modes: how states and actions are normalised, of
    MODES. least: what the project adds to a deviation and to a difference of quantiles. statistics: the file or the
    data set that they are of, where the user named one. relative: whether actions of joints are offsets from the
    measured ones, the gripper's not. epsilon: of a sampler's layer norm. notes: what was assumed, for the user.
    """

    family: str
    kind: str
    tensors: Mapping[str, LazyTensor]
    cameras: Mapping[str, str]
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    states: Scale | None
    actions: Scale | None
    chunk: int | None
    prompt_length: int
    denoising_steps: int
    periods: tuple[float, float]
    tokenizer: str
    prompt: PromptFormat
    frame: tuple[str | None, str | None]
    image: ImageFit
    image_size: int | None = None
    self_attention_every: int = 0
    modes: tuple[str, str] = ("MEAN_STD", "MEAN_STD")
    least: tuple[float, float] = (1e-8, 0.0)
    statistics: str = ""
    relative: bool = False
    epsilon: float = 1e-5
    notes: tuple[str, ...] = ()

    @property
    def normalisation(self) -> str:
        """In words."""
        source = f"; statistics of {self.statistics}" if self.statistics else ""
        return f"states {self.modes[0]}, actions {self.modes[1]}{source}"


def standard(mean: np.ndarray, std: np.ndarray, least: float) -> Scale:
    """Of mean and standard deviation; `least` is what the project adds against a division by zero."""
    return Scale(np.asarray(mean, np.float64), np.asarray(std, np.float64) + least)


def between(low: np.ndarray, high: np.ndarray, least: float) -> Scale:
    """Of two bounds that become -1 and 1: the extremes or two quantiles. Equal ones become -1."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    return Scale((low + high + least) / 2.0, (high - low + least) / 2.0)


def quantiles(feature: str, low: np.ndarray, high: np.ndarray, least: float) -> Scale:
    """Of two quantiles that become -1 and 1; `least` is what the project adds to their difference.

    Zeros at the end only pad. Raises ConversionError for a number whose quantiles are equal: they do not tell what
    it means.
    """
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    used = np.flatnonzero((low != 0.0) | (high != 0.0))
    count = int(used[-1]) + 1 if len(used) else 0
    if empty := np.flatnonzero(~(high[:count] > low[:count])).tolist():
        raise ConversionError(
            f"the quantiles of {feature} span nothing at {', '.join(map(str, empty))} (of {count} numbers, counted "
            "from 0): that number never changed in the data; expected other --statistics"
        )
    return Scale((low + high + least) / 2.0, (high - low + least) / 2.0)


def scale_of(mode: str, kept: Mapping[str, Any], least: tuple[float, float], feature: str, source: str) -> Scale:
    """How a feature is normalised. kept: its statistics by name, (n,) each. least: as of ForeignCheckpoint.

    Raises ConversionError for an unknown mode, and for statistics in `source` that lack what the mode needs.
    """
    if mode not in MODES:
        raise ConversionError(f"normalisation {mode!r} is not known, expected one of {', '.join(MODES)}")
    if missing := [name for name in MODES[mode] if kept.get(name) is None]:
        raise ConversionError(
            f"{source} lacks {missing[0]} of {feature}: the checkpoint normalises by {mode}, which needs "
            f"{' and '.join(MODES[mode])}"
        )
    try:
        values = {name: np.asarray(one, np.float64).ravel() for name, one in kept.items() if one is not None}
    except (TypeError, ValueError) as error:
        raise ConversionError(f"{source}: {feature} holds what is no list of numbers: {error}") from error
    if not values:
        raise ConversionError(f"{source} has no statistics of {feature}")
    if len(sizes := {len(values[name]) for name in MODES[mode]}) > 1:
        raise ConversionError(
            f"{source}: the statistics of {feature} are of {sorted(sizes)} numbers, expected the same"
        )
    extremes = (values["min"], values["max"]) if {"min", "max"} <= set(values) else None
    return replace(_scale(mode, values, least, feature), extremes=extremes)


def _scale(mode: str, values: Mapping[str, np.ndarray], least: tuple[float, float], feature: str) -> Scale:
    if mode == "IDENTITY":
        size = len(next(iter(values.values())))
        return Scale(np.zeros(size), np.ones(size))
    low, high = (values[name] for name in MODES[mode])
    if mode == "MEAN_STD":
        return standard(low, high, least[0])
    if mode == "MIN_MAX":
        return between(low, high, least[0] * (low == high))
    return quantiles(feature, low, high, least[1])

"""What a checkpoint of another project says, in one form whatever the project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from grids_ros.policy.weights import Lazy


class ConversionError(ValueError):
    """A checkpoint that cannot be brought over: says what was found, and what would be valid."""


@dataclass(frozen=True, eq=False)
class Scale:
    """normalised = (value - mean) / std, number by number, shape (n,) each; every published normalisation is that."""

    mean: np.ndarray
    std: np.ndarray


@dataclass(frozen=True, eq=False)
class Found:
    """A checkpoint of another project.

    kind: whose. tensors: by openpi's PyTorch names. cameras: the image features in the order of the model, each with
    the name that the robot's camera had. action_names: of the numbers, where the checkpoint says them. chunk: steps of
    it, None where nothing says.
    states, actions: how they are normalised, or None for a base that was never fine-tuned. periods: the shortest and
    the longest of the time embedding. tokenizer: where it comes from, as the checkpoint says.
    """

    kind: str
    tensors: Mapping[str, Lazy]
    cameras: Mapping[str, str]
    action_names: tuple[str, ...]
    states: Scale | None
    actions: Scale | None
    chunk: int | None
    prompt_length: int
    denoising_steps: int
    periods: tuple[float, float]
    tokenizer: str


def standard(mean: np.ndarray, std: np.ndarray, least: float) -> Scale:
    """Of mean and standard deviation; `least` is what the project adds against a division by zero."""
    return Scale(np.asarray(mean, np.float64), np.asarray(std, np.float64) + least)


def between(low: np.ndarray, high: np.ndarray, least: float) -> Scale:
    """Of two bounds that become -1 and 1: the extremes or two quantiles. Equal ones become -1."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    return Scale((low + high + least) / 2.0, (high - low + least) / 2.0)

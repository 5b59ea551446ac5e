"""What this package must know of a vision-language-action model, beside how to run it: one file answers for a family.

docs/backbones.md says what π0.5 and SmolVLA would answer, and what else each of them needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from grids_ros.policy import model as pi0


class Backbone(Protocol):
    """One family of models. `config` is a model's configuration, `model` what `build` made.

    UNUSED: its submodules whose weight reaches no action; a file may leave them out.
    """

    UNUSED: tuple[str, ...]

    def configure(self, values: dict) -> PretrainedConfig:
        """Of the content of config.json. Raises ValueError, TypeError or KeyError when it describes no such model."""

    def build(self, config: PretrainedConfig, stem: Sequence[int] | None) -> PreTrainedModel:
        """With random weights. stem: channels of a convolutional stem in place of the patches, or None."""

    def seat(self, model: PreTrainedModel) -> nn.Module:
        """What holds `multi_modal_projector`, whose (B, cells, C) are the tokens of an image: GridS goes there."""

    def grid(self, config: PretrainedConfig) -> tuple[int, int]:
        """Rows and columns of those cells."""

    def width(self, config: PretrainedConfig) -> int:
        """C."""

    def image_token(self, config: PretrainedConfig) -> int:
        """The id that holds the place of an image's token in the prompt."""


BACKBONES: dict[str, Backbone] = {"pi0": pi0}


def backbone_of(model_type: str | None) -> Backbone:
    """By the `model_type` of a configuration. Raises ValueError for one that is not here, naming those that are."""
    if model_type not in BACKBONES:
        raise ValueError(f"model_type is {model_type!r}, expected {' or '.join(map(repr, BACKBONES))}")
    return BACKBONES[model_type]

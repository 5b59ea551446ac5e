"""What this package must know of a vision-language-action model: one file of `backbones` answers for each family.

docs/explanation/backbones.md says what another family would take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from grids_ros.policy.backbones import pi0, pi05, smolvla
from grids_ros.policy.stages import Stages, TowerProducts


class Backbone(Protocol):
    """One family of models. `config` is a model's configuration, `model` what `build` made.

    UNUSED: its submodules whose weight reaches no action; a file may leave them out.
    PROJECTOR: the submodule whose output (B, cells, C) are the tokens of an image: GridS goes there.
    TOWERS: submodules that hold `layers`: vision encoder, language model, action expert.
    """

    UNUSED: tuple[str, ...]
    PROJECTOR: str
    TOWERS: tuple[str, str, str]

    def configure(self, values: dict) -> PretrainedConfig:
        """Of the content of config.json: only keys of a schema, with types and bounds. Raises ValueError that names the
        key which is not valid."""

    def describe(self, config: PretrainedConfig) -> dict:
        """The content of config.json; the inverse of `configure`."""

    def build(self, config: PretrainedConfig, stem: Sequence[int] | None) -> PreTrainedModel:
        """With random weights. stem: channels of a convolutional stem in place of the patches, or None."""

    def grid(self, config: PretrainedConfig) -> tuple[int, int]:
        """Rows and columns of those cells."""

    def width(self, config: PretrainedConfig) -> int:
        """C."""

    def image_token(self, config: PretrainedConfig) -> int:
        """The id that holds the place of an image's token in the prompt."""

    def image_size(self, config: PretrainedConfig) -> int:
        """Pixels of the square that an image is fitted into."""

    def image_scale(self, config: PretrainedConfig) -> float:
        """What an image's tokens are multiplied by after the projector, and after GridS."""

    def embed(self, model: PreTrainedModel, ids: Tensor, pixels: Tensor) -> Tensor:
        """What the language model reads, (B, L, width): image tokens of pixels (B, cameras, 3, S, S), then words."""

    def prefill(self, model: PreTrainedModel, embedded: Tensor, mask: Tensor, state: Tensor) -> BaseModelOutputWithPast:
        """The language model's output (B, L, width) for the mask (B, L), with the keys and values of the prefix.

        state: (B, state_dim), where the prefix holds it. Differentiable, as all of training.
        """

    def velocity(
        self, model: PreTrainedModel, prefix: BaseModelOutputWithPast, mask: Tensor, state: Tensor, noisy, times
    ) -> Tensor:
        """The flow's velocity at noisy actions (B * draws, n, action_dim) and times (B * draws,), in their shape.

        prefix, mask, state: of B samples. May change the prefix.
        """

    def stages(self, model: PreTrainedModel, steps: int, products: TowerProducts) -> Stages:
        """Inference with so many denoising steps."""


_MODULES: dict[str, Any] = {"pi0": pi0, "pi05": pi05, "smolvla": smolvla}  # each answers as a Backbone does
BACKBONES: dict[str, Backbone] = _MODULES


def backbone_of(model_type: str | None) -> Backbone:
    """By the `model_type` of a configuration. Raises ValueError for one that is not here, naming those that are."""
    if not isinstance(model_type, str) or model_type not in BACKBONES:
        raise ValueError(f"model_type is {model_type!r}, expected {' or '.join(map(repr, BACKBONES))}")
    return BACKBONES[model_type]

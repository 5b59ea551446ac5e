"""GridS on a backbone: attach and detach are one call each.

The last step of the image features is the projector of the backbone: (B, cells, C). Wrapping that one module prunes
every camera; the prompt then needs K placeholders per camera instead of one per cell, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import PreTrainedModel

from grids_ros.policy.backbone import backbone_of
from grids_ros.sampler import SamplerConfig


class TokenSamplerConfig(Protocol):
    """What `attach` needs of a sampler's configuration; `SamplerConfig` is GridS's."""

    @property
    def tokens(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def label(self) -> str: ...
    def to_dict(self) -> dict: ...
    def build(self) -> nn.Module: ...


# Other samplers that grids.json may store: the key that only their configuration has, and how to read it. The study of
# pruning (research/) registers its baselines here; a robot has GridS alone.
OTHER_SAMPLERS: dict[str, Callable[[dict], TokenSamplerConfig]] = {}


def sampler_from_dict(values: dict) -> TokenSamplerConfig:
    """The sampler configuration stored in grids.json. Raises ValueError for one that is invalid or not registered."""
    for key, read in OTHER_SAMPLERS.items():
        if key in values:
            return read(values)
    if "pruner" in values:
        raise ValueError(
            f"the sampler is the baseline {values['pruner']!r} of the pruning study; "
            "expected GridS, or run the command through `python -m research`"
        )
    return SamplerConfig.from_dict(values)


class GridSProjector(nn.Module):
    """The model's own projector, then the sampler.

    `coordinates` holds those of the last call, shape (B, K, 2); `dense` the map that they were read from,
    shape (B, H, W, C).
    """

    def __init__(self, projector: nn.Module, sampler: nn.Module, grid: tuple[int, int]):
        super().__init__()
        self.projector = projector
        self.sampler: Any = sampler  # GridS, or what stands in its place
        self.grid = grid
        self.coordinates: Tensor | None = None
        self.dense: Tensor | None = None

    def forward(self, image_features: Tensor) -> Tensor:
        """(B, H * W, C of the encoder) to (B, K, C of the language model)."""
        self.dense = self.projector(image_features).unflatten(1, self.grid)
        tokens, self.coordinates = self.sampler(self.dense)
        return tokens


def grid_of(model: PreTrainedModel) -> tuple[int, int]:
    """Rows and columns of the vision encoder's feature map."""
    return backbone_of(model.config.model_type).grid(model.config)


def attach(model: PreTrainedModel, config: TokenSamplerConfig) -> GridSProjector:
    """Prune every camera of `model` to `config.tokens` tokens, in place; the points of GridS start on a grid.

    Raises ValueError when GridS is attached already, or `config.channels` is not the language model's width.
    """
    width = backbone_of(model.config.model_type).width(model.config)
    if config.channels != width:
        raise ValueError(f"the sampler has {config.channels} channels, the model's image features have {width}")
    return place(model, config.build())


def place(model: PreTrainedModel, sampler: Any) -> GridSProjector:
    """Prune every camera of `model` with a sampler as it is, in place. Raises ValueError when there is one already."""
    place_of = backbone_of(model.config.model_type).PROJECTOR
    projector = model.get_submodule(place_of)
    if isinstance(projector, GridSProjector):
        raise ValueError(f"GridS with {projector.sampler.config.tokens} tokens is attached already: detach it first")
    weight = next(projector.parameters())
    wrapped = GridSProjector(projector, sampler.to(weight.device, weight.dtype), grid_of(model))
    model.set_submodule(place_of, wrapped.train(model.training))
    return wrapped


def attached(model: PreTrainedModel) -> GridSProjector | None:
    """The wrapper that `attach` put in, or None for the dense model."""
    projector = model.get_submodule(backbone_of(model.config.model_type).PROJECTOR)
    return projector if isinstance(projector, GridSProjector) else None


def detach(model: PreTrainedModel) -> nn.Module:
    """Undo `attach`, in place, and give back the sampler. Raises ValueError when none is attached."""
    wrapped = attached(model)
    if wrapped is None:
        raise ValueError("GridS is not attached to this model")
    model.set_submodule(backbone_of(model.config.model_type).PROJECTOR, wrapped.projector)
    return wrapped.sampler


def tokens_per_camera(model: PreTrainedModel) -> int:
    """How many placeholders each camera needs in the prompt: K, or every cell of the dense map."""
    wrapped = attached(model)
    rows, columns = grid_of(model)
    return wrapped.sampler.active if wrapped else rows * columns

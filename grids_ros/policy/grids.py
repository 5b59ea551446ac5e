"""GridS on a backbone: attach and detach are one call each.

The last step of the image features is the multi-modal projector: (B, cells, C). Wrapping that one module prunes every
camera; the prompt then needs K placeholders per camera instead of one per cell, and nothing else changes.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PreTrainedModel

from grids_ros.policy.backbone import backbone_of
from grids_ros.policy.baselines import Baseline, BaselineConfig, build
from grids_ros.sampler import GridSampler, SamplerConfig

Sampler = GridSampler | Baseline


class GridSProjector(nn.Module):
    """The model's own projector, then the sampler.

    `coordinates` holds those of the last call, shape (B, K, 2); `dense` the map that they were read from,
    shape (B, H, W, C).
    """

    def __init__(self, projector: nn.Module, sampler: Sampler, grid: tuple[int, int]):
        super().__init__()
        self.projector = projector
        self.sampler = sampler
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


def attach(model: PreTrainedModel, config: SamplerConfig | BaselineConfig) -> GridSProjector:
    """Prune every camera of `model` to `config.tokens` tokens, in place; the points of GridS start on a grid.

    Raises ValueError when GridS is attached already, or `config.channels` is not the language model's width.
    """
    width = backbone_of(model.config.model_type).width(model.config)
    if config.channels != width:
        raise ValueError(f"the sampler has {config.channels} channels, the model's image features have {width}")
    if isinstance(config, BaselineConfig):
        return place(model, build(config))
    sampler = GridSampler(config)
    sampler.initialise_on_grid()
    return place(model, sampler)


def place(model: PreTrainedModel, sampler: Sampler) -> GridSProjector:
    """Prune every camera of `model` with a sampler as it is, in place. Raises ValueError when there is one already."""
    seat = _seat(model)
    projector = seat.multi_modal_projector
    if isinstance(projector, GridSProjector):
        raise ValueError(f"GridS with {projector.sampler.config.tokens} tokens is attached already: detach it first")
    weight = next(projector.parameters())
    wrapped = GridSProjector(projector, sampler.to(weight.device, weight.dtype), grid_of(model))
    seat.multi_modal_projector = wrapped.train(model.training)
    return wrapped


def _seat(model: PreTrainedModel) -> nn.Module:
    return backbone_of(model.config.model_type).seat(model)


def attached(model: PreTrainedModel) -> GridSProjector | None:
    """The wrapper that `attach` put in, or None for the dense model."""
    projector = _seat(model).multi_modal_projector
    return projector if isinstance(projector, GridSProjector) else None


def detach(model: PreTrainedModel) -> Sampler:
    """Undo `attach`, in place, and give back the sampler. Raises ValueError when none is attached."""
    wrapped = attached(model)
    if wrapped is None:
        raise ValueError("GridS is not attached to this model")
    _seat(model).multi_modal_projector = wrapped.projector
    return wrapped.sampler


def tokens_per_camera(model: PreTrainedModel) -> int:
    """How many placeholders each camera needs in the prompt: K, or every cell of the dense map."""
    wrapped = attached(model)
    rows, columns = grid_of(model)
    return wrapped.sampler.active if wrapped else rows * columns

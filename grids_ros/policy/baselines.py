"""What GridS is compared with: K tokens per camera, chosen without learning, behind the sampler's interface."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from grids_ros.sampler import SamplerConfig, grid_centres, grid_shape, sample_bilinear

Choice = Callable[[Tensor, int], tuple[Tensor, Tensor]]


def fixed_grid(features: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Read at the centres of a grid: GridS as it starts, without its coordinate MLP and its embedding."""
    coordinates = _centres(tokens, features.device).expand(len(features), -1, -1)
    return sample_bilinear(features, coordinates, align_corners=False), coordinates


def average(features: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """The mean of each cell of a grid. Raises ValueError when so many cells make no rectangle near a square."""
    rows, columns = grid_shape(tokens)
    if rows * columns != tokens:
        raise ValueError(f"tokens is {tokens}, average pooling takes rows times columns, such as {rows * columns}")
    pooled = nn.functional.adaptive_avg_pool2d(features.movedim(-1, 1), (rows, columns))
    return pooled.flatten(2).mT, _centres(tokens, features.device).expand(len(features), -1, -1)


def random_keep(features: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """A random choice of cells, the same for every image."""
    kept = _shuffled(features[0, ..., 0].numel(), features.device)[:tokens]
    return _keep(features, kept.expand(len(features), -1))


def norm_top_k(features: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """The cells whose features have the largest Euclidean norm, the largest first."""
    return _keep(features, features.flatten(1, 2).norm(dim=-1).topk(tokens, dim=-1).indices)


BASELINES: dict[str, Choice] = {choice.__name__: choice for choice in (fixed_grid, average, random_keep, norm_top_k)}


class Baseline(nn.Module):
    """One of BASELINES in a sampler's place; nothing in it is learnt."""

    def __init__(self, name: str, tokens: int, channels: int):
        """Raises ValueError for an unknown name."""
        super().__init__()
        if name not in BASELINES:
            raise ValueError(f"baseline is {name!r}, expected one of {', '.join(BASELINES)}")
        self.config = SamplerConfig(tokens, channels, align_corners=False, embed_coordinates=False)
        self.active, self._choose = tokens, BASELINES[name]

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """features (B, H, W, C) to tokens (B, K, C) and their coordinates (B, K, 2), fractions of the image."""
        return self._choose(features, self.active)


@cache  # on the device from the first call on, so that a CUDA graph can hold the rest
def _centres(tokens: int, device: torch.device) -> Tensor:
    return grid_centres(tokens).to(device)


@cache
def _shuffled(cells: int, device: torch.device) -> Tensor:
    return torch.randperm(cells, generator=torch.Generator().manual_seed(0)).to(device)


def _keep(features: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The cells `kept`, (B, K), of a map (B, H, W, C)."""
    height, width, channels = features.shape[1:]
    tokens = features.flatten(1, 2).gather(1, kept.unsqueeze(-1).expand(-1, -1, channels))
    return tokens, torch.stack([(kept % width + 0.5) / width, (kept // width + 0.5) / height], dim=-1)

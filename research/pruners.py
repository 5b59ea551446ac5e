"""What GridS is compared with: K tokens per camera, chosen in other ways, behind the sampler's interface.

All of them add GridS's embedding of the coordinates to their tokens, each of the coordinates that it has: where it
reads, the centre of what it averages, or where its map looks on average. Knowing where a token is from is then nothing
that sets GridS apart; most were published without, and are rather better off with it. The dense model has none: its
cells always stand in the same order, at positions that the vision tower has embedded already.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch._guards import detect_fake_mode

from grids_ros.policy.grids import OTHER_SAMPLERS
from grids_ros.sampler import coordinate_embedding, grid_centres, grid_shape, sample_bilinear

ATTENTION_HIDDEN = 64  # width of TokenLearner's MLP, as published


@dataclass(frozen=True)
class BaselineConfig:
    """One of `PRUNERS`, and how it stands in a model.

    pruner: its name. tokens: K, from 1 up. channels: C of the feature map. embed_coordinates: add the embedding of the
    coordinates to the tokens. seed: of the cells that random_keep draws; the others draw nothing.
    Raises ValueError for an unknown name or a value out of range, and for a number of averages that makes no rectangle.
    """

    pruner: str
    tokens: int
    channels: int
    embed_coordinates: bool = True
    seed: int = 0
    align_corners: ClassVar[bool] = False  # coordinates are fractions of the image

    def __post_init__(self):
        if self.pruner not in PRUNERS:
            raise ValueError(f"pruner is {self.pruner!r}, expected one of {', '.join(PRUNERS)}")
        for name in ("tokens", "channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        rows, columns = grid_shape(self.tokens)
        if self.pruner == "average" and rows * columns != self.tokens:
            known = f"rows times columns, such as {rows * columns}"
            raise ValueError(f"tokens is {self.tokens}, average pooling takes {known}")

    @property
    def label(self) -> str:
        """What reports call it."""
        return f"{self.pruner}-{self.tokens}"

    def to_dict(self) -> dict:
        return asdict(self)

    def build(self) -> Baseline:
        """The module of this configuration, with random weights."""
        return TokenLearner(self) if self.pruner == "token_learner" else Baseline(self)

    @classmethod
    def from_dict(cls, values: dict) -> BaselineConfig:
        """Raises ValueError when a key is unknown or missing, naming the valid ones."""
        valid = {f.name for f in fields(cls)}
        if set(values) != valid:
            raise ValueError(f"pruner configuration has keys {sorted(values)}, expected {sorted(valid)}")
        return cls(**values)


class Baseline(nn.Module):
    """One of `PRUNERS` in a sampler's place; but for the embedding of the coordinates, nothing in it is learnt."""

    def __init__(self, config: BaselineConfig):
        super().__init__()
        self.config, self.active = config, config.tokens
        self.coordinate_embedding = coordinate_embedding(config.channels) if config.embed_coordinates else None

    def use(self, tokens: int) -> None:
        """As many as there are, for that is what it was trained with. Raises ValueError for any other number."""
        if tokens != self.config.tokens:
            raise ValueError(f"tokens is {tokens}, {self.config.pruner} has {self.config.tokens} and no fewer")

    def choose(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """features (B, H, W, C) to tokens (B, K, C), which say nothing of where they are from, and coordinates."""
        return CHOICES[self.config.pruner](features, self.config)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """features (B, H, W, C) to tokens (B, K, C) and their coordinates (B, K, 2), fractions of the image.

        Raises ValueError when there are fewer cells than tokens to keep.
        """
        tokens, coordinates = self.choose(features)
        if self.coordinate_embedding is not None:
            tokens = tokens + self.coordinate_embedding(coordinates.to(tokens.dtype))
        return tokens, coordinates


class TokenLearner(Baseline):
    """K spatial attention maps, each a token: the average of the map's features under its weights.

    M. Ryoo et al., TokenLearner, arXiv 2106.11297, in the form of the authors' version 1.1: per cell a layer norm and
    an MLP C -> 64 -> K, then a softmax over the cells. Its coordinates are the expected position under each map: where
    it looks on average, which for a map of two peaks is between them.
    """

    def __init__(self, config: BaselineConfig):
        super().__init__(config)
        self.attention = nn.Sequential(
            nn.LayerNorm(config.channels),
            nn.Linear(config.channels, ATTENTION_HIDDEN),
            nn.GELU(),
            nn.Linear(ATTENTION_HIDDEN, config.tokens),
        )

    def maps(self, features: Tensor) -> Tensor:
        """features (B, H, W, C) to weights (B, K, H * W) in float32; those of each map sum to one."""
        return self.attention(features).flatten(1, 2).mT.float().softmax(-1)

    def choose(self, features: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.maps(features)
        tokens = maps.to(features.dtype) @ features.flatten(1, 2)
        return tokens, maps @ _cells(*features.shape[1:3], features.device)


def fixed_grid(features: Tensor, config: BaselineConfig) -> tuple[Tensor, Tensor]:
    """Read at the centres of a grid: about where GridS starts, without the MLP that moves its coordinates."""
    coordinates = _centres(config.tokens, features.device).expand(len(features), -1, -1)
    return sample_bilinear(features, coordinates, align_corners=False), coordinates


def average(features: Tensor, config: BaselineConfig) -> tuple[Tensor, Tensor]:
    """The mean of each cell of a grid."""
    pooled = nn.functional.adaptive_avg_pool2d(features.movedim(-1, 1), grid_shape(config.tokens))
    return pooled.flatten(2).mT, _centres(config.tokens, features.device).expand(len(features), -1, -1)


def random_keep(features: Tensor, config: BaselineConfig) -> tuple[Tensor, Tensor]:
    """A random choice of cells, the same for every image."""
    kept = _shuffled(_enough(features, config), config.seed, features.device)[: config.tokens]
    return _keep(features, kept.expand(len(features), -1))


def norm_top_k(features: Tensor, config: BaselineConfig) -> tuple[Tensor, Tensor]:
    """The cells whose features have the largest Euclidean norm, the largest first."""
    _enough(features, config)
    return _keep(features, features.flatten(1, 2).norm(dim=-1).topk(config.tokens, dim=-1).indices)


Choice = Callable[[Tensor, BaselineConfig], tuple[Tensor, Tensor]]
CHOICES: dict[str, Choice] = {choice.__name__: choice for choice in (fixed_grid, average, random_keep, norm_top_k)}
PRUNERS = (*CHOICES, "token_learner")

OTHER_SAMPLERS["pruner"] = BaselineConfig.from_dict  # so that checkpoints with one of these samplers load


def _kept(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Made once, so that a CUDA graph can hold the rest; and no inference tensor, for training may come next. Anew
    among fake tensors, which must not stay: `train` measures its memory with them before it computes."""
    made = torch.inference_mode(False)(make)
    once = cache(made)
    return lambda *key: (made if detect_fake_mode() else once)(*key)


@_kept
def _centres(tokens: int, device: torch.device) -> Tensor:
    return grid_centres(tokens).to(device)


@_kept
def _cells(height: int, width: int, device: torch.device) -> Tensor:
    """The centres of all cells, as fractions of the image, row by row: (H * W, 2)."""
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1).to(device)


@_kept
def _shuffled(cells: int, seed: int, device: torch.device) -> Tensor:
    return torch.randperm(cells, generator=torch.Generator().manual_seed(seed)).to(device)


def _enough(features: Tensor, config: BaselineConfig) -> int:
    """How many cells there are."""
    cells = features.shape[1] * features.shape[2]
    if cells < config.tokens:
        raise ValueError(f"tokens is {config.tokens}, {config.pruner} keeps some of {cells} cells")
    return cells


def _keep(features: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The cells `kept`, (B, K), of a map (B, H, W, C)."""
    height, width, channels = features.shape[1:]
    tokens = features.flatten(1, 2).gather(1, kept.unsqueeze(-1).expand(-1, -1, channels))
    return tokens, torch.stack([(kept % width + 0.5) / width, (kept // width + 0.5) / height], dim=-1)

"""The Differentiable Grid Sampler (GridS, arXiv 2605.11817): a dense feature map in, K tokens out.

    pooled (C) -> Linear 512 -> ReLU -> Linear 2K -> sigmoid = K coordinates in the unit square
    token k    =  bilinear reading of the map at coordinate k  +  MLP(coordinate k): 2 -> 256 -> C

The published implementations disagree about what a coordinate means, and weights do not carry over from one
meaning to the other, so a checkpoint names its variant in `SamplerConfig`:
- `align_corners=True` (JAX, core PyTorch): pixel = coordinate * (size - 1);
- `align_corners=False` (LeRobot fork): pixel = coordinate * size - 1/2; beyond the outermost cell centres the map
  is replicated, or fades to zero (`border`), as the fork's does;
- a later variant adds `layer_norm` before the coordinate MLP, against saturation of the sigmoid, `noise` on
  the pooled feature in training, and a `margin` that keeps coordinates off the border.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

BORDERS = ("replicate", "zeros")
COORDINATE_HIDDEN = 512  # width of the coordinate MLP in the paper
EMBEDDING_HIDDEN = 256  # width of the coordinate embedding in the paper


@dataclass(frozen=True)
class SamplerConfig:
    """One variant of the sampler.

    tokens: K, from 1 up. channels: C of the feature map. align_corners: what a coordinate means (see module).
    layer_norm: normalise the pooled feature. layer_norm_epsilon: what is added to its variance; PyTorch's default is
    1e-5, flax's 1e-6, and where the variance is small the coordinates differ. margin: coordinates lie in
    [margin, 1 - margin], in [0, 0.5). noise: standard deviation of the Gaussian added to the pooled feature in
    training.
    embed_coordinates: add the embedding of the coordinates to the tokens. border: what lies beyond the outermost cell
    centres, one of `BORDERS`; matters without align_corners only, for with it no coordinate lies there.
    Raises ValueError for a value out of range.
    """

    tokens: int
    channels: int
    align_corners: bool = True
    layer_norm: bool = False
    margin: float = 0.0
    noise: float = 0.0
    embed_coordinates: bool = True
    border: str = "replicate"
    layer_norm_epsilon: float = 1e-5

    def __post_init__(self):
        if self.tokens < 1:
            raise ValueError(f"tokens is {self.tokens}, expected at least 1")
        if self.channels < 1:
            raise ValueError(f"channels is {self.channels}, expected at least 1")
        if not 0.0 <= self.margin < 0.5:
            raise ValueError(f"margin is {self.margin}, expected a value in [0, 0.5)")
        if not self.noise >= 0.0:
            raise ValueError(f"noise is {self.noise}, expected at least 0")
        if not 0.0 < self.layer_norm_epsilon < 1.0:
            raise ValueError(f"layer_norm_epsilon is {self.layer_norm_epsilon}, expected a value in (0, 1)")
        if self.border not in BORDERS:
            raise ValueError(f"border is {self.border!r}, expected {' or '.join(map(repr, BORDERS))}")

    @property
    def label(self) -> str:
        """What reports call it."""
        return f"GridS-{self.tokens}"

    def to_dict(self) -> dict:
        return asdict(self)

    def build(self) -> GridSampler:
        """The sampler with random weights, its points on a grid."""
        sampler = GridSampler(self)
        sampler.initialise_on_grid()
        return sampler

    @classmethod
    def from_dict(cls, values: dict) -> SamplerConfig:
        """Raises ValueError when a key is unknown or missing, naming the valid ones."""
        values = {"border": "replicate", "layer_norm_epsilon": 1e-5, **values}  # before there was a choice
        valid = {f.name for f in fields(cls)}
        if set(values) != valid:
            raise ValueError(f"sampler configuration has keys {sorted(values)}, expected {sorted(valid)}")
        return cls(**values)


def sample_bilinear(features: Tensor, coordinates: Tensor, align_corners: bool) -> Tensor:
    """Read a feature map at continuous coordinates.

    features: (B, H, W, C). coordinates: (B, K, 2), x right and y down, in [0, 1]. Returns (B, K, C), in the
    dtype of the features. The map is constant beyond its outermost cell centres. Differentiable in both.

    The lower corner is kept one cell off the far border, so that the four weights sum to one everywhere, a
    coordinate of exactly 1 included (the reference's formula returns zeros there).
    """
    batch, height, width, channels = features.shape

    def corners(coordinate: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        pixel = (coordinate * (size - 1) if align_corners else coordinate * size - 0.5).clamp(0, size - 1)
        lower = pixel.detach().floor().clamp(max=max(size - 2, 0))
        weight = (pixel - lower).to(features.dtype).unsqueeze(-1)
        return lower.long(), (lower.long() + 1).clamp(max=size - 1), weight

    (x0, x1, wx), (y0, y1, wy) = corners(coordinates[..., 0], width), corners(coordinates[..., 1], height)
    flat = features.reshape(batch, height * width, channels)

    def read(x: Tensor, y: Tensor) -> Tensor:
        return flat.gather(1, (y * width + x).unsqueeze(-1).expand(-1, -1, channels))

    top = torch.lerp(read(x0, y0), read(x1, y0), wx)
    bottom = torch.lerp(read(x0, y1), read(x1, y1), wx)
    return torch.lerp(top, bottom, wy)


def fade(coordinates: Tensor, height: int, width: int) -> Tensor:
    """How much of the map is left at each coordinate, shape (..., 1), where it is zero beyond its border.

    Bilinear reading then loses in proportion to the distance from the outermost cell centres: half of it at the border.
    coordinates: (..., 2), without align_corners.
    """
    left = []
    for coordinate, size in zip(coordinates.unbind(-1), (width, height), strict=True):
        pixel = coordinate * size - 0.5
        left.append(1.0 - torch.maximum(-pixel, pixel - (size - 1)).clamp(min=0))
    return (left[0] * left[1]).unsqueeze(-1)


def image_fractions(coordinates: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    """Where in the encoder's input image each coordinate was read, in [0, 1], x right and y down.

    A cell of the map stands for its patch of the image, so the centre of cell i lies at (i + 1/2) / size: with
    `align_corners` the coordinates 0 and 1 are the centres of the outermost patches, not the image's border.
    coordinates: (..., 2); height, width: cells of the map.
    """
    if not align_corners:
        return coordinates
    size = coordinates.new_tensor([width, height])
    return (coordinates * (size - 1) + 0.5) / size


def grid_shape(tokens: int) -> tuple[int, int]:
    """Rows and columns of the smallest near-square grid that holds so many points."""
    columns = math.isqrt(tokens - 1) + 1
    return -(-tokens // columns), columns


def grid_centres(tokens: int) -> Tensor:
    """The centres of that grid's first cells in the unit square, row by row, shape (tokens, 2)."""
    rows, columns = grid_shape(tokens)
    index = torch.arange(tokens)
    return torch.stack([(index % columns + 0.5) / columns, (index // columns + 0.5) / rows], dim=-1)


def coordinate_embedding(channels: int) -> nn.Sequential:
    """What is added to a token so that it says where it was read: (..., 2) to (..., channels).

    Zero at first: a model that has learnt without it would take anything else for what it sees.
    """
    last = nn.Linear(EMBEDDING_HIDDEN, channels)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(2, EMBEDDING_HIDDEN), nn.ReLU(), last)


class GridSampler(nn.Module):
    """K tokens from a dense map, read where the map itself says."""

    def __init__(self, config: SamplerConfig):
        super().__init__()
        self.config = config
        self.active = config.tokens
        self._held: Tensor | None = None
        self.input_norm: nn.Module = nn.Identity()
        if config.layer_norm:
            self.input_norm = nn.LayerNorm(config.channels, eps=config.layer_norm_epsilon)
        self.coordinate_mlp = nn.Sequential(
            nn.Linear(config.channels, COORDINATE_HIDDEN),
            nn.ReLU(),
            nn.Linear(COORDINATE_HIDDEN, 2 * config.tokens),
        )
        self.coordinate_embedding = None
        if config.embed_coordinates:
            self.coordinate_embedding = coordinate_embedding(config.channels)

    def use(self, tokens: int) -> None:
        """Read the first `tokens` coordinates only, from now on. Raises ValueError outside of 1 to K."""
        if not 1 <= tokens <= self.config.tokens:
            raise ValueError(f"tokens is {tokens}, expected 1 to {self.config.tokens}")
        self.active = tokens

    def hold(self, points: Tensor | None) -> None:
        """From now on read each camera at its `points`, (cameras, K, 2), whatever is in the image; None: look again.

        For a measurement: a policy does worse so if it looks, and as well if its sampler has learnt a fixed grid. The
        images of a batch must come camera by camera, as the policy's do. Raises ValueError for another K.
        """
        if points is not None and points.shape[1:] != (self.config.tokens, 2):
            raise ValueError(f"points have shape {tuple(points.shape)}, expected (cameras, {self.config.tokens}, 2)")
        self._held = points

    @property
    def held(self) -> Tensor | None:
        """What `hold` was given."""
        return self._held

    def coordinates(self, features: Tensor) -> Tensor:
        """Where to read: features (B, H, W, C) to coordinates (B, K, 2), each in [margin, 1 - margin]."""
        if self._held is not None:
            return self._held[:, : self.active].repeat(len(features) // len(self._held), 1, 1)
        pooled = self.input_norm(features.mean(dim=(1, 2)))
        if self.training and self.config.noise > 0.0:
            pooled = pooled + self.config.noise * torch.randn_like(pooled)
        # The sigmoid and what follows run in float32: bfloat16 near 1 resolves only 1/256 of the image.
        logits = self.coordinate_mlp(pooled).float()
        unit = torch.sigmoid(logits).view(-1, self.config.tokens, 2)[:, : self.active]
        margin = self.config.margin
        return (margin + (1.0 - 2.0 * margin) * unit).clamp(margin, 1.0 - margin)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """features (B, H, W, C) to tokens (B, K, C) and their coordinates (B, K, 2) in float32.

        Raises ValueError when the map is not four-dimensional or has another number of channels.
        """
        if features.ndim != 4 or features.shape[-1] != self.config.channels:
            raise ValueError(f"features have shape {tuple(features.shape)}, expected (B, H, W, {self.config.channels})")
        coordinates = self.coordinates(features)
        tokens = sample_bilinear(features, coordinates, self.config.align_corners)
        if self.config.border == "zeros" and not self.config.align_corners:
            tokens = tokens * fade(coordinates, *features.shape[1:3]).to(tokens.dtype)
        if self.coordinate_embedding is not None:
            tokens = tokens + self.coordinate_embedding(coordinates.to(tokens.dtype))
        return tokens, coordinates

    @torch.no_grad()
    def initialise_on_grid(self) -> None:
        """Spread the initial coordinates over the image: without this they all start near its centre.

        The K points start on the cells of the smallest near-square grid that holds them, through the bias of the
        last layer; its weights shrink, so that the pooled feature moves them only a little at first.
        """
        tokens, margin = self.config.tokens, self.config.margin
        unit = ((grid_centres(tokens) - margin) / (1.0 - 2.0 * margin)).clamp(1e-3, 1.0 - 1e-3)
        last: Any = self.coordinate_mlp[-1]
        last.bias.copy_(torch.logit(unit).flatten())
        last.weight.mul_(0.1)

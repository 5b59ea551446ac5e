"""What training minimises: the flow, and two aids that never reach the robot.

`locations`: small heads must tell where the objects are from the pooled map, from the sampled tokens and, for the
named ones, from what the language model makes of the words. They give a small network trained from scratch a reason
to see and to read.
`attraction`: in simulation, where the objects' places in the images are known, the nearest sampled coordinate is
drawn to each of them, where something learnt can move it. Left alone, a small model's vision layers carry what matters
to a fixed grid of points.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grids_ros.policy.backbone import backbone_of
from grids_ros.policy.grids import attached, tokens_per_camera
from grids_ros.sampler import image_fractions

DRAWS = 4  # noise draws for each prefix, which is by far the dearer half
SOFTNESS = 0.003  # of the nearest point's choice, in squared fractions of the image


def known(objects):
    """(B, objects, 3) to (B, objects), bool: whose positions are known. Of arrays and of tensors, as all three are."""
    return (objects == objects).all(-1)  # NaN differs from itself


def in_view(keypoints):
    """(B, cameras, objects, 2) to (B, cameras, objects), bool: which places are known and in the image."""
    return ((keypoints > 0.0) & (keypoints < 1.0)).all(-1)


def named_and_known(objects, named):
    """(B, names), bool: which names are of an object whose position is known."""
    return (named >= 0) & known(objects)[np.arange(len(named))[:, None], named]


@dataclass(frozen=True)
class Counts:
    """What the aids are means over, per sample of the whole batch: its parts then add up to the whole's gradients."""

    objects: float
    keypoints: float
    names: float

    @classmethod
    def of(cls, objects: np.ndarray, keypoints: np.ndarray, named: np.ndarray) -> Counts:
        """Of a whole batch; shapes and NaN as in Batch."""
        counted = known(objects).sum(), in_view(keypoints).sum(), named_and_known(objects, named).sum()
        return cls(*(float(count) / len(objects) for count in counted))


@dataclass(frozen=True, eq=False)
class Batch:
    """Tensors of one step; B samples. named (B, names): which objects each instruction names, in order, -1 for none.

    pixels (B, cameras, 3, S, S); input_ids, attention_mask (B, L); state (B, state_dim); actions (B, n, action_dim),
    all normalised; noise (B, DRAWS, n, action_dim) and times (B, DRAWS) of the flow; objects (B, objects, 3),
    normalised, NaN where unknown; places (B, cameras, objects, 2), fractions of the image, NaN where unknown.
    counts: what the terms are means over, see Counts.
    """

    pixels: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    state: Tensor
    actions: Tensor
    noise: Tensor
    times: Tensor
    objects: Tensor
    keypoints: Tensor
    named: Tensor
    counts: Counts

    def flow(self) -> tuple[Tensor, Tensor]:
        """Noisy actions (B * DRAWS, n, action_dim) and their times (B * DRAWS,)."""
        times, noise = self.times.flatten(), self.noise.flatten(0, 1)
        share = times[:, None, None]
        return share * noise + (1.0 - share) * self.actions.repeat_interleave(DRAWS, 0), times

    def to(self, device: torch.device) -> Batch:
        moved: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        on_device: dict[str, Any] = {
            name: value.to(device) if isinstance(value, Tensor) else value for name, value in moved.items()
        }
        return replace(self, **on_device)


class LocationHeads(nn.Module):
    """Object positions from three places of the model; thrown away after training."""

    def __init__(self, model: PreTrainedModel, cameras: int, objects: int, names: int):
        super().__init__()
        width = backbone_of(model.config.model_type).width(model.config)
        self.objects, self.per_camera = objects, tokens_per_camera(model)
        self.pooled = nn.Linear(cameras * width, 3 * objects)
        self.tokens = nn.Linear(cameras * tokens_per_camera(model) * width, 3 * objects)
        self.named = nn.Linear(width, 3 * names)

    def forward(self, pooled: Tensor, tokens: Tensor, language: Tensor, batch: Batch) -> Tensor:
        """Mean squared error over what is known; zero where nothing is."""
        truth, size = batch.objects.nan_to_num(), len(batch.objects)
        guesses = (self.pooled(pooled.flatten(1)), self.tokens(tokens.flatten(1)))
        loss = sum(_mean_square(guess, truth, known(batch.objects), size * batch.counts.objects) for guess in guesses)
        goals = truth.gather(1, batch.named.clamp(min=0).unsqueeze(-1).expand(-1, -1, 3))
        names = named_and_known(batch.objects, batch.named)
        return loss + _mean_square(self.named(language), goals, names, size * batch.counts.names)


def _mean_square(guess: Tensor, truth: Tensor, which: Tensor, count: float) -> Tensor:
    """Of the positions, (B, n, 3), that `which`, (B, n), names: their sum over `count` of them, in three axes."""
    return ((guess.view_as(truth) - truth).square() * which.unsqueeze(-1)).sum() / (3.0 * count or 1.0)


def attraction(points: Tensor, keypoints: Tensor, count: float) -> Tensor:
    """Squared distance from each visible object to its nearest point, softly chosen; the sum over `count` of them.

    points: (B, cameras, K, 2); places: (B, cameras, objects, 2); both fractions of the image. A soft minimum is below
    the least distance, by up to SOFTNESS ln K where several points are as near: it may be negative.
    """
    apart = torch.cdist(keypoints.nan_to_num(), points).square()
    nearest = -SOFTNESS * torch.logsumexp(-apart / SOFTNESS, dim=-1)
    return (nearest * in_view(keypoints)).sum() / (count or 1.0)


def sample_times(config, count: int, generator: torch.Generator) -> Tensor:
    """Flow times as PI0 draws them: Beta(alpha, 1), written through its quantile function, scaled and offset."""
    if config.time_sampling_beta_beta != 1.0:
        raise ValueError(f"time_sampling_beta_beta is {config.time_sampling_beta_beta}, expected 1.0")
    uniform = torch.rand(count, generator=generator)
    beta = uniform ** (1.0 / config.time_sampling_beta_alpha)
    return beta * config.time_sampling_scale + config.time_sampling_offset


def losses(model: PreTrainedModel, heads: LocationHeads | None, batch: Batch) -> dict[str, Tensor]:
    """The terms for one batch: "flow", and with heads "locations", and "attraction" where coordinates can move.

    The flow's is a mean over the samples, the others over what is known of them.
    """
    backbone, (size, cameras) = backbone_of(model.config.model_type), batch.pixels.shape[:2]
    embedded = backbone.embed(model, batch.input_ids, batch.pixels)
    prefix = backbone.prefill(model, embedded, batch.attention_mask, batch.state)
    wanted = (batch.noise - batch.actions.unsqueeze(1)).flatten(0, 1)
    flowing = backbone.velocity(model, prefix, batch.attention_mask, batch.state, *batch.flow())
    terms = {"flow": nn.functional.mse_loss(flowing, wanted)}
    if heads is None:
        return terms
    wrapped = attached(model)
    placeholders = cameras * tokens_per_camera(model)
    words = batch.attention_mask[:, placeholders:].unsqueeze(-1).to(flowing.dtype)
    language = (prefix.last_hidden_state[:, placeholders:] * words).sum(1) / words.sum(1)
    dense = embedded[:, :placeholders].unflatten(1, (cameras, -1)).flatten(0, 1)
    if wrapped and wrapped.dense is not None:
        dense = wrapped.dense.flatten(1, 2)
    pooled = dense.mean(1).unflatten(0, (size, cameras))
    tokens = embedded[:, :placeholders].unflatten(1, (cameras, -1))
    tokens = nn.functional.pad(tokens, (0, 0, 0, heads.per_camera - tokens.shape[2]))  # a prefix of them, when nested
    terms["locations"] = heads(pooled, tokens, language, batch)
    if wrapped and wrapped.coordinates is not None and wrapped.coordinates.requires_grad:
        points = image_fractions(wrapped.coordinates, *wrapped.grid, wrapped.sampler.config.align_corners)
        terms["attraction"] = attraction(
            points.unflatten(0, (size, cameras)), batch.keypoints, size * batch.counts.keypoints
        )
    return terms

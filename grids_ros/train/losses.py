"""What training minimises: the flow, and two aids that never reach the robot.

`locations`: small heads must tell where the objects are from the pooled map, from the sampled tokens and, for the
named ones, from what the language model makes of the words. They give a small network trained from scratch a reason
to see and to read.
`attraction`: in simulation, where the objects' places in the images are known, the nearest sampled coordinate is
drawn to each of them, where something learnt can move it. Left alone, a small model's vision layers carry what matters
to a fixed grid of points.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from transformers import Cache, PI0ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPast

from grids_ros.policy.grids import attached, tokens_per_camera
from grids_ros.sampler import image_fractions

DRAWS = 4  # noise draws for each prefix, which is by far the dearer half
SOFTNESS = 0.003  # of the nearest point's choice, in squared fractions of the image


@dataclass(frozen=True, eq=False)
class Batch:
    """Tensors of one step; B samples. named (B, names): which objects each instruction names, in order, -1 for none.

    pixels (B, cameras, 3, S, S); input_ids, attention_mask (B, L); state (B, state_dim); actions (B, n, action_dim),
    all normalised; noise (B, DRAWS, n, action_dim) and times (B, DRAWS) of the flow; objects (B, objects, 3),
    normalised, NaN where unknown; places (B, cameras, objects, 2), fractions of the image, NaN where unknown.
    """

    pixels: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    state: Tensor
    actions: Tensor
    noise: Tensor
    times: Tensor
    objects: Tensor
    places: Tensor
    named: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


class LocationHeads(nn.Module):
    """Object positions from three places of the model; thrown away after training."""

    def __init__(self, model: PI0ForConditionalGeneration, cameras: int, objects: int, names: int):
        super().__init__()
        width = model.config.vlm_config.projection_dim
        self.objects, self.per_camera = objects, tokens_per_camera(model)
        self.pooled = nn.Linear(cameras * width, 3 * objects)
        self.tokens = nn.Linear(cameras * tokens_per_camera(model) * width, 3 * objects)
        self.named = nn.Linear(width, 3 * names)

    def forward(self, pooled: Tensor, tokens: Tensor, language: Tensor, batch: Batch) -> Tensor:
        """Mean squared error over what is known; zero where nothing is."""
        known = ~batch.objects.isnan()
        truth = batch.objects.nan_to_num()
        loss = truth.new_zeros(())
        for guess in (self.pooled(pooled.flatten(1)), self.tokens(tokens.flatten(1))):
            error = (guess.view_as(truth) - truth).square() * known
            loss = loss + error.sum() / known.sum().clamp(min=1)
        told = (batch.named >= 0) & known.all(-1).all(-1, keepdim=True)
        if told.any():
            goals = truth.gather(1, batch.named.clamp(min=0).unsqueeze(-1).expand(-1, -1, 3))
            loss = loss + (self.named(language).view_as(goals) - goals)[told].square().mean()
        return loss


def attraction(points: Tensor, places: Tensor) -> Tensor:
    """Squared distance from each visible object to its nearest point, softly chosen.

    points: (B, cameras, K, 2); places: (B, cameras, objects, 2); both fractions of the image.
    """
    visible = ((places > 0.0) & (places < 1.0)).all(-1)
    apart = torch.cdist(places.nan_to_num(), points).square()
    nearest = -SOFTNESS * torch.logsumexp(-apart / SOFTNESS, dim=-1)
    return (nearest * visible).sum() / visible.sum().clamp(min=1)


def sample_times(config, count: int, generator: torch.Generator) -> Tensor:
    """Flow times as PI0 draws them: Beta(alpha, 1), written through its quantile function, scaled and offset."""
    if config.time_sampling_beta_beta != 1.0:
        raise ValueError(f"time_sampling_beta_beta is {config.time_sampling_beta_beta}, expected 1.0")
    uniform = torch.rand(count, generator=generator)
    beta = uniform ** (1.0 / config.time_sampling_beta_alpha)
    return beta * config.time_sampling_scale + config.time_sampling_offset


def embed(model: PI0ForConditionalGeneration, batch: Batch) -> Tensor:
    """What the language model reads, (B, L, width): image tokens, then words."""
    present = torch.ones(batch.pixels.shape[:2], dtype=torch.bool, device=batch.pixels.device)
    return model.model.embed_prefix(batch.input_ids, batch.pixels, present)


def read(model: PI0ForConditionalGeneration, embedded: Tensor, mask: Tensor) -> BaseModelOutputWithPast:
    """The language model's output for (B, L, width) with the mask (B, L), and in it the keys and values."""
    return model.model.vlm(
        inputs_embeds=embedded,
        attention_mask=mask,
        position_ids=mask.cumsum(-1) - 1,
        token_type_ids=torch.zeros_like(mask),
        use_cache=True,
    )


def velocity(model: PI0ForConditionalGeneration, context: Cache, mask: Tensor, batch: Batch) -> Tensor:
    """The flow's velocity (B * DRAWS, n, action_dim) at the batch's noise and times, after the context of `read`.

    The context is repeated for the draws and appended to, in place.
    """
    context.batch_repeat_interleave(DRAWS)
    times, noise = batch.times.flatten(), batch.noise.flatten(0, 1)
    share = times[:, None, None]
    return model(
        state=batch.state.repeat_interleave(DRAWS, 0),
        noise=share * noise + (1.0 - share) * batch.actions.repeat_interleave(DRAWS, 0),
        timestep=times,
        attention_mask=mask.repeat_interleave(DRAWS, 0),
        past_key_values=context,
    ).logits


def losses(model: PI0ForConditionalGeneration, heads: LocationHeads | None, batch: Batch) -> dict[str, Tensor]:
    """The terms for one batch: "flow", and with heads "locations", and "attraction" where coordinates can move.

    The flow's is a mean over the samples, the others over what is known of them.
    """
    size, cameras = batch.pixels.shape[:2]
    embedded = embed(model, batch)
    prefix = read(model, embedded, batch.attention_mask)
    wanted = (batch.noise - batch.actions.unsqueeze(1)).flatten(0, 1)
    flowing = velocity(model, prefix.past_key_values, batch.attention_mask, batch)
    terms = {"flow": nn.functional.mse_loss(flowing, wanted)}
    if heads is None:
        return terms
    wrapped = attached(model)
    placeholders = cameras * tokens_per_camera(model)
    words = batch.attention_mask[:, placeholders:].unsqueeze(-1).to(flowing.dtype)
    language = (prefix.last_hidden_state[:, placeholders:] * words).sum(1) / words.sum(1)
    dense = (
        wrapped.dense.flatten(1, 2) if wrapped else embedded[:, :placeholders].unflatten(1, (cameras, -1)).flatten(0, 1)
    )
    pooled = dense.mean(1).unflatten(0, (size, cameras))
    tokens = embedded[:, :placeholders].unflatten(1, (cameras, -1))
    tokens = nn.functional.pad(tokens, (0, 0, 0, heads.per_camera - tokens.shape[2]))  # a prefix of them, when nested
    terms["locations"] = heads(pooled, tokens, language, batch)
    if wrapped and wrapped.coordinates.requires_grad:
        points = image_fractions(wrapped.coordinates, *wrapped.grid, wrapped.sampler.config.align_corners)
        terms["attraction"] = attraction(points.unflatten(0, (size, cameras)), batch.places)
    return terms

"""The dense model teaches its own sampler: what K tokens do to the actions shall be what all cells do.

Both are one model: the dense prefix is the map that the sampler reads, put in the place of its tokens.
`velocity`: mean squared difference of the flow's velocities, at the same noise and time.
`readout`: keys and values of K tokens cannot be compared with those of all cells one by one, so what is compared is
what the expert makes of them: the output of each of its layers' attention, over prefix and suffix, for the state and
every action. It is the squared difference over the squared norm of the teacher's, by sample and layer, so that a layer
of large numbers counts no more than another; then the mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from grids_ros.policy.backbone import backbone_of
from grids_ros.policy.grids import attached, tokens_per_camera
from grids_ros.train.losses import Batch


def distillation(model: PreTrainedModel, batch: Batch) -> dict[str, Tensor]:
    """The terms for one batch, "velocity" and "readout", each a mean over samples. The model has GridS attached."""
    embedded = backbone_of(model.config.model_type).embed(model, batch.input_ids, batch.pixels)
    with torch.no_grad():
        dense, mask = unpruned(model, embedded, batch)
        taught, lessons = _act(model, dense, mask, batch)
    learnt, answers = _act(model, embedded, batch.attention_mask, batch)
    return {
        "velocity": (learnt - taught).float().square().mean(),
        "readout": torch.stack([relative_error(a, b) for a, b in zip(answers, lessons, strict=True)]).mean(),
    }


def unpruned(model: PreTrainedModel, embedded: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """What the dense model reads, (B, cells and words, width), and its mask, of a batch that was just embedded."""
    size, cameras = batch.pixels.shape[:2]
    placeholders = cameras * tokens_per_camera(model)
    wrapped = attached(model)
    assert wrapped is not None and wrapped.dense is not None  # it has just embedded the images
    cells = wrapped.dense.reshape(size, -1, embedded.shape[-1]).to(embedded.dtype)
    cells = cells * backbone_of(model.config.model_type).image_scale(model.config)
    mask = batch.attention_mask[:, placeholders:]
    return torch.cat((cells, embedded[:, placeholders:]), 1), torch.cat((mask.new_ones(cells.shape[:2]), mask), 1)


def relative_error(answer: Tensor, lesson: Tensor) -> Tensor:
    """Mean over samples of |answer - lesson|^2 / |lesson|^2, both (B, ...)."""
    difference, norm = (answer - lesson).float().flatten(1), lesson.float().flatten(1)
    return (difference.square().sum(1) / norm.square().sum(1).clamp(min=1e-12)).mean()


def _act(model: PreTrainedModel, embedded: Tensor, mask: Tensor, batch: Batch):
    """The velocity (B * DRAWS, n, action_dim), and of each layer of the expert what its attention gave."""
    backbone = backbone_of(model.config.model_type)
    prefix = backbone.prefill(model, embedded, mask, batch.state)
    with _readouts(model) as seen:
        return backbone.velocity(model, prefix, mask, batch.state, *batch.flow()), seen


@contextmanager
def _readouts(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """A list that fills with the attention outputs (B, n + 1, width) of the expert's layers, in their order."""
    seen: list[Tensor] = []
    expert = model.get_submodule(backbone_of(model.config.model_type).TOWERS[2])
    hooks = [
        layer.self_attn.o_proj.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        for layer in expert.layers
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()

"""What a stage minimises, as one module: DDP and FSDP follow a module's parameters from its input to its output."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import commonprefix
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from grids_ros.policy.backbone import backbone_of
from grids_ros.policy.grids import attached
from grids_ros.train import lora
from grids_ros.train.distillation import distillation
from grids_ros.train.losses import Batch, LocationHeads, losses
from grids_ros.train.parallel import World
from grids_ros.train.recipe import Recipe


def train_part(model: PreTrainedModel, recipe: Recipe) -> LoraConfig | None:
    """Choose what trains, in place; the settings of the updates of low rank that are put in, if any are."""
    model.requires_grad_(not recipe.distil)
    updates = lora.inject(model, recipe.lora) if recipe.lora else None
    if recipe.expert_only:
        vision, language, _ = backbone_of(model.config.model_type).TOWERS
        both = commonprefix([vision, language]).rpartition(".")[0]  # the submodule that holds them and the sampler
        model.get_submodule(both).requires_grad_(False)
    elif wrapped := attached(model):
        wrapped.sampler.requires_grad_(True)
    return updates


class Objective(nn.Module):
    """The terms of a batch. heads: beside the model, thrown away afterwards."""

    def __init__(self, model: PreTrainedModel, heads: LocationHeads | None, recipe: Recipe):
        super().__init__()
        self.model, self.heads = model, heads
        self._recipe = recipe

    def train(self, mode: bool = True) -> Objective:
        """While distilling only the sampler is in training mode: a teacher is not."""
        super().train(mode and not self._recipe.distil)
        if mode and self._recipe.distil:
            wrapped: Any = attached(self.model)
            wrapped.sampler.train()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Each term, a mean over the samples or over what is known of them."""
        with torch.autocast(batch.pixels.device.type, torch.bfloat16, enabled=self._recipe.bf16):
            if self._recipe.distil:
                return distillation(self.model, batch)
            return losses(self.model, self.heads, batch)


def shared(objective: Objective, units: Sequence[nn.Module], world: World, shard: bool) -> nn.Module:
    """The module to call in place of the objective, whose gradients are means over all processes.

    shard: weights, gradients and all that the optimiser keeps are divided among the processes, unit by unit (FSDP);
    otherwise each process holds all of them (DDP). The objective's parameters are sharded in place.
    """
    if world.size == 1:
        return objective
    if not shard:
        # The last layer of a language model has weights that reach no action: they get no gradient.
        return DistributedDataParallel(
            objective, forward_sync_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=True
        )
    mesh = torch.distributed.device_mesh.init_device_mesh(world.device.type, (world.size,))
    mine: set[nn.Parameter] = set()
    for unit in units:
        fully_shard(unit, mesh=mesh)
        mine |= set(unit.parameters())
    objective.units = nn.ModuleList(unit for unit in units if not _within(objective.model, unit))
    fully_shard(objective, mesh=mesh, ignored_params=mine)
    return objective


def _within(model: nn.Module, unit: nn.Module) -> bool:
    return any(module is unit for module in model.modules())


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be divided among processes, as each of them would hold it alone. Every process has to ask."""
    return tensor.full_tensor() if isinstance(tensor, torch.distributed.tensor.DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of it; a view."""
    return tensor.to_local() if isinstance(tensor, torch.distributed.tensor.DTensor) else tensor

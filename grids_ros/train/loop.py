"""The training loop: one batch, one step, one line in the log."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm
from transformers import PreTrainedModel

from grids_ros.policy import checkpoint as checkpoints
from grids_ros.policy.checkpoint import Checkpoint
from grids_ros.policy.grids import GridSProjector, attached
from grids_ros.policy.weights import LazyTensor
from grids_ros.train import lora
from grids_ros.train.batches import Batches
from grids_ros.train.dataset import Samples
from grids_ros.train.losses import Batch, LocationHeads
from grids_ros.train.objective import Objective, own_part, shared, train_part, whole
from grids_ros.train.parallel import World
from grids_ros.train.recipe import Recipe
from grids_ros.train.state import read_facts, read_state, write_state
from grids_ros.train.units import in_units


class Trainer:
    """One stage: model, averaged weights and optimiser; saved whole, as safetensors, and resumed to the same numbers.

    The model of the checkpoint is trained in place, in float32. `step` counts on from stage to stage.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        samples: Samples,
        recipe: Recipe,
        world: World | None = None,
        after: Trainer | None = None,
        shard: bool = False,
    ):
        """after: the stage before, of the same checkpoint; this one begins with its averaged weights.

        shard: divide the weights among the processes, see `objective.shared`.
        """
        self.recipe, self.world, self.sharded = recipe, world or World(), shard and (world or World()).size > 1
        self.step: int = after.step if after else 0
        self.first = self.step
        stages = after.stages if after else []
        self.stages: list[dict] = [*stages, {"from_step": self.first, **asdict(recipe)}]
        self._dtypes: dict[str, torch.dtype] = (
            after._dtypes if after else {n: t.dtype for n, t in checkpoint.model.state_dict().items()}
        )
        self.checkpoint = after.handed_over(checkpoint) if after else checkpoint
        self.model = self.checkpoint.model.float()
        if wrapped := attached(self.model):
            wrapped.sampler.use(wrapped.sampler.config.tokens)  # the stage before may have ended on fewer
        self._batches = Batches(samples, self.checkpoint, recipe)
        units: list[nn.Module] | None = after._units if after and not self.sharded else None
        self._choose_parameters(samples.objects.shape[1], units)

    def _choose_parameters(self, objects: int, units: list[nn.Module] | None) -> None:
        """What trains, and beside the model what is thrown away afterwards or merged. units: of the stage before."""
        recipe, model, world = self.recipe, self.model, self.world
        torch.manual_seed(recipe.seed)
        self.lora = train_part(model, recipe)
        heads = None
        if self._batches.located and not (recipe.distil or recipe.expert_only):
            cameras = len(self.checkpoint.spec.cameras)
            heads = LocationHeads(model, cameras, objects, self._batches.names)
        self._units: list[nn.Module] = units or (
            in_units(model, recipe.recompute) if recipe.recompute or self.sharded else []
        )
        self.module = Objective(model, heads, recipe)
        if not self.sharded:
            self.module.to(world.device)
        self._terms = shared(self.module, self._units, world, self.sharded)
        self._trained = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        kept = {name.removeprefix("model."): p for name, p in self._trained.items() if not name.startswith("heads.")}
        self._kept = kept
        self.averaged = {name: p.detach().clone() if recipe.average else p.detach() for name, p in kept.items()}
        self.optimiser = torch.optim.AdamW(
            self._trained.values(), lr=recipe.learning_rate, betas=(0.9, 0.95), fused=True
        )

    @property
    def last(self) -> int:
        """The step after which the stage is done."""
        return self.first + self.recipe.steps

    def run(self, log: Path, until: int) -> Iterator[int]:
        """Train up to step `until`, yielding after each step; the terms of every step go to `log`, as JSON lines."""
        started, quiet = time.monotonic(), self.world.rank > 0
        name = "distilling" if self.recipe.distil else "training"
        bar = tqdm(total=self.last, initial=self.step, desc=name, disable=quiet)
        with open(os.devnull if quiet else log, "a") as lines, bar:
            while self.step < until:
                terms = self._advance()
                lines.write(
                    json.dumps({"step": self.step, "seconds": round(time.monotonic() - started, 1), **terms}) + "\n"
                )
                lines.flush()
                bar.update()
                bar.set_postfix({name: f"{value:.3f}" for name, value in terms.items()})
                yield self.step

    def _advance(self) -> dict[str, float]:
        recipe = self.recipe
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.rate(self.step - self.first)
        self.optimiser.zero_grad(set_to_none=True)
        terms = self._backward()
        norm = whole(nn.utils.clip_grad_norm_(self._trained.values(), recipe.clip, foreach=True))
        if not torch.isfinite(norm):
            raise FloatingPointError(f"gradient is {norm} at step {self.step}: {terms}")
        self.optimiser.step()
        self.step += 1
        done = self.step - self.first
        decay = min(recipe.decay, (1.0 + done) / (10.0 + done))
        if recipe.average:
            with torch.no_grad():
                for name, tensor in self._kept.items():
                    own_part(self.averaged[name]).lerp_(own_part(tensor), 1.0 - decay)
        return terms

    def _backward(self) -> dict[str, float]:
        """The gradients of this step's whole batch, part by part, summed over all processes; and its terms."""
        recipe, world = self.recipe, self.world
        self.module.train()
        parts = np.array_split(np.arange(recipe.batch), world.size * recipe.accumulate)
        mine = parts[world.rank * recipe.accumulate :][: recipe.accumulate]
        means: dict[str, Tensor] = {}
        for index, rows in enumerate(mine):
            batch = self._batches.at(self.step, slice(rows[0], rows[-1] + 1)).to(world.device)
            share = len(rows) / recipe.batch
            with self._unshared(index + 1 < len(mine)):
                terms = self._terms(self._nested(batch))
                loss = sum(self._weight(name) * term for name, term in terms.items())
                (world.size * share * loss).backward()  # the processes' gradients are averaged, and have to be added
            means = {name: means.get(name, 0.0) + share * term.detach() for name, term in terms.items()}
        summed = world.sum(torch.stack(list(means.values())).float())
        return {name: round(value, 5) for name, value in zip(means, summed.tolist(), strict=True)}

    def _unshared(self, more: bool):
        """Gradients of a part that is not the last stay here; sharded ones are summed at once, to save their memory."""
        return self._terms.no_sync() if more and isinstance(self._terms, DistributedDataParallel) else nullcontext()

    def _wrapped(self) -> GridSProjector:
        """GridS, which the stages that ask for it have."""
        wrapped = attached(self.model)
        assert wrapped is not None
        return wrapped

    def _weight(self, term: str) -> float:
        weights = {name: getattr(self.recipe, name) for name in ("locations", "attraction", "readout")}
        return weights.get(term, 1.0)

    def _nested(self, batch: Batch) -> Batch:
        """The batch for a number of tokens drawn for this step, which the sampler is set to as well."""
        if not self.recipe.nested:
            return batch
        sampler, cameras = self._wrapped().sampler, batch.pixels.shape[1]
        most = sampler.config.tokens
        random = np.random.default_rng((self.recipe.seed, self.step, 1))
        sampler.use(int(random.choice(sorted({*self.recipe.nested, most}))))
        spare = cameras * (most - sampler.active)  # the ids begin with the placeholders
        return replace(batch, input_ids=batch.input_ids[:, spare:], attention_mask=batch.attention_mask[:, spare:])

    @torch.no_grad()
    def average(self) -> None:
        """Put the averaged weights into the model, in place of those that it has now."""
        for name, tensor in self._kept.items():
            own_part(tensor).copy_(own_part(self.averaged[name]))

    def handed_over(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint for the next stage, with the averaged weights. Every process has to ask."""
        self.average()
        if not self.sharded:
            return replace(checkpoint, model=self.model)
        return replace(checkpoint, model=_undivided(self.model, checkpoint))

    def weights(self) -> dict[str, LazyTensor]:
        """Every tensor of the model as it is to be saved: averaged where it trains, the updates of low rank merged into
        it, and in the dtype that it came in. With sharded weights every process has to read each of them, in order."""
        averaged = {name: _lazy(tensor) for name, tensor in self.averaged.items()}
        updates = {name: tensor for name, tensor in averaged.items() if lora.is_update(name)}

        def lazy(name: str, tensor: Tensor) -> LazyTensor:
            best, dtype = averaged.get(name, _lazy(tensor)), self._dtypes[lora.original_name(name)]
            return LazyTensor(dtype, tuple(tensor.shape), lambda: lora.merged(name, best.read(), updates).to(dtype))

        tensors = {name: tensor for name, tensor in self.model.state_dict().items() if not lora.is_update(name)}
        return {lora.original_name(name): lazy(name, tensor) for name, tensor in tensors.items()}

    def adapter(self) -> dict[str, LazyTensor]:
        """Averaged updates of low rank, and the sampler: what `lora.save_adapter` writes."""
        return {name: _lazy(tensor) for name, tensor in self.averaged.items()}

    def save(self, folder: Path) -> None:
        """Everything needed to go on. Every process has to call it."""
        tensors = {f"module.{name}": p.detach() for name, p in self._trained.items()}
        if self.recipe.average:
            tensors |= {f"averaged.{name}": tensor for name, tensor in self.averaged.items()}
        for name, parameter in self._trained.items():
            for key, value in self.optimiser.state[parameter].items():
                tensors[f"optimiser.{name}.{key}"] = value
        write_state(folder, tensors, {"step": self.step, "first": self.first, "stages": self.stages}, self.world)

    def resume(self, folder: Path) -> None:
        """Go on from what `save` wrote, by as many processes as there are now.

        Raises ValueError when it belongs to another model.
        """
        facts = read_facts(folder)
        missing = [name for name in self._trained if f"module.{name}" not in facts["tensors"]]
        if missing:
            raise ValueError(f"{folder} is from another model: it lacks {missing[0]}")
        self.step, self.first = facts["step"], facts["first"]
        recipe = json.loads(json.dumps(asdict(self.recipe)))  # as it comes back: lists for tuples
        earlier = facts["stages"]
        changed = {**earlier[-1], **recipe} != earlier[-1]
        self.stages = earlier + [{"from_step": self.step, **recipe}] * changed
        tensors = {f"module.{name}": p.detach() for name, p in self._trained.items()}
        averaged = {f"averaged.{name}": tensor for name, tensor in self.averaged.items()}
        tensors |= {name: tensor for name, tensor in averaged.items() if name in facts["tensors"]}
        for name, parameter in self._trained.items():
            if f"optimiser.{name}.step" in facts["tensors"]:  # absent where a parameter takes no part
                moments = {key: torch.zeros_like(parameter.detach()) for key in ("exp_avg", "exp_avg_sq")}
                self.optimiser.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}
                tensors |= {f"optimiser.{name}.{key}": value for key, value in self.optimiser.state[parameter].items()}
        read_state(folder, tensors, self.world)


def _lazy(tensor: Tensor) -> LazyTensor:
    return LazyTensor(tensor.dtype, tuple(tensor.shape), lambda: whole(tensor.detach()))


def _undivided(model: PreTrainedModel, checkpoint: Checkpoint) -> PreTrainedModel:
    """A copy of a sharded model that each process holds whole, in its own memory."""
    tensors = {name: whole(tensor.detach()).cpu() for name, tensor in model.state_dict().items()}
    copy = checkpoints.allocate(model.config, checkpoint.spec, torch.float32, "cpu")
    for name in {name for name in copy.state_dict() if name not in tensors}:  # as published checkpoints lack it
        owner, _, attribute = name.removesuffix(".weight").rpartition(".")
        setattr(copy.get_submodule(owner), attribute, None)
    copy.load_state_dict(tensors, assign=True)
    return copy


def stage_of(folder: Path) -> dict:
    """The recipe, with "from_step", that the training was in when `folder` was saved."""
    return read_facts(folder)["stages"][-1]

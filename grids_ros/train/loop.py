"""The training loop: one batch, one step, one line in the log."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from grids_ros.policy.checkpoint import Checkpoint
from grids_ros.policy.grids import attached
from grids_ros.policy.weights import Lazy
from grids_ros.train.batches import Batches
from grids_ros.train.dataset import Samples
from grids_ros.train.distillation import distillation
from grids_ros.train.lora import LowRank, merged
from grids_ros.train.losses import Batch, LocationHeads, losses
from grids_ros.train.parallel import World
from grids_ros.train.recipe import Recipe
from grids_ros.train.recompute import recompute_layers


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
    ):
        """after: the stage before, of the same checkpoint; this one begins with its averaged weights."""
        self.checkpoint, self.recipe, self.world = checkpoint, recipe, world or World()
        self.first = self.step = after.step if after else 0
        stages = after.stages if after else []
        self.stages = [*stages, {"from_step": self.first, **asdict(recipe)}]
        self.model = checkpoint.model
        self._dtypes = after._dtypes if after else {n: t.dtype for n, t in self.model.state_dict().items()}
        if after:
            after.average()
        elif recipe.recompute:
            recompute_layers(self.model)
        self.model.float().to(self.world.device)
        if wrapped := attached(self.model):
            wrapped.sampler.use(wrapped.sampler.config.tokens)  # the stage before may have ended on fewer
        self._batches = Batches(samples, checkpoint, recipe)
        self._choose_parameters(samples.objects.shape[1])

    def _choose_parameters(self, objects: int) -> None:
        """What trains, and beside the model what is thrown away afterwards or merged."""
        recipe, model = self.recipe, self.model
        torch.manual_seed(recipe.seed)
        model.requires_grad_(not (recipe.distil or recipe.lora))
        self.module = nn.ModuleDict({"model": model})
        if wrapped := attached(model):
            wrapped.sampler.requires_grad_(True)
        self.heads = None
        if self._batches.located and not recipe.distil:
            cameras = len(self.checkpoint.spec.cameras)
            self.heads = self.module["heads"] = LocationHeads(model, cameras, objects, self._batches.names)
        if recipe.lora:
            self.module["lora"] = LowRank(model, recipe.lora)
        self.module.to(self.world.device)
        self._trained = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        kept = {name.removeprefix("model."): p for name, p in self._trained.items() if not name.startswith("heads.")}
        self._kept, self.averaged = kept, {name: p.detach().clone() for name, p in kept.items()}
        self.optimiser = torch.optim.AdamW(self._trained.values(), lr=recipe.learning_rate, betas=(0.9, 0.95))

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
        norm = nn.utils.clip_grad_norm_(self._trained.values(), recipe.clip)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"gradient is {norm} at step {self.step}: {terms}")
        self.optimiser.step()
        self.step += 1
        done = self.step - self.first
        decay = min(recipe.decay, (1.0 + done) / (10.0 + done))
        with torch.no_grad():
            for name, tensor in self._kept.items():
                self.averaged[name].lerp_(tensor, 1.0 - decay)
        return terms

    def _backward(self) -> dict[str, float]:
        """The gradients of this step's whole batch, part by part, summed over all processes; and its terms."""
        recipe, world = self.recipe, self.world
        self.module.train(not recipe.distil)  # a teacher is in evaluation mode
        if recipe.distil:
            attached(self.model).sampler.train()
        parts = np.array_split(np.arange(recipe.batch), world.size * recipe.accumulate)
        means: dict[str, Tensor] = {}
        for rows in parts[world.rank * recipe.accumulate :][: recipe.accumulate]:
            batch = self._batches.at(self.step, slice(rows[0], rows[-1] + 1)).to(world.device)
            with torch.autocast(world.device.type, torch.bfloat16, enabled=recipe.bf16):
                terms = self._terms(self._nested(batch))
            share = len(rows) / recipe.batch
            (share * sum(self._weight(name) * term for name, term in terms.items())).backward()
            means = {name: means.get(name, 0.0) + share * term.detach() for name, term in terms.items()}
        world.sum_gradients(self._trained.values())
        summed = world.sum(torch.stack(list(means.values())).float())
        return {name: round(value, 5) for name, value in zip(means, summed.tolist(), strict=True)}

    def _terms(self, batch: Batch) -> dict[str, Tensor]:
        return distillation(self.model, batch) if self.recipe.distil else losses(self.model, self.heads, batch)

    def _weight(self, term: str) -> float:
        weights = {name: getattr(self.recipe, name) for name in ("locations", "attraction", "readout")}
        return weights.get(term, 1.0)

    def _nested(self, batch: Batch) -> Batch:
        """The batch for a number of tokens drawn for this step, which the sampler is set to as well."""
        if not self.recipe.nested:
            return batch
        sampler, cameras = attached(self.model).sampler, batch.pixels.shape[1]
        most = sampler.config.tokens
        random = np.random.default_rng((self.recipe.seed, self.step, 1))
        sampler.use(int(random.choice(sorted({*self.recipe.nested, most}))))
        spare = cameras * (most - sampler.active)  # the ids begin with the placeholders
        return replace(batch, input_ids=batch.input_ids[:, spare:], attention_mask=batch.attention_mask[:, spare:])

    @torch.no_grad()
    def average(self) -> None:
        """Put the averaged weights into the model, in place of those that it has now."""
        for name, tensor in self._kept.items():
            tensor.copy_(self.averaged[name])

    def weights(self) -> dict[str, Lazy]:
        """Every tensor of the model as it is to be saved: averaged where it trains, the updates of low rank merged into
        it, and in the dtype that it came in."""
        updates = {name.removeprefix("lora."): t for name, t in self.averaged.items() if name.startswith("lora.")}

        def lazy(name: str, tensor: Tensor) -> Lazy:
            best = self.averaged.get(name, tensor)
            return Lazy(self._dtypes[name], tuple(tensor.shape), lambda into: into.copy_(merged(name, best, updates)))

        return {name: lazy(name, tensor) for name, tensor in self.model.state_dict().items()}

    def save(self, path: Path) -> None:
        """Everything needed to go on."""
        tensors = {f"module.{name}": tensor for name, tensor in self._trained.items()}
        tensors.update({f"averaged.{name}": tensor for name, tensor in self.averaged.items()})
        for name, parameter in self._trained.items():
            for key, value in self.optimiser.state[parameter].items():
                tensors[f"optimiser.{name}.{key}"] = value
        unfinished = path.with_suffix(".part")
        facts = {"step": str(self.step), "first": str(self.first), "stages": json.dumps(self.stages)}
        save_file({k: v.detach().clone() for k, v in tensors.items()}, str(unfinished), facts)
        unfinished.replace(path)

    def resume(self, path: Path) -> None:
        """Go on from what `save` wrote. Raises ValueError when it belongs to another model."""
        with safe_open(path, framework="pt") as file, torch.no_grad():
            facts, names = file.metadata(), set(file.keys())
            missing = [name for name in self._trained if f"module.{name}" not in names]
            if missing:
                raise ValueError(f"{path} is from another model: it lacks {missing[0]}")
            self.step, self.first = int(facts["step"]), int(facts.get("first", 0))
            recipe = json.loads(json.dumps(asdict(self.recipe)))  # as it comes back: lists for tuples
            earlier = json.loads(facts["stages"])
            changed = {**earlier[-1], **recipe} != earlier[-1]
            self.stages = earlier + [{"from_step": self.step, **recipe}] * changed
            for name, parameter in self._trained.items():
                parameter.copy_(file.get_tensor(f"module.{name}"))
                prefix = f"optimiser.{name}."  # absent where a parameter takes no part, as the expert's word embedding
                state = {k.removeprefix(prefix): file.get_tensor(k) for k in names if k.startswith(prefix)}
                if state:
                    device = parameter.device
                    self.optimiser.state[parameter] = {k: v if k == "step" else v.to(device) for k, v in state.items()}
            for name in self.averaged:
                self.averaged[name].copy_(file.get_tensor(f"averaged.{name}"))


def stage_of(path: Path) -> dict:
    """The recipe, with "from_step", that the training was in when `path` was saved."""
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["stages"])[-1]

"""How much memory a stage of training takes in each process, known before any of it is allocated.

Weights and what the optimiser keeps of them follow from their number. Activations are measured: one step runs on fake
tensors, which have shapes and no memory, and the bytes that are alive at once are counted.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from grids_ros.policy.backbone import backbone_of
from grids_ros.policy.checkpoint import Checkpoint, allocate
from grids_ros.policy.grids import tokens_per_camera
from grids_ros.train.losses import DRAWS, Batch, Counts
from grids_ros.train.objective import Objective, train_part
from grids_ros.train.parallel import World
from grids_ros.train.recipe import Recipe
from grids_ros.train.units import in_units

FLOAT = 4  # bytes: all that is kept is in float32
GIB = 2**30
SPARE = 0.1  # of the sum: what the allocator leaves between tensors, and the libraries' own
MOST = 64  # processes that a refusal names
DEVICE_OWN = 2**30  # bytes that a GPU's context and its communication take
NAMES = {"moments": "Adam's moments", "average": "averaged weights", "gathered": "gathered layers"}


class FootprintError(Exception):
    """A stage that does not fit; the message says what would."""


@dataclass(frozen=True)
class Footprint:
    """Memory of one process [bytes]. gathered: whole layers of sharded weights, while they compute."""

    weights: int
    gradients: int
    moments: int
    average: int
    gathered: int
    activations: int

    @property
    def total(self) -> int:
        """With what is lost between them."""
        return round((1.0 + SPARE) * sum(getattr(self, field.name) for field in fields(self)))

    def __str__(self) -> str:
        parts = [(NAMES.get(field.name, field.name), getattr(self, field.name)) for field in fields(self)]
        return ", ".join(f"{name} {count / GIB:.2f}" for name, count in parts if count)


class Footprints:
    """Of the stages of one policy's training. Each way of computing activations is measured once."""

    def __init__(self, checkpoint: Checkpoint):
        self._checkpoint = checkpoint
        self._measured: dict[tuple, int] = {}

    def of(self, recipe: Recipe, size: int = 1, shard: bool = False) -> Footprint:
        """In each of `size` processes. shard: whether they divide the weights among them."""
        model = _shapes(self._checkpoint)
        units = in_units(model, recipe.recompute)
        largest = max(sum(p.numel() for p in unit.parameters()) for unit in units)
        weights = sum(p.numel() for p in model.parameters())
        outside = weights - sum(p.numel() for unit in units for p in unit.parameters())
        trained, parts = _trained(model, recipe), size if shard else 1
        samples = max(1, -(-recipe.batch // (size * recipe.accumulate)))
        way = recipe.distil, recipe.expert_only, recipe.lora, recipe.bf16, recipe.recompute, samples
        if way not in self._measured:
            self._measured[way] = _activations(model, self._checkpoint, recipe, samples)
        return Footprint(
            weights=FLOAT * weights // parts,
            gradients=FLOAT * trained // parts,
            moments=2 * FLOAT * trained // parts,
            average=FLOAT * trained // parts if recipe.average else 0,
            # The next layer is gathered while one computes; what is outside of the layers stays for the whole step.
            gathered=FLOAT * (outside + 2 * largest) if shard else 0,
            activations=self._measured[way],
        )

    def divided(self, recipes: Sequence[Recipe], size: int, room: int, asked: str) -> tuple[bool, list[str]]:
        """Whether the processes have to divide the weights, and a line for each stage. room: of each process [bytes].

        asked: "auto", or "on" or "off" where it is settled. Raises FootprintError for a stage that fits neither way.
        """
        for shard in {"on": (True,), "off": (False,)}.get(asked, (False, True)) if size > 1 else (False,):
            needed = [self.of(recipe, size, shard) for recipe in recipes]
            lines = [_line(*each, size, shard, room) for each in zip(recipes, needed, strict=True)]
            if all(one.total <= room for one in needed):
                return shard, lines
        which = int(np.argmax([one.total for one in needed]))
        raise FootprintError(f"{lines[which]}: it does not fit; {self._remedies(recipes[which], size, room)}")

    def _remedies(self, recipe: Recipe, size: int, room: int) -> str:
        """What would make it fit: each change that is enough by itself, or all of them."""
        finest = max(1, recipe.batch // size)
        changes: dict[str, dict] = {
            "--gradient-checkpointing": {"recompute": True},
            "--bf16": {"bf16": True},
            f"--accumulate {finest}": {"accumulate": finest},
        }
        if not recipe.distil:
            changes |= {"--no-average": {"average": False}, "--lora 16": {"lora": 16}}
        changes = {told: how for told, how in changes.items() if replace(recipe, **how) != recipe}
        enough = [told for told, how in changes.items() if self._fits(replace(recipe, **how), size, room)]
        if more := self._processes(recipe, size, room):
            enough.append(f"{more} processes (torchrun)")
        if enough:
            return f"expected one of: {', '.join(enough)}"
        every = replace(recipe, **{name: value for how in changes.values() for name, value in how.items()})
        if self._fits(every, size, room):
            return f"expected all of: {', '.join(changes)}"
        if more := self._processes(every, size, room):
            return f"expected all of: {', '.join(changes)}, and {more} processes (torchrun)"
        return f"no option helps, nor do {MOST} processes: expected a device with more memory"

    def _processes(self, recipe: Recipe, size: int, room: int) -> int | None:
        """How many would do, sharded."""
        for count in (2**n for n in range(1, 7) if size < 2**n <= min(MOST, recipe.batch)):
            parts = max(1, recipe.accumulate * size // count)  # as few samples at a time
            if self._fits(replace(recipe, accumulate=parts), count, room):
                return count
        return None

    def _fits(self, recipe: Recipe, size: int, room: int) -> bool:
        return self.of(recipe, size, size > 1).total <= room


def _line(recipe: Recipe, needed: Footprint, size: int, shard: bool, room: int) -> str:
    name = "distilling" if recipe.distil else "training"
    how = f" of {size}, {'sharded' if shard else 'replicated'}" if size > 1 else ""
    return f"{name}: {needed.total / GIB:.2f} GiB in each process{how}, which has {room / GIB:.2f} GiB ({needed})"


def _shapes(checkpoint: Checkpoint) -> nn.Module:
    """Its model without memory, and without what it lacks."""
    model = allocate(checkpoint.model.config, checkpoint.spec, torch.float32, "meta")
    for name in backbone_of(checkpoint.model.config.model_type).UNUSED:
        owner, _, attribute = name.rpartition(".")
        if getattr(checkpoint.model.get_submodule(owner), attribute) is None:
            setattr(model.get_submodule(owner), attribute, None)
    return model


def _trained(model: nn.Module, recipe: Recipe) -> int:
    """Numbers that train; which of the parameters do is set in place."""
    train_part(model, recipe)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _activations(model: nn.Module, checkpoint: Checkpoint, recipe: Recipe, samples: int) -> int:
    """The most bytes that are alive during one step beside weights and gradients, for so many samples."""
    with FakeTensorMode():
        _give_fake_memory(model)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        objective, batch = Objective(model, None, recipe).train(), _batch(model, checkpoint, samples)
        with _Alive() as alive:
            sum(objective(batch).values()).backward()
    return alive.most


def _give_fake_memory(model: nn.Module) -> None:
    for module in model.modules():
        for name, tensor in module._parameters.items():
            if tensor is not None:
                empty = torch.empty(tensor.shape, dtype=tensor.dtype)
                module._parameters[name] = nn.Parameter(empty, requires_grad=tensor.requires_grad)
        for name, held in module._buffers.items():
            if held is not None:
                module._buffers[name] = torch.empty(held.shape, dtype=held.dtype)


def _batch(model: nn.Module, checkpoint: Checkpoint, samples: int) -> Batch:
    config, cameras = checkpoint.model.config, len(checkpoint.spec.cameras)
    side = backbone_of(config.model_type).image_size(config)
    length = cameras * tokens_per_camera(model) + checkpoint.spec.prompt_length
    actions = (config.chunk_size, config.max_action_dim)
    return Batch(
        pixels=torch.empty(samples, cameras, 3, side, side),
        input_ids=torch.empty(samples, length, dtype=torch.long),
        attention_mask=torch.empty(samples, length, dtype=torch.long),
        state=torch.empty(samples, config.max_state_dim),
        actions=torch.empty(samples, *actions),
        noise=torch.empty(samples, DRAWS, *actions),
        times=torch.empty(samples, DRAWS),
        objects=torch.empty(samples, 4, 3),
        keypoints=torch.empty(samples, cameras, 4, 2),
        named=torch.empty(samples, 1, dtype=torch.long),
        counts=Counts(1.0, 1.0, 1.0),
    )


class _Alive(TorchDispatchMode):
    """Counts the bytes of the tensors that are made while it is on. most: alive at once [bytes]."""

    def __init__(self):
        super().__init__()
        self.most = self._count = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._add, made)
        return made

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self._count += size
            self.most = max(self.most, self._count)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._count -= size


# What there is


def room(world: World) -> int:
    """Memory that this process may take [bytes]: what is free on its GPU, or its share of this machine's."""
    if world.device.type == "cuda":
        return torch.cuda.mem_get_info(world.device)[0] - DEVICE_OWN
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // world.local

"""The training loop: one batch, one step, one line in the log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from grids_ros.policy.checkpoint import Checkpoint
from grids_ros.policy.grids import attached
from grids_ros.policy.preprocess import pad, to_pixels
from grids_ros.sim import model
from grids_ros.train.dataset import Samples
from grids_ros.train.losses import Batch, LocationHeads, losses
from grids_ros.train.places import places

STATE_NOISE = 0.05  # standard deviation added to the normalised state
BRIGHTNESS = 0.15  # standard deviation of an image's gain and, in units of half its range, of its offset
TINT = 0.05  # and of the gain of each colour: more, and a red cube is an orange one


@dataclass(frozen=True)
class Recipe:
    """How to train.

    shift [px]: images are moved by up to that much, which metric labels only bear when small. nested: each step sees
    only so many tokens per camera, one of these or all, at random; so that a prefix of them suffices as well.
    """

    steps: int
    batch: int = 32
    learning_rate: float = 1e-3
    warm_up: int = 100
    clip: float = 1.0
    decay: float = 0.998
    shift: int = 3
    locations: float = 1.0
    attraction: float = 50.0
    seed: int = 0
    nested: tuple[int, ...] = ()


class Batches:
    """Training batches; the one of step i depends on the seed and i alone, so that a resumed run sees the same."""

    def __init__(self, samples: Samples, checkpoint: Checkpoint, recipe: Recipe):
        self._samples, self._recipe = samples, recipe
        config, normalization, prompt = checkpoint.model.config, checkpoint.normalization, checkpoint.prompt()
        self._states = pad(normalization.normalize_state(samples.states), config.max_state_dim)
        self._actions = pad(normalization.normalize_actions(samples.actions), config.max_action_dim)
        words, which = np.unique(samples.instructions, return_inverse=True)
        encoded = [prompt.encode(str(text)) for text in words]
        self._ids, self._masks = (np.stack(column)[which] for column in zip(*encoded, strict=False))
        named = [_named(str(text)) for text in words]
        self.names = max(1, *map(len, named))  # objects that an instruction names, at most
        self._named = np.array([(row + [-1] * self.names)[: self.names] for row in named])[which]
        sentences = np.array([_sentence(str(text)) for text in words])[which]
        self._tasks = [np.flatnonzero(sentences == sentence) for sentence in np.unique(sentences)]
        known = ~np.isnan(samples.objects).any()
        flat = samples.objects.reshape(-1, 3)
        self._objects = (samples.objects - flat.mean(0)) / flat.std(0).clip(1e-3) if known else samples.objects
        shape = (len(samples), len(checkpoint.spec.cameras), samples.objects.shape[1], 2)
        self._places = (
            places(samples.objects, samples.states, checkpoint.spec.cameras) if known else np.full(shape, np.nan)
        )

    def _draw(self, step: int, rng: np.random.Generator) -> np.ndarray:
        """Rows of a batch: as many of each task, whichever there is more data of; what is left over goes round."""
        share, rest = divmod(self._recipe.batch, len(self._tasks))
        counts = np.roll(share + (np.arange(len(self._tasks)) < rest), step)
        drawn = [rng.choice(rows, n, replace=len(rows) < n) for rows, n in zip(self._tasks, counts, strict=True)]
        return np.concatenate(drawn)

    def at(self, step: int) -> Batch:
        """A random batch, augmented."""
        rng = np.random.default_rng((self._recipe.seed, step))
        rows = np.sort(self._draw(step, rng))
        images, shifts = _shift(self._samples.images[rows], self._recipe.shift, rng)
        pixels = to_pixels(images)
        shape = (*pixels.shape[:2], 1, 1, 1)
        gain = 1.0 + rng.normal(0.0, BRIGHTNESS, shape) + rng.normal(0.0, TINT, (*shape[:2], 3, 1, 1))
        bias = rng.normal(0.0, BRIGHTNESS, shape)
        noise = rng.normal(0.0, STATE_NOISE, self._states[rows].shape)
        return Batch(
            pixels=(pixels * torch.from_numpy(gain).float() + torch.from_numpy(bias).float()).clamp_(-1.0, 1.0),
            input_ids=torch.from_numpy(self._ids[rows]),
            attention_mask=torch.from_numpy(self._masks[rows]),
            state=torch.from_numpy(self._states[rows] + noise).float(),
            actions=torch.from_numpy(self._actions[rows]).float(),
            objects=torch.from_numpy(self._objects[rows]).float(),
            places=torch.from_numpy(self._places[rows] + shifts[:, :, None]).float(),
            named=torch.from_numpy(self._named[rows]),
        )


def _named(instruction: str) -> list[int]:
    """Which of the recorded objects the instruction names, in its order: the one to move, then where it goes."""
    return [model.OBJECTS.index(word) for word in instruction.lower().split() if word in model.OBJECTS]


def _sentence(instruction: str) -> str:
    """The instruction less the names of objects: the same for every instruction of a task."""
    return " ".join("_" if word in model.OBJECTS else word for word in instruction.lower().split())


def _shift(images: np.ndarray, most: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Each image moved by whole pixels, its border repeated; and by how much, (B, cameras, 2), in fractions."""
    size = images.shape[2]
    moved, shifts = np.empty_like(images), rng.integers(-most, most + 1, (*images.shape[:2], 2))
    index = np.arange(size)
    for b, c in np.ndindex(images.shape[:2]):
        dx, dy = shifts[b, c]
        moved[b, c] = images[b, c][(index - dy).clip(0, size - 1)][:, (index - dx).clip(0, size - 1)]
    return moved, shifts / size


def _rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine to a hundredth."""
    if step < recipe.warm_up:
        return recipe.learning_rate * (step + 1) / recipe.warm_up
    progress = (step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)
    return recipe.learning_rate * (0.01 + 0.99 * 0.5 * (1.0 + np.cos(np.pi * min(1.0, progress))))


class Trainer:
    """Model, averaged weights and optimiser; saved whole, as safetensors, and resumed to the same numbers."""

    def __init__(self, checkpoint: Checkpoint, samples: Samples, recipe: Recipe):
        self.checkpoint, self.recipe, self.step = checkpoint, recipe, 0
        self.stages = [{"from_step": 0, **asdict(recipe)}]  # more than one after a resume with another recipe
        self.model = checkpoint.model
        self._batches = Batches(samples, checkpoint, recipe)
        torch.manual_seed(recipe.seed)
        cameras, objects = len(checkpoint.spec.cameras), samples.objects.shape[1]
        self.heads = LocationHeads(self.model, cameras, objects, self._batches.names)
        self.module = nn.ModuleDict({"model": self.model, "heads": self.heads})
        self.averaged = {name: tensor.detach().clone() for name, tensor in self.model.named_parameters()}
        self.optimiser = torch.optim.AdamW(self.module.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.95))

    def run(self, log: Path, until: int) -> Iterator[int]:
        """Train up to step `until`, yielding after each step; the terms of every step go to `log`, as JSON lines."""
        started = time.monotonic()
        with log.open("a") as lines, tqdm(total=self.recipe.steps, initial=self.step, desc="training") as bar:
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
        self.module.train()
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.step)
        terms = losses(self.model, self.heads, self._nested(self._batches.at(self.step)), generator)
        weights = {"flow": 1.0, "locations": recipe.locations, "attraction": recipe.attraction}
        loss = sum(weights[name] * term for name, term in terms.items())
        for group in self.optimiser.param_groups:
            group["lr"] = _rate(recipe, self.step)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), recipe.clip)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"gradient is {norm} at step {self.step}: {terms}")
        self.optimiser.step()
        self.step += 1
        decay = min(recipe.decay, (1.0 + self.step) / (10.0 + self.step))
        with torch.no_grad():
            for name, tensor in self.model.named_parameters():
                self.averaged[name].lerp_(tensor, 1.0 - decay)
        return {name: round(term.item(), 5) for name, term in terms.items()}

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

    def averaged_into(self, model: nn.Module) -> None:
        """Copy the averaged weights into `model`."""
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                tensor.copy_(self.averaged[name])

    def save(self, path: Path) -> None:
        """Everything needed to go on."""
        tensors = {f"module.{name}": tensor for name, tensor in self.module.named_parameters()}
        tensors.update({f"averaged.{name}": tensor for name, tensor in self.averaged.items()})
        for name, parameter in self.module.named_parameters():
            for key, value in self.optimiser.state[parameter].items():
                tensors[f"optimiser.{name}.{key}"] = value
        unfinished = path.with_suffix(".part")
        facts = {"step": str(self.step), "stages": json.dumps(self.stages)}
        save_file({k: v.detach().clone() for k, v in tensors.items()}, str(unfinished), facts)
        unfinished.replace(path)

    def resume(self, path: Path) -> None:
        """Go on from what `save` wrote. Raises ValueError when it belongs to another model."""
        with safe_open(path, framework="pt") as file, torch.no_grad():
            self.step = int(file.metadata()["step"])
            recipe = json.loads(json.dumps(asdict(self.recipe)))  # as it comes back: lists for tuples
            earlier = json.loads(file.metadata()["stages"])
            changed = {**earlier[-1], **recipe} != earlier[-1]
            self.stages = earlier + [{"from_step": self.step, **recipe}] * changed
            parameters, names = dict(self.module.named_parameters()), set(file.keys())
            missing = [name for name in parameters if f"module.{name}" not in names]
            if missing:
                raise ValueError(f"{path} is from another model: it lacks {missing[0]}")
            for name, parameter in parameters.items():
                parameter.copy_(file.get_tensor(f"module.{name}"))
                prefix = f"optimiser.{name}."  # absent where a parameter takes no part, as the expert's word embedding
                state = {k.removeprefix(prefix): file.get_tensor(k) for k in names if k.startswith(prefix)}
                if state:
                    self.optimiser.state[parameter] = state
            for name in self.averaged:
                self.averaged[name].copy_(file.get_tensor(f"averaged.{name}"))

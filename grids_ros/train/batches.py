"""Training batches: drawn, augmented, with the noise of the flow; the same for the same seed and step."""

from __future__ import annotations

import numpy as np
import torch

from grids_ros.policy.checkpoint import Checkpoint
from grids_ros.policy.preprocess import pad, padding_of, to_pixels
from grids_ros.sim import mujoco_model
from grids_ros.train.dataset import Samples
from grids_ros.train.frames import Prefetch
from grids_ros.train.losses import DRAWS, Batch, Counts, sample_times
from grids_ros.train.recipe import Recipe

STATE_NOISE = 0.05  # standard deviation added to the normalised state
JOINT_NOISE = 0.02  # the same for joints, whose errors add up at the tool
BRIGHTNESS = 0.15  # standard deviation of an image's gain and, in units of half its range, of its offset
TINT = 0.05  # and of the gain of each colour: more, and a red cube is an orange one


class Batches:
    """Training batches; the one of step i depends on the seed and i alone, so that a resumed run sees the same.

    located: whether any of the samples says where the objects are, as the simulation's do.
    """

    def __init__(self, samples: Samples, checkpoint: Checkpoint, recipe: Recipe):
        self._samples, self._recipe = samples, recipe
        self._ahead: dict[tuple, Prefetch] = {}
        self._config, self._fit = checkpoint.model.config, checkpoint.spec.image
        normalization, prompt = checkpoint.normalization, checkpoint.prompt()
        self._prompt, self._size = prompt, samples.states.shape[1]
        self._states = pad(normalization.normalize_state(samples.states), self._config.max_state_dim)
        self._actions = pad(normalization.normalize_actions(samples.actions), self._config.max_action_dim)
        self._noise = JOINT_NOISE if checkpoint.spec.state.joints else STATE_NOISE
        words, which = np.unique(samples.instructions, return_inverse=True)
        encoded = [prompt.encode(str(text), np.zeros(self._size)) for text in words]  # with a state: of its length
        self._ids, self._masks = (np.stack(column)[which] for column in zip(*encoded, strict=False))
        simulated = _simulated(samples)
        self._named = _named(samples, simulated)
        self.names = self._named.shape[1]  # objects that an instruction names, at most
        sentences = np.array([_sentence(str(text)) for text in words])[which]
        self._tasks = [np.flatnonzero(sentences == sentence) for sentence in np.unique(sentences)]
        flat = samples.objects.reshape(-1, 3)
        flat = flat[~np.isnan(flat).any(-1)]
        self.located = len(flat) > 0
        self._objects = (samples.objects - flat.mean(0)) / flat.std(0).clip(1e-3) if self.located else samples.objects
        shape = (len(samples), len(checkpoint.spec.cameras), samples.objects.shape[1], 2)
        self._keypoints = np.full(shape, np.nan, np.float32)
        if simulated.any():  # by its cameras: who trains on a robot's bags needs no MuJoCo
            from grids_ros.train.keypoint_labels import keypoints

            shown = samples.objects[simulated], samples.tools[simulated]
            self._keypoints[simulated] = keypoints(*shown, checkpoint.spec.cameras)

    def _draw(self, step: int, rng: np.random.Generator) -> np.ndarray:
        """Rows of a batch: as many of each task, whichever there is more data of; what is left over goes round."""
        share, rest = divmod(self._recipe.batch, len(self._tasks))
        counts = np.roll(share + (np.arange(len(self._tasks)) < rest), step)
        drawn = [rng.choice(rows, n, replace=len(rows) < n) for rows, n in zip(self._tasks, counts, strict=True)]
        return np.concatenate(drawn)

    def _rows(self, step: int) -> tuple[np.random.Generator, np.ndarray]:
        """What the batch of a step consists of, and the generator of the rest of its randomness."""
        rng = np.random.default_rng((self._recipe.seed, step))
        return rng, np.sort(self._draw(step, rng))

    def _images(self, step: int, part: slice) -> np.ndarray:
        """Of the part of a batch; where they have to be decoded, those of the next steps are begun."""
        images = self._samples.images
        if isinstance(images, np.ndarray):
            return images[self._rows(step)[1][part]]
        key = (part.start, part.stop, part.step)
        if key not in self._ahead:
            self._ahead[key] = Prefetch(lambda ahead: images[self._rows(ahead)[1][part]])
        return self._ahead[key].at(step)

    def at(self, step: int, part: slice = slice(None)) -> Batch:
        """A random batch, augmented; or the part of it that these indices name, equal to that part of the whole."""
        rng, rows = self._rows(step)
        generator = torch.Generator().manual_seed(self._recipe.seed * 1_000_003 + step)
        count, cameras, most = len(rows), self._samples.images.shape[1], self._recipe.shift
        shifts = rng.integers(-most, most + 1, (count, cameras, 2))
        shape = (count, cameras, 1, 1, 1)
        gain = 1.0 + rng.normal(0.0, BRIGHTNESS, shape) + rng.normal(0.0, TINT, (count, cameras, 3, 1, 1))
        bias = rng.normal(0.0, BRIGHTNESS, shape)
        noise = rng.normal(0.0, self._noise, (count, self._states.shape[1]))
        noise[:, self._size :] = 0.0  # what pads a state is always zero
        flow_noise = torch.randn((count * DRAWS, *self._actions.shape[1:]), generator=generator)
        times = sample_times(self._config, count * DRAWS, generator)
        objects, named = self._objects[rows].astype(np.float32), self._named[rows]
        seen_at = self._keypoints[rows] + (shifts[:, :, None] / self._samples.images.shape[2]).astype(np.float32)
        counts = Counts.of(objects, seen_at, named)
        rows = rows[part]
        states = self._states[rows] + noise[part]
        ids, masks = self._encoded(rows, states)
        images = _moved(self._images(step, part), shifts[part])
        pixels = to_pixels(images) * torch.from_numpy(gain[part]).float() + torch.from_numpy(bias[part]).float()
        pixels.clamp_(-1.0, 1.0)
        if self._fit.padding != -1.0:
            pixels.masked_fill_(self._padding(rows, shifts[part]), self._fit.padding)
        return Batch(
            pixels=pixels,
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(masks),
            state=torch.from_numpy(states).float(),
            actions=torch.from_numpy(self._actions[rows]).float(),
            noise=flow_noise.unflatten(0, (count, DRAWS))[part],
            times=times.unflatten(0, (count, DRAWS))[part],
            objects=torch.from_numpy(objects[part]),
            keypoints=torch.from_numpy(seen_at[part]),
            named=torch.from_numpy(named[part]),
            counts=counts,
        )

    def _padding(self, rows: np.ndarray, shifts: np.ndarray) -> torch.Tensor:
        """Where the moved images have padding, (B, cameras, 1, S, S)."""
        outside = padding_of(self._samples.sizes[rows], self._samples.images.shape[2], self._fit)
        return torch.from_numpy(_moved(outside[..., None], shifts)).movedim(-1, 2)

    def _encoded(self, rows: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids and masks of these samples, whose prompts may hold these normalised states."""
        if not self._prompt.format.state:
            return self._ids[rows], self._masks[rows]
        texts = self._samples.instructions[rows]
        pairs = [self._prompt.encode(str(t), s[: self._size]) for t, s in zip(texts, states, strict=True)]
        ids, masks = zip(*pairs, strict=True)
        return np.stack(ids), np.stack(masks)


def _words(instruction: str) -> list[str]:
    """The names of the simulation's objects in an instruction."""
    return [word for word in instruction.lower().split() if word in mujoco_model.OBJECTS]


def _simulated(samples: Samples) -> np.ndarray:
    """Which samples are of the simulation, (N,), bool: it labels all its objects, and instructions name them."""
    words = {text: bool(_words(text)) for text in set(samples.instructions)}
    return ~np.isnan(samples.objects).any((1, 2)) & np.array([words[text] for text in samples.instructions])


def _named(samples: Samples, simulated: np.ndarray) -> np.ndarray:
    """Which of the labelled objects each instruction is about, in its order, (N, names); -1 for none.

    The instruction's words tell the simulation's objects apart. Other recordings label what is moved, then where it
    goes.
    """
    known = ~np.isnan(samples.objects).any(-1)
    words = {text: _words(text) for text in set(samples.instructions)}
    rows = [
        [mujoco_model.OBJECTS.index(word) for word in words[text]] if whole else list(np.flatnonzero(labelled))
        for text, whole, labelled in zip(samples.instructions, simulated, known, strict=True)
    ]
    most = max(1, *map(len, rows))
    return np.array([row + [-1] * (most - len(row)) for row in rows])


def _sentence(instruction: str) -> str:
    """The instruction less the names of objects: the same for every instruction of a task."""
    return " ".join("_" if word in mujoco_model.OBJECTS else word for word in instruction.lower().split())


def _moved(images: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Each image of (B, cameras, S, S, 3) moved by whole pixels (B, cameras, 2), x and y; its border is repeated."""
    size = images.shape[2]
    moved, index = np.empty_like(images), np.arange(size)
    for b, c in np.ndindex(images.shape[:2]):
        dx, dy = shifts[b, c]
        moved[b, c] = images[b, c][(index - dy).clip(0, size - 1)][:, (index - dx).clip(0, size - 1)]
    return moved

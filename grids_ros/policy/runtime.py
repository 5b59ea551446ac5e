"""One policy, ready to run: an observation in, an action chunk out; on the robot and in evaluation alike."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from grids_ros.control.continuity import Continuation
from grids_ros.datatypes import Observation, PolicyOutput, Pose
from grids_ros.policy import checkpoint as checkpoints
from grids_ros.policy import preprocess
from grids_ros.policy.engine import Engine
from grids_ros.policy.errors import CheckpointError, InputError
from grids_ros.policy.grids import attached, detach, tokens_per_camera
from grids_ros.policy.rtc import Guidance, previous_actions
from grids_ros.sampler import GridSampler, image_fractions


class Policy:
    """A checkpoint on a device. Not safe to call from two threads at once."""

    def __init__(
        self,
        checkpoint: checkpoints.Checkpoint,
        device: str = "cpu",
        denoising_steps: int | None = None,
        merge: int = 0,
    ):
        """merge: as `Engine` takes it. Raises ValueError for more than can be merged."""
        self._checkpoint = checkpoint
        self._states, self._actions = checkpoint.spaces
        self._model = checkpoint.model.to(device).eval().requires_grad_(False)
        self._read_prompt()
        self._engine = Engine(self._model, denoising_steps or checkpoint.spec.denoising_steps, merge)
        self._image_size = checkpoint.model.config.vlm_config.vision_config.image_size
        self.cameras, self.budgets = checkpoint.spec.cameras, checkpoint.budgets
        self.tokens_per_camera = tokens_per_camera(checkpoint.model)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        device: str = "cpu",
        tokens: int | None = None,
        denoising_steps: int | None = None,
        merge: int = 0,
        dense: bool = False,
    ) -> Policy:
        """Load a checkpoint folder onto a torch device ("cpu", "cuda", "cuda:1").

        tokens: how many tokens per camera to use, one of its `budgets`, or None for all. merge: image tokens that
        become part of others in each layer of the vision tower; any but 0 changes the actions. dense: without its
        sampler.
        Raises CheckpointError for a broken folder, another number of tokens, too many merges, or a device that is not
        there.
        """
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise CheckpointError(f"device {device!r} cannot be used: {error}".splitlines()[0]) from error
        checkpoint = checkpoints.load(folder, device)
        if dense and attached(checkpoint.model):
            detach(checkpoint.model)
        if denoising_steps is not None and denoising_steps < 1:
            raise CheckpointError(f"denoising_steps is {denoising_steps}, expected at least 1")
        try:
            policy = cls(checkpoint, device, denoising_steps, merge)
        except ValueError as error:
            raise CheckpointError(f"{folder}: {error}") from error
        if tokens is not None:
            policy.use_tokens(tokens)
        return policy

    @property
    def instructions(self) -> tuple[str, ...]:
        """Those that it was trained with, as far as its provenance says."""
        return tuple(self._checkpoint.provenance.get("data", {}).get("instructions", ()))

    def use_tokens(self, tokens: int) -> None:
        """Use the first `tokens` of each camera from now on. Raises CheckpointError as `check_tokens` does."""
        self.check_tokens(tokens)
        wrapped = attached(self._model)
        if wrapped:
            wrapped.sampler.use(tokens)
            self._read_prompt()
            self.tokens_per_camera = tokens

    def hold_coordinates(self) -> None:
        """From now on read each camera where the checkpoint's diagnosis read it on average, whatever is in the image.

        Raises CheckpointError for a policy without GridS, and where no diagnosis says where that is.
        """
        wrapped, facts = attached(self._model), self._checkpoint.provenance.get("diagnosis", {})
        if wrapped is None or not isinstance(wrapped.sampler, GridSampler):
            raise CheckpointError("this policy has no coordinates to hold, expected one with GridS")
        if "mean_coordinates" not in facts:
            raise CheckpointError(
                "its provenance.json does not say where it looks on average: `python -m grids_ros diagnose` finds out"
            )
        points = [facts["mean_coordinates"][name] for name in self.cameras]
        wrapped.sampler.hold(torch.tensor(points, device=self._model.device))

    def _read_prompt(self) -> None:
        """For the number of tokens that the model has now."""
        self._prompt = self._checkpoint.prompt()
        self._encode = lru_cache(maxsize=8)(self._prompt.encode)  # one instruction serves many inferences

    def check_tokens(self, tokens: int) -> None:
        """Raises CheckpointError for a number of tokens that the checkpoint was not trained with."""
        if tokens not in self.budgets:
            trained = " or ".join(map(str, self.budgets))
            raise CheckpointError(f"tokens is {tokens}, this checkpoint was trained with {trained}")

    def check(self, instruction: str) -> None:
        """Raise InputError for an instruction that `infer` would refuse."""
        self._prompt.encode(instruction)

    def warm_up(self) -> None:
        """Infer on a made-up observation, so that the first real one takes no longer than the rest, whatever its
        instruction."""
        image = np.zeros((self._image_size, self._image_size, 3), np.uint8)
        observation = Observation(0, dict.fromkeys(self.cameras, image), Pose((0.5, 0.0, 0.3), (1, 0, 0, 0)), 0.08, "-")
        for length in self._engine.text_lengths(self._prompt.length):
            prompt = self._prompt.of_length(length)
            for _ in range(2):
                output = self._infer(observation, prompt)
            self._infer(observation, prompt, continuation=Continuation(output.chunk, delay_s=0.0))

    def infer(
        self, observation: Observation, seed: int | None = None, continuation: Continuation | None = None
    ) -> PolicyOutput:
        """The action chunk for `observation`, bit for bit the same every time on CPU.

        The flow starts from zero, the middle of its noise, so that consecutive chunks choose the same way around. So
        would any draw that is kept, but every chunk would be off to the side on which that draw lies: with one, the
        demo's policy let go of cubes some 5 mm to the same side of their target. seed: start from its draw instead.
        continuation: the chunk being followed, which this one then goes on from.
        Raises InputError when the instruction cannot be encoded, or a camera is missing.
        """
        missing = [name for name in self.cameras if name not in observation.images]
        if missing:
            raise InputError(f"observation lacks cameras {missing}; it has {sorted(observation.images)}")
        return self._infer(observation, self._encode(observation.instruction), seed, continuation)

    @torch.no_grad()
    def _infer(
        self,
        observation: Observation,
        prompt: tuple[np.ndarray, np.ndarray],
        seed: int | None = None,
        continuation: Continuation | None = None,
    ) -> PolicyOutput:
        """prompt: ids and mask, in place of the observation's instruction."""
        started = time.perf_counter()
        images = [preprocess.letterbox(observation.images[name], self._image_size) for name in self.cameras]
        inputs = (preprocess.to_pixels(np.stack(images))[None], *(torch.from_numpy(part)[None] for part in prompt))
        numbers = self._state(observation), self._start(seed)
        guidance = self._guidance(observation, continuation) if continuation else None
        prepared = time.perf_counter()
        actions = self._engine.sample_actions(*inputs, *numbers, guidance)[0, :, : preprocess.ACTION_DIM]
        actions = actions.cpu().numpy()
        ended = time.perf_counter()
        actions = self._checkpoint.normalization.denormalize_actions(actions)
        return PolicyOutput(
            chunk=self._actions.to_chunk(observation.stamp_ns, observation.pose, actions, self._checkpoint.spec.step_s),
            coordinates=self._coordinates(observation),
            latency_s={"preprocess": prepared - started, "model": ended - prepared, "total": ended - started},
        )

    def _state(self, observation: Observation) -> torch.Tensor:
        """Proprioception in this model's terms, (1, state_dim)."""
        numbers = self._states.encode(observation.pose, observation.gripper)
        state = self._checkpoint.normalization.normalize_state(numbers)
        return torch.from_numpy(preprocess.pad(state, self._model.config.max_state_dim))[None]

    def _start(self, seed: int | None) -> torch.Tensor:
        """Where the flow starts, (1, n, action_dim)."""
        config = self._model.config
        start = torch.zeros((1, config.chunk_size, config.max_action_dim))
        return start if seed is None else start.normal_(generator=torch.Generator().manual_seed(seed))

    def _guidance(self, observation: Observation, continuation: Continuation) -> Guidance:
        """The previous chunk in this model's terms; what pads the actions to PI0's width is left alone."""
        config, step_s = self._model.config, self._checkpoint.spec.step_s
        actions, mask = previous_actions(continuation, observation, config.chunk_size, step_s, self._actions)
        ways = self._checkpoint.normalization.normalize_actions(self._actions.ways(actions))
        targets = preprocess.pad(ways, config.max_action_dim)
        weights = preprocess.pad(np.tile(mask[:, None], preprocess.ACTION_DIM), config.max_action_dim)
        return Guidance(torch.from_numpy(targets)[:, None], torch.from_numpy(weights).float())

    def _coordinates(self, observation: Observation) -> dict[str, np.ndarray]:
        """Where the last inference looked, as fractions of each camera's own image."""
        wrapped = attached(self._model)
        if wrapped is None:
            return {}
        seen = image_fractions(self._engine.coordinates, *wrapped.grid, wrapped.sampler.config.align_corners)
        return {
            name: preprocess.undo_letterbox(points, *observation.images[name].shape[:2])
            for name, points in zip(self.cameras, seen.float().cpu().numpy(), strict=False)
        }

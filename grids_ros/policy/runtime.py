"""One policy, ready to run: an observation in, an action chunk out; on the robot and in evaluation alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grids_ros.control.continuity import Continuation
from grids_ros.datatypes import ActionChunk, Observation, PolicyOutput, Pose
from grids_ros.policy import checkpoint as checkpoints
from grids_ros.policy import preprocess
from grids_ros.policy.arithmetic import FP8, check_fp8
from grids_ros.policy.backbone import backbone_of
from grids_ros.policy.contract import contract
from grids_ros.policy.engine import Engine
from grids_ros.policy.errors import CheckpointError, InputError
from grids_ros.policy.grids import attached, detach, tokens_per_camera
from grids_ros.policy.joints import JointActions, RobotModel
from grids_ros.policy.rtc import Guidance, measured_joints, previous_actions
from grids_ros.sampler import GridSampler, image_fractions

AUTO = "auto"
PRECISIONS = {AUTO: None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float8": FP8}


class Policy:
    """A checkpoint on a device, whose model it takes over, see `Engine`. Not safe to call from two threads at once."""

    def __init__(
        self,
        checkpoint: checkpoints.Checkpoint,
        device: str = "cpu",
        denoising_steps: int | None = None,
        precision: str = AUTO,
    ):
        self._checkpoint = checkpoint
        self._states, self._actions = checkpoint.spaces
        self._model = checkpoint.model.to(device).eval().requires_grad_(False)
        self._read_prompt()
        steps = denoising_steps or checkpoint.spec.denoising_steps
        self._engine = Engine(self._model, steps, products=PRECISIONS[precision], keep_model=False)
        self._image_size = backbone_of(checkpoint.model.config.model_type).image_size(checkpoint.model.config)
        self.cameras, self.budgets = checkpoint.spec.cameras, checkpoint.budgets
        self._fit = checkpoint.spec.image
        self.tokens_per_camera = tokens_per_camera(checkpoint.model)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        device: str = "cpu",
        tokens: int | None = None,
        denoising_steps: int | None = None,
        dense: bool = False,
        robot: RobotModel | Callable[[], RobotModel] | None = None,
        precision: str = AUTO,
    ) -> Policy:
        """Load a checkpoint folder onto a torch device ("cpu", "cuda", "cuda:1").

        tokens: how many tokens per camera to use, one of its `budgets`, or None for all. dense: without its sampler.
        robot: of a policy of joints, which needs one; or what finds it, called for such a policy alone.
        precision: of the matrix products, one of PRECISIONS; "auto" takes what this machine does fastest.
        Raises CheckpointError for a broken folder, another number of tokens, a device that does not exist, or a
        precision that it does not have.
        """
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise CheckpointError(f"device {device!r} cannot be used: {error}".splitlines()[0]) from error
        if precision not in PRECISIONS:
            raise CheckpointError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
        if PRECISIONS[precision] == FP8:
            try:
                check_fp8(torch.device(device))
            except ValueError as error:
                raise CheckpointError(f"precision 'float8' on device {device!r}: {error}") from error
        checkpoint = checkpoints.load(folder, device)
        if dense and attached(checkpoint.model):
            detach(checkpoint.model)
        if denoising_steps is not None and denoising_steps < 1:
            raise CheckpointError(f"denoising_steps is {denoising_steps}, expected at least 1")
        if checkpoint.spec.joints and robot is None:
            raise CheckpointError(
                f"{folder} is a policy of joints ({', '.join(checkpoint.spec.joints)}): it needs the robot's URDF, in "
                "the topic or the file that robot_description names"
            )
        try:
            policy = cls(checkpoint, device, denoising_steps, precision)
            if policy.joints:
                made: Any = robot() if callable(robot) else robot
                policy.use_robot(made)
        except ValueError as error:
            raise CheckpointError(f"{folder}: {error}") from error
        if tokens is not None:
            policy.use_tokens(tokens)
        return policy

    @property
    def products(self) -> dict[str, str]:
        """How each tower multiplies, and why: for the log."""
        return {tower: chosen.reason for tower, chosen in self._engine.products._asdict().items()}

    @property
    def backend(self) -> str:
        """How an inference is launched."""
        return self._engine.backend

    @property
    def refused_backends(self) -> list[str]:
        """Ways to launch that failed their check, and why: for the log."""
        return self._engine.refused_backends

    @property
    def instructions(self) -> tuple[str, ...]:
        """The instructions that it was trained with, as far as the checkpoint states them."""
        return self._checkpoint.spec.instructions

    @property
    def contract(self) -> str:
        """What it takes and gives, number by number."""
        return contract(self._checkpoint)

    @property
    def joints(self) -> tuple[str, ...]:
        """The joints whose positions an observation must have; none for a policy of poses."""
        return self._checkpoint.spec.joints

    def try_out(self) -> np.ndarray:
        """Actions (steps, size) for a made-up observation, in the units of its action space: whether it runs at all."""
        with torch.inference_mode():
            computed = self._engine.sample_actions(*self._made_up(min(8, self._prompt.length), False, 1))
        actions = computed[0, :, : self._actions.size].float().cpu().numpy()
        return self._checkpoint.normalization.denormalize_actions(actions)

    @property
    def chunk_size(self) -> int:
        """Steps of a chunk."""
        return self._model.config.chunk_size

    @property
    def per_step_actions(self) -> bool:
        """Whether its actions are steps, each relative to the target of the one before."""
        return self._actions.per_step

    def use_robot(self, robot: RobotModel) -> None:
        """Compute tool poses on this robot. Raises KinematicsError for one without the policy's joints or frames."""
        from grids_ros.kinematics import Kinematics

        if isinstance(self._actions, JointActions):
            self._actions = self._actions.on(Kinematics(robot.urdf, self.joints, robot.base, robot.tool))

    def use_tokens(self, tokens: int) -> None:
        """Use the first `tokens` of each camera from now on. Raises CheckpointError as `check_tokens` does."""
        self.check_tokens(tokens)
        wrapped = attached(self._model)
        if wrapped:
            wrapped.sampler.use(tokens)
            self._read_prompt()
            self.tokens_per_camera = tokens

    @property
    def mean_coordinates(self) -> dict[str, np.ndarray] | None:
        """Camera to where the sampler reads it on average, (K, 2); None where no diagnosis says so."""
        held = self._checkpoint.spec.mean_coordinates
        return None if held is None else {name: np.array(held[name]) for name in self.cameras}

    @property
    def sampler(self) -> GridSampler | None:
        """GridS, for a study of it; None for a policy without."""
        wrapped = attached(self._model)
        return wrapped.sampler if wrapped and isinstance(wrapped.sampler, GridSampler) else None

    def _read_prompt(self) -> None:
        """For the number of tokens that the model has now."""
        self._prompt = self._checkpoint.prompt()
        self._encode: Callable = self._prompt.encode
        if not self._prompt.format.state:
            self._encode = lru_cache(maxsize=8)(self._prompt.encode)  # one instruction serves many inferences

    def check_tokens(self, tokens: int) -> None:
        """Raises CheckpointError for a number of tokens that the checkpoint was not trained with."""
        if tokens not in self.budgets:
            trained = " or ".join(map(str, self.budgets))
            raise CheckpointError(f"tokens is {tokens}, this checkpoint was trained with {trained}")

    def check(self, instruction: str) -> None:
        """Raise InputError for an instruction that `infer` would refuse."""
        self._prompt.encode(instruction, np.zeros(self._states.size))

    def warm_up(self) -> None:
        """Infer on a made-up observation, so that the first real one takes no longer than the rest, whatever its
        instruction."""
        pairs = []
        for length in self._engine.text_lengths(self._prompt.length, self._prompt.placeholders):
            for guided in (False, True):
                pairs.append((self._made_up(length, guided, 0), self._made_up(length, guided, 1)))
        self._engine.prepare(pairs)

    def _made_up(self, length: int, guided: bool, seed: int) -> tuple:
        """Arguments of `Engine.sample_actions` for a prompt of `length` tokens of text that mean nothing."""
        random, size = np.random.default_rng(seed), self._image_size
        images = {name: random.integers(0, 256, (size, size, 3), np.uint8) for name in self.cameras}
        pose, names = Pose((0.5, 0.1 * seed, 0.3), (1, 0, 0, 0)), self.joints
        observation = Observation(0, images, pose, 0.08, "-", joints=dict.fromkeys(names, 0.1 * seed))
        turns, joints = np.array([[1.0, 0.0, 0.0, 0.0]]), np.zeros((1, len(names))) if names else None
        chunk = ActionChunk(0, np.ones(1), np.full((1, 3), 0.1 * seed), turns, np.ones(1), joints)
        continuation = Continuation(chunk, delay_s=0.0) if guided else None
        return self._arguments(observation, self._prompt.of_length(length), seed, continuation)

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
        state = (self._state(observation),) if self._prompt.format.state else ()
        return self._infer(observation, self._encode(observation.instruction, *state), seed, continuation)

    def _infer(
        self,
        observation: Observation,
        prompt: tuple[np.ndarray, np.ndarray],
        seed: int | None = None,
        continuation: Continuation | None = None,
    ) -> PolicyOutput:
        """prompt: ids and mask, in place of the observation's instruction."""
        started = time.perf_counter()
        arguments = self._arguments(observation, prompt, seed, continuation)
        prepared = time.perf_counter()
        computed = self._engine.sample_actions(*arguments)[0, :, : self._actions.size].cpu().numpy()
        ended = time.perf_counter()
        actions = self._checkpoint.normalization.denormalize_actions(computed)
        return PolicyOutput(
            chunk=self._chunk(observation, actions),
            coordinates=self._coordinates(observation),
            latency_s={"preprocess": prepared - started, "model": ended - prepared, "total": ended - started},
        )

    def _chunk(self, observation: Observation, actions: np.ndarray) -> ActionChunk:
        """Raises InputError for joints that are missing or beyond their limits, or that disagree with the pose."""
        measured = measured_joints(observation, self._actions)
        try:
            return self._actions.to_chunk(
                observation.stamp_ns, observation.pose, actions, self._checkpoint.spec.step_s, measured
            )
        except ValueError as error:
            raise InputError(str(error)) from error

    def _arguments(
        self, observation: Observation, prompt, seed: int | None, continuation: Continuation | None
    ) -> tuple:
        """Of `Engine.sample_actions`."""
        inputs = self._pixels(observation), *(torch.from_numpy(part)[None] for part in prompt)
        state = torch.from_numpy(preprocess.pad(self._state(observation), self._model.config.max_state_dim))[None]
        guidance = self._guidance(observation, continuation) if continuation else None
        return (*inputs, state, self._start(seed), guidance)

    def _pixels(self, observation: Observation) -> torch.Tensor:
        """The images as the vision encoder takes them, (1, cameras, 3, S, S)."""
        images = [observation.images[name] for name in self.cameras]
        boxed = [preprocess.letterbox(image, self._image_size, self._fit) for image in images]
        pixels = preprocess.to_pixels(np.stack(boxed))
        for image, part in zip(images, pixels, strict=True):
            preprocess.fill_padding(part, *_size(image), self._fit)
        return pixels[None]

    def _state(self, observation: Observation) -> np.ndarray:
        """Proprioception in this model's terms, normalised, (state size,)."""
        joints = measured_joints(observation, self._states)
        return self._checkpoint.normalization.normalize_state(
            self._states.encode(observation.pose, observation.gripper, joints)
        )

    def _start(self, seed: int | None) -> torch.Tensor:
        """Where the flow starts, (1, n, action_dim)."""
        config = self._model.config
        start = torch.zeros((1, config.chunk_size, config.max_action_dim))
        return start if seed is None else start.normal_(generator=torch.Generator().manual_seed(seed))

    def _guidance(self, observation: Observation, continuation: Continuation) -> Guidance:
        """The previous chunk in this model's terms; what pads the actions to the model's width is left alone."""
        config, step_s = self._model.config, self._checkpoint.spec.step_s
        actions, mask = previous_actions(continuation, observation, config.chunk_size, step_s, self._actions)
        ways = self._checkpoint.normalization.normalize_actions(self._actions.ways(actions))
        targets = preprocess.pad(ways, config.max_action_dim)
        weights = preprocess.pad(np.tile(mask[:, None], self._actions.size), config.max_action_dim)
        return Guidance(torch.from_numpy(targets)[:, None], torch.from_numpy(weights).float())

    def _coordinates(self, observation: Observation) -> dict[str, np.ndarray]:
        """Where the last inference looked, as fractions of each camera's own image."""
        wrapped = attached(self._model)
        if wrapped is None or self._engine.coordinates is None:
            return {}
        seen = image_fractions(self._engine.coordinates, *wrapped.grid, wrapped.sampler.config.align_corners)
        return {
            name: preprocess.undo_letterbox(points, *_size(observation.images[name]), self._fit.anchor)
            for name, points in zip(self.cameras, seen.float().cpu().numpy(), strict=False)
        }


def _size(image: np.ndarray) -> tuple[int, int]:
    """Height and width [px]."""
    return image.shape[0], image.shape[1]

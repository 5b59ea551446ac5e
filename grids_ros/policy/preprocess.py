"""Between observations and tensors, in one place for training, replay and the robot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy.spatial.transform import Rotation
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from grids_ros.datatypes import ActionChunk, Pose
from grids_ros.policy.errors import InputError

STATE_DIM = 10  # position 3 [m], first two columns of the rotation matrix 6, gripper opening 1 [m]
ACTION_DIM = 7  # translation 3 [m], rotation vector 3 [rad], gripper opening 1 [m]
PAD, UNKNOWN, BEGIN = "[PAD]", "[UNK]", "[BOS]"


# --- images ------------------------------------------------------------------------------------------------------


def letterbox(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 RGB (H, W, 3) to (size, size, 3): scaled to fit, centred, the rest black."""
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    scale = size / max(height, width)
    inner_h, inner_w = max(1, round(height * scale)), max(1, round(width * scale))
    shrinking = scale < 1.0
    resized = cv2.resize(image, (inner_w, inner_h), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)
    if inner_h == inner_w:
        return resized
    boxed = np.zeros((size, size, 3), np.uint8)
    top, left = (size - inner_h) // 2, (size - inner_w) // 2
    boxed[top : top + inner_h, left : left + inner_w] = resized
    return boxed


def undo_letterbox(fractions: np.ndarray, height: int, width: int) -> np.ndarray:
    """Fractions (..., 2) of the letterboxed square to fractions of the (height, width) image, clipped to it."""
    longest = max(height, width)
    share = np.array([width / longest, height / longest])
    return np.clip((fractions - (1.0 - share) / 2.0) / share, 0.0, 1.0)


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 (..., S, S, 3) to float32 (..., 3, S, S) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, -3).float().div_(127.5).sub_(1.0)


# --- proprioception and actions ----------------------------------------------------------------------------------


def to_state(pose: Pose, gripper: float) -> np.ndarray:
    """Proprioception, shape (10,): see STATE_DIM. The rotation's two columns know no jump, unlike a quaternion."""
    matrix = Rotation.from_quat(pose.quaternion).as_matrix()
    return np.concatenate([pose.position, matrix[:, 0], matrix[:, 1], [gripper]])


def to_actions(pose: Pose, positions: np.ndarray, quaternions: np.ndarray, gripper: np.ndarray) -> np.ndarray:
    """Target poses (n, 3), (n, 4) and openings (n,) to actions (n, 7) relative to the measured `pose`, base axes."""
    turns = Rotation.from_quat(quaternions) * Rotation.from_quat(pose.quaternion).inv()
    return np.concatenate([positions - pose.position, turns.as_rotvec(), np.reshape(gripper, (-1, 1))], axis=1)


def to_chunk(stamp_ns: int, pose: Pose, actions: np.ndarray, step_s: float) -> ActionChunk:
    """Actions (n, 7) relative to the measured `pose` to the chunk that they mean. Inverse of `to_actions`."""
    turns = Rotation.from_rotvec(actions[:, 3:6]) * Rotation.from_quat(pose.quaternion)
    return ActionChunk(
        stamp_ns=stamp_ns,
        times=step_s * np.arange(1, len(actions) + 1),
        positions=pose.position + actions[:, :3],
        quaternions=turns.as_quat(),
        gripper=actions[:, 6],
    )


@dataclass(frozen=True, eq=False)
class Normalization:
    """Mean and standard deviation of states and actions (7,), in the units that the policy's spaces say.

    A deviation is negative where the model counts the other way round, as of a gripper that is 1 when it is closed.
    """

    state_mean: np.ndarray
    state_std: np.ndarray
    action_mean: np.ndarray
    action_std: np.ndarray

    @classmethod
    def of(cls, states: np.ndarray, actions: np.ndarray) -> Normalization:
        """Statistics of states (n, 10) and actions (..., 7); no deviation is taken below 0.001."""
        flat = actions.reshape(-1, actions.shape[-1])
        return cls(states.mean(0), states.std(0).clip(1e-3), flat.mean(0), flat.std(0).clip(1e-3))

    def normalize_state(self, state: np.ndarray) -> np.ndarray:
        return ((state - self.state_mean) / self.state_std).astype(np.float32)

    def normalize_actions(self, actions: np.ndarray) -> np.ndarray:
        return ((actions - self.action_mean) / self.action_std).astype(np.float32)

    def denormalize_actions(self, actions: np.ndarray) -> np.ndarray:
        return actions.astype(np.float64) * self.action_std + self.action_mean


def pad(values: np.ndarray, width: int) -> np.ndarray:
    """Zeros appended to the last axis up to `width`, as PI0 takes states and actions of fewer dimensions."""
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, width - values.shape[-1])])


# --- instructions ------------------------------------------------------------------------------------------------


def word_tokenizer(instructions: list[str]) -> Tokenizer:
    """A tokenizer that knows the words of these instructions, without regard to case."""
    pre = pre_tokenizers.Whitespace()
    lower = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = {word for text in instructions for word, _ in pre.pre_tokenize_str(lower.normalize_str(text))}
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate([PAD, UNKNOWN, BEGIN, *sorted(words)])}, unk_token=UNKNOWN)
    )
    tokenizer.normalizer, tokenizer.pre_tokenizer = lower, pre
    frame(tokenizer, BEGIN)
    return tokenizer


def frame(tokenizer: Tokenizer, begin: str, end: str | None = None) -> None:
    """Say what begins and what ends a prompt: tokens of the vocabulary. Raises KeyError for one that is none."""
    special = {token: tokenizer.token_to_id(token) for token in (begin, end) if token is not None}
    if None in special.values():
        raise KeyError(f"the tokenizer has no token {min(t for t, i in special.items() if i is None)!r}")
    template = [begin, "$A", *([end] if end is not None else [])]
    tokenizer.post_processor = processors.TemplateProcessing(template, special_tokens=list(special.items()))


@dataclass(frozen=True)
class Prompt:
    """Instruction to token ids: K placeholders for each camera, the words as the tokenizer frames them, padding.

    tokenizer: of the checkpoint; see `frame`. length: ids that the instruction may take, what frames it included.
    placeholders: image tokens in all. image_token: their id.
    """

    tokenizer: Tokenizer
    length: int
    placeholders: int
    image_token: int

    def encode(self, instruction: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids and attention mask, int64, shape (placeholders + length,).

        Raises InputError when the instruction is too long, or has words that the policy was never taught: it would
        act on what is left of the sentence.
        """
        encoding = self.tokenizer.encode(instruction)
        unknown = self.tokenizer.token_to_id(UNKNOWN)
        strange = [instruction[a:b] for (a, b), i in zip(encoding.offsets, encoding.ids, strict=False) if i == unknown]
        if strange:
            known = sorted(set(self.tokenizer.get_vocab()) - {PAD, UNKNOWN, BEGIN})
            raise InputError(f"instruction has words this policy does not know: {strange[:5]}; it knows {known[:40]}")
        words = encoding.ids
        if len(words) > self.length:
            raise InputError(f"instruction takes {len(words)} tokens, this policy takes at most {self.length}")
        return self._framed(words)

    def of_length(self, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """The same for so many tokens of text, up to `length`, that mean nothing: to measure, or to warm up with."""
        return self._framed([int(self.image_token == 0)] * tokens)

    def _framed(self, words: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        ids = np.zeros(self.placeholders + self.length, np.int64)
        ids[: self.placeholders] = self.image_token
        ids[self.placeholders : self.placeholders + len(words)] = words
        return ids, (np.arange(len(ids)) < self.placeholders + len(words)).astype(np.int64)

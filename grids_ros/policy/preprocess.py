"""Between observations and tensors, in one place for training, replay and the robot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from grids_ros.control.rotation import differences, turned
from grids_ros.datatypes import ActionChunk, Pose
from grids_ros.policy.errors import InputError
from grids_ros.policy.plain_text import text_tokenizer
from grids_ros.policy.prompt import PromptFormat

STATE_DIM = 10  # position 3 [m], first two columns of the rotation matrix 6, gripper opening 1 [m]
ACTION_DIM = 7  # translation 3 [m], rotation vector 3 [rad], gripper opening 1 [m]
PAD, UNKNOWN, BEGIN = "[PAD]", "[UNK]", "[BOS]"


# --- images ------------------------------------------------------------------------------------------------------


FILTERS = ("area", "bilinear", "antialias")
ANCHORS = ("centre", "end")
_ODD = range(3, 256, 2)  # whole factors to shrink by whose means lie on no half, and whose sums fit into 16 bits


@dataclass(frozen=True)
class ImageFit:
    """How a camera's image becomes the square that the vision encoder takes: it is a part of what a policy learnt.

    filter: "area" averages the pixels, as policies trained here; "bilinear" reads four of them, as lerobot does;
    "antialias" is Pillow's bilinear filter, as openpi's. padding: pixels where the square has no image, in the
    encoder's range of -1 (black) to 1; lerobot 0.4.0 to 0.4.4 has -3. anchor: the image lies in the "centre" of the
    square, or at its "end", with the padding at the top and left.
    Raises ValueError for another filter or anchor.
    """

    filter: str = "area"
    padding: float = -1.0
    anchor: str = "centre"

    def __post_init__(self):
        for name, valid in (("filter", FILTERS), ("anchor", ANCHORS)):
            if getattr(self, name) not in valid:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected {' or '.join(map(repr, valid))}")

    def box(self, height: int, width: int, size: int) -> tuple[int, int, int, int]:
        """Top, left, height and width that an image takes in a square of `size` [px]; sizes are cut, as by lerobot and
        openpi."""
        ratio = max(width / size, height / size)
        inner_h, inner_w = max(1, int(height / ratio)), max(1, int(width / ratio))
        if self.anchor == "end":
            return size - inner_h, size - inner_w, inner_h, inner_w
        return (size - inner_h) // 2, (size - inner_w) // 2, inner_h, inner_w


def letterbox(image: np.ndarray, size: int, fit: ImageFit = ImageFit()) -> np.ndarray:  # noqa: B008 - it is frozen
    """uint8 RGB (H, W, 3) to (size, size, 3): scaled to fit, the rest black.

    uint8, but for "bilinear": lerobot interpolates between grey levels, so what is resized stays float32, 0 to 255.
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    top, left, inner_h, inner_w = fit.box(height, width, size)
    resized = _resized(image, inner_h, inner_w, fit.filter)
    if inner_h == inner_w == size:
        return resized
    boxed = np.zeros((size, size, 3), resized.dtype)
    boxed[top : top + inner_h, left : left + inner_w] = resized
    return boxed


def _resized(image: np.ndarray, height: int, width: int, kind: str) -> np.ndarray:
    if kind == "antialias":
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    if kind == "bilinear":
        return cv2.resize(image.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    shrinking = kind == "area" and max(height, width) < max(image.shape[:2])
    (down, left_rows), (across, left_columns) = divmod(image.shape[0], height), divmod(image.shape[1], width)
    if shrinking and not (left_rows or left_columns) and down in _ODD and across in _ODD:
        return _averaged(image, height, width, down)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)


def _averaged(image: np.ndarray, height: int, width: int, side: int) -> np.ndarray:
    """OpenCV's area filter for an odd whole factor, the same bytes in less time: rows are added first, as vectors."""
    rows = np.ascontiguousarray(image).reshape(height, side, -1)
    sums = np.add(rows[:, 0], rows[:, 1], dtype=np.uint16)
    for row in range(2, side):
        np.add(sums, rows[:, row], out=sums)
    across = np.tile(np.eye(3, dtype=np.float32), (side, 1)) / side**2
    means = sums.reshape(-1, 3 * side).astype(np.float32) @ across
    return (means + np.float32(0.5)).astype(np.uint8).reshape(height, width, 3)


def undo_letterbox(fractions: np.ndarray, height: int, width: int, anchor: str = "centre") -> np.ndarray:
    """Fractions (..., 2) of the letterboxed square to fractions of the (height, width) image, clipped to it."""
    longest = max(height, width)
    share = np.array([width / longest, height / longest])
    margin = (1.0 - share) / 2.0 if anchor == "centre" else 1.0 - share
    return np.clip((fractions - margin) / share, 0.0, 1.0)


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """Grey levels (..., S, S, 3), 0 to 255, to float32 (..., 3, S, S) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, -3).float().div_(127.5).sub_(1.0)


def fill_padding(pixels: torch.Tensor, height: int, width: int, fit: ImageFit) -> torch.Tensor:
    """Write the padding's value into the pixels (3, S, S) of a letterboxed image of this size, and return them."""
    if fit.padding != -1.0:
        top, left, inner_h, inner_w = fit.box(height, width, pixels.shape[-1])
        outside = torch.ones(pixels.shape[-2:], dtype=torch.bool)
        outside[top : top + inner_h, left : left + inner_w] = False
        pixels[:, outside] = fit.padding
    return pixels


def padding_of(sizes: np.ndarray, side: int, fit: ImageFit) -> np.ndarray:
    """Where squares have no image, (N, cameras, side, side), bool. sizes: (N, cameras, 2), height and width [px]."""
    outside = np.ones((*sizes.shape[:2], side, side), bool)
    for n, camera in np.ndindex(*sizes.shape[:2]):
        height, width = sizes[n, camera].tolist()
        top, left, inner_h, inner_w = fit.box(height, width, side)
        outside[n, camera, top : top + inner_h, left : left + inner_w] = False
    return outside


def padded_pixels(images: np.ndarray, sizes: np.ndarray, fit: ImageFit) -> torch.Tensor:
    """Letterboxed images (N, cameras, S, S, 3) to pixels (N, cameras, 3, S, S), as `fill_padding` leaves them.

    sizes: (N, cameras, 2), height and width of each image before [px].
    """
    pixels = to_pixels(images)
    if fit.padding != -1.0:
        pixels.masked_fill_(torch.from_numpy(padding_of(sizes, images.shape[2], fit))[:, :, None], fit.padding)
    return pixels


# --- proprioception and actions ----------------------------------------------------------------------------------


def to_state(pose: Pose, gripper: float) -> np.ndarray:
    """Proprioception, shape (10,): see STATE_DIM. The rotation's two columns know no jump, unlike a quaternion."""
    matrix = Rotation.from_quat(pose.quaternion).as_matrix()
    return np.concatenate([pose.position, matrix[:, 0], matrix[:, 1], [gripper]])


def to_actions(pose: Pose, positions: np.ndarray, quaternions: np.ndarray, gripper: np.ndarray) -> np.ndarray:
    """Target poses (n, 3), (n, 4) and openings (n,) to actions (n, 7) relative to the measured `pose`, base axes."""
    turns = differences(quaternions, pose.quaternion)
    return np.concatenate([positions - pose.position, turns, np.reshape(gripper, (-1, 1))], axis=1)


def to_chunk(stamp_ns: int, pose: Pose, actions: np.ndarray, step_s: float) -> ActionChunk:
    """Actions (n, 7) relative to the measured `pose` to the chunk that they mean. Inverse of `to_actions`."""
    return ActionChunk(
        stamp_ns=stamp_ns,
        times=step_s * np.arange(1, len(actions) + 1),
        positions=pose.position + actions[:, :3],
        quaternions=turned(pose.quaternion, actions[:, 3:6]),
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
    padded = np.zeros((*values.shape[:-1], width), values.dtype)
    padded[..., : values.shape[-1]] = values
    return padded


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


def frame(tokenizer: Tokenizer, begin: str | None, end: str | None = None) -> None:
    """Set what begins and what ends a prompt: tokens of the vocabulary, or None.

    Raises KeyError for a token that the vocabulary has not.
    """
    special = {token: tokenizer.token_to_id(token) for token in (begin, end) if token is not None}
    if None in special.values():
        raise KeyError(f"the tokenizer has no token {min(t for t, i in special.items() if i is None)!r}")
    template = [token for token in (begin, "$A", end) if token is not None]
    tokenizer.post_processor = processors.TemplateProcessing(template, special_tokens=list(special.items()))


@dataclass(frozen=True)
class Prompt:
    """Instruction to token ids: K placeholders for each camera, the text as the tokenizer frames it, padding.

    tokenizer: of the checkpoint; see `frame`. length: ids that the text may take, what frames it included.
    placeholders: image tokens in all. image_token: their id. format: how the text is made.
    """

    tokenizer: Tokenizer
    length: int
    placeholders: int
    image_token: int
    format: PromptFormat = PromptFormat()

    def encode(self, instruction: str, state: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Ids and attention mask, int64, shape (placeholders + length,).

        state: normalised, (n,); used where the format holds it. Raises InputError when the instruction is too long, or
        has words that the policy was never taught: it would act on the rest of the sentence.
        """
        instruction = self.format.text(instruction, state)
        try:
            encoding = text_tokenizer(self.tokenizer).encode(instruction)
        except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception for what it cannot encode
            raise InputError(f"instruction cannot be encoded: {error}") from error
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

"""What the makers of oracles share: small sizes, stand-ins for what cannot be had, one observation.

These files run inside a peer's environment (lerobot, openpi), never in ours, and nothing of a peer is kept here. They
write small random checkpoints with the peer's own classes, and what the peer's own code makes of one observation; the
tests read both where GRIDS_PEERS names their folder.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CAMERAS = ("front", "wrist")
WIDE = "-848x480"
TASK = "pick up the red_cube"
STATE = np.array([0.45, 0.10, 0.35, 2.8, 0.2, -0.1, 0.03], np.float32)  # position, rotation vector, opening
LOW = np.array([0.2, -0.4, 0.1, 2.0, -0.5, -0.5, 0.0], np.float32)
HIGH = np.array([0.8, 0.5, 0.6, 3.1, 0.6, 0.4, 0.08], np.float32)
HORIZON, STEPS = 8, 5
CORPUS = [
    "Task: pick up the red cube, State: 0 1 23 45 67 89 100 128 200 255 -1;\nAction: ",
    "put the blue block on the green one and open the drawer",
    "lift it, turn it, and place it in the bowl next to the plate",
]


def sized(name: str) -> tuple[str, int]:
    """A policy's name without WIDE at its end, and how wide its images are [px]: the sides go into 224 px unevenly."""
    return (name.removesuffix(WIDE), 848) if name.endswith(WIDE) else (name, 640)


def observation(width: int = 640) -> dict[str, np.ndarray]:
    """Camera name to uint8 RGB (480, width, 3): smooth and sharp parts, so that another filter shows."""
    rng = np.random.default_rng(3)
    images = {}
    for index, name in enumerate(CAMERAS):
        y, x = np.mgrid[0:480, 0:width]
        waves = np.stack([np.sin(x / (9 + 7 * c) + index) * np.cos(y / (11 + 5 * c)) for c in range(3)], -1)
        image = 127.5 + 90.0 * waves + rng.normal(0.0, 12.0, (480, width, 3))
        image[100 + 40 * index : 220, 200:330] = (200, 30, 40)
        images[name] = image.clip(0, 255).astype(np.uint8)
    return images


def noise(width: int = 32) -> torch.Tensor:
    """Where the flow starts, (1, HORIZON, width)."""
    return torch.randn((1, HORIZON, width), generator=torch.Generator().manual_seed(0))


def shake(model: torch.nn.Module) -> None:
    """No weight at its initial value: norms and biases begin at zero, where no mistake in them would show."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator).to(parameter))


def statistics() -> dict[str, dict[str, np.ndarray]]:
    """Of states and actions, every kind that a peer may ask for."""
    middle, half = (LOW + HIGH) / 2, (HIGH - LOW) / 2
    one = {"mean": middle, "std": half / 2, "min": LOW - 0.1, "max": HIGH + 0.1, "q01": LOW, "q99": HIGH}
    return {"observation.state": one, "action": {name: values + 0.01 for name, values in one.items()}}


def paligemma_tokenizer() -> Tokenizer:
    """A small BPE with the special tokens, the spaces and the byte fallback of PaliGemma's, framed by <bos>."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d|\n|▁+(?!\d)|[^\d\n▁]+"), "isolated")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, initial_alphabet=["\n", "▁", *"0123456789-"])
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 2)])
    values = json.loads(tokenizer.to_str())  # bytes are in PaliGemma's vocabulary, and not special
    values["added_tokens"] = [each for each in values["added_tokens"] if not each["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(values))


def smollm_tokenizer() -> Tokenizer:
    """A small byte-level BPE, as SmolLM2's: nothing begins or ends a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<fake_token_around_image>", "<global-img>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=360, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def save(path: Path, **arrays) -> None:
    """An .npz of tensors and arrays."""
    kept = {n: a.detach().float().numpy() if isinstance(a, torch.Tensor) else np.asarray(a) for n, a in arrays.items()}
    np.savez_compressed(path, **kept)


class Rewritten(importlib.abc.Loader):
    """A module whose source is changed as it is imported: sizes that a peer has written into its code."""

    def __init__(self, spec, changes: dict[str, str]):
        self._spec, self._changes = spec, changes

    def create_module(self, spec):
        return None

    def exec_module(self, module) -> None:
        source = Path(self._spec.origin).read_text()
        for before, after in self._changes.items():
            if before not in source:
                raise ValueError(f"{self._spec.origin} has no {before!r}")
            source = source.replace(before, after)
        exec(compile(source, self._spec.origin, "exec"), module.__dict__)


class Rewriting(importlib.abc.MetaPathFinder):
    """changes: by module name, what becomes of which text."""

    def __init__(self, changes: dict[str, dict[str, str]]):
        self._changes = changes

    def find_spec(self, name, path, target=None):
        if name not in self._changes:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        spec.loader = Rewritten(spec, self._changes[name])
        return spec


def rewrite(changes: dict[str, dict[str, str]]) -> None:
    """From now on, in every import."""
    sys.meta_path.insert(0, Rewriting(changes))

"""What is compared: checkpoints, and one checkpoint at several numbers of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from grids_ros.policy import checkpoint as checkpoints
from grids_ros.policy.checkpoint import CheckpointError
from grids_ros.policy.grids import attached, detach, tokens_per_camera
from grids_ros.policy.runtime import Policy

DENSE = "dense"


@dataclass(frozen=True)
class Variant:
    """One column of the comparison. tokens: "" as trained, "dense", or a number of tokens per camera."""

    label: str
    folder: Path
    tokens: str = ""


def variants(folders: Sequence[Path], tokens: Sequence[str]) -> list[Variant]:
    """Each checkpoint at each number of tokens, labelled so that no two labels are equal. Raises CheckpointError."""
    for count in tokens:
        if count != DENSE and not (count.isdigit() and int(count) > 0):
            raise CheckpointError(f"--tokens {count!r}: expected a positive number, or {DENSE!r}")
    names = [folder.name for folder in folders]
    found = []
    for folder in folders:
        name = folder.name if names.count(folder.name) == 1 else f"{folder.parent.name}/{folder.name}"
        for count in tokens or [""]:
            suffix = f" {count}" if count == DENSE else f" K={count}" if count else ""
            found.append(Variant(name + suffix, folder, count))
    labels = [variant.label for variant in found]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise CheckpointError(f"{', '.join(twice)} would be compared with itself: give each checkpoint once")
    return found


def load(variant: Variant, device: str, denoising_steps: int | None) -> tuple[Policy, tuple[str, ...]]:
    """The policy, and the instructions that it was trained with. Raises CheckpointError.

    Fewer tokens than the checkpoint has are the first of its coordinates, which a policy trained with nested tokens
    is made for and any other may take badly; "dense" takes the sampler off.
    """
    checkpoint = checkpoints.load(variant.folder)
    wrapped = attached(checkpoint.model)
    if variant.tokens == DENSE and wrapped is not None:
        detach(checkpoint.model)
    elif variant.tokens not in ("", DENSE, str(tokens_per_camera(checkpoint.model))):
        has, wants = tokens_per_camera(checkpoint.model), int(variant.tokens)
        if wrapped is None or wants > has:
            kind = "dense" if wrapped is None else "GridS"
            raise CheckpointError(f"--tokens {wants}: {variant.folder} is {kind} with {has} tokens per camera, no more")
        _keep_first(wrapped.sampler, wants)
    data = checkpoint.provenance.get("data", {})
    return Policy(checkpoint, device, denoising_steps), tuple(data.get("instructions", ()))


@torch.no_grad()
def _keep_first(sampler: torch.nn.Module, tokens: int) -> None:
    last = sampler.coordinate_mlp[-1]
    kept = torch.nn.Linear(last.in_features, 2 * tokens).to(last.weight)
    kept.weight.copy_(last.weight[: 2 * tokens])
    kept.bias.copy_(last.bias[: 2 * tokens])
    sampler.coordinate_mlp[-1] = kept
    sampler.config = replace(sampler.config, tokens=tokens)

"""What is compared: checkpoints, and one checkpoint at several numbers of tokens or of denoising steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from grids_ros.policy.errors import CheckpointError

DENSE = "dense"


@dataclass(frozen=True)
class Variant:
    """One column of the comparison.

    tokens: "" as trained, "dense", or a number of tokens per camera. steps: of denoising; None: as the parameter
    `denoising_steps` says.
    """

    label: str
    folder: Path
    tokens: str = ""
    steps: int | None = None


def variants(folders: Sequence[Path], tokens: Sequence[str] = (), steps: Sequence[int] = ()) -> list[Variant]:
    """Each checkpoint at each number of tokens and of steps, labelled so that no two labels are equal.

    Raises CheckpointError.
    """
    for count in tokens:
        if count != DENSE and not (count.isdigit() and int(count) > 0):
            raise CheckpointError(f"--tokens {count!r}: expected a positive number, or {DENSE!r}")
    names = [folder.name for folder in folders]
    found = []
    for folder in folders:
        name = folder.name if names.count(folder.name) == 1 else f"{folder.parent.name}/{folder.name}"
        for count, denoising in product(tokens or [""], steps or [None]):
            suffix = f" {count}" if count == DENSE else f" K={count}" if count else ""
            pace = f" {denoising} steps" if denoising else ""
            found.append(Variant(name + suffix + pace, folder, count, denoising))
    labels = [variant.label for variant in found]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise CheckpointError(f"{', '.join(twice)} would be compared with itself: give each checkpoint once")
    return found

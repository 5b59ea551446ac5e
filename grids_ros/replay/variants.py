"""What is compared: checkpoints, and one at several numbers of tokens, of denoising steps, or in several precisions."""

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
    `denoising_steps` says. precision: of the products; "": as the parameter says.
    """

    label: str
    folder: Path
    tokens: str = ""
    steps: int | None = None
    precision: str = ""


def variants(
    folders: Sequence[Path], tokens: Sequence[str] = (), steps: Sequence[int] = (), precisions: Sequence[str] = ()
) -> list[Variant]:
    """Each checkpoint at each number of tokens and steps, in each precision, labelled so that no two labels are equal.

    Raises CheckpointError.
    """
    for count in tokens:
        if count != DENSE and not (count.isdigit() and int(count) > 0):
            raise CheckpointError(f"--tokens {count!r}: expected a positive number, or {DENSE!r}")
    names = [folder.name for folder in folders]
    found = []
    for folder in folders:
        name = folder.name if names.count(folder.name) == 1 else f"{folder.parent.name}/{folder.name}"
        for count, denoising, precision in product(tokens or ("",), steps or (None,), precisions or ("",)):
            suffix = f" {count}" if count == DENSE else f" K={count}" if count else ""
            pace = f" {denoising} steps" if denoising else ""
            label = f"{name}{suffix}{pace} {precision}".rstrip()
            found.append(Variant(label, folder, count, denoising, precision))
    labels = [variant.label for variant in found]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise CheckpointError(f"{', '.join(twice)} would be compared with itself: give each checkpoint once")
    return found

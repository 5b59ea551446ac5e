"""Files that are there whole or not at all, whenever the process ends."""

from __future__ import annotations

from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """It appears under its name once it is complete; what was there before stays until then."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(text)
    unfinished.replace(path)

"""What the contents of an output folder depend on, in a file of it: a run with other settings is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from grids_ros.files import write_whole
from grids_ros.options import UsageError

SETTINGS = "settings.json"


def begin(folder: Path, settings: Mapping[str, object]) -> None:
    """Write the settings, or compare them with those that are there. Raises UsageError where they differ."""
    path, values = folder / SETTINGS, json.loads(json.dumps(settings))
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(values, indent=2) + "\n")
        return
    earlier = json.loads(path.read_text())
    for name in {**values, **earlier}:
        if earlier.get(name) != values.get(name):
            told = f"{name} {earlier.get(name)}, this run has {values.get(name)}"
            raise UsageError(f"{folder} holds results with {told}: choose another --out")

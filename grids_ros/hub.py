"""What is a name on the Hugging Face hub, and what a path that somebody mistyped."""

from __future__ import annotations

import re
import sys
from pathlib import Path

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
FILES = frozenset(  # how files end; a name on the hub may end in ".1" or ".5_base"
    ".json .jsonl .yaml .yml .toml .txt .md .csv .html .xml .urdf .gz .zip .png .jpg .mp4 .mcap .db3 .bag .parquet "
    ".npy .npz .safetensors .bin .pt .pth .ckpt .onnx .pkl .h5 .hdf5".split()
)


def is_hub_id(source: str) -> bool:
    """Whether what is no path here may be meant as owner/name: it ends as no file does, and its owner is no folder."""
    shaped = HUB_ID.fullmatch(source) is not None and Path(source).suffix not in FILES
    return shaped and not Path(source).parent.is_dir()


def no_hub_id(source: str) -> str:
    """Why a path that does not exist is not looked for on the hub, for an error."""
    parent = Path(source).parent
    if HUB_ID.fullmatch(source) and parent.is_dir():
        return f"{source} does not exist; {parent} is a folder here, so it is no name on the hub"
    return f"{source} does not exist, and is no hub id of the form owner/name"


def announce(source: str, what: str) -> None:
    """Say what is about to be downloaded."""
    print(f"fetching the {what} {source} from the Hugging Face hub", file=sys.stderr)

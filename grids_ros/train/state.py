"""What an interrupted training goes on from: a distributed checkpoint of torch, whose files are safetensors.

    OUT/training/state.json                     steps, recipes, names of the tensors
    OUT/training/shard-...safetensors           what each process holds

Another number of processes may go on from it: `torch.distributed.checkpoint` cuts the tensors anew.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter

from grids_ros.files import complete, part_of, remove, require_writable
from grids_ros.train.options import FACTS
from grids_ros.train.parallel import World


def write_state(folder: Path, tensors: Mapping[str, Tensor], facts: dict, world: World) -> None:
    """Replace the state in `folder`; an interruption leaves the earlier one. Every process has to call it."""
    unfinished = part_of(folder)
    if world.rank == 0:
        require_writable(folder)
        remove(unfinished)
        unfinished.mkdir(parents=True)
    world.wait()
    writer = HuggingFaceStorageWriter(str(unfinished), save_distributed=True)
    with _alone_without_warning():
        dcp.save(dict(tensors), storage_writer=writer, no_dist=world.size == 1)
    if world.rank == 0:
        (unfinished / FACTS).write_text(json.dumps({**facts, "tensors": sorted(tensors)}))
        complete(unfinished, folder)
    world.wait()


def read_facts(folder: Path) -> dict:
    """What `write_state` was given, with the names of the tensors. Raises OSError or ValueError."""
    return json.loads((folder / FACTS).read_text())


@torch.no_grad()
def read_state(folder: Path, tensors: Mapping[str, Tensor], world: World) -> None:
    """Fill these tensors, in place. Every process has to call it."""
    with _alone_without_warning():
        dcp.load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=world.size == 1)


@contextmanager
def _alone_without_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield

"""Bags for several processes: each decodes its share into a file that all of them map.

The images of a bag are then decoded once and held once, whatever the number of processes; a batch reads the rows that
it needs. The folder has to be the same for all of them, as the one that the policy is written to.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from grids_ros.data.damage import BagError
from grids_ros.data.topics import Topics
from grids_ros.train.dataset import Samples, Window, load
from grids_ros.train.dataset_samples import in_order
from grids_ros.train.parallel import World


@contextmanager
def scratch(folder: Path, world: World) -> Iterator[Path]:
    """A folder for the files of several processes, which goes at the end. Every process has to enter."""
    if world.size == 1:
        yield folder
        return
    if world.rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    world.wait()
    try:
        yield folder
    finally:
        if world.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                folder.parent.rmdir()  # nothing was trained


def load_shared(bags: Mapping[Path, Topics], window: Window, workers: int, world: World, folder: Path) -> Samples:
    """All samples of these bags, in the order that one process gives them. Raises BagError in every process."""
    mine = dict(world.part(list(bags.items())))

    def read() -> Samples | None:
        if not mine:
            return None
        samples = load(mine, window, min(workers, len(mine)))
        np.save(folder / f"images_{world.rank:03d}.npy", samples.images)
        return replace(samples, images=np.zeros(0))

    parts = world.each(read, BagError)
    files = [folder / f"images_{rank:03d}.npy" for rank in range(world.size)]
    return in_order(
        [
            replace(part, images=np.load(file, mmap_mode="r"))
            for part, file in zip(parts, files, strict=True)
            if part is not None
        ]
    )

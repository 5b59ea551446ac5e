"""Does it matter where K tokens are read? Readers of frozen maps, for encoders that mix more and less.

A token sampler and a small head learn to tell the places of the cubes in the base camera's image from K tokens of a
frozen map. What differs is the map and the sampler: with a map whose every cell tells everything, no sampler should
lead; with one whose cells know their surroundings alone, the one that looks at the cubes should. Errors are of scenes
that were not trained on. Maps of any other encoder come as files (`--images` writes what to feed it).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from grids_ros.policy.backbone import backbone_of
from grids_ros.policy.checkpoint import load
from grids_ros.policy.errors import CheckpointError
from grids_ros.train.initial_checkpoint import sampler_config
from research.mixing import Scenes, features, look
from research.pruners import BaselineConfig

TOKEN_WIDTH, HIDDEN = 64, 256  # of the head
BATCH, RATE = 64, 1e-3
TESTED = 0.2  # of the scenes
SAMPLERS = ("grids", "fixed_grid", "average", "random_keep", "token_learner")
DENSE = "dense"
LABELS = {"grids": "GridS", DENSE: "every cell"}


@dataclass(frozen=True)
class Reading:
    """What one reader came to. map: its name. seed: of weights and batches.

    error: mean distance between where a cube is and where the reader says it is. moves: standard deviation of a point
    over the test scenes, the mean over points. Both in % of the image's width; moves is None where nothing is sampled.
    """

    map: str
    sampler: str
    tokens: int
    seed: int
    error: float
    moves: float | None


class Reader(nn.Module):
    """A sampler, or every cell, and a head: maps (B, H, W, C) to places (B, n, 2), fractions of the image."""

    def __init__(self, sampler: str, tokens: int, shape: tuple[int, int, int], objects: int, seed: int):
        super().__init__()
        rows, columns, channels = shape
        self.sampler: nn.Module | None = None
        if sampler == "grids":
            self.sampler = sampler_config(tokens, channels).build()
        elif sampler != DENSE:
            self.sampler = BaselineConfig(sampler, tokens, channels, seed=seed).build()
        count = rows * columns if sampler == DENSE else tokens
        self.token = nn.Sequential(nn.Linear(channels, TOKEN_WIDTH), nn.GELU())
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(count * TOKEN_WIDTH, HIDDEN),
            nn.GELU(),
            nn.Linear(HIDDEN, 2 * objects),
            nn.Unflatten(1, (objects, 2)),
        )

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor | None]:
        """Places, and the coordinates (B, K, 2) that were read."""
        tokens, points = self.sampler(maps) if self.sampler else (maps.flatten(1, 2), None)
        return self.head(self.token(tokens)), points


@dataclass(frozen=True, eq=False)
class Data:
    """maps (N, H, W, C), each channel of mean 0 and spread 1 over the scenes trained on; places (N, n, 2)."""

    maps: Tensor
    places: Tensor

    @classmethod
    def of(cls, maps: np.ndarray, places: np.ndarray) -> Data:
        values = torch.from_numpy(np.ascontiguousarray(maps, np.float32))
        known = values[: cls._trained(len(values))]
        centre, spread = known.mean(dim=(0, 1, 2)), known.std(dim=(0, 1, 2)) + 1e-6
        return cls((values - centre) / spread, torch.from_numpy(places.astype(np.float32)))

    @staticmethod
    def _trained(count: int) -> int:
        return count - round(TESTED * count)

    @property
    def trained(self) -> int:
        """How many of the scenes are trained on: the first."""
        return self._trained(len(self.maps))


def fit(data: Data, sampler: str, tokens: int, seed: int, steps: int) -> Reader:
    """A reader of these maps."""
    torch.manual_seed(seed)
    rows, columns, channels = data.maps.shape[1:]
    reader = Reader(sampler, tokens, (rows, columns, channels), data.places.shape[1], seed)
    optimizer = torch.optim.AdamW(reader.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = torch.randint(data.trained, (BATCH,))
        told, _ = reader(data.maps[chosen])
        loss = (told - data.places[chosen]).norm(dim=-1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return reader.eval()


@torch.no_grad()
def score(reader: Reader, data: Data) -> tuple[float, float | None]:
    """Error and moves of `Reading`, on the scenes that were not trained on."""
    told, points = zip(*map(reader, data.maps[data.trained :].split(BATCH)), strict=True)
    error = (torch.cat(told) - data.places[data.trained :]).norm(dim=-1).mean()
    moves = None if points[0] is None else round(100 * float(torch.cat(points).std(dim=0).mean()), 2)
    return round(100 * float(error), 2), moves


def read(name: str, data: Data, options: argparse.Namespace) -> Iterator[Reading]:
    """Every sampler, number of tokens and seed on one map."""
    cells = data.maps.shape[1] * data.maps.shape[2]
    asked = [(sampler, tokens) for tokens, sampler in product(options.tokens, SAMPLERS)] + [(DENSE, cells)]
    for (sampler, tokens), seed in tqdm(list(product(asked, range(options.seeds))), name, unit="reader"):
        yield Reading(name, sampler, tokens, seed, *score(fit(data, sampler, tokens, seed, options.steps), data))


def page(readings: Sequence[Reading]) -> str:
    """A table in Markdown: a row for each sampler, a column for each map; the seeds one after the other."""
    maps = list(dict.fromkeys(one.map for one in readings))
    rows = dict.fromkeys((one.sampler, one.tokens) for one in sorted(readings, key=lambda one: one.tokens))
    lines = [f"| read by | tokens | {' | '.join(maps)} |", "|" + "---|" * (2 + len(maps))]
    for sampler, tokens in rows:
        cells = []
        for name in maps:
            mine = [one for one in readings if (one.map, one.sampler, one.tokens) == (name, sampler, tokens)]
            looked = f" (±{mean(one.moves or 0.0 for one in mine):.1f})" if mine and sampler == "grids" else ""
            cells.append(", ".join(f"{one.error:.1f}" for one in mine) + looked)
        lines.append(f"| {LABELS.get(sampler, sampler.replace('_', ' '))} | {tokens} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(readings: Sequence[Reading], picture: Path) -> None:
    """Error by map, a panel for each number of tokens, a colour for each sampler, a dot for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    maps, tokens = (list(dict.fromkeys(getattr(one, name) for one in readings)) for name in ("map", "tokens"))
    dense = {name: mean(one.error for one in readings if (one.map, one.sampler) == (name, DENSE)) for name in maps}
    panels = [count for count in tokens if any(one.tokens == count and one.sampler != DENSE for one in readings)]
    size = (4.2 * len(panels) + 1.5, 0.5 + 0.75 * len(maps))
    figure, axes = plt.subplots(1, len(panels), figsize=size, layout="constrained", sharey=True, squeeze=False)
    for axis, count in zip(axes[0], panels, strict=True):
        for place, sampler in enumerate(SAMPLERS):
            mine = [one for one in readings if (one.sampler, one.tokens) == (sampler, count)]
            heights = [maps.index(one.map) + 0.13 * (place - 2) for one in mine]
            axis.plot([one.error for one in mine], heights, "o", markersize=5, label=LABELS.get(sampler, sampler))
        for index, name in enumerate(maps):
            told = {"label": LABELS[DENSE]} if index == 0 else {}
            axis.plot([dense[name]] * 2, [index - 0.4, index + 0.4], color="0.4", linestyle=":", **told)
        axis.set(title=f"{count} tokens", xlabel="error of the cubes' places [% of width]", xlim=(0, None))
        axis.set(yticks=range(len(maps)), yticklabels=maps, ylim=(len(maps) - 0.5, -0.5))
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, -1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def map_of(path: Path, count: int) -> np.ndarray:
    """A map of another encoder (N, H, W, C). Raises ValueError for anything else."""
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise ValueError(f"{path}: {error}") from error
    if values.ndim != 4 or len(values) != count or not np.issubdtype(values.dtype, np.floating):
        told = f"{path} has shape {values.shape} of {values.dtype}"
        raise ValueError(f"{told}, expected (scenes, rows, columns, channels) of floats, with {count} scenes")
    return values


def maps_of(options: argparse.Namespace, scenes: Scenes) -> Iterator[tuple[str, np.ndarray]]:
    """Each map by name: the policy's, before attention and after each layer, then those of the files.

    Raises ValueError for a file that holds none.
    """
    given = {path.stem: map_of(path, len(scenes.images)) for path in options.map}
    checkpoint = load(options.checkpoint)
    config = checkpoint.model.config
    for layer, stage in enumerate(features(checkpoint, scenes.images)):
        name = f"{options.checkpoint.name}, after layer {layer}" if layer else "patches, before attention"
        yield name, stage.reshape(len(stage), *backbone_of(config.model_type).grid(config), -1)
    yield from given.items()


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m research reading", description=__doc__.split("\n\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="policy of the base camera")
    told = "maps of another encoder: .npy of (scenes, rows, columns, channels), of what --images wrote"
    parser.add_argument("--map", type=Path, nargs="+", default=[], metavar="FILE", help=told)
    parser.add_argument("--images", type=Path, metavar="FILE", help="write the scenes as .npy of RGB images, and end")
    parser.add_argument("--out", type=Path, help="JSON file; a table and a picture lie beside it")
    parser.add_argument("--scenes", type=int, default=3000, help="how many (default: %(default)s)")
    parser.add_argument("--tokens", type=int, nargs="+", default=[4, 16], metavar="K", help="default: 4 16")
    parser.add_argument("--seeds", type=int, default=2, help="readers of each kind (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=2000, help="of each reader (default: %(default)s)")
    options = parser.parse_args(arguments)
    for name, least in (("scenes", 10), ("seeds", 1), ("steps", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name} is {getattr(options, name)}, expected at least {least}")
    if not options.out and not options.images:
        parser.error("expected --out FILE, or --images FILE")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 and the reason where a checkpoint or a file cannot be used."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    readings: list[Reading] = []
    try:
        scenes = look(load(options.checkpoint), options.scenes)
        if options.images:
            np.save(options.images, scenes.images)
            return 0
        for name, values in maps_of(options, scenes):
            readings += read(name, Data.of(values, scenes.places), options)
    except (CheckpointError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps([asdict(one) for one in readings], indent=1) + "\n")
    options.out.with_suffix(".md").write_text(page(readings))
    draw(readings, options.out.with_suffix(".png"))
    print(page(readings))
    return 0

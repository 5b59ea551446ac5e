"""Does it matter where K tokens are read? Readers of frozen maps, of encoders that mix more and less.

A token sampler and a small head learn to tell the places of the cubes in the base camera's image from K tokens of a
frozen map; errors are of scenes that they were not trained on. If every cell tells everything, no sampler should
lead; if a cell tells of its surroundings alone, one that finds the cubes should. TokenLearner scores each cell by
itself, GridS derives its points from the mean of all cells. Maps of any other encoder come as files.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from grids_ros.files import write_whole
from grids_ros.policy.backbone import backbone_of
from grids_ros.policy.checkpoint import Checkpoint, load
from grids_ros.policy.errors import CheckpointError
from grids_ros.sampler import coordinate_embedding, image_fractions
from grids_ros.train.initial_checkpoint import sampler_config
from research.mixing import centres, features, look
from research.pruners import BaselineConfig

WIDTH, HEADS, HIDDEN = 64, 4, 128  # of what a reader does with its tokens
BATCH, RATE = 64, 1e-3
TESTED = 0.2  # of the scenes
GRIDS, DENSE = "grids", "dense"
SAMPLERS = (GRIDS, "fixed_grid", "average", "random_keep", "token_learner")
LABELS = {GRIDS: "GridS", "token_learner": "TokenLearner", DENSE: "every cell"}


@dataclass(frozen=True)
class Reading:
    """What one reader came to. map: its name. seed: of its weights, and of batches that are the same for all.

    error: mean distance between where a cube is and where the reader says it is. moves: root mean square distance of a
    point from its mean over the test scenes, the mean over points; None where nothing is sampled. more: the error less
    that of GridS with as many tokens and the same seed, scene by scene, with the bounds of its 95 % interval; None for
    GridS itself and for every cell. All in % of the image's width.
    """

    map: str
    sampler: str
    tokens: int
    seed: int
    error: float
    moves: float | None
    more: tuple[float, float, float] | None


class Reader(nn.Module):
    """A sampler, or every cell, and attention of one query for each object: of the same size for all samplers.

    Maps (B, H, W, C) to places (B, n, 2), fractions of the image.
    """

    def __init__(self, sampler: str, tokens: int, shape: tuple[int, int, int], objects: int, seed: int):
        super().__init__()
        rows, columns, channels = shape
        self.sampler: nn.Module | None = None
        if sampler == DENSE:
            self.register_buffer("cells", torch.from_numpy(centres(rows, columns)).float())
            self.embedding = coordinate_embedding(channels)  # as each sampler has its own
        elif sampler == GRIDS:
            self.sampler = sampler_config(tokens, channels).build()
        else:
            self.sampler = BaselineConfig(sampler, tokens, channels, seed=seed).build()
        self.token = nn.Sequential(nn.Linear(channels, WIDTH), nn.GELU())
        self.queries = nn.Parameter(torch.randn(objects, WIDTH))
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.place = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 2))

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor | None]:
        """Places, and the points (B, K, 2) that were read, fractions of the image."""
        if self.sampler is None:
            tokens, points = maps.flatten(1, 2) + self.embedding(self.cells), None
        else:
            tokens, points = self.sampler(maps)
            points = image_fractions(points, *maps.shape[1:3], self.sampler.config.align_corners)
        tokens = self.token(tokens)
        read, _ = self.attention(self.queries.expand(len(maps), -1, -1), tokens, tokens, need_weights=False)
        return self.place(read), points


@dataclass(frozen=True, eq=False)
class Data:
    """maps (N, H, W, C), each channel of mean 0 and spread 1 over the scenes trained on; places (N, n, 2)."""

    maps: Tensor
    places: Tensor

    @classmethod
    def of(cls, maps: np.ndarray, places: np.ndarray) -> Data:
        values = torch.from_numpy(np.array(maps, np.float32))
        known = values[: cls._trained(len(values))]
        centre, spread = known.mean(dim=(0, 1, 2)), known.std(dim=(0, 1, 2)) + 1e-6
        return cls(values.sub_(centre).div_(spread), torch.from_numpy(places.astype(np.float32)))

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
    batches = torch.Generator().manual_seed(seed)
    rows, columns, channels = data.maps.shape[1:]
    reader = Reader(sampler, tokens, (rows, columns, channels), data.places.shape[1], seed)
    optimizer = torch.optim.AdamW(reader.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = torch.randint(data.trained, (BATCH,), generator=batches)
        told, _ = reader(data.maps[chosen])
        loss = (told - data.places[chosen]).norm(dim=-1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return reader.eval()


@torch.no_grad()
def score(reader: Reader, data: Data) -> tuple[Tensor, float | None]:
    """The error of each scene that was not trained on, and `moves` of `Reading`; in % of the width."""
    told, points = zip(*map(reader, data.maps[data.trained :].split(BATCH)), strict=True)
    errors = 100 * (torch.cat(told) - data.places[data.trained :]).norm(dim=-1).mean(dim=-1)
    if points[0] is None:
        return errors, None
    sampled = torch.cat(points)
    return errors, round(100 * float((sampled - sampled.mean(dim=0)).square().sum(-1).mean(0).sqrt().mean()), 2)


def difference(errors: Tensor, others: Tensor) -> tuple[float, float, float]:
    """Mean difference of errors of the same scenes, and the bounds of its 95 % interval."""
    each = errors - others
    value, half = float(each.mean()), 1.96 * float(each.std()) / len(each) ** 0.5
    return round(value, 2), round(value - half, 2), round(value + half, 2)


def read(name: str, data: Data, options: argparse.Namespace) -> Iterator[Reading]:
    """Every sampler, number of tokens and seed on one map."""
    cells = data.maps.shape[1] * data.maps.shape[2]
    asked = [(sampler, tokens) for tokens, sampler in product(options.tokens, SAMPLERS)] + [(DENSE, cells)]
    ours: dict[tuple[int, int], Tensor] = {}
    for (sampler, tokens), seed in tqdm(list(product(asked, range(options.seeds))), name, unit="reader"):
        errors, moves = score(fit(data, sampler, tokens, seed, options.steps), data)
        if sampler == GRIDS:
            ours[tokens, seed] = errors
        rival = sampler not in (GRIDS, DENSE)
        more = difference(errors, ours[tokens, seed]) if rival else None
        yield Reading(name, sampler, tokens, seed, round(float(errors.mean()), 2), moves, more)


def label(sampler: str) -> str:
    """What tables and pictures call it."""
    return LABELS.get(sampler, sampler.replace("_", " "))


def page(readings: Sequence[Reading]) -> str:
    """Two tables in Markdown, a column for each map: errors, then how far the points move."""
    maps = list(dict.fromkeys(one.map for one in readings))
    rows = list(dict.fromkeys((one.sampler, one.tokens) for one in sorted(readings, key=lambda one: one.tokens)))
    still = {name for name in SAMPLERS if not any(one.moves for one in readings if one.sampler == name)}

    def cells(sampler: str, tokens: int, value: str) -> str:
        kind = [one for one in readings if (one.sampler, one.tokens) == (sampler, tokens)]
        by_map = (", ".join(f"{getattr(one, value):.1f}" for one in kind if one.map == name) for name in maps)
        return f"| {label(sampler)} | {tokens} | {' | '.join(by_map)} |"

    head = [f"| read by | tokens | {' | '.join(maps)} |", "|" + "---|" * (2 + len(maps))]
    lines = ["Mean error of the cubes' places, % of the image's width, one number for each seed:", "", *head]
    lines += [cells(*row, "error") for row in rows]
    lines += ["", "How far a point moves between scenes, root mean square, % of the width:", "", *head]
    lines += [cells(*row, "moves") for row in rows if row[0] not in {*still, DENSE}]
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
            axis.plot([one.error for one in mine], heights, "o", markersize=5, label=label(sampler))
        for index, name in enumerate(maps):
            told = {"label": label(DENSE)} if index == 0 else {}
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
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: {error}") from error
    expected = f"expected a .npy of (scenes, rows, columns, channels) of finite floats, with {count} scenes"
    if not isinstance(values, np.ndarray):
        raise ValueError(f"{path} holds no single array, {expected}")
    if values.ndim != 4 or len(values) != count or not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"{path} has shape {values.shape} of {values.dtype}, {expected}")
    if not np.isfinite(values).all():
        raise ValueError(f"{path} holds NaN or infinity, {expected}")
    return values


def maps_in(options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Those of the files, by name. Raises ValueError for a file that holds none, or has too few cells, or two of a
    name."""
    repeated = [name for name, count in Counter(path.stem for path in options.map).items() if count > 1]
    if repeated:
        raise ValueError(f"--map has two files named {', '.join(repeated)}, expected different names")
    maps = {path.stem: map_of(path, options.scenes) for path in options.map}
    for name, values in maps.items():
        if (cells := values.shape[1] * values.shape[2]) < max(options.tokens):
            raise ValueError(f"--tokens is {max(options.tokens)}, {name} has {cells} cells")
    return maps


def maps_of(checkpoint: Checkpoint, images: np.ndarray, name: str) -> Iterator[tuple[str, np.ndarray]]:
    """The map of a policy by name, before attention and after each layer."""
    config = checkpoint.model.config
    grid = backbone_of(config.model_type).grid(config)
    for layer, stage in enumerate(features(checkpoint, images)):
        told = f"{name}, after layer {layer}" if layer else f"{name}, before attention"
        yield told, stage.reshape(len(stage), *grid, -1)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m research reading", description=__doc__.split("\n\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="policy of the base camera")
    told = "maps of another encoder: .npy of (scenes, rows, columns, channels), of what --images wrote"
    parser.add_argument("--map", type=Path, nargs="+", default=[], metavar="FILE", help=told)
    parser.add_argument("--images", type=Path, metavar="FILE", help="write the scenes as .npy of RGB images, and end")
    parser.add_argument("--out", type=Path, help="JSON file; tables and a picture lie beside it")
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
    try:
        for tokens in options.tokens:
            BaselineConfig("average", tokens, channels=1)
    except ValueError as error:
        parser.error(f"--tokens: {error}")
    return options


def write(readings: Sequence[Reading], out: Path) -> None:
    """The JSON file, the tables and the picture."""
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, json.dumps([asdict(one) for one in readings], indent=1) + "\n")
    write_whole(out.with_suffix(".md"), page(readings))
    draw(readings, out.with_suffix(".png"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 and the reason where a checkpoint or a file cannot be used."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    readings: list[Reading] = []
    try:
        given = maps_in(options)
        checkpoint = load(options.checkpoint)
        scenes = look(checkpoint, options.scenes)
        if options.images:
            options.images.parent.mkdir(parents=True, exist_ok=True)
            np.save(options.images, scenes.images)
            return 0
        for name, values in (*maps_of(checkpoint, scenes.images, options.checkpoint.name), *given.items()):
            readings += read(name, Data.of(values, scenes.places), options)
            write(readings, options.out)  # what is done stays, if the rest is cut off
    except (CheckpointError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(page(readings))
    return 0

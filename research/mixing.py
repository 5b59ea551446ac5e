"""How much of an image does one cell of the feature map tell? A linear probe of each cell, layer by layer.

A token sampler chooses where the map is read. If every cell told every object's place, it would not matter where. Here
each cell of the vision encoder is asked for the places of the cubes in the base camera's image, by ridge regression on
scenes of this package's simulation, the arm in its starting pose; the errors are of other scenes. A linear probe gives
a lower bound of what a cell tells.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from grids_ros.policy.backbone import backbone_of
from grids_ros.policy.checkpoint import Checkpoint, create, load
from grids_ros.policy.errors import CheckpointError
from grids_ros.policy.preprocess import letterbox, padded_pixels
from grids_ros.sim.mujoco_model import COLOURS
from grids_ros.sim.scene import Scene
from grids_ros.train.keypoint_labels import keypoints

CAMERA = "base"
FIRST_SEED = 720_000  # of the scenes: no demonstration has them
FAR = 0.25  # from a cell to an object, fraction of the image's width
GRID = 4  # rows and columns of the cells that are read together
PENALTIES = 10.0 ** np.arange(-4.0, 4.0)  # of the ridge, by sample
CHUNK = 64  # images at a time


@dataclass(frozen=True, eq=False)
class Scenes:
    """images: uint8 (N, S, S, 3), fitted as the policy takes them. places: of the cubes (N, cubes, 2), fractions of
    the image."""

    images: np.ndarray
    places: np.ndarray


@dataclass(frozen=True)
class Probe:
    """Mean distance between where a cube is and where the probe says it is, % of the image's width.

    cell: from one cell, mean over cells. far: from one cell at least `FAR` away from the cube. best: from the cell
    that tells most. grid: from GRID x GRID cells together. mean: from the mean of all cells. nothing: from no image.
    cells: from each cell, by rows.
    """

    cell: float
    far: float
    best: float
    grid: float
    mean: float
    nothing: float
    cells: list[list[float]]


def side_of(checkpoint: Checkpoint) -> int:
    """Of the square images that it takes [px]."""
    return backbone_of(checkpoint.model.config.model_type).image_size(checkpoint.model.config)


def needs_camera(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError for a policy without the base camera."""
    if CAMERA not in checkpoint.spec.cameras:
        raise CheckpointError(f"its cameras are {', '.join(checkpoint.spec.cameras)}, expected {CAMERA} among them")


def look(checkpoint: Checkpoint, count: int) -> Scenes:
    """So many scenes, each of its own seed, as the policy's preprocessing shows them.

    Raises CheckpointError for a policy without the base camera.
    """
    needs_camera(checkpoint)
    side = side_of(checkpoint)
    scene, images, places = Scene(), [], []
    for seed in tqdm(range(FIRST_SEED, FIRST_SEED + count), "scenes", unit="scene"):
        scene.reset(seed)
        images.append(np.rint(letterbox(scene.render(CAMERA), side, checkpoint.spec.image)).astype(np.uint8))
        at, tool = scene.object_positions(), scene.tool_pose()
        cubes = np.stack([at[colour] for colour in COLOURS])
        places.append(keypoints(cubes[None], np.concatenate([tool.position, tool.quaternion])[None], (CAMERA,))[0, 0])
    scene.close()
    return Scenes(np.stack(images), np.stack(places))


@torch.no_grad()
def features(checkpoint: Checkpoint, images: np.ndarray) -> list[np.ndarray]:
    """The map (N, cells, C) before the first layer of the vision encoder, and after each."""
    model = checkpoint.model.float().eval()
    tower = model.get_submodule(backbone_of(model.config.model_type).TOWERS[0].rpartition(".")[0])
    found: list[list[np.ndarray]] = []
    for first in range(0, len(images), CHUNK):
        part = images[first : first + CHUNK, None]
        pixels = padded_pixels(part, np.full((len(part), 1, 2), part.shape[2]), checkpoint.spec.image)[:, 0]
        outputs = tower(pixel_values=pixels, output_hidden_states=True).hidden_states
        found.append([output.numpy() for output in outputs])
    return [np.concatenate(stage) for stage in zip(*found, strict=True)]


def errors(inputs: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Distances (test scenes, cubes) of a ridge regression of places (N, cubes, 2) on inputs (N, d).

    Six tenths of the scenes fit, two choose the penalty, and two test.
    """
    count = len(inputs)
    fit, choose = slice(0, count * 6 // 10), slice(count * 6 // 10, count * 8 // 10)
    test = slice(count * 8 // 10, count)
    mean, spread = inputs[fit].mean(axis=0), inputs[fit].std(axis=0) + 1e-6
    x, flat = ((inputs - mean) / spread).astype(np.float64), places.reshape(count, -1).astype(np.float64)
    centre = flat[fit].mean(axis=0)
    values, vectors = np.linalg.eigh(x[fit].T @ x[fit] / len(x[fit]))
    turned = vectors.T @ (x[fit].T @ (flat[fit] - centre)) / len(x[fit])

    def distances(penalty: float, where: slice) -> np.ndarray:
        weights = vectors @ (turned / (np.maximum(values, 0.0) + penalty)[:, None])
        return np.linalg.norm((x[where] @ weights + centre - flat[where]).reshape(-1, *places.shape[1:]), axis=-1)

    return distances(min(PENALTIES, key=lambda one: distances(one, choose).mean()), test)


def centres(rows: int, columns: int) -> np.ndarray:
    """Of a map's cells (rows * columns, 2), fractions of the image, x before y."""
    y, x = np.mgrid[0:rows, 0:columns]
    return np.stack([(x + 0.5) / columns, (y + 0.5) / rows], axis=-1).reshape(-1, 2)


def probe(features: np.ndarray, places: np.ndarray, grid: tuple[int, int]) -> Probe:
    """features: a map (N, cells, C) of `grid` rows and columns. places: (N, cubes, 2)."""
    by_cell = np.stack([errors(features[:, cell], places) for cell in range(features.shape[1])])
    tested = places[-by_cell.shape[1] :]
    far = np.linalg.norm(centres(*grid)[:, None, None] - tested, axis=-1) >= FAR
    rows, columns = ((np.arange(GRID) + 0.5) * side // GRID for side in grid)
    chosen = (rows[:, None] * grid[1] + columns).astype(int).ravel()
    together = features[:, chosen].reshape(len(features), -1)
    told = {
        "cell": by_cell.mean(),
        "far": by_cell[far].mean(),
        "best": by_cell.mean(axis=(1, 2)).min(),
        "grid": errors(together, places).mean(),
        "mean": errors(features.mean(axis=1), places).mean(),
        "nothing": errors(np.zeros((len(features), 1)), places).mean(),
    }
    cells = (100 * by_cell.mean(axis=(1, 2))).reshape(grid).round(2).tolist()
    return Probe(**{name: round(100 * float(value), 2) for name, value in told.items()}, cells=cells)


def untrained(checkpoint: Checkpoint) -> Checkpoint:
    """The same policy with random weights."""
    torch.manual_seed(0)
    model = create(checkpoint.model.config, checkpoint.spec)
    return Checkpoint(model, checkpoint.spec, checkpoint.tokenizer, checkpoint.normalization, {})


def measure(checkpoint: Checkpoint, scenes: Scenes) -> dict[str, Probe]:
    """The probe of each stage of the vision encoder. Raises CheckpointError for a policy without the base camera."""
    needs_camera(checkpoint)
    config = checkpoint.model.config
    grid = backbone_of(config.model_type).grid(config)
    stages = features(checkpoint, scenes.images)
    names = ["before attention", *(f"after layer {number}" for number in range(1, len(stages)))]
    bar = tqdm(zip(names, stages, strict=True), "probes", len(names), unit="stage")
    return {name: probe(stage, scenes.places, grid) for name, stage in bar}


def page(results: dict[str, dict[str, Probe]]) -> str:
    """A table in Markdown: encoders and stages; % of the image's width."""
    columns = {
        "cell": "one cell",
        "far": f"one cell, {100 * FAR:g} % of the width away or more",
        "best": "the best cell",
        "mean": "mean of all cells",
        "grid": f"{GRID * GRID} cells",
        "nothing": "no image",
    }
    lines = [f"| encoder | map | {' | '.join(columns.values())} |", "|" + "---|" * (2 + len(columns))]
    for name, stages in results.items():
        for stage, one in stages.items():
            lines.append(f"| {name} | {stage} | {' | '.join(f'{getattr(one, key):.1f}' for key in columns)} |")
    return "\n".join(lines) + "\n"


def draw(results: dict[str, dict[str, Probe]], picture: Path) -> None:
    """The error from each cell, as maps: a column for each encoder, a row for each stage."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    stages = max((list(found) for found in results.values()), key=len)
    shape, size = (len(stages), len(results)), (1.7 * len(results) + 1.4, 1.85 * len(stages) + 0.5)
    figure, axes = plt.subplots(*shape, figsize=size, layout="constrained", squeeze=False)
    highest = max(one.nothing for found in results.values() for one in found.values())
    for column, (name, found) in zip(axes.T, results.items(), strict=True):
        column[0].set_title(name.replace(", ", ",\n"), fontsize=9)
        for axis, stage in zip(column, stages, strict=True):
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if stage in found:
                drawn = axis.imshow(found[stage].cells, vmin=0.0, vmax=highest, cmap="viridis_r")
                axis.set_xlabel(f"{found[stage].cell:.1f} %", fontsize=9)
    for axis, stage in zip(axes[:, 0], stages, strict=True):
        axis.set_ylabel(stage, fontsize=9)
    figure.colorbar(drawn, ax=axes, label="error of the cubes' places, told from this cell alone [% of width]")
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m research mixing", description=__doc__.split("\n\n")[0])
    parser.add_argument("--checkpoint", type=Path, nargs="+", required=True, help="policies of the base camera")
    parser.add_argument("--scenes", type=int, default=4000, help="how many (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file; a table and a picture lie beside it")
    options = parser.parse_args(arguments)
    if options.scenes < 10:
        parser.error(f"--scenes is {options.scenes}, expected at least 10")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 and the reason where a checkpoint cannot be used."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    results: dict[str, dict[str, Probe]] = {}
    try:
        checkpoints = [load(folder) for folder in options.checkpoint]
        if len({(side_of(one), one.spec.image) for one in checkpoints}) > 1:
            raise CheckpointError("the checkpoints take images of other sizes or fits, expected one for all")
        scenes = look(checkpoints[0], options.scenes)
        for folder, checkpoint in zip(options.checkpoint, checkpoints, strict=True):
            results[folder.name] = measure(checkpoint, scenes)
        results["random weights"] = measure(untrained(checkpoints[0]), scenes)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 1
    told = {name: {stage: asdict(one) for stage, one in stages.items()} for name, stages in results.items()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(told) + "\n")
    options.out.with_suffix(".md").write_text(page(results))
    draw(results, options.out.with_suffix(".png"))
    print(page(results))
    return 0

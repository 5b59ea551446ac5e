"""How far the sampling points jump between consecutive images, and whether the action follows the jump.

Moving scene: consecutive observations of recorded episodes, 0.1 s apart. Still scene: one observation with sensor
noise drawn twice, and with JPEG compression. For each pair the policy is asked three times: for the first image, for
the second, and for the second while its sampling points are held where they were in the first. What the last two
differ by is the effect of the jump alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.stats import spearmanr
from tqdm import tqdm

from grids_ros.data.reader import BagError
from grids_ros.data.settings import chosen
from grids_ros.options import RobotOptions
from grids_ros.policy.checkpoint import Checkpoint, load
from grids_ros.policy.engine import Engine
from grids_ros.policy.errors import CheckpointError
from grids_ros.policy.grids import attached
from grids_ros.policy.spaces import MATRIX, RELATIVE
from grids_ros.sampler import GridSampler
from grids_ros.train.__main__ import find_bags, read, window_of
from grids_ros.train.dataset import Samples
from grids_ros.train.diagnosis import CHUNK, predict

NOISE = 2.0  # standard deviation of a camera's noise, of 255
JPEG_QUALITY = 90
PAIRS = 512  # of each kind, about so many

Disturb = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Stability:
    """What pairs of one kind show. Jumps as fractions of the image's width, actions as positions of the tool [mm].

    jump, jump_p95: of a sampling point, mean and 95th percentile over pairs. change: between the two chunks at equal
    instants, mean over their steps. from_jump: between the second chunk and that with the first one's points.
    correlation: Spearman's, of jump and change.
    """

    pairs: int
    jump: float
    jump_p95: float
    change_mm: float
    from_jump_mm: float
    correlation: float


def noisy(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """uint8 images with a camera's noise."""
    return np.clip(np.rint(images + random.normal(0.0, NOISE, images.shape)), 0, 255).astype(np.uint8)


def compressed(images: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """uint8 images (..., H, W, 3) through JPEG."""
    flat = images.reshape(-1, *images.shape[-3:])
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    coded = [cv2.imencode(".jpg", image, quality)[1] for image in flat]
    return np.stack([cv2.imdecode(data, cv2.IMREAD_COLOR) for data in coded]).reshape(images.shape)


def consecutive(episodes: np.ndarray) -> np.ndarray:
    """The first of each pair of neighbouring samples of one episode."""
    return np.flatnonzero(episodes[1:] == episodes[:-1])


class Measurement:
    """One checkpoint with GridS. Raises CheckpointError for one without."""

    def __init__(self, checkpoint: Checkpoint):
        wrapped = attached(checkpoint.model)
        if wrapped is None or not isinstance(wrapped.sampler, GridSampler):
            raise CheckpointError("the policy has no sampling points, expected one with GridS")
        self._checkpoint, self._sampler = checkpoint, wrapped.sampler
        self._engine = Engine(checkpoint.model.eval(), checkpoint.spec.denoising_steps)

    def moving(self, samples: Samples, bar: tqdm) -> Stability:
        """Pairs of neighbours. One step of the chunk must last as long as one image, 0.1 s."""
        first = _thin(consecutive(samples.episodes))
        return self._compare(samples, (samples.images[first], samples.images[first + 1]), (first, first + 1), 1, bar)

    def still(self, samples: Samples, ways: tuple[Disturb, Disturb], bar: tqdm, seed: int = 0) -> Stability:
        """Pairs of one image, disturbed in two ways."""
        rows, random = _thin(np.arange(len(samples))), np.random.default_rng(seed)
        images = samples.images[rows]
        return self._compare(samples, (ways[0](images, random), ways[1](images, random)), (rows, rows), 0, bar)

    def _compare(self, samples: Samples, images, rows, shift: int, bar: tqdm) -> Stability:
        """shift: by how many steps the second chunk begins after the first."""
        jumps, changes, caused = [], [], []
        for begin in range(0, len(rows[0]), CHUNK):
            part = slice(begin, begin + CHUNK)
            before, points = self._positions(samples, images[0][part], rows[0][part])
            after, others = self._positions(samples, images[1][part], rows[1][part])
            with_held, _ = self._positions(samples, images[1][part], rows[1][part], points)
            jumps.append(np.linalg.norm(others - points, axis=-1).mean(axis=(1, 2)))
            changes.append(_distance(after[:, : after.shape[1] - shift], before[:, shift:]))
            caused.append(_distance(after, with_held))
            bar.update(len(jumps[-1]))
        jump, change = np.concatenate(jumps), np.concatenate(changes)
        distinct = np.ptp(jump) > 0.0 and np.ptp(change) > 0.0
        return Stability(
            pairs=len(jump),
            jump=round(float(jump.mean()), 5),
            jump_p95=round(float(np.quantile(jump, 0.95)), 5),
            change_mm=round(1e3 * float(change.mean()), 3),
            from_jump_mm=round(1e3 * float(np.concatenate(caused).mean()), 3),
            correlation=round(float(spearmanr(jump, change).statistic), 3) if distinct else 0.0,
        )

    def _positions(self, samples: Samples, images, rows, held=None) -> tuple[np.ndarray, np.ndarray]:
        """The chunks' positions (N, n, 3) [m] in the base frame, and sampling points (N, cameras, K, 2)."""
        if held is not None:
            self._sampler.hold(torch.from_numpy(held).flatten(0, 1))
        try:
            states = samples.states[rows]
            actions, points = predict(
                self._checkpoint, self._engine, images, states, samples.instructions[rows], samples.sizes[rows]
            )
        finally:
            self._sampler.hold(None)
        return states[:, None, :3] + actions[..., :3], points


def _thin(rows: np.ndarray) -> np.ndarray:
    return rows[:: max(1, len(rows) // PAIRS)][:PAIRS]


def _distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Mean over the steps of two chunks (N, n, 3)."""
    return np.linalg.norm(one - other, axis=-1).mean(axis=1)


def measure(checkpoint: Checkpoint, samples: Samples) -> dict[str, Stability]:
    """Every kind of pair. Raises CheckpointError for a policy without sampling points or of relative steps."""
    if checkpoint.spaces != (MATRIX, RELATIVE):
        raise CheckpointError(
            f"its spaces are not {MATRIX.name} and {RELATIVE.name}, of which chunks are compared here"
        )
    measurement = Measurement(checkpoint)
    kinds: dict[str, Callable[[tqdm], Stability]] = {
        "moving": lambda bar: measurement.moving(samples, bar),
        "still, noise": lambda bar: measurement.still(samples, (noisy, noisy), bar),
        "still, JPEG": lambda bar: measurement.still(samples, (lambda images, _: images, compressed), bar),
    }
    with tqdm(desc="stability", unit="pair") as bar:
        return {kind: run(bar) for kind, run in kinds.items()}


def page(results: dict[str, dict[str, Stability]]) -> str:
    """A table in Markdown: checkpoints and kinds of pairs."""
    lines = [
        "| checkpoint | pairs | jump [% of width] | 95th percentile | change of the chunk [mm] | by the jump alone [mm]"
        " | rank correlation |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, kinds in results.items():
        for kind, each in kinds.items():
            lines.append(
                f"| {name} | {kind} ({each.pairs}) | {100 * each.jump:.2f} | {100 * each.jump_p95:.2f} "
                f"| {each.change_mm:.2f} | {each.from_jump_mm:.2f} | {each.correlation:+.2f} |"
            )
    return "\n".join(lines) + "\n"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m research stability", description=__doc__.split("\n\n")[0])
    parser.add_argument("bags", nargs="+", type=Path, help="recordings of demonstrations")
    parser.add_argument("--checkpoint", type=Path, nargs="+", required=True, help="checkpoints with GridS")
    parser.add_argument("--tokens", type=int, nargs="+", default=[0], help="per camera; default: all that each has")
    parser.add_argument("--workers", type=int, default=2, help="processes that read bags (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file; a table lies beside it")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 and the reason where a checkpoint or a bag cannot be used."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    results: dict[str, dict[str, Stability]] = {}
    try:
        for folder in options.checkpoint:
            checkpoint = load(folder)
            bags, settings = find_bags(options.bags), chosen(RobotOptions())
            samples = read(bags, settings, window_of(checkpoint, bags, settings), options.workers)
            for tokens in options.tokens:
                name = folder.name
                if tokens:
                    attached(checkpoint.model).sampler.use(tokens)
                    name = f"{folder.name}, {tokens} tokens"
                results[name] = measure(checkpoint, samples)
    except (CheckpointError, BagError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    told = {name: {kind: asdict(each) for kind, each in kinds.items()} for name, kinds in results.items()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(told, indent=2) + "\n")
    options.out.with_suffix(".md").write_text(page(results))
    print(page(results))
    return 0

"""python -m grids_ros train BAG... --out DIR: a policy from bags."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from grids_ros.data.bags import Topics
from grids_ros.policy import checkpoint as checkpoints
from grids_ros.policy.checkpoint import Checkpoint, PolicySpec, create, save
from grids_ros.policy.errors import CheckpointError
from grids_ros.policy.model import DemoSize, demo_config
from grids_ros.policy.preprocess import ACTION_DIM, STATE_DIM, Normalization, word_tokenizer
from grids_ros.sampler import SamplerConfig
from grids_ros.train.card import plot_losses, write_card
from grids_ros.train.dataset import Samples, Window, load
from grids_ros.train.diagnosis import diagnose
from grids_ros.train.loop import Recipe, Trainer
from grids_ros.train.start import start_from

PROMPT_LENGTH = 16  # tokens
STEP_S = 0.1
HORIZON = 12
DENOISING_STEPS = 5
SAVE_EVERY = 100  # steps
STATE = "training.safetensors"  # what --resume goes on from
HELD_OUT = 25  # one episode in so many is kept for the diagnosis


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m grids_ros train", description=__doc__.splitlines()[0])
    parser.add_argument("bags", nargs="+", type=Path, help="rosbag2 folders, or folders of them")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--cameras", nargs="+", default=["base", "wrist"], help="in order (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=16, help="K per camera; 0 trains the dense model (default: 16)")
    parser.add_argument("--nested", type=int, nargs="+", default=[], help="smaller K that must do as well, as 4 8")
    parser.add_argument("--steps", type=int, default=3000, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=Recipe.batch, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--attraction", type=float, default=Recipe.attraction, help="weight (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: %(default)s")
    parser.add_argument("--start", type=Path, help="checkpoint to start from; it must have the same cameras and K")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/training.safetensors")
    options = parser.parse_args(arguments)
    for name, least in (("tokens", 0), ("steps", 1), ("batch", 1), ("threads", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name} is {getattr(options, name)}, expected at least {least}")
    if options.resume and not (options.out / STATE).exists():
        parser.error(f"there is no {options.out / STATE} to resume from")
    if any(not 1 <= k <= options.tokens for k in options.nested):
        parser.error(f"--nested is {options.nested}, expected numbers from 1 to --tokens, {options.tokens}")
    return options


def find_bags(paths: Sequence[Path]) -> list[Path]:
    """Each path that is a bag, and the bags directly below each that is not. Raises ValueError when there is none."""
    bags = [bag for path in paths for bag in ([path] if (path / "metadata.yaml").exists() else sorted(path.glob("*/")))]
    bags = [bag for bag in bags if (bag / "metadata.yaml").exists()]
    if not bags:
        raise ValueError(f"no rosbag2 folder (one with a metadata.yaml) in {', '.join(map(str, paths))}")
    return bags


def new_checkpoint(samples: Samples, cameras: tuple[str, ...], tokens: int, seed: int) -> Checkpoint:
    """The demo's model with random weights, and the statistics and words of these samples."""
    torch.manual_seed(seed)
    size = DemoSize()
    sampler = SamplerConfig(tokens=tokens, channels=size.width, layer_norm=True, margin=0.02) if tokens else None
    spec = PolicySpec(cameras, PROMPT_LENGTH, STEP_S, DENOISING_STEPS, size.stem, sampler)
    tokenizer = word_tokenizer(sorted(set(samples.instructions.tolist())))
    config = demo_config(size, tokenizer.get_vocab_size(), HORIZON, STATE_DIM, ACTION_DIM)
    return Checkpoint(create(config, spec), spec, tokenizer, Normalization.of(samples.states, samples.actions), {})


def provenance(samples: Samples, trainer: Trainer, bags: Sequence[Path], seconds: float) -> dict:
    """Where a checkpoint comes from."""
    return {
        "data": {
            "bags": [bag.name for bag in bags],
            "episodes": len(np.unique(samples.episodes)),
            "samples": len(samples),
            "instructions": sorted(set(samples.instructions.tolist())),
        },
        "stages": trainer.stages,
        "steps": trainer.step,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "wall_clock_s_of_this_run": round(seconds),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "versions": {name: version(name) for name in ("torch", "transformers", "numpy")},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    cameras, bags = tuple(options.cameras), find_bags(options.bags)
    topics = Topics(cameras={name: f"camera/{name}/image_raw/compressed" for name in cameras})
    window = Window(cameras, DemoSize().image_size, HORIZON, STEP_S)
    samples = load(bags, topics, window, min(len(bags), options.threads))
    held_out = samples.episodes % HELD_OUT == 0
    train_on, unseen = samples.rows(~held_out), samples.rows(held_out)
    del samples  # or the images would fill the memory twice
    print(f"{len(train_on)} samples of {len(np.unique(train_on.episodes))} episodes; {len(unseen)} samples held out")
    checkpoint = new_checkpoint(train_on, cameras, options.tokens, options.seed)
    if options.start:
        try:
            start_from(checkpoints.load(options.start), checkpoint)
        except CheckpointError as error:
            print(f"--start {options.start}: {error}", file=sys.stderr)
            return 1
    recipe = Recipe(
        options.steps, options.batch, seed=options.seed, attraction=options.attraction, nested=tuple(options.nested)
    )
    trainer = Trainer(checkpoint, train_on, recipe)
    state, log = options.out / STATE, options.out / "losses.jsonl"
    if options.resume:
        trainer.resume(state)
        checkpoint.provenance.update(checkpoints.load(options.out).provenance)
    elif log.exists():
        log.unlink()

    started = time.monotonic()
    averaged = Checkpoint(create(checkpoint.model.config, checkpoint.spec), *_rest(checkpoint))
    for step in trainer.run(log, options.steps):
        if step % SAVE_EVERY == 0 or step == options.steps:
            trainer.averaged_into(averaged.model)
            averaged.provenance.update(provenance(train_on, trainer, bags, time.monotonic() - started))
            save(averaged, options.out)
            trainer.save(state)
    rows = np.arange(0, len(unseen), max(1, len(unseen) // 400))
    averaged.provenance["diagnosis"] = diagnose(averaged, unseen, rows)
    save(averaged, options.out)
    plot_losses(log, options.out / "losses.png")
    write_card(averaged, options.out / "README.md")
    print(json.dumps(averaged.provenance["diagnosis"]))
    return 0


def _rest(checkpoint: Checkpoint) -> tuple:
    return checkpoint.spec, checkpoint.tokenizer, checkpoint.normalization, dict(checkpoint.provenance)


if __name__ == "__main__":
    sys.exit(main())

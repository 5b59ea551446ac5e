"""python -m grids_ros train BAG... --out DIR: a policy from bags."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from grids_ros.data.settings import Settings, chosen, topics_of
from grids_ros.data.source import BagError
from grids_ros.parameters import ParameterError
from grids_ros.policy import checkpoint as checkpoints
from grids_ros.policy.baselines import BaselineConfig
from grids_ros.policy.checkpoint import Checkpoint, PolicySpec, create, save
from grids_ros.policy.errors import CheckpointError, InputError
from grids_ros.policy.model import DemoSize, demo_config
from grids_ros.policy.preprocess import ACTION_DIM, STATE_DIM, Normalization, word_tokenizer
from grids_ros.train.card import plot_losses
from grids_ros.train.dataset import Samples, Window, load
from grids_ros.train.diagnosis import keep
from grids_ros.train.loop import Trainer, stage_of
from grids_ros.train.options import GRIDS, STATE, TUNE_RATE, parse
from grids_ros.train.parallel import World, join
from grids_ros.train.recipe import Recipe
from grids_ros.train.start import prune, sampler_config, start_from

PROMPT_LENGTH = 16  # tokens
STEP_S = 0.1
HORIZON = 12
DENOISING_STEPS = 5
SAVE_EVERY = 100  # steps
LOG = "losses.jsonl"
CAMERAS = ("base", "wrist")
HELD_OUT = 25  # one episode in so many is kept for the diagnosis


def find_bags(paths: Sequence[Path]) -> list[Path]:
    """Each path that is a bag, and the bags directly below each that is not. Raises BagError when there is none."""
    bags = [bag for path in paths for bag in ([path] if (path / "metadata.yaml").exists() else sorted(path.glob("*/")))]
    bags = [bag for bag in bags if (bag / "metadata.yaml").exists()]
    if not bags:
        raise BagError(f"no rosbag2 folder (one with a metadata.yaml) in {', '.join(map(str, paths))}")
    return bags


def new_checkpoint(
    samples: Samples, cameras: tuple[str, ...], tokens: int, seed: int, pruner: str = GRIDS
) -> Checkpoint:
    """The demo's model with random weights, and the statistics and words of these samples. tokens: 0 for dense."""
    torch.manual_seed(seed)
    size = DemoSize()
    sampler = sampler_config(tokens, size.width) if tokens else None
    if pruner != GRIDS:
        sampler = BaselineConfig(pruner, tokens, size.width, seed=seed)
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


def open_dense(options: argparse.Namespace) -> Checkpoint:
    """The checkpoint of --from with a new GridS. Raises CheckpointError when it cannot be used."""
    dense = checkpoints.load(options.dense)
    if options.cameras and tuple(options.cameras) != dense.spec.cameras:
        raise CheckpointError(f"its cameras are {', '.join(dense.spec.cameras)}, --cameras must be left out")
    return prune(dense, options.dense.resolve().name, options.tokens, options.seed)


def window_of(checkpoint: Checkpoint) -> Window:
    """How bags are cut into samples for this policy."""
    spec, config = checkpoint.spec, checkpoint.model.config
    side = config.vlm_config.vision_config.image_size
    return Window(spec.cameras, side, config.chunk_size, spec.step_s, *checkpoint.spaces)


def read(bags: Sequence[Path], settings: Settings, window: Window, workers: int) -> Samples:
    """All samples of the bags, in parallel. Raises BagError for one that cannot be read or lacks a topic."""
    topics = {bag: topics_of(bag, settings, window.cameras) for bag in bags}
    for name, instead in (("target_pose", "the measured motion"), ("gripper_command", "the measured opening")):
        lacking = [bag.name for bag, held in topics.items() if not getattr(held, name)]
        if lacking:
            print(f"no {name} in {', '.join(lacking)}: {instead} is what is learnt", file=sys.stderr)
    return load(topics, window, min(len(bags), workers))


def split(samples: Samples) -> tuple[Samples, Samples]:
    """The samples to train on, and those of the episodes held out. Raises BagError when nothing is left to train on."""
    _, place = np.unique(samples.episodes, return_inverse=True)  # among those that hold samples
    held_out = place % HELD_OUT == 0
    if held_out.all():
        raise BagError(f"the bags hold one episode, expected two or more: one in {HELD_OUT} is held out")
    return samples.rows(~held_out), samples.rows(held_out)


def begin(options: argparse.Namespace, bags: Sequence[Path]) -> tuple[Checkpoint, Samples, Samples]:
    """What is to be trained, on what, and what is held out. Raises CheckpointError for --start or --from.

    BagError for bags and ParameterError for parameters that cannot be used.
    """
    settings = chosen(options)
    if options.dense:
        checkpoint = open_dense(options)
        return checkpoint, *split(read(bags, settings, window_of(checkpoint), options.threads))
    cameras = tuple(options.cameras or CAMERAS)
    window = Window(cameras, DemoSize().image_size, HORIZON, STEP_S)
    train_on, unseen = split(read(bags, settings, window, options.threads))
    checkpoint = new_checkpoint(train_on, cameras, options.tokens, options.seed, options.pruner)
    if options.start:
        start_from(checkpoints.load(options.start), checkpoint)
    return checkpoint, train_on, unseen


def recipes(options: argparse.Namespace) -> list[Recipe]:
    """The stages that are to be trained, in their order."""
    common = {
        "batch": options.batch,
        "seed": options.seed,
        "attraction": options.attraction,
        "nested": tuple(options.nested),
        "accumulate": options.accumulate,
        "bf16": options.bf16,
        "recompute": options.gradient_checkpointing,
    }
    rate = options.learning_rate or (TUNE_RATE if options.dense else Recipe.learning_rate)
    stages = [Recipe(options.steps, learning_rate=rate, lora=options.lora, **common)]
    if options.dense and not (options.resume and not stage_of(options.out / STATE).get("distil")):
        stages.insert(0, Recipe(options.distil_steps, distil=True, **common))
    return [replace(stage, warm_up=min(stage.warm_up, stage.steps // 10)) for stage in stages if stage.steps]


def fit(checkpoint: Checkpoint, samples: Samples, options: argparse.Namespace, bags: Sequence[Path], world: World):
    """Train stage after stage; the first process keeps the checkpoint, the log and the state in OUT."""
    state, log, started = options.out / STATE, options.out / LOG, time.monotonic()
    trainer, resume = None, options.resume
    for recipe in recipes(options):
        trainer = Trainer(checkpoint, samples, recipe, world, after=trainer)
        if resume:
            trainer.resume(state)
        resume = False
        for step in trainer.run(log, trainer.last):
            if world.rank == 0 and (step % SAVE_EVERY == 0 or step == trainer.last):
                checkpoint.provenance.update(provenance(samples, trainer, bags, time.monotonic() - started))
                for stale in ("evaluations", "diagnosis"):  # of the weights that it went on from
                    checkpoint.provenance.pop(stale, None)
                save(checkpoint, options.out, trainer.weights())
                trainer.save(state)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    options = parse(sys.argv[1:] if arguments is None else arguments, __doc__.splitlines()[0])
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        bags = find_bags(options.bags)
        checkpoint, train_on, unseen = begin(options, bags)
        print(f"{len(train_on)} samples of {len(np.unique(train_on.episodes))} episodes; {len(unseen)} held out")
        if options.resume:
            checkpoint.provenance.update(json.loads((options.out / "provenance.json").read_text()))
        with join(options.device) as world:
            if world.rank == 0 and not options.resume:
                for earlier in (LOG, STATE):  # of another training: a later --resume must not go on with it
                    (options.out / earlier).unlink(missing_ok=True)
            fit(checkpoint, train_on, options, bags, world)
    except (CheckpointError, InputError) as error:
        print(f"{'--from' if options.dense else '--start'} {options.dense or options.start}: {error}", file=sys.stderr)
        return 1
    except (BagError, ParameterError) as error:
        print(error, file=sys.stderr)
        return 1
    if world.rank == 0:
        print(json.dumps(finish(options, unseen)))
    return 0


def finish(options: argparse.Namespace, unseen: Samples) -> dict:
    """The diagnosis of what was saved, kept in its provenance; with the plot and the card."""
    saved = checkpoints.load(options.out, options.device)
    plot_losses(options.out / LOG, options.out / "losses.png")
    return keep(saved, options.out, unseen)


if __name__ == "__main__":
    sys.exit(main())

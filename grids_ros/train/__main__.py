"""grids train BAG... --out DIR: a policy from bags."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grids_ros import cli
from grids_ros.convert.conventions import CONVENTIONS
from grids_ros.data.lerobot.dataset import is_dataset
from grids_ros.data.reader import BagError
from grids_ros.data.recording import find_recordings
from grids_ros.data.robot import robot_of
from grids_ros.data.settings import Settings, chosen, topics_of
from grids_ros.datatypes import CAMERAS
from grids_ros.files import OutputError, locked
from grids_ros.options import UsageError, refuse, require_apart
from grids_ros.parameters import ParameterError
from grids_ros.policy import checkpoint as checkpoints
from grids_ros.policy.backbone import backbone_of
from grids_ros.policy.backbones.pi0 import DemoSize, demo_config
from grids_ros.policy.checkpoint import Checkpoint, PolicySpec, create, save
from grids_ros.policy.errors import CheckpointError, InputError
from grids_ros.policy.grids import TokenSamplerConfig
from grids_ros.policy.joints import RobotModel
from grids_ros.policy.plain_text import text_tokenizer
from grids_ros.policy.preprocess import Normalization, word_tokenizer
from grids_ros.policy.provenance import read_provenance
from grids_ros.train.dataset import Samples, Window, load
from grids_ros.train.dataset_samples import dataset_samples, joined
from grids_ros.train.diagnosis import keep
from grids_ros.train.footprint import FootprintError, Footprints, room
from grids_ros.train.initial_checkpoint import prune, sampler_config, start_from, vision_layers_of
from grids_ros.train.loop import Trainer, stage_of
from grids_ros.train.lora import ADAPTER, is_update, save_adapter
from grids_ros.train.loss_plot import plot_losses
from grids_ros.train.options import LARGE_MODEL, LOG, STATE, TUNE_RATE, TrainOptions
from grids_ros.train.parallel import World, join
from grids_ros.train.recipe import Recipe
from grids_ros.train.shared_bags import load_shared, scratch

PROMPT_LENGTH = 16  # tokens that an instruction may take, or as many as the data's longest
STEP_S = 0.1
HORIZON = 12
DENOISING_STEPS = 5
SAVE_EVERY = 100  # steps
IMAGES = "images.part"  # folder of what processes share while they train
HELD_OUT = 25  # one episode in so many is kept for the diagnosis


def find_bags(paths: Sequence[Path]) -> list[Path]:
    """The recordings among the paths, and directly below them; what is left out is named. Raises BagError for none."""
    found, left_out = find_recordings(paths)
    for reason in left_out:
        print(f"left out: {reason}", file=sys.stderr)
    return found


def new_checkpoint(
    samples: Samples,
    window: Window,
    tokens: int,
    seed: int,
    make_sampler: Callable[[int, int], TokenSamplerConfig] = sampler_config,
    vision_layers: int | None = None,
) -> Checkpoint:
    """The demo's model with random weights, and the statistics and words of these samples.

    window: how they were cut, and so what the policy sees and speaks.
    tokens: per camera, 0 for the dense model. make_sampler: the sampler's configuration from `tokens` and the width.
    vision_layers: None for as many as the demo has.
    """
    torch.manual_seed(seed)
    size = replace(DemoSize(), vision_layers=vision_layers) if vision_layers else DemoSize()
    sampler = make_sampler(tokens, size.width) if tokens else None
    spaces: dict[str, Any] = {
        "state": window.state,
        "action": window.action,
        "joints": window.joints,
        "image": window.image,
    }
    instructions = sorted(set(samples.instructions.tolist()))
    tokenizer = word_tokenizer(instructions)
    length = max(PROMPT_LENGTH, *(len(text_tokenizer(tokenizer).encode(one).ids) for one in instructions))
    spec = PolicySpec(window.cameras, length, STEP_S, DENOISING_STEPS, size.stem, sampler, **spaces)
    config = demo_config(size, tokenizer.get_vocab_size(), HORIZON, spec.state.size, spec.action.size)
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
        "parameters": sum(p.numel() for n, p in trainer.model.named_parameters() if not is_update(n)),
        "wall_clock_s_of_this_run": round(seconds),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "versions": {name: version(name) for name in ("torch", "transformers", "numpy")},
    }


def trained_spec(spec: PolicySpec, samples: Samples, recipe: Recipe) -> PolicySpec:
    """The spec of a policy that this stage has trained on these samples."""
    budgets = tuple(sorted({spec.sampler.tokens, *recipe.nested})) if spec.sampler and recipe.nested else ()
    instructions = tuple(sorted(set(samples.instructions.tolist())))
    return replace(spec, token_budgets=budgets, instructions=instructions, mean_coordinates=None)


def open_dense(options: TrainOptions) -> Checkpoint:
    """The checkpoint of --from with a new GridS. Raises CheckpointError when it cannot be used."""
    assert options.dense is not None  # with --from alone
    dense = checkpoints.load(options.dense)
    if options.cameras and tuple(options.cameras) != dense.spec.cameras:
        raise CheckpointError(f"its cameras are {', '.join(dense.spec.cameras)}, --cameras must be left out")
    return prune(dense, options.dense.resolve().name, options.tokens, options.seed)


def window_of(checkpoint: Checkpoint, bags: Sequence[Path], settings: Settings) -> Window:
    """How these bags are cut into samples for this policy. Raises as `robot_of` for one of joints."""
    spec, config = checkpoint.spec, checkpoint.model.config
    robot = robot_of(bags, settings) if spec.joints else None
    side = backbone_of(config.model_type).image_size(config)
    return Window(spec.cameras, side, config.chunk_size, spec.step_s, *checkpoint.spaces, spec.image, robot)


def new_window(options: TrainOptions, bags: Sequence[Path], settings: Settings) -> Window:
    """How bags are cut for a new policy. Raises as `robot_of` for one of joints."""
    convention, joints = CONVENTIONS[options.space], options.joints
    spaces: dict[str, Any] = {"state": convention.state.of(joints), "action": convention.action.of(joints)}
    robot = robot_of(bags, settings) if joints else None
    return Window(tuple(options.cameras or CAMERAS), DemoSize().image_size, HORIZON, STEP_S, **spaces, robot=robot)


def read(
    recordings: Sequence[Path],
    settings: Settings,
    window: Window,
    workers: int,
    world: World | None = None,
    scratch: Path | None = None,
) -> Samples:
    """All samples of bags and LeRobot data sets, each of which is read by one of the processes.

    scratch: folder for the images of bags, where there are several processes. Raises BagError for a recording that
    cannot be read or lacks a topic.
    """
    world = world or World()
    bags = [path for path in recordings if not is_dataset(path)]
    topics = {bag: topics_of(bag, settings, window.cameras, window.joints) for bag in bags}
    learnt = {"target_pose": "the measured motion", "gripper_command": "the measured opening"}
    if window.joints:
        learnt["target_joint"] = "the measured joints"
    for name, instead in learnt.items():
        lacking = [bag.name for bag, held in topics.items() if not getattr(held, name)]
        if lacking and world.rank == 0:
            print(f"no {name} in {', '.join(lacking)}: {instead} is what is learnt", file=sys.stderr)
    parts = [dataset_samples(path, settings, window, world) for path in recordings if is_dataset(path)]
    if bags and world.size > 1:
        assert scratch is not None  # of several processes
        parts.insert(0, load_shared(topics, window, workers, world, scratch))
    elif bags:
        parts.insert(0, load(topics, window, min(len(bags), workers)))
    return joined(parts)


def split(samples: Samples) -> tuple[Samples, Samples]:
    """The samples to train on, and those of the episodes held out. Raises BagError when nothing is left to train on."""
    _, place = np.unique(samples.episodes, return_inverse=True)  # among those that hold samples
    held_out = place % HELD_OUT == 0
    if held_out.all():
        raise BagError(f"the bags hold one episode, expected two or more: one in {HELD_OUT} is held out")
    return samples.rows(~held_out), samples.rows(held_out)


def begin(
    options: TrainOptions,
    bags: Sequence[Path],
    make_sampler: Callable[[int, int], TokenSamplerConfig],
    world: World,
    images: Path,
) -> tuple[Checkpoint, Window, Samples, Samples, bool]:
    """What is to be trained, how its samples are cut, those to train on and those held out; whether to shard weights.

    images: folder for those of bags, where several processes share them. Raises CheckpointError for --start or --from,
    BagError for bags, ParameterError for parameters that cannot be used, and FootprintError where the memory does not
    do.
    """
    settings = chosen(options.robot)
    if options.dense:
        checkpoint = open_dense(options)
        window = window_of(checkpoint, bags, settings)
        shard = checked_memory(checkpoint, options, world)  # before the data is read
        return checkpoint, window, *split(read(bags, settings, window, options.threads, world, images)), shard
    start = checkpoints.load(options.start) if options.start else None
    window = new_window(options, bags, settings)
    if start:
        window = replace(window, image=start.spec.image)
    train_on, unseen = split(read(bags, settings, window, options.threads, world, images))
    layers = options.vision_layers or (vision_layers_of(start) if start else None)
    checkpoint = new_checkpoint(train_on, window, options.tokens, options.seed, make_sampler, layers)
    if start:
        start_from(start, checkpoint)
    return checkpoint, window, train_on, unseen, checked_memory(checkpoint, options, world)


def recipes(options: TrainOptions, weights: int) -> list[Recipe]:
    """The stages that are to be trained, in their order. weights: how many the model has."""
    common: dict[str, Any] = {
        "batch": options.batch,
        "seed": options.seed,
        "attraction": options.attraction,
        "nested": tuple(options.nested),
        "accumulate": options.accumulate,
        "bf16": options.bf16,
        "recompute": options.gradient_checkpointing,
        "average": not options.no_average,
    }
    tuned = options.dense and weights >= LARGE_MODEL
    rate = options.learning_rate or (TUNE_RATE if tuned else Recipe.learning_rate)
    how: dict[str, Any] = {"lora": options.lora, "expert_only": options.expert_only}
    stages = [Recipe(options.steps, learning_rate=rate, **how, **common)]
    if options.dense and not (options.resume and not stage_of(options.out / STATE).get("distil")):
        stages.insert(0, Recipe(options.distil_steps, distil=True, **common))
    return [replace(stage, warm_up=min(stage.warm_up, stage.steps // 10)) for stage in stages if stage.steps]


def weights_of(checkpoint: Checkpoint) -> int:
    """How many numbers its model has."""
    return sum(parameter.numel() for parameter in checkpoint.model.parameters())


def checked_memory(checkpoint: Checkpoint, options: TrainOptions, world: World) -> bool:
    """Whether the processes divide the weights among them. Prints what each stage takes.

    Raises FootprintError for a stage that takes more than there is.
    """
    least = min(world.gather(room(world)))
    shard, lines = Footprints(checkpoint).divided(
        recipes(options, weights_of(checkpoint)), world.size, least, options.shard
    )
    if world.rank == 0:
        print("\n".join(lines), file=sys.stderr)
    return shard


def fit(
    checkpoint: Checkpoint, samples: Samples, options: TrainOptions, bags: Sequence[Path], world: World, shard: bool
) -> None:
    """Train stage after stage; the first process keeps the checkpoint and the log in OUT, all of them their state.

    shard: as `Trainer` takes it.
    """
    state, log, started = options.out / STATE, options.out / LOG, time.monotonic()
    trainer, resume = None, options.resume
    for recipe in recipes(options, weights_of(checkpoint)):
        trainer = Trainer(checkpoint, samples, recipe, world, after=trainer, shard=shard)
        if resume:
            trainer.resume(state)
        resume = False
        checkpoint = trainer.checkpoint
        for step in trainer.run(log, trainer.last):
            if step % SAVE_EVERY == 0 or step == trainer.last:
                checkpoint.provenance.update(provenance(samples, trainer, bags, time.monotonic() - started))
                checkpoint = replace(checkpoint, spec=trained_spec(checkpoint.spec, samples, recipe))
                for stale in ("evaluations", "diagnosis"):  # of the weights that it went on from
                    checkpoint.provenance.pop(stale, None)
                keep_policy(checkpoint, trainer, options.out)
                trainer.save(state)


def keep_policy(checkpoint: Checkpoint, trainer: Trainer, out: Path) -> None:
    """The policy, and the adapter of a training of low rank; written by the first process, gathered by all of them."""
    weights, updates = trainer.weights(), trainer.adapter() if trainer.lora else {}
    if trainer.world.rank == 0:
        save(checkpoint, out, weights)
        if updates and trainer.lora:
            dense = checkpoint.provenance.get("distilled_from", {}).get("name", "")
            save_adapter(out / ADAPTER, trainer.lora, dense, updates)
    elif trainer.sharded:
        for tensor in (*weights.values(), *updates.values()):
            tensor.read()


def run(options: TrainOptions, make_sampler: Callable[[int, int], TokenSamplerConfig] = sampler_config) -> int:
    """Train; the exit code. make_sampler: as `new_checkpoint` takes it."""
    if options.device == "cuda" and not torch.cuda.is_available():
        return refuse("--device is cuda, and torch finds no GPU, expected cpu")
    torch.set_num_threads(options.threads)
    with ExitStack() as until_the_end:
        try:
            bags = find_bags(options.bags)
            require_apart(options.written(), [*bags, *options.inputs()])
            require_provenance(options)
            with join(options.device) as world:
                world.each(lambda: hold(options.out, world, until_the_end), OutputError)
                unseen, robot = train(options, bags, make_sampler, world)
        except (CheckpointError, InputError) as error:
            return refuse(f"{'--from' if options.dense else '--start'} {options.dense or options.start}: {error}")
        except (BagError, FootprintError, OutputError, ParameterError) as error:
            return refuse(error)
        if world.rank == 0:
            print(json.dumps(finish(options, unseen, robot)))
    return 0


def require_provenance(options: TrainOptions) -> None:
    """Raises UsageError for a spoilt provenance.json that would go into the new one."""
    folders = (options.start, options.dense, options.out if options.resume else None)
    try:
        for folder in filter(None, folders):
            read_provenance(folder)
    except CheckpointError as error:
        raise UsageError(str(error)) from error


def hold(out: Path, world: World, stack: ExitStack) -> None:
    """The right to write into a folder until `stack` ends, for the process that writes. Raises OutputError."""
    if world.rank == 0:
        stack.enter_context(locked(out))


def train(
    options: TrainOptions,
    bags: Sequence[Path],
    make_sampler: Callable[[int, int], TokenSamplerConfig],
    world: World,
) -> tuple[Samples, RobotModel | None]:
    """Train into OUT; the samples held out, and the robot of a policy of joints. Raises as `begin`."""
    with scratch(options.out / IMAGES, world) as images:
        checkpoint, window, train_on, unseen, shard = begin(options, bags, make_sampler, world, images)
        options.out.mkdir(parents=True, exist_ok=True)
        if world.rank == 0:
            print(f"{len(train_on)} samples of {len(np.unique(train_on.episodes))} episodes; {len(unseen)} held out")
        if options.resume:
            checkpoint.provenance.update(read_provenance(options.out))
        fit(checkpoint, train_on, options, bags, world, shard)
    return unseen, window.robot


def finish(options: TrainOptions, unseen: Samples, robot: RobotModel | None) -> dict:
    """The diagnosis of what was saved, kept in its provenance; with the plot and the card."""
    saved = checkpoints.load(options.out, options.device)
    plot_losses(options.out / LOG, options.out / "losses.png")
    return keep(saved, options.out, unseen, robot)


def main(
    arguments: Sequence[str] | None = None,
    make_sampler: Callable[[int, int], TokenSamplerConfig] = sampler_config,
) -> int:
    """Entry point."""
    return cli.call("train", arguments, make_sampler=make_sampler)


if __name__ == "__main__":
    sys.exit(main())

"""The command line of `train`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from grids_ros.data.settings import add_options
from grids_ros.policy.baselines import PRUNERS, BaselineConfig
from grids_ros.policy.model import DemoSize
from grids_ros.train.parallel import DEVICES
from grids_ros.train.recipe import Recipe

STATE = "training.safetensors"  # what --resume goes on from
GRIDS = "grids"  # the value of --pruner that is no baseline
TUNE_RATE = 1e-4  # for weights that are good already


def parse(arguments: Sequence[str], description: str) -> argparse.Namespace:
    """The options; what makes no sense ends the process, with the reason."""
    parser = argparse.ArgumentParser(prog="python -m grids_ros train", description=description)
    parser.add_argument("bags", nargs="+", type=Path, help="rosbag2 folders, or folders of them")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--tokens", type=int, default=16, help="K per camera; 0 trains the dense model (default: 16)")
    parser.add_argument("--pruner", choices=(GRIDS, *PRUNERS), default=GRIDS, help="of K tokens (default: %(default)s)")
    parser.add_argument("--nested", type=int, nargs="+", default=[], help="smaller K that must do as well, as 4 8")
    parser.add_argument("--steps", type=int, default=3000, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=Recipe.batch, help="of one update, in all (default: %(default)s)")
    rates = f"default: {Recipe.learning_rate:g}; after --from {TUNE_RATE:g}"
    parser.add_argument("--learning-rate", type=float, help=rates)
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--attraction", type=float, default=Recipe.attraction, help="weight, where bags say places (default: 50)"
    )
    parser.add_argument("--resume", action="store_true", help=f"go on from OUT/{STATE}")
    add_options(parser.add_argument_group("the robot that the bags are of"))
    _add_origin(parser)
    _add_computing(parser)
    options = parser.parse_args(arguments)
    _check(options, parser)
    return options


def _add_origin(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to begin with (default: the demo's model, with random weights)")
    one = group.add_mutually_exclusive_group()
    one.add_argument("--start", type=Path, help="checkpoint to start from: same cameras, same K or dense")
    one.add_argument("--from", dest="dense", type=Path, metavar="DENSE", help="dense checkpoint, to be given a GridS")
    group.add_argument(
        "--distil-steps", type=int, default=1000, help="--from: of the sampler alone, before --steps (default: 1000)"
    )
    group.add_argument("--lora", type=int, default=0, metavar="RANK", help="--from: then train updates of this rank")
    group.add_argument("--cameras", nargs="+", help="in order (default: base wrist; --from: those of DENSE)")


def _add_computing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("computing, on this device or on several under torchrun")
    cores = max(1, os.cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    group.add_argument("--device", choices=DEVICES, default="cpu", help="default: %(default)s")
    group.add_argument("--threads", type=int, default=cores, help="of each process (default: %(default)s)")
    group.add_argument("--bf16", action="store_true", help="compute in bfloat16, for a GPU; weights stay in float32")
    group.add_argument("--accumulate", type=int, default=1, metavar="N", help="a batch in N parts, for less memory")
    group.add_argument("--gradient-checkpointing", action="store_true", help="layers computed twice, for less memory")


def _check(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    least = {"tokens": 1 if options.dense else 0, "steps": 0 if options.dense else 1, "distil_steps": 0, "lora": 0}
    for name, bound in {**least, "batch": 1, "threads": 1, "accumulate": 1}.items():
        if getattr(options, name) < bound:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}, expected at least {bound}")
    if options.learning_rate is not None and not options.learning_rate > 0.0:
        parser.error(f"--learning-rate is {options.learning_rate}, expected more than 0")
    if options.dense and options.steps + options.distil_steps == 0:
        parser.error("--steps and --distil-steps are both 0, expected at least one step")
    if options.lora and not options.dense:
        parser.error(f"--lora is {options.lora}, and without --from there are no weights to keep")
    if options.resume and not (options.out / STATE).exists():
        parser.error(f"there is no {options.out / STATE} to resume from")
    if any(not 1 <= k <= options.tokens for k in options.nested):
        parser.error(f"--nested is {options.nested}, expected numbers from 1 to --tokens, {options.tokens}")
    if options.pruner != GRIDS:
        _check_baseline(options, parser)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda, and torch finds no GPU, expected cpu")
    parts = options.accumulate * int(os.environ.get("WORLD_SIZE", "1"))  # torchrun's
    if options.batch < parts:
        parser.error(f"--batch is {options.batch}, expected at least {parts}: one sample for each part and process")


def _check_baseline(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if options.nested:
        parser.error(f"--nested takes the first tokens of --pruner {GRIDS}, not of {options.pruner}")
    if options.dense:
        parser.error(f"--from gives a dense policy --pruner {GRIDS}, not {options.pruner}")
    try:
        BaselineConfig(options.pruner, options.tokens, DemoSize().width)
    except ValueError as error:
        parser.error(f"--pruner {options.pruner}: {error}")

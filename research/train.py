"""Training with another token sampler than GridS: `python -m research train --pruner NAME ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from grids_ros.train.__main__ import main as train
from grids_ros.train.initial_checkpoint import sampler_config
from research.pruners import PRUNERS, BaselineConfig

GRIDS = "grids"


def split(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """This command's own option `pruner`, with the `tokens` and `seed` that it needs, and what `grids train` takes.

    Ends the process with the reason where the options contradict each other.
    """
    parser = argparse.ArgumentParser(prog="python -m research train", add_help=False, allow_abbrev=False)
    parser.add_argument("--pruner", choices=(GRIDS, *PRUNERS), default=GRIDS)
    own, rest = parser.parse_known_args(arguments)
    shared = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    shared.add_argument("--tokens", type=int, default=16)
    shared.add_argument("--seed", type=int, default=0)  # random_keep draws its cells from it
    shared.parse_known_args(rest, own)
    if own.pruner != GRIDS:
        for option in ("--nested", "--from"):
            if any(argument.split("=")[0] == option for argument in rest):
                parser.error(f"{option} needs --pruner {GRIDS}, not {own.pruner}")
        try:
            BaselineConfig(own.pruner, own.tokens, channels=1)
        except ValueError as error:
            parser.error(f"--pruner {own.pruner}: {error}")
    return own, rest


def main(arguments: Sequence[str] | None = None) -> int:
    """`grids train` with one more option; its other options and its exit codes are the same."""
    own, rest = split(sys.argv[1:] if arguments is None else arguments)
    if own.pruner == GRIDS:
        return train(rest, sampler_config)
    return train(rest, lambda tokens, width: BaselineConfig(own.pruner, tokens, width, seed=own.seed))

"""python -m research COMMAND: what pruning costs, and what surrounds that study."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import research.pruners  # noqa: F401  registers the baselines, in the worker processes of `evaluate` as well


def compare(arguments: Sequence[str]) -> int:
    """GridS, dense and other samplers trained alike and scored on the same scenes; writes research/results.md"""
    from research.comparison.command import main

    return main(arguments)


def train(arguments: Sequence[str]) -> int:
    """`grids train` with --pruner: another sampler than GridS"""
    from research.train import main

    return main(arguments)


def evaluate(arguments: Sequence[str]) -> int:
    """`grids evaluate` for checkpoints with any of these samplers; --hold-coordinates: does the sampler look?"""
    from research.held_coordinates import main

    return main(arguments)


def average(arguments: Sequence[str]) -> int:
    """a checkpoint between two others, on the straight line between their weights"""
    from research.averaging import main

    return main(arguments)


def model(arguments: Sequence[str]) -> int:
    """one inference: operations, bytes and time by stage, beside transformers and other samplers"""
    from research.model_bench.command import main

    return main(arguments)


def stability(arguments: Sequence[str]) -> int:
    """how far sampling points jump between images, and whether the action follows"""
    from research.stability import main

    return main(arguments)


def mixing(arguments: Sequence[str]) -> int:
    """how much of an image one cell of the feature map tells, layer by layer"""
    from research.mixing import main

    return main(arguments)


def reading(arguments: Sequence[str]) -> int:
    """does it matter where K tokens are read, on maps that mix more and less"""
    from research.reading import main

    return main(arguments)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    command.__name__: command for command in (compare, train, evaluate, average, model, stability, mixing, reading)
}


def main() -> int:
    """Entry point."""
    usage = "usage: python -m research COMMAND ...\n\n"
    usage += "\n".join(f"  {name:<10} {command.__doc__}" for name, command in COMMANDS.items())
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(usage)
        return 0
    name, *arguments = sys.argv[1:]
    if name not in COMMANDS:
        print(f"unknown command {name!r}, expected one of {', '.join(COMMANDS)}\n\n{usage}", file=sys.stderr)
        return 2
    return COMMANDS[name](arguments) or 0


if __name__ == "__main__":
    sys.exit(main())

"""Does a sampler look? A policy in closed loop while each camera is read where the diagnosis read it on average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from grids_ros.benchmarks.options import BenchmarkOptions
from grids_ros.evaluate.options import EvaluateOptions
from grids_ros.options import UsageError, read, refuse
from grids_ros.policy.errors import CheckpointError

if TYPE_CHECKING:
    from grids_ros.policy.runtime import Policy


@dataclass(frozen=True, kw_only=True)
class HeldOptions(EvaluateOptions):
    """Count successes in closed loop, as `grids evaluate`, for checkpoints with any of the study's samplers.

    Exit codes: 0 counted; 1 a worker was lost; 2 an option, a checkpoint or a cluster that cannot be used.
    """

    hold_coordinates: bool = False
    """read each camera where the diagnosis read it on average: does the sampler look?"""

    def load(self) -> Policy:
        """The policy to evaluate, its coordinates held where that is asked for. Raises CheckpointError."""
        import research.pruners  # noqa: F401  registers the baselines, in a worker process as well

        policy = super().load()
        if self.hold_coordinates:
            hold(policy)
        return policy

    def check(self) -> None:
        """Raises UsageError for options that contradict each other."""
        if self.card and self.hold_coordinates:
            raise UsageError("--card keeps what the policy does as it is: not with --hold-coordinates")
        super().check()


def hold(policy: Policy) -> None:
    """From now on read each camera where the checkpoint's diagnosis read it on average, whatever is in the image.

    Raises CheckpointError for a policy without GridS, and where no diagnosis says where that is.
    """
    import torch

    sampler, means = policy.sampler, policy.mean_coordinates
    if sampler is None:
        raise CheckpointError("this policy has no coordinates to hold, expected one with GridS")
    if means is None:
        raise CheckpointError("its grids.json has no mean_coordinates: `grids diagnose` writes them")
    points = np.stack([means[name] for name in policy.cameras])
    sampler.hold(torch.from_numpy(points).float().to(next(sampler.parameters()).device))


@dataclass(frozen=True, kw_only=True)
class StudyBenchmarkOptions(BenchmarkOptions):
    """Score a checkpoint with any of the study's samplers on a benchmark, as `grids evaluate --benchmark`."""

    def load(self) -> Policy:
        """The policy to score. Raises CheckpointError."""
        import research.pruners  # noqa: F401  registers the baselines, in a worker process as well

        return super().load()


def main(arguments: Sequence[str]) -> int:
    """`python -m research evaluate`."""
    from grids_ros.benchmarks.evaluate import run as run_benchmark
    from grids_ros.evaluate.__main__ import run

    benchmark = any(argument.partition("=")[0] == "--benchmark" for argument in arguments)
    try:
        if benchmark:
            return run_benchmark(read(StudyBenchmarkOptions, "evaluate", arguments))
        return run(read(HeldOptions, "evaluate", arguments))
    except UsageError as error:
        return refuse(f"research evaluate: {error}")

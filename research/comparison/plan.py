"""Which policies are compared, in which scenes, and in which order the work is done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

OURS, FEW, DENSE = "grids-16", "grids-4", "dense"
OTHERS = ("fixed_grid", "average", "random_keep", "token_learner")  # pruners
RIVALS = {OURS: OTHERS, FEW: tuple(f"{name}-4" for name in OTHERS)}  # to as many tokens, which each should beat
VARIANTS: dict[str, tuple[str, ...]] = {  # to the options of `train`, in the order of the report
    DENSE: ("--tokens", "0"),
    OURS: ("--tokens", "16"),
    FEW: ("--tokens", "4"),
    "grids-1": ("--tokens", "1"),
    **{name: ("--tokens", "16", "--pruner", name, "--attraction", "0") for name in OTHERS},
    **{f"{name}-4": ("--tokens", "4", "--pruner", name, "--attraction", "0") for name in OTHERS},
}
PAIRS = (  # whose difference is told: the first less the second
    *((OURS, name) for name in (DENSE, FEW, "grids-1")),
    *((ours, name) for ours, rivals in RIVALS.items() for name in rivals),
)
AS_RECORDED = "none"  # in the place of a kind of variation: in distribution


@dataclass(frozen=True)
class Training:
    """One policy: of this variant, from this seed."""

    variant: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.variant}-{self.seed}"


@dataclass(frozen=True)
class Cell:
    """One policy in the scenes of one task and kind, `AS_RECORDED` or one of `scenes.SCENES`."""

    training: Training
    task: str
    kind: str

    @property
    def name(self) -> str:
        return f"{self.training.name}-{self.task}-{self.kind}"


@dataclass(frozen=True)
class Settings:
    """What is the same in all of the table; its JSON files mean nothing beside others.

    data: names of the bags, with digests. steps, batch: of a training. episodes: that a cell is to have, in LIBERO of
    each of its tasks, where they may grow. start: name of the checkpoint that every training starts from, with the
    digest of its weights, or None. scenes: of `scenes.SCENES`.
    """

    data: tuple[str, ...]
    steps: int
    batch: int
    episodes: int
    start: str | None
    scenes: str = "simulation"


@dataclass(frozen=True)
class Plan:
    """What the table has when it is complete."""

    variants: tuple[str, ...]
    seeds: int
    tasks: tuple[str, ...]
    kinds: tuple[str, ...]

    def jobs(self) -> Iterator[Training | Cell]:
        """Seed by seed, in distribution before out of it: a table that is cut off is the more useful for it."""
        for seed in range(self.seeds):
            trainings = [Training(variant, seed) for variant in self.variants]
            for training in trainings:
                yield training
                yield from (Cell(training, task, AS_RECORDED) for task in self.tasks)
            yield from (Cell(t, task, kind) for kind, t, task in product(self.kinds, trainings, self.tasks))

    def with_all_of(self, other: Plan, seeds: int) -> Plan:
        """What either has: variants in the order of the report, tasks and kinds in that of `self`, then of `other`."""
        return Plan(
            tuple(name for name in VARIANTS if name in self.variants + other.variants),
            seeds,
            tuple(dict.fromkeys(self.tasks + other.tasks)),
            tuple(dict.fromkeys(self.kinds + other.kinds)),
        )

    def trainings(self) -> list[Training]:
        return [job for job in self.jobs() if isinstance(job, Training)]

    def cells(self) -> list[Cell]:
        return [job for job in self.jobs() if isinstance(job, Cell)]

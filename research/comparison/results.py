"""From the JSON files of the cells to counts, differences and verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from grids_ros.evaluate.success_rates import newcombe, wilson
from research.comparison.plan import AS_RECORDED, Cell, Plan, Settings, Training
from research.comparison.scenes import SCENES, Scenes
from research.comparison.work import TableError, cell_file, read_plan, training_file

MARGIN = 0.05  # of the success rate: "no worse" is less than this below
Which = Callable[[Cell], bool]
YES, NO, UNDECIDED = "yes", "no", "undecided"


@dataclass(frozen=True)
class Count:
    """Episodes of some cells. cells: how many of them are there; planned: how many there would be."""

    successes: int
    episodes: int
    wrong: int
    cells: int
    planned: int

    @property
    def rate(self) -> float:
        return self.successes / self.episodes

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.successes, self.episodes)


@dataclass(frozen=True)
class Difference:
    """Success rate of one variant less that of another, over the scenes that both have met, with its 95 % interval.

    both: scenes in which both succeeded.
    """

    ours: Count
    theirs: Count
    both: int

    @property
    def interval(self) -> tuple[float, float, float]:
        """Difference, lower bound, upper bound."""
        alone = self.ours.successes - self.both, self.theirs.successes - self.both
        return newcombe(self.both, *alone, self.ours.episodes - self.both - sum(alone))

    @property
    def better(self) -> str:
        """The interval lies above 0, or does not reach above it; or neither."""
        _, low, high = self.interval
        return YES if low > 0.0 else NO if high <= 0.0 else UNDECIDED

    @property
    def no_worse(self) -> str:
        """The interval lies below 0; or it lies above -MARGIN; or neither."""
        _, low, high = self.interval
        return NO if high < 0.0 else YES if low > -MARGIN else UNDECIDED


@dataclass(frozen=True, eq=False)
class Results:
    """What there is of tables that differ in their start and data, as one: seeds count on from table to table.

    settings, seeds: of each table, and how many it has. plan: of all. cells, trainings: the content of the files.
    """

    settings: tuple[Settings, ...]
    seeds: tuple[int, ...]
    plan: Plan
    cells: dict[Cell, dict]
    trainings: dict[Training, dict]

    @property
    def missing(self) -> list[Cell]:
        return [cell for cell in self.plan.cells() if cell not in self.cells]

    @property
    def short(self) -> dict[Cell, int]:
        """Cells that are to have more episodes, and how many they have, in LIBERO of each task."""
        counted = {cell: self.scenes.episodes_of(facts) for cell, facts in self.cells.items()}
        return {cell: episodes for cell, episodes in counted.items() if episodes < self.episodes}

    @property
    def episodes(self) -> int:
        """How many each cell is to have, in LIBERO of each task."""
        return max(settings.episodes for settings in self.settings)

    @property
    def scenes(self) -> Scenes:
        return SCENES[self.settings[0].scenes]

    def count(self, variant: str, which: Which) -> Count | None:
        """Over the cells of a variant, of all seeds, and the scenes that every policy has met there; None for none."""
        planned = [cell for cell in self.plan.cells() if cell.training.variant == variant and which(cell)]
        there = [cell for cell in planned if cell in self.cells]
        return _sum([self.scenes.first(self.cells[cell], self._met(cell)) for cell in there], len(planned))

    def difference(self, ours: str, theirs: str, which: Which) -> Difference | None:
        """Over the scenes that both variants have met; None where there are none."""
        by_place = [
            {(c.training.seed, c.task, c.kind): c for c in self.cells if c.training.variant == name and which(c)}
            for name in (ours, theirs)
        ]
        both = by_place[0].keys() & by_place[1].keys()
        planned = len([c for c in self.plan.cells() if c.training.variant == theirs and which(c)])
        if not both:
            return None
        pairs = [self._shared(*(cells[place] for cells in by_place)) for place in both]
        counts = [_sum(facts, planned) for facts in zip(*pairs, strict=True)]
        return Difference(*counts, sum(_both_succeeded(*pair) for pair in pairs))

    def by_seed(self, ours: str, theirs: str, which: Which) -> list[Difference | None]:
        """The same of each seed of training by itself."""
        seeds = range(self.plan.seeds)
        return [
            self.difference(ours, theirs, lambda c, seed=seed: which(c) and c.training.seed == seed) for seed in seeds
        ]

    def better(self, ours: str, theirs: str, which: Which) -> str:
        """Whether `ours` is: by the interval of all seeds together, and no seed may contradict it."""
        difference = self.difference(ours, theirs, which)
        verdict = difference.better if difference else UNDECIDED
        return self._unless_a_seed_differs(verdict, self.by_seed(ours, theirs, which), 0.0)

    def no_worse(self, ours: str, theirs: str, which: Which) -> str:
        """Likewise, whether `ours` is less than MARGIN below, or better."""
        difference = self.difference(ours, theirs, which)
        verdict = difference.no_worse if difference else UNDECIDED
        bound = -MARGIN if verdict == YES else 0.0
        return self._unless_a_seed_differs(verdict, self.by_seed(ours, theirs, which), bound)

    @staticmethod
    def _unless_a_seed_differs(verdict: str, by_seed: list[Difference | None], bound: float) -> str:
        """UNDECIDED where a training lies on the other side of `bound`: trainings differ by more than scenes do."""
        values = [one.interval[0] for one in by_seed if one]
        above, below = all(value > bound for value in values), all(value <= bound for value in values)
        return verdict if {YES: above, NO: below}.get(verdict, True) else UNDECIDED

    def _met(self, cell: Cell) -> int:
        """How many episodes of its task and kind every policy has that has any."""
        place = (cell.task, cell.kind)
        return min(self.scenes.episodes_of(facts) for c, facts in self.cells.items() if (c.task, c.kind) == place)

    def _shared(self, *cells: Cell) -> list[dict]:
        """What is known of these cells over the episodes that each of them has."""
        facts = [self.cells[cell] for cell in cells]
        fewest = min(self.scenes.episodes_of(one) for one in facts)
        return [self.scenes.first(one, fewest) for one in facts]


def _both_succeeded(ours: dict, theirs: dict) -> int:
    """In how many of the same scenes."""
    return ours["episodes"] - len({*ours["failed_seeds"], *theirs["failed_seeds"]})


def _sum(cells: Sequence[dict], planned: int) -> Count | None:
    if not cells:
        return None
    successes, episodes, wrong = (sum(c[name] for c in cells) for name in ("successes", "episodes", "wrong_objects"))
    return Count(successes, episodes, wrong, len(cells), planned)


def in_distribution(cell: Cell) -> bool:
    return cell.kind == AS_RECORDED


def out_of_distribution(cell: Cell) -> bool:
    return cell.kind != AS_RECORDED


def overall(verdicts: list[str]) -> str:
    """Of a claim that says something of each: one no denies it, and every yes is needed."""
    return NO if NO in verdicts else YES if set(verdicts) == {YES} else UNDECIDED


def read(*folders: Path) -> Results:
    """Raises TableError when no table was begun in one, or one has other steps, batches, episodes or scenes."""
    settings, plans = zip(*map(read_plan, folders), strict=True)
    for folder, one in zip(folders, settings, strict=True):
        for name in ("steps", "batch", "scenes", *(() if SCENES[one.scenes].grows else ("episodes",))):
            if getattr(one, name) != getattr(settings[0], name):
                told = f"{folder} has {name} {getattr(one, name)}, {folders[0]} {getattr(settings[0], name)}"
                raise TableError(f"{told}: they cannot be told together")
    cells, trainings, whole = {}, {}, replace(plans[0], seeds=0)
    for folder, plan in zip(folders, plans, strict=True):
        placed = {one: replace(one, seed=whole.seeds + one.seed) for one in plan.trainings()}
        trainings |= {placed[one]: _json(path) for one in placed if (path := training_file(folder, one)).exists()}
        for cell in plan.cells():
            if (path := cell_file(folder, cell)).exists():
                cells[replace(cell, training=placed[cell.training])] = _json(path)
        whole = whole.with_all_of(plan, whole.seeds + plan.seeds)
    return Results(settings, tuple(plan.seeds for plan in plans), whole, cells, trainings)


def _json(path: Path) -> dict:
    return json.loads(path.read_text())

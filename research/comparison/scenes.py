"""Where policies are scored: in this package's simulation, or in LIBERO's suites and LIBERO-PRO's changes of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Protocol

from grids_ros.evaluate.episode import LIMIT_S, PLACING_S
from grids_ros.evaluate.options import FIRST_SEED
from grids_ros.sim.tasks import TASKS
from grids_ros.sim.variation import KINDS
from research.comparison.plan import AS_RECORDED, Cell, Settings

STATES = 50  # fixed initial states of a task of LIBERO


class Scenes(Protocol):
    """tasks, kinds: names of what is done and of how a scene differs from the recorded ones.

    usual: the kinds by default. episodes, of: how many by default, and what they are counted by. labelled: whether
    objects are labelled in the images, so that `attraction` acts, and mistakes are counted. grows: whether the scenes
    of a cell with more episodes begin with those of one with fewer, so that cells can be added to.
    """

    tasks: tuple[str, ...]
    kinds: tuple[str, ...]
    usual: tuple[str, ...]
    episodes: int
    of: str
    labelled: bool
    grows: bool

    def command(self, settings: Settings, cell: Cell, checkpoint: Path, workers: int) -> list[str]:
        """The arguments of `python -m research` that score a cell; the last line that this prints is JSON."""

    def facts(self, summary: dict) -> dict:
        """What is kept of that JSON: "successes", "episodes", "wrong_objects" and "failed_seeds" among it."""

    def episodes_of(self, facts: dict) -> int:
        """How many a cell has, counted as those of the settings are."""

    def first(self, facts: dict, episodes: int) -> dict:
        """The same of a cell's first episodes alone: "successes", "episodes", "wrong_objects" and "failed_seeds"."""

    def told(self, settings: Settings, cells: Sequence[dict]) -> str:
        """What a cell is, in a few sentences. cells: what is kept of those that are there."""


class Simulation:
    """Scenes of this package. Every cell of a variant has others: none counts twice where cells are added up."""

    tasks, kinds = tuple(TASKS), tuple(KINDS)
    usual, labelled, grows = kinds, True, False
    episodes, of = 102, "of each cell"
    places = tuple(product(tasks, (AS_RECORDED, *kinds)))

    def first_scene(self, settings: Settings, cell: Cell) -> int:
        """Seed of a cell's first scene, which is that of all variants."""
        place = self.places.index((cell.task, cell.kind))
        return FIRST_SEED + (cell.training.seed * len(self.places) + place) * settings.episodes

    def command(self, settings: Settings, cell: Cell, checkpoint: Path, workers: int) -> list[str]:
        command = ["evaluate", "--checkpoint", str(checkpoint), "--task", cell.task]
        command += ["--episodes", str(settings.episodes), "--seed", str(self.first_scene(settings, cell))]
        command += ["--ood", cell.kind] if cell.kind != AS_RECORDED else []
        return [*command, "--workers", str(workers)]

    def facts(self, summary: dict) -> dict:
        return summary

    def episodes_of(self, facts: dict) -> int:
        return facts["episodes"]

    def first(self, facts: dict, episodes: int) -> dict:
        return facts  # all cells of a table have as many

    def told(self, settings: Settings, cells: Sequence[dict]) -> str:
        timings = sorted({(facts["delay_ms"], facts["join"]) for facts in cells})
        timing = "".join(f", {delay:g} ms from observation to chunk, join `{join}`" for delay, join in timings)
        return (
            f"A cell is one policy in {settings.episodes} scenes that no demonstration has{timing}; an episode without "
            f"success after {LIMIT_S:g} s, {LIMIT_S + PLACING_S:g} s where a cube has to be put down, has failed. All "
            "variants meet the same scenes; each seed of training, task and kind has others."
        )


class Libero:
    """The benchmark's fixed initial states, as its authors score; kinds are LIBERO-PRO's suites of the same name."""

    tasks = ("libero_object", "libero_spatial", "libero_goal", "libero_10")
    kinds = ("object", "swap", "lan")
    usual = ("object", "swap")  # a policy that knows the words of its data alone refuses others
    labelled, grows = False, True
    episodes, of = 20, "of each task of a suite of LIBERO"

    def command(self, settings: Settings, cell: Cell, checkpoint: Path, workers: int) -> list[str]:
        suite = cell.task if cell.kind == AS_RECORDED else f"{cell.task}_{cell.kind}"
        out = checkpoint / f"{cell.task}-{cell.kind}"  # goes on where it was cut off
        command = ["evaluate", "--benchmark", suite, "--checkpoint", str(checkpoint), "--out", str(out)]
        return [*command, "--episodes-per-task", str(settings.episodes), "--films", "0", "--workers", str(workers)]

    def facts(self, summary: dict) -> dict:
        failed = [
            STATES * number + state
            for number, task in enumerate(summary["tasks"].values())
            for state in task["failed_states"]
        ]
        return {**summary, "wrong_objects": 0, "failed_seeds": failed}  # nobody counts wrong ones

    def episodes_of(self, facts: dict) -> int:
        return facts["episodes"] // len(facts["tasks"])

    def first(self, facts: dict, episodes: int) -> dict:
        failed = [seed for seed in facts["failed_seeds"] if seed % STATES < episodes]
        played = episodes * len(facts["tasks"])
        counts = {"successes": played - len(failed), "episodes": played, "failed_seeds": failed}
        return {"wrong_objects": 0, **counts}

    def told(self, settings: Settings, cells: Sequence[dict]) -> str:
        versions = sorted({facts["versions"]["mujoco"] for facts in cells})
        mujoco = "".join(f", MuJoCo {version}" for version in versions)
        played = sorted({self.episodes_of(facts) for facts in cells}) or [settings.episodes]
        several = len(played) > 1
        counted = " Rates count the states that every policy has met, differences those that both have met."
        return (
            f"A cell is one policy on the first {' or '.join(map(str, played))} fixed initial states of each task of a "
            "suite"
            f"{mujoco}, after ten steps to settle, within as many steps as openpi allows; the environment stands still "
            "while a policy infers. Kinds are LIBERO-PRO's perturbations: other objects, swapped positions, reworded "
            "instructions; their states begin with one pose of the arm, those of the suites with many. All policies, "
            "of all seeds, meet the same states in the same order, so that intervals over several seeds are too narrow."
            f"{counted if several else ''}"
        )


SCENES: dict[str, Scenes] = {"simulation": Simulation(), "libero": Libero()}

"""Names that command lines take, without what it takes to import the simulation."""

from __future__ import annotations

from typing import Literal

TaskName = Literal["lift", "bowl", "stack"]  # the keys of sim.tasks.TASKS
Variation = Literal["distractors", "table", "light", "camera", "positions", "all"]  # sim.variation.KINDS
UNSEEN_SEEDS = range(100_000, 500_000)  # scenes that are kept for evaluation: `record` refuses them
KEPT = f"{UNSEEN_SEEDS.start} to {UNSEEN_SEEDS.stop - 1}"

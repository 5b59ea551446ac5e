"""The policy in models/demo: it is what its card says, and it lifts the cube that it is told to."""

from __future__ import annotations

import json
from itertools import repeat
from pathlib import Path

import pytest
import torch

from grids_ros.evaluate.episode import EpisodeResult, rollout
from grids_ros.evaluate.options import FIRST_SEED
from grids_ros.policy.runtime import Policy
from grids_ros.sim.scene import Scene
from grids_ros.sim.tasks import LIFT_TASKS, TASKS

FOLDER = Path(__file__).resolve().parents[1] / "models" / "demo"
LARGEST_BYTES = 20_000_000


@pytest.fixture(scope="module")
def policy() -> Policy:
    torch.set_num_threads(1)
    return Policy.load(FOLDER)


def test_it_is_small_prunes_to_16_tokens_and_has_a_card(policy):
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert sum(files.values()) <= LARGEST_BYTES
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert policy.tokens_per_camera == 16 and policy.cameras == ("base", "wrist")
    facts = json.loads((FOLDER / "provenance.json").read_text())
    counted = [one for one in facts["evaluations"] if one["episodes"] >= 30]
    assert {one["task"] for one in counted} >= {name for name in TASKS if _taught(facts, name)}
    card = (FOLDER / "README.md").read_text()
    assert all(f"| {one['successes']} of {one['episodes']} |" in card for one in counted)


def _taught(facts: dict, task: str) -> bool:
    return {each.instruction for each in TASKS[task]} <= set(facts["data"]["instructions"])


def test_it_lifts_the_cube_that_it_is_told_to(policy):
    """The same scene under each instruction, so that only the words can tell which cube to take."""
    scene = Scene()
    results = [
        next(
            event
            for event in rollout(policy, scene, task, FIRST_SEED, repeat(0.06))
            if isinstance(event, EpisodeResult)
        )
        for task in LIFT_TASKS
    ]
    assert sum(result.success for result in results) >= 2
    assert sum(bool(result.wrong) for result in results) <= 1

"""A spoilt provenance.json is refused by name before it is written again, and decides nothing elsewhere."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from recording import write_recording
from spoilt import other_values, places, replaced
from tiny import observation, rich, save_tiny

from grids_ros import cli
from grids_ros.evaluate import __main__ as evaluation
from grids_ros.options import UNUSABLE
from grids_ros.policy.card import card
from grids_ros.policy.checkpoint import record_evaluation
from grids_ros.policy.contract import contract
from grids_ros.policy.errors import CheckpointError
from grids_ros.policy.provenance import read_provenance
from grids_ros.policy.runtime import Policy

SHIPPED = Path(__file__).resolve().parents[1] / "models" / "demo" / "provenance.json"


def full() -> dict:
    """A provenance with every key that the card reads."""
    facts = json.loads(SHIPPED.read_text())
    facts["evaluations"] = facts["evaluations"][:2]
    facts["distilled_from"] = {"name": "dense", **{k: facts[k] for k in ("data", "stages", "steps", "evaluations")}}
    facts["converted"] = {"from": "x", "kind": "lerobot", "convention": "absolute", "normalisation": "mean"}
    facts["converted"]["assumed"] = ["metres"]
    return facts


def test_the_card_is_made_of_whatever_is_not_refused(tmp_path):
    sys.set_int_max_str_digits(0)
    path, policy, facts = tmp_path / "provenance.json", rich(), full()
    path.write_text(json.dumps(facts))
    assert read_provenance(tmp_path) == facts
    refused = 0
    for place in places(facts):
        old = facts
        for key in place:
            old = old[key]
        for new in other_values(old):
            path.write_text(json.dumps(replaced(facts, place, new)))
            try:
                known = read_provenance(tmp_path)
            except CheckpointError as error:
                assert str(path) in str(error)
                refused += 1
                continue
            card(dataclasses.replace(policy, provenance=known))
            contract(dataclasses.replace(policy, provenance=known))
    assert refused > 1000


def test_the_card_needs_none_of_it():
    policy = rich()
    for key in (facts := full()):
        for part in ({}, {k: v for k, v in facts.items() if k != key}, {key: facts[key]}):
            card(dataclasses.replace(policy, provenance=part))
    for start in ({"tokens": "dense"}, {"tokens": "dense", "steps": 3}, {"tokens": "dense", "data": {}}):
        said = card(dataclasses.replace(policy, provenance={"start": start}))
        assert "It started from a checkpoint" in said


@pytest.fixture
def spoilt(tmp_path):
    folder = save_tiny(tmp_path / "policy")
    (folder / "provenance.json").write_text('{"evaluations": null}')
    return folder


def test_no_episode_is_run_for_a_card_that_cannot_be_written(spoilt, capsys, monkeypatch):
    monkeypatch.setattr(evaluation, "evaluate", lambda options: pytest.fail("an episode began"))
    with pytest.raises(CheckpointError, match="evaluations is null, expected a list"):
        record_evaluation(spoilt, {})
    given = ["--checkpoint", str(spoilt), "--episodes", "1", "--card"]
    assert cli.call("evaluate", given) == UNUSABLE
    assert f"{spoilt / 'provenance.json'}: evaluations is null" in capsys.readouterr().err


def test_no_training_begins_with_one_and_no_diagnosis(tmp_path, spoilt, capsys):
    bag = write_recording(tmp_path / "bag", seconds=1.0)
    for option in ("--start", "--from"):
        assert cli.call("train", [str(bag), "--out", str(tmp_path / "out"), option, str(spoilt)]) == UNUSABLE
        assert f"{spoilt / 'provenance.json'}: evaluations is null" in capsys.readouterr().err
    assert cli.call("diagnose", [str(spoilt), str(bag)]) == UNUSABLE
    assert f"{spoilt / 'provenance.json'}: evaluations is null" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_it_decides_nothing_of_what_the_policy_does(tmp_path, spoilt):
    other = shutil.copytree(spoilt, tmp_path / "other")
    (other / "provenance.json").unlink()
    one, two = (Policy.load(folder).infer(observation()).chunk.positions for folder in (spoilt, other))
    np.testing.assert_array_equal(one, two)

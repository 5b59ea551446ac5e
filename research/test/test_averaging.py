"""A policy between two: on the straight line, with statistics to match, and only between policies of one shape."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import INSTRUCTIONS, observation, tiny

from grids_ros.policy.checkpoint import load, save
from grids_ros.policy.errors import CheckpointError
from grids_ros.policy.preprocess import word_tokenizer
from grids_ros.policy.runtime import Policy
from research.averaging import average, main

FACTS = {
    "parameters": 1000,
    "data": {"instructions": INSTRUCTIONS, "episodes": 6, "samples": 24},
    "steps": 70,
    "stages": [{"from_step": 0, "seed": 0, "nested": []}],
    "hardware": "a test",
}


def made(seed, **facts):
    one = tiny(seed=seed)
    scale = one.normalization.action_std * (1.0 + seed)
    return replace(one, normalization=replace(one.normalization, action_std=scale), provenance={**FACTS, **facts})


def weights(checkpoint):
    return {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_weights_and_statistics_lie_on_the_line(share):
    first, second = made(0), made(1)
    a, b = weights(first), weights(second)
    result = average(first, second, share)
    for name, tensor in weights(result).items():
        torch.testing.assert_close(tensor, (1.0 - share) * a[name] + share * b[name])
    assert np.allclose(result.normalization.action_std, first.normalization.action_std * (1.0 + share))


def test_what_is_saved_infers_and_its_card_says_what_it_is(tmp_path):
    save(made(0, steps=400), tmp_path / "first")
    save(made(1, diagnosis={"samples": 3}, evaluations=[{"task": "lift"}]), tmp_path / "second")
    arguments = [str(tmp_path / "first"), str(tmp_path / "second"), "--share", "0.25", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    facts = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert facts["averaged"]["share"] == 0.25 and facts["averaged"]["with"]["steps"] == 400 and facts["steps"] == 70
    assert "diagnosis" not in facts and "evaluations" not in facts  # they were another's
    card = (tmp_path / "out" / "README.md").read_text()
    assert "are 0.25 of this training's, the rest a checkpoint's of 400 steps" in card
    chunk = Policy(load(tmp_path / "out")).infer(observation()).chunk
    assert np.isfinite(chunk.positions).all()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda: tiny(tokens=5), "grids.json"),
        (lambda: tiny(cameras=("wrist", "base")), "grids.json"),
        (lambda: tiny(budgets=(2, 4)), "nested"),
        (lambda: replace(tiny(), tokenizer=word_tokenizer(["lift the yellow cube"])), "tokenizers"),
        (lambda: tiny(horizon=7), "config.json"),
    ],
)
def test_two_policies_of_other_kinds_are_refused(other, said):
    with pytest.raises(CheckpointError, match=said):
        average(tiny(), other(), 0.5)


def test_a_share_beyond_the_two_and_a_folder_in_use_are_refused(tmp_path, capsys):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    for arguments, said in ((["--share", "1.5"], "expected 0 to 1"), (["--out", str(tmp_path / "used")], "not empty")):
        with pytest.raises(SystemExit):
            main(["a", "b", "--out", str(tmp_path / "new"), *arguments])
        assert said in capsys.readouterr().err


def test_a_folder_that_is_no_checkpoint_is_said(tmp_path, capsys):
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "new")]) == 1
    assert "does not exist" in capsys.readouterr().err

"""Coordinates that are held: those of the diagnosis, whatever is seen."""

import dataclasses
import json

import numpy as np
import pytest
from tiny import observation, rich, save_tiny

from grids_ros.options import read
from grids_ros.policy.checkpoint import save
from grids_ros.policy.errors import CheckpointError
from grids_ros.policy.runtime import Policy
from research.held_coordinates import HeldOptions, hold, main


@pytest.fixture(scope="module")
def diagnosed(tmp_path_factory):
    """A checkpoint that says where it looks on average."""
    folder = tmp_path_factory.mktemp("diagnosed") / "policy"
    save(rich(), folder)
    return folder


def test_held_coordinates_are_those_of_the_diagnosis_whatever_is_seen(diagnosed):
    policy = Policy.load(diagnosed)
    one = observation()
    other = dataclasses.replace(one, images={name: image[::-1] for name, image in one.images.items()})
    looking = [policy.infer(seen).coordinates["wrist"] for seen in (one, other)]
    assert not np.array_equal(*looking)
    hold(policy)
    held = [policy.infer(seen).coordinates["wrist"] for seen in (one, other)]
    np.testing.assert_array_equal(*held)
    np.testing.assert_allclose(policy._engine.coordinates[1], policy.mean_coordinates["wrist"], atol=1e-6)


@pytest.mark.parametrize(("options", "said"), [({}, "`grids diagnose`"), ({"tokens": None}, "no coordinates to hold")])
def test_nothing_is_held_where_there_is_nothing_to_hold(options, said, tmp_path):
    with pytest.raises(CheckpointError, match=said):
        hold(Policy.load(save_tiny(tmp_path / "policy", **options)))


@pytest.mark.slow
def test_in_closed_loop_held_coordinates_do_not_move(diagnosed, capsys):
    arguments = ["--checkpoint", str(diagnosed), "--episodes", "1", "--workers", "1", "--hold-coordinates"]
    assert main(arguments) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(summary["coordinate_motion"].values()) == {0.0}
    with pytest.raises(SystemExit):
        read(HeldOptions, "evaluate", [*arguments, "--card"])

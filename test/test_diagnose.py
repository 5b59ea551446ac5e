"""Does the sampler look: what it reads on average is found on bags, kept, and held in closed loop."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from tiny import observation, save_tiny

from grids_ros.data.record import record
from grids_ros.evaluate import __main__ as evaluation
from grids_ros.policy.checkpoint import load
from grids_ros.policy.errors import CheckpointError
from grids_ros.policy.runtime import Policy
from grids_ros.sampler import GridSampler, SamplerConfig
from grids_ros.sim.tasks import LIFT_TASKS
from grids_ros.train import diagnose, diagnosis


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp("diagnose") / "bag"
    record(path, LIFT_TASKS, [0, 1], 500, lambda kept: None, size=48)
    return path


@pytest.fixture(scope="module")
def diagnosed(bag, tmp_path_factory):
    """A checkpoint that says where it looks on average."""
    folder = save_tiny(tmp_path_factory.mktemp("diagnosed") / "policy")
    (folder / "provenance.json").write_text(
        json.dumps({"parameters": 9, "data": {"instructions": [], "episodes": 0, "samples": 0}, "steps": 0,
                    "stages": [{"from_step": 0, "seed": 0}], "hardware": "a test"})
    )  # fmt: skip
    assert diagnose.main([str(folder), str(bag), "--workers", "1"]) == 0
    return folder


def test_a_diagnosis_is_printed_and_kept_in_provenance_and_card(diagnosed, bag, capsys):
    assert diagnose.main([str(diagnosed), str(bag)]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed == load(diagnosed).provenance["diagnosis"]
    assert {"right", "shuffled_images", "fixed_coordinates"} <= set(printed["last_step_error_mm"])
    assert np.shape(printed["mean_coordinates"]["wrist"]) == (4, 2)
    assert "| fixed coordinates |" in (diagnosed / "README.md").read_text()


def test_what_cannot_be_diagnosed_is_refused_with_the_reason(bag, tmp_path, capsys):
    assert diagnose.main([str(tmp_path / "none"), str(bag)]) == 1
    assert "none" in capsys.readouterr().err
    assert diagnose.main([str(save_tiny(tmp_path / "policy")), str(tmp_path)]) == 1
    assert "no rosbag2 folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        diagnose.parse(["policy", "bag", "--workers", "0"])


def test_held_coordinates_are_those_of_the_diagnosis_whatever_is_seen(diagnosed):
    policy = Policy.load(diagnosed)
    one = observation()
    other = dataclasses.replace(one, images={name: image[::-1] for name, image in one.images.items()})
    looking = [policy.infer(seen).coordinates["wrist"] for seen in (one, other)]
    assert not np.array_equal(*looking)
    policy.hold_coordinates()
    held = [policy.infer(seen).coordinates["wrist"] for seen in (one, other)]
    np.testing.assert_array_equal(*held)
    mean = load(diagnosed).provenance["diagnosis"]["mean_coordinates"]["wrist"]
    np.testing.assert_allclose(policy._engine.coordinates[1], mean)


def test_an_empty_instruction_says_nothing(diagnosed, bag, monkeypatch):
    """Not one of the words that the policy knows: it may be the name of the right cube."""
    said = []
    real = diagnosis.predict
    monkeypatch.setattr(diagnosis, "predict", lambda *shown: said.append(shown[-1]) or real(*shown))
    assert diagnose.main([str(diagnosed), str(bag), "--workers", "1"]) == 0
    assert sum(set(texts) == {""} for texts in said) == 1


@pytest.mark.parametrize(
    ("options", "said"), [({}, "grids_ros diagnose"), ({"tokens": None}, "no coordinates to hold")]
)
def test_nothing_is_held_where_there_is_nothing_to_hold(options, said, tmp_path):
    with pytest.raises(CheckpointError, match=said):
        Policy.load(save_tiny(tmp_path / "policy", **options)).hold_coordinates()


def test_points_are_held_for_each_camera_in_turn_and_as_many_as_are_in_use():
    sampler = GridSampler(SamplerConfig(tokens=3, channels=4))
    points = torch.rand(2, 3, 2)
    sampler.hold(points)
    sampler.use(2)
    torch.testing.assert_close(sampler.coordinates(torch.rand(6, 5, 5, 4)), points[:, :2].repeat(3, 1, 1))
    sampler.hold(None)
    assert sampler.coordinates(torch.rand(6, 5, 5, 4)).std(0).max() > 0.0
    with pytest.raises(ValueError, match=r"points have shape \(2, 4, 2\), expected \(cameras, 3, 2\)"):
        sampler.hold(torch.rand(2, 4, 2))


def test_in_closed_loop_held_coordinates_do_not_move(diagnosed, capsys):
    arguments = ["--checkpoint", str(diagnosed), "--episodes", "1", "--workers", "1", "--hold-coordinates"]
    assert evaluation.main(arguments) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["coordinates_held"] and set(summary["coordinate_motion"].values()) == {0.0}
    with pytest.raises(SystemExit):
        evaluation.parse([*arguments, "--card"])

"""Does the sampler look: what it reads on average is found on bags and kept."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from recording import CAMERAS, write_recording
from tiny import INSTRUCTIONS, SIZE, save_tiny, tiny

from grids_ros import cli
from grids_ros.options import RobotOptions
from grids_ros.policy.checkpoint import load, save
from grids_ros.policy.errors import CheckpointError
from grids_ros.policy.preprocess import ImageFit
from grids_ros.sampler import GridSampler, SamplerConfig
from grids_ros.sim.record import record
from grids_ros.sim.tasks import LIFT_TASKS
from grids_ros.train import __main__ as train
from grids_ros.train import diagnose, diagnosis
from grids_ros.train.dataset import Window
from grids_ros.train.initial_checkpoint import vision_layers_of
from grids_ros.train.parallel import World


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
    (tmp_path / "none").mkdir()
    assert diagnose.main([str(tmp_path / "none"), str(bag)]) == 2
    assert "none" in capsys.readouterr().err
    assert diagnose.main([str(save_tiny(tmp_path / "policy")), str(tmp_path)]) == 2
    assert "no rosbag2 folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.parse("diagnose", [str(tmp_path / "policy"), "bag", "--workers", "0"])


def test_an_empty_instruction_says_nothing(diagnosed, bag, monkeypatch):
    """Not one of the words that the policy knows: it may be the name of the right cube."""
    said = []
    real = diagnosis.predict
    monkeypatch.setattr(diagnosis, "predict", lambda *shown: said.append(shown[-2]) or real(*shown))
    assert diagnose.main([str(diagnosed), str(bag), "--workers", "1"]) == 0
    assert sum(set(texts) == {""} for texts in said) == 1


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


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    """A dense policy whose padding is lerobot 0.4's, and a bag of images that are not square."""
    folder, made = tmp_path_factory.mktemp("padded"), tiny(tokens=None)
    spec = dataclasses.replace(made.spec, image=ImageFit("bilinear", padding=-3.0))
    save(dataclasses.replace(made, spec=spec), folder / "policy")
    return folder / "policy", write_recording(folder / "bag", seconds=2.0, words=INSTRUCTIONS[:2])


def test_grids_is_distilled_onto_a_policy_whose_padding_is_not_black(padded, tmp_path, capsys, monkeypatch):
    dense, bag = padded
    seen = []
    real = diagnosis.Engine.sample_actions
    monkeypatch.setattr(
        diagnosis.Engine, "sample_actions", lambda self, pixels, *more: seen.append(pixels) or real(self, pixels, *more)
    )
    quick = ["--tokens", "4", "--steps", "1", "--distil-steps", "1", "--batch", "4", "--threads", "1"]
    assert cli.main(["train", str(bag), "--from", str(dense), "--out", str(tmp_path / "out"), *quick]) == 0
    assert load(tmp_path / "out").spec.image == ImageFit("bilinear", padding=-3.0)
    assert cli.main(["diagnose", str(dense), str(bag), "--workers", "1"]) == 0
    assert len(seen) >= 8 and all((pixels.amin((2, 3, 4)) == -3.0).all() for pixels in seen)


def test_a_new_policy_that_starts_from_another_keeps_its_padding(padded, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "DemoSize", lambda: SIZE)
    bag, fit = padded[1], ImageFit(padding=-3.0)
    samples = train.read([bag], train.chosen(RobotOptions()), Window(CAMERAS, SIZE.image_size, 12, 0.1), 1)
    start = train.new_checkpoint(samples, Window(CAMERAS, SIZE.image_size, 12, 0.1, image=fit), 0, 0)
    save(start, tmp_path / "start")
    arguments = [str(bag), "--start", str(tmp_path / "start"), "--out", str(tmp_path / "out"), "--tokens", "0"]
    made, window, *_ = train.begin(cli.parse("train", arguments), [bag], train.sampler_config, World(), tmp_path)
    assert made.spec.image == window.image == fit


def test_a_new_policy_has_as_many_vision_layers_as_its_start_or_as_it_is_told(padded, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "DemoSize", lambda: SIZE)
    bag, window = padded[1], Window(CAMERAS, SIZE.image_size, 12, 0.1)
    samples = train.read([bag], train.chosen(RobotOptions()), window, 1)
    save(train.new_checkpoint(samples, window, 0, 0, vision_layers=3), tmp_path / "start")
    arguments = [str(bag), "--start", str(tmp_path / "start"), "--out", str(tmp_path / "out"), "--tokens", "0"]
    for more, layers in (([], 3), (["--vision-layers", "2"], 2)):
        options = cli.parse("train", [*arguments, *more])
        made, *_ = train.begin(options, [bag], train.sampler_config, World(), tmp_path)
        assert vision_layers_of(made) == layers
    deeper = cli.parse("train", [*arguments, "--vision-layers", "4"])
    with pytest.raises(CheckpointError, match="is missing"):
        train.begin(deeper, [bag], train.sampler_config, World(), tmp_path)


def test_a_policy_of_another_size_is_no_start(bag, tmp_path, capsys):
    start = save_tiny(tmp_path / "policy")
    assert cli.main(["train", str(bag), "--out", str(tmp_path / "out"), "--start", str(start), "--tokens", "4"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "embed_tokens.weight has shape" in error and "expected" in error
    assert not (tmp_path / "out").exists()

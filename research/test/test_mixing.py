"""The probe finds what a cell tells and nothing else; its maps are the vision encoder's own."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import save_tiny, tiny

from grids_ros.policy.errors import CheckpointError
from grids_ros.policy.grids import attached
from grids_ros.policy.preprocess import to_pixels
from research import mixing
from research.mixing import FAR, Scenes, centres, errors, features, measure, page, probe, untrained

COUNT = 400
RANDOM = np.random.default_rng(0)
PLACES = RANDOM.uniform(0.0, 1.0, (COUNT, 1, 2))
NOISE = RANDOM.normal(size=(COUNT, 16, 8))
GRID = (4, 4)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 100.0), st.floats(-100.0, 100.0))
def test_what_tells_the_places_linearly_is_read_whatever_its_scale(seed, scale, shift):
    random = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(random.normal(size=(5, 5)))
    mixed = np.concatenate([PLACES[:, 0], random.normal(size=(COUNT, 3))], axis=1) @ turn
    told = errors(scale * mixed + shift, PLACES)
    assert told.shape == (COUNT // 5, 1) and told.mean() < 0.01


def test_what_tells_nothing_is_no_better_than_no_image():
    nothing = errors(np.zeros((COUNT, 1)), PLACES).mean()
    assert errors(NOISE[:, 0], PLACES).mean() == pytest.approx(nothing, rel=0.05)
    assert nothing == pytest.approx(np.linalg.norm(PLACES[-80:] - PLACES[:240].mean(axis=0), axis=-1).mean())


def test_a_map_that_tells_all_everywhere_does_so_far_from_the_object_too():
    found = probe(np.concatenate([NOISE[..., :2], PLACES.repeat(16, axis=1)], axis=-1), PLACES, GRID)
    assert max(found.cell, found.far, found.best, found.mean, found.grid) < 1.0 < 20.0 < found.nothing
    assert np.shape(found.cells) == GRID


def test_a_map_of_which_each_cell_tells_its_own_place_alone_tells_nothing_far_from_the_object():
    offsets = PLACES - centres(*GRID)
    inside = (abs(offsets) < 0.125).all(axis=-1, keepdims=True)
    found = probe(np.concatenate([inside * offsets, inside], axis=-1), PLACES, GRID)
    assert found.grid < 1.0, "all of them together tell it"
    assert found.far > 0.8 * found.nothing and found.cell > 0.7 * found.nothing


def test_cells_are_numbered_by_rows_and_far_is_a_distance_in_the_image():
    assert centres(2, 4).tolist()[:5] == [[0.125, 0.25], [0.375, 0.25], [0.625, 0.25], [0.875, 0.25], [0.125, 0.75]]
    near = probe(NOISE, np.full((COUNT, 1, 2), 0.125) + 1e-3 * PLACES, GRID)
    assert near.nothing < 0.1 and FAR == 0.25


def test_the_last_map_is_the_one_that_the_policy_reads():
    checkpoint = tiny(seed=3)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    stages, wrapped = features(checkpoint, images), attached(checkpoint.model)
    assert [stage.shape for stage in stages] == [(5, 16, 32)] * 2 and abs(stages[1] - stages[0]).max() > 0.01
    with torch.no_grad():
        checkpoint.model.model.vlm.get_image_features(to_pixels(images[:, None])[:, 0])
        normed = checkpoint.model.model.vlm.vision_tower.post_layernorm(torch.from_numpy(stages[-1]))
        expected = wrapped.projector(normed)
    np.testing.assert_allclose(wrapped.dense.flatten(1, 2).numpy(), expected.numpy(), atol=1e-5)


def test_an_untrained_policy_has_the_same_shape_and_other_weights():
    checkpoint = tiny(seed=3)
    ours, other = (dict(one.model.named_parameters()) for one in (checkpoint, untrained(checkpoint)))
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: tensor.shape for n, tensor in other.items()}
    assert any(not torch.equal(tensor, other[name]) for name, tensor in ours.items())


def test_a_policy_without_the_base_camera_is_refused():
    scenes = Scenes(np.zeros((10, 32, 32, 3), np.uint8), PLACES[:10])
    with pytest.raises(CheckpointError, match="cameras are wrist, expected base among them"):
        measure(tiny(cameras=("wrist",)), scenes)


def test_the_command_writes_a_table_and_a_picture(tmp_path, capsys):
    folder, out = save_tiny(tmp_path / "tiny"), tmp_path / "out" / "mixing.json"
    assert mixing.main(["--checkpoint", str(folder), "--scenes", "20", "--out", str(out)]) == 0
    told = json.loads(out.read_text())
    assert list(told) == ["tiny", "random weights"]
    assert list(told["tiny"]) == ["before attention", "after layer 1"]
    nothing = {one["nothing"] for stages in told.values() for one in stages.values()}
    assert len(nothing) == 1 and 5.0 < nothing.pop() < 60.0
    lines = out.with_suffix(".md").read_text().splitlines()
    assert len(lines) == 6 and len({line.count("|") for line in lines}) == 1
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG") and lines[0] in capsys.readouterr().out
    results = {name: {s: mixing.Probe(**one) for s, one in stages.items()} for name, stages in told.items()}
    assert page(results) == out.with_suffix(".md").read_text()


def test_a_checkpoint_that_cannot_be_read_is_told(tmp_path, capsys):
    assert mixing.main(["--checkpoint", str(tmp_path / "none"), "--out", str(tmp_path / "f.json")]) == 1
    assert "none" in capsys.readouterr().err


def test_two_encoders_are_shown_the_same_scenes():
    once, again = (mixing.look(tiny(seed=seed), 3) for seed in (0, 1))
    assert dataclasses.astuple(once)[0].shape == (3, 32, 32, 3)
    np.testing.assert_array_equal(once.images, again.images)
    np.testing.assert_array_equal(once.places, again.places)
    assert ((once.places > 0.0) & (once.places < 1.0)).all()

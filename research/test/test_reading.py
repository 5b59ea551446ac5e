"""A reader learns what its map tells; one that looks finds what lies in one place alone."""

import json

import numpy as np
import pytest
import torch
from tiny import save_tiny, tiny

from grids_ros.policy.checkpoint import save
from research import reading
from research.mixing import Scenes, centres
from research.reading import DENSE, SAMPLERS, Data, Reader, fit, map_of, score

COUNT, SIDE = 1500, 8
PLACES = np.random.default_rng(0).uniform(0.0, 1.0, (COUNT, 1, 2))
NOTHING = 100 * float(np.linalg.norm(PLACES - PLACES.mean(axis=0), axis=-1).mean())


def told_everywhere():
    noise = np.random.default_rng(1).normal(size=(COUNT, SIDE, SIDE, 4))
    return np.concatenate([noise, np.broadcast_to(PLACES[:, None], (COUNT, SIDE, SIDE, 2))], axis=-1)


def told_at_one_place(hinted):
    """Cells around a place hold the answer, which has nothing to do with that place. hinted: the mean of all cells
    tells the place, though no cell does."""
    random = np.random.default_rng(2)
    at = random.uniform(0.1, 0.9, (COUNT, 1, 2))
    near = np.exp(-(np.linalg.norm(centres(SIDE, SIDE) - at, axis=-1) ** 2) / 0.02)[..., None]
    hint = hinted * (at - 0.5) + 0.3 * random.normal(size=(COUNT, SIDE * SIDE, 2))
    value = near * (PLACES - 0.5) + (1.0 - near) * random.normal(size=(COUNT, SIDE * SIDE, 2))
    return np.concatenate([value, near, hint], axis=-1).reshape(COUNT, SIDE, SIDE, 5)


def mean_error(data, sampler, tokens, steps):
    errors, moves = score(fit(data, sampler, tokens, 0, steps), data)
    return float(errors.mean()), moves


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("sampler", [*SAMPLERS, DENSE])
def test_what_every_cell_tells_is_read_by_every_sampler(sampler):
    error, moves = mean_error(Data.of(told_everywhere(), PLACES), sampler, 4, 200)
    assert error < 0.25 * NOTHING and (moves is None) == (sampler == DENSE)
    if sampler in ("fixed_grid", "average", "random_keep"):
        assert moves < 1e-3


@pytest.mark.parametrize(("hinted", "finders"), [(True, {"grids", "token_learner"}), (False, {"token_learner"})])
def test_what_one_place_tells_is_read_by_the_samplers_that_find_it(hinted, finders):
    """GridS finds it where the mean of the map tells the place, TokenLearner by what the cells hold."""
    data = Data.of(told_at_one_place(hinted), PLACES)
    for sampler in ("fixed_grid", "average", "grids", "token_learner"):
        error, moves = mean_error(data, sampler, 1, 600)
        assert (error < 0.9 * NOTHING) == (sampler in finders), (sampler, error, NOTHING)
        assert moves > 10.0 or sampler not in finders


def test_the_scenes_that_test_are_neither_trained_on_nor_do_they_scale_the_map():
    maps = np.random.default_rng(3).normal(3.0, 5.0, (COUNT, 2, 2, 3))
    data = Data.of(maps, PLACES)
    assert data.trained == COUNT - COUNT // 5
    known = data.maps[: data.trained]
    assert known.mean(dim=(0, 1, 2)).abs().max() < 1e-3 and (known.std(dim=(0, 1, 2)) - 1.0).abs().max() < 1e-3
    other = Data.of(np.concatenate([maps[: data.trained], 9.0 + maps[data.trained :]]), PLACES)
    assert torch.equal(other.maps[: data.trained], known)
    reader = Reader("fixed_grid", 4, (2, 2, 3), 1, 0)
    assert not torch.equal(score(reader, Data.of(maps, PLACES))[0], score(reader, other)[0])
    trained = [fit(each, "fixed_grid", 4, 0, 3) for each in (data, other)]
    assert all(torch.equal(*pair) for pair in zip(*(one.state_dict().values() for one in trained), strict=True))


def test_a_file_that_is_no_map_of_these_scenes_is_refused(tmp_path):
    good = np.zeros((3, 4, 4, 1))
    others = {"flat": good[0], "fewer": good[:2], "whole": good.astype(int), "infinite": good + np.inf}
    for name, values in others.items():
        np.save(tmp_path / f"{name}.npy", values)
    np.savez(tmp_path / "archive.npy", good)
    (tmp_path / "archive.npy.npz").rename(tmp_path / "archive.npy")
    for name in (*others, "archive"):
        with pytest.raises(ValueError, match=rf"{name}\.npy .*expected a \.npy .* of finite floats, with 3 scenes"):
            map_of(tmp_path / f"{name}.npy", 3)
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name, said in (("none", "none"), ("empty", "empty"), ("pickled", "Python objects")):
        with pytest.raises(ValueError, match=said):
            map_of(tmp_path / f"{name}.npy", 3)


def test_the_command_reads_a_policy_and_the_maps_of_other_encoders(tmp_path, monkeypatch, capsys):
    save_tiny(tmp_path / "tiny")
    random = np.random.default_rng(4)
    scenes = Scenes(random.integers(0, 255, (20, 32, 32, 3), dtype=np.uint8), random.uniform(size=(20, 3, 2)))
    monkeypatch.setattr(reading, "look", lambda checkpoint, count: scenes)
    np.save(tmp_path / "other.npy", random.normal(size=(20, 5, 3, 2)).astype(np.float16))
    common = ["--checkpoint", str(tmp_path / "tiny"), "--scenes", "20"]
    assert reading.main([*common, "--images", str(tmp_path / "images.npy")]) == 0
    assert np.array_equal(np.load(tmp_path / "images.npy"), scenes.images)
    few = ["--steps", "2", "--seeds", "2", "--tokens", "2", "--out", str(tmp_path / "r.json")]
    assert reading.main([*common, *few, "--map", str(tmp_path / "other.npy")]) == 0
    found = json.loads((tmp_path / "r.json").read_text())
    maps = list(dict.fromkeys(one["map"] for one in found))
    assert maps == ["tiny, before attention", "tiny, after layer 1", "other"]
    assert len(found) == len(maps) * (len(SAMPLERS) + 1) * 2
    assert {one["tokens"] for one in found if (one["map"], one["sampler"]) == ("other", DENSE)} == {15}
    table = (tmp_path / "r.md").read_text()
    assert table in capsys.readouterr().out and table.count("| GridS | 2 |") == 2
    assert table.count("| every cell | 15 |") == table.count("| fixed grid | 2 |") == 1
    rivals = [one for one in found if one["more"]]
    assert len(rivals) == len(maps) * (len(SAMPLERS) - 1) * 2
    assert all(low <= value <= high for value, low, high in (one["more"] for one in rivals))
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "again").mkdir()
    np.save(tmp_path / "again" / "other.npy", np.zeros((20, 5, 5, 1)))
    other, again, pixels = (tmp_path / name for name in ("other.npy", "again/other.npy", "images.npy"))
    for files, more, said in (
        ((pixels,), [], "images.npy has shape (20, 32, 32, 3) of uint8"),
        ((other, again), [], "--map has two files named other"),
        ((other,), ["--tokens", "16"], "--tokens is 16, other has 15 cells"),
    ):
        assert reading.main([*common, *few, *more, "--map", *map(str, files)]) == 1
        assert said in capsys.readouterr().err


def test_a_policy_without_the_base_camera_is_refused(tmp_path, capsys):
    save(tiny(cameras=("wrist",)), tmp_path / "wrist")
    assert reading.main(["--checkpoint", str(tmp_path / "wrist"), "--out", str(tmp_path / "r.json")]) == 1
    assert "cameras are wrist, expected base among them" in capsys.readouterr().err


def test_options_that_cannot_be_are_refused(capsys):
    for arguments, said in (
        (["--scenes", "3"], "--scenes is 3, expected at least 10"),
        ([], "expected --out FILE"),
        (["--out", "f.json", "--tokens", "5"], "--tokens: tokens is 5, average pooling takes rows times columns"),
        (["--out", "f.json", "--tokens", "0"], "--tokens: tokens is 0, expected at least 1"),
    ):
        with pytest.raises(SystemExit):
            reading.parse(["--checkpoint", "models/demo", *arguments])
        assert said in capsys.readouterr().err

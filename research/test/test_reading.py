"""A reader learns what its map tells; one that looks finds what lies in one place alone."""

import json

import numpy as np
import pytest
import torch
from tiny import save_tiny

from research import reading
from research.mixing import Scenes, centres
from research.reading import DENSE, SAMPLERS, Data, Reader, fit, map_of, score

COUNT, SIDE = 1500, 8
RANDOM = np.random.default_rng(0)
PLACES = RANDOM.uniform(0.0, 1.0, (COUNT, 1, 2))
NOTHING = float(np.linalg.norm(PLACES - PLACES.mean(axis=0), axis=-1).mean())


def told_everywhere():
    noise = RANDOM.normal(size=(COUNT, SIDE, SIDE, 4))
    return np.concatenate([noise, np.broadcast_to(PLACES[:, None], (COUNT, SIDE, SIDE, 2))], axis=-1)


def told_at_one_place(at):
    """Cells around `at` (N, 2) hold the answer, which has nothing to do with `at`; the mean of all tells `at`."""
    near = np.exp(-(np.linalg.norm(centres(SIDE, SIDE) - at[:, None], axis=-1) ** 2) / 0.02)[..., None]
    hint = at[:, None] + 0.3 * RANDOM.normal(size=(COUNT, SIDE * SIDE, 2))
    return np.concatenate([near * (PLACES - 0.5), hint], axis=-1).reshape(COUNT, SIDE, SIDE, 4)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("sampler", [*SAMPLERS, DENSE])
def test_what_every_cell_tells_is_read_by_every_sampler(sampler):
    data = Data.of(told_everywhere(), PLACES)
    error, moves = score(fit(data, sampler, 4, 0, 200), data)
    assert error < 0.25 * 100 * NOTHING and (moves is None) == (sampler == DENSE)
    if sampler in ("fixed_grid", "average", "random_keep"):
        assert moves == 0.0


def test_what_one_place_tells_is_read_by_the_sampler_that_looks_there():
    data = Data.of(told_at_one_place(RANDOM.uniform(0.1, 0.9, (COUNT, 2))), PLACES)
    found = {name: score(fit(data, name, 1, 0, 800), data) for name in ("grids", "fixed_grid")}
    assert found["grids"][0] < 0.6 * found["fixed_grid"][0] < 60 * NOTHING and found["grids"][1] > 10.0


def test_the_scenes_that_test_are_neither_trained_on_nor_do_they_scale_the_map():
    maps = RANDOM.normal(3.0, 5.0, (COUNT, 2, 2, 3))
    data = Data.of(maps, PLACES)
    assert data.trained == COUNT - COUNT // 5
    known = data.maps[: data.trained]
    assert known.mean(dim=(0, 1, 2)).abs().max() < 1e-3 and (known.std(dim=(0, 1, 2)) - 1.0).abs().max() < 1e-3
    other = Data.of(np.concatenate([maps[: data.trained], 9.0 + maps[data.trained :]]), PLACES)
    assert torch.equal(other.maps[: data.trained], known)
    reader = Reader("fixed_grid", 4, (2, 2, 3), 1, 0)
    assert score(reader, Data.of(maps, PLACES)) != score(reader, other)
    trained = [fit(each, "fixed_grid", 4, 0, 3) for each in (data, other)]
    assert all(torch.equal(*pair) for pair in zip(*(one.state_dict().values() for one in trained), strict=True))


def test_a_file_that_is_no_map_of_these_scenes_is_refused(tmp_path):
    for name, values in (
        ("flat", np.zeros((3, 4))),
        ("other", np.zeros((2, 4, 4, 1))),
        ("whole", np.zeros((3, 4, 4, 1), int)),
    ):
        np.save(tmp_path / f"{name}.npy", values)
        with pytest.raises(ValueError, match=r"expected \(scenes, rows, columns, channels\) of floats, with 3 scenes"):
            map_of(tmp_path / f"{name}.npy", 3)
    with pytest.raises(ValueError, match="none"):
        map_of(tmp_path / "none.npy", 3)
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        map_of(tmp_path / "pickled.npy", 1)


def test_the_command_reads_a_policy_and_the_maps_of_other_encoders(tmp_path, monkeypatch, capsys):
    save_tiny(tmp_path / "tiny")
    scenes = Scenes(RANDOM.integers(0, 255, (20, 32, 32, 3), dtype=np.uint8), RANDOM.uniform(size=(20, 3, 2)))
    monkeypatch.setattr(reading, "look", lambda checkpoint, count: scenes)
    np.save(tmp_path / "other.npy", RANDOM.normal(size=(20, 5, 3, 2)).astype(np.float16))
    common = ["--checkpoint", str(tmp_path / "tiny"), "--scenes", "20"]
    assert reading.main([*common, "--images", str(tmp_path / "images.npy")]) == 0
    assert np.array_equal(np.load(tmp_path / "images.npy"), scenes.images)
    few = ["--steps", "2", "--seeds", "2", "--tokens", "2", "--out", str(tmp_path / "r.json")]
    assert reading.main([*common, *few, "--map", str(tmp_path / "other.npy")]) == 0
    found = json.loads((tmp_path / "r.json").read_text())
    maps = list(dict.fromkeys(one["map"] for one in found))
    assert maps[0] == "patches, before attention" and maps[-1] == "other"
    assert len(found) == len(maps) * (len(SAMPLERS) + 1) * 2
    assert {one["tokens"] for one in found if (one["map"], one["sampler"]) == ("other", DENSE)} == {15}
    table = (tmp_path / "r.md").read_text()
    assert table in capsys.readouterr().out and table.count("\n") == 2 + len(SAMPLERS) + 2
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert reading.main([*common, *few, "--map", str(tmp_path / "images.npy")]) == 1
    assert "images.npy has shape (20, 32, 32, 3) of uint8" in capsys.readouterr().err


def test_options_that_cannot_be_are_refused(capsys):
    for arguments, said in ((["--scenes", "3"], "--scenes is 3, expected at least 10"), ([], "expected --out FILE")):
        with pytest.raises(SystemExit):
            reading.parse(["--checkpoint", "models/demo", *arguments])
        assert said in capsys.readouterr().err

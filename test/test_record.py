"""Recording: real bags from the real scene, clean labels, the same bag for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from grids_ros.data import record as recorder
from grids_ros.data.bags import BagWriter, read_episodes
from grids_ros.data.record import Demonstration, Push, main, plan_pushes, record
from grids_ros.datatypes import NANOSECONDS
from grids_ros.images import to_rgb
from grids_ros.sim import model
from grids_ros.sim.scene import Scene
from grids_ros.sim.tasks import LIFT_INSTRUCTIONS, LIFT_TASKS


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp("record") / "bag"
    heard = []
    record(path, [0, 1, 2], 300, heard.append, image_size=48)
    return path, heard


def test_each_colour_is_demonstrated_and_ends_lifted(bag):
    path, heard = bag
    episodes = list(read_episodes(path))
    assert heard == [True] * 3
    assert [episode.instruction for episode in episodes] == list(LIFT_INSTRUCTIONS)
    for index, episode in enumerate(episodes):
        heights = episode.objects[1][:, index, 2]  # the labels' order is that of model.OBJECTS
        assert model.OBJECTS[index] in episode.instruction
        assert heights[0] == pytest.approx(model.CUBE_SIDE / 2, abs=2e-3) and heights[-1] > 0.1
        assert episode.objects[1].shape[1:] == (4, 3)


def test_images_poses_and_labels_share_their_stamps_at_ten_hertz(bag):
    for episode in read_episodes(bag[0]):
        stamps = np.array([stamp for stamp, _ in episode.images["base"]])
        np.testing.assert_array_equal(stamps, [stamp for stamp, _ in episode.images["wrist"]])
        for other in (episode.poses[0], episode.grippers[0], episode.objects[0]):
            np.testing.assert_array_equal(stamps, other)
        apart = np.diff(stamps)
        assert (apart[:-1] % (NANOSECONDS // 10) == 0).all() and apart[-1] > 0, "the last image closes the episode"
        assert to_rgb(episode.images["wrist"][0][1]).shape == (48, 48, 3)
        assert (np.diff(episode.targets[0]) >= NANOSECONDS // 20 - 1).all()
        assert (np.diff(episode.gripper_commands[1]) != 0.0).all(), "commands are sent on change only"


def test_the_same_seed_gives_the_same_bag(bag, tmp_path):
    record(tmp_path / "again", [0], 300, lambda kept: None, image_size=48)
    (again,) = read_episodes(tmp_path / "again")
    first = next(read_episodes(bag[0]))
    for name in ("poses", "targets", "grippers", "gripper_commands", "objects"):
        for one, other in zip(getattr(first, name), getattr(again, name), strict=True):
            np.testing.assert_array_equal(one, other)
    for camera in model.CAMERAS:
        for (_, one), (_, other) in zip(first.images[camera], again.images[camera], strict=True):
            np.testing.assert_array_equal(to_rgb(one), to_rgb(other))


def test_a_push_leaves_a_gap_in_the_targets_and_the_next_one_starts_from_where_the_arm_is(tmp_path):
    scene = Scene(image_size=32)
    scene.reset(301)
    push = Push(0.5, False, np.array([0.0, 0.08, 0.05]), 0.3, 0.5, None)
    demonstration = Demonstration(scene, LIFT_TASKS[0], NANOSECONDS, [push])
    assert demonstration.run()
    with BagWriter(tmp_path / "bag") as bag:
        demonstration.write(bag)
    (episode,) = read_episodes(tmp_path / "bag")
    stamps, positions, _ = episode.targets
    gaps = np.flatnonzero(np.diff(stamps) > 0.15 * NANOSECONDS)
    assert len(gaps) == 1
    after = gaps[0] + 1
    assert stamps[after] - stamps[gaps[0]] == pytest.approx(0.55 * NANOSECONDS, rel=0.05)
    measured = episode.poses[1][np.searchsorted(episode.poses[0], stamps[after])]
    assert np.linalg.norm(positions[after] - measured) < 0.05
    moved = positions[after] - positions[gaps[0]]
    assert moved[1] > 0.03, "the arm was pushed in +y meanwhile"
    scene.close()


def test_a_demonstration_that_fails_is_left_out_and_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "LIMIT_S", 0.5)
    heard = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder, "plan_pushes", lambda rng: [])
        record(tmp_path / "bag", [0, 1], 300, heard.append, image_size=16)
    assert heard == [False, False]


def test_pushes_are_drawn_from_the_seed_in_the_order_of_their_times():
    counts = []
    for seed in range(200):
        pushes = plan_pushes(np.random.default_rng(seed))
        again = plan_pushes(np.random.default_rng(seed))
        assert [push.after_s for push in pushes] == sorted(push.after_s for push in again)
        counts.append(len(pushes))
    assert 70 < counts.count(0) < 130 and set(counts) == {0, 1, 2}


def test_the_command_writes_a_bag_per_process_and_refuses_to_mix(tmp_path, capfd):
    out = tmp_path / "demonstrations"
    arguments = ["--out", str(out), "--episodes", "2", "--workers", "2", "--seed", "300", "--image-size", "32"]
    assert main(arguments) == 0
    words = [episode.instruction for name in ("part_000", "part_001") for episode in read_episodes(out / name)]
    assert words == ["lift the red cube", "lift the green cube"]
    assert "2 demonstrations" in capfd.readouterr().out
    with pytest.raises(SystemExit):
        main(arguments)
    assert "holds bags already" in capfd.readouterr().err


@pytest.mark.parametrize("option", ["--episodes", "--workers", "--image-size"])
def test_counts_below_one_are_refused(tmp_path, option, capfd):
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "out"), option, "0"])
    assert f"{option} is 0, expected 1 or more" in capfd.readouterr().err

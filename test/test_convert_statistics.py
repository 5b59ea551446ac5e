"""--statistics: by the checkpoint's own mode, and of what its actions are; what a set is measured to hold."""

import json
import re

import numpy as np
import pytest
from foreign import STATISTICS, flat_statistics, pi0, save_lerobot, save_openpi
from foreign_families import model_of
from foreign_families import save_lerobot as save_family

from grids_ros.convert.__main__ import main
from grids_ros.data.lerobot.export import DatasetWriter, Frame, Layout
from grids_ros.policy.checkpoint import load

POSES = ("--convention", "absolute", "--rate", "20", "--precision", "float32")
JOINTS = tuple(f"joint{i}" for i in range(1, 7))
OF_JOINTS = ("--convention", "joints", "--rate", "20", "--precision", "float32", "--joints", *JOINTS)
IMAGE = np.zeros((16, 16, 3), np.uint8)


def convert(source, out, *options):
    assert main([str(source), "--out", str(out), *map(str, options)]) == 0
    return load(out).normalization


def refused(capsys, source, out, *options):
    assert main([str(source), "--out", str(out), *map(str, options)]) == 2
    assert not out.exists()
    return capsys.readouterr().err


def as_stats_json(path, drop=()):
    """The statistics of `foreign` as lerobot's meta/stats.json has them."""
    nested = {}
    for name, values in flat_statistics().items():
        feature, _, kind = name.rpartition(".")
        if kind not in drop:
            nested.setdefault(feature, {})[kind] = values.tolist()
    path.write_text(json.dumps(nested))
    return path


def write_set(folder, episodes, names, images=("base",)):
    """A data set of these episodes: pairs of states and actions, (frames, numbers) each."""
    with DatasetWriter(folder, Layout(20.0, images, names, names, "absolute", "png")) as writer:
        for states, actions in episodes:
            writer.add_episode(
                "lift it", (Frame(dict.fromkeys(images, IMAGE), *pair) for pair in zip(states, actions, strict=True))
            )
    return folder


@pytest.fixture(scope="module")
def quantile(tmp_path_factory):
    """A π0.5 of lerobot that normalises by its quantiles."""
    return save_family(tmp_path_factory.mktemp("pi05") / "theirs", "pi05", model_of("pi05"), use_relative_actions=False)


def same(one, other):
    for name in ("state_mean", "state_std", "action_mean", "action_std"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-5, atol=1e-6)


def test_a_stats_json_is_read_by_the_checkpoint_s_mode(quantile, tmp_path, capsys):
    own = convert(quantile, tmp_path / "own", *POSES)
    path = as_stats_json(tmp_path / "stats.json")
    same(convert(quantile, tmp_path / "named", *POSES, "--statistics", path), own)
    kept = (tmp_path / "named" / "contract.txt").read_text()
    assert f"states QUANTILES, actions QUANTILES; statistics of {path}" in kept
    poor = as_stats_json(tmp_path / "poor.json", drop=("q01", "q99"))
    said = refused(capsys, quantile, tmp_path / "out", *POSES, "--statistics", poor)
    assert "lacks q01 of observation.state: the checkpoint normalises by QUANTILES, which needs q01 and q99" in said


def test_openpi_s_norm_stats_are_read_by_the_checkpoint_s_mode_as_well(quantile, tmp_path, capsys):
    numbers = {"mean": [0.0] * 7, "std": [9.0] * 7, "q01": [-0.2] * 6 + [0.0], "q99": [0.2] * 6 + [0.08]}
    path = tmp_path / "norm_stats.json"
    path.write_text(json.dumps({"norm_stats": {"state": numbers, "actions": numbers}}))
    known = convert(quantile, tmp_path / "ours", *POSES, "--statistics", path)
    np.testing.assert_allclose(known.state_std, [0.2] * 6 + [0.04])
    bounds = save_lerobot(tmp_path / "bounds", pi0(), mode="MIN_MAX")
    said = refused(capsys, bounds, tmp_path / "out", *POSES, "--statistics", path)
    assert "lacks min of state: the checkpoint normalises by MIN_MAX" in said


def test_a_set_is_measured_by_the_checkpoint_s_mode(quantile, tmp_path):
    rng = np.random.default_rng(0)
    middle, spread = np.array([0.4, 0.0, 0.3, 0.0, 0.0, 0.0, 0.04]), np.array([0.2, 0.2, 0.1, 0.5, 0.5, 0.5, 0.02])
    rows = (middle + spread * rng.uniform(-1, 1, (2, 60, 7))).astype(np.float32)
    names = ("x", "y", "z", "rx", "ry", "rz", "gripper")
    folder = write_set(tmp_path / "set", [(rows[0][:40], rows[1][:40]), (rows[0][40:], rows[1][40:])], names)
    known = convert(quantile, tmp_path / "ours", *POSES, "--statistics", folder)
    for values, what in zip(rows, ("state", "action"), strict=True):
        mean, std = getattr(known, f"{what}_mean"), getattr(known, f"{what}_std")
        low, high = np.quantile(values, (0.01, 0.99), axis=0)
        np.testing.assert_allclose(mean, (low + high) / 2, atol=1e-6)
        np.testing.assert_allclose(std, (high - low) / 2, atol=1e-6)


def relative(folder):
    """A π0 of lerobot with use_relative_actions: offsets of six joints, and an absolute gripper."""
    names = [f"{name}.pos" for name in (*JOINTS, "gripper")]
    save_lerobot(folder, pi0(), use_relative_actions=True, action_feature_names=names)
    for name, step, more in (
        ("policy_preprocessor.json", "relative_actions_processor", {"action_names": names}),
        ("policy_postprocessor.json", "absolute_actions_processor", {}),
    ):
        values = json.loads((folder / name).read_text())
        for each in values["steps"]:
            if each["registry_name"] == step:
                each["config"] |= {"enabled": True, **more}
        (folder / name).write_text(json.dumps(values))
    return folder


def test_relative_actions_are_measured_over_whole_chunks_after_the_subtraction(tmp_path, capsys):
    source, rng = relative(tmp_path / "theirs"), np.random.default_rng(1)
    paths = [np.cumsum(rng.normal(size=(frames, 7)) * [0.05] * 7, axis=0) for frames in (12, 30)]
    episodes = [(path.astype(np.float32), np.roll(path, -1, axis=0).astype(np.float32)) for path in paths]
    for states, actions in episodes:
        states[:, 6], actions[:, 6] = 0.04, rng.uniform(0.0, 0.08, len(actions))
        states[:, 6] += rng.normal(size=len(states)) * 0.01
    folder = write_set(tmp_path / "set", episodes, tuple(f"{name}.pos" for name in (*JOINTS, "gripper")))
    known = convert(source, tmp_path / "ours", *OF_JOINTS, "--statistics", folder)
    chunks = []  # one by one, in steps of five, as lerobot takes them: those that end within their episode
    for states, actions in episodes:
        for start in range(len(actions) - 4):
            chunk = actions[start : start + 5].astype(np.float64)
            chunk[:, :6] -= states[start, :6]
            chunks.append(chunk)
    flat = np.concatenate(chunks)
    np.testing.assert_allclose(known.action_mean, flat.mean(0), atol=1e-6)
    np.testing.assert_allclose(known.action_std, flat.std(0), atol=1e-6)
    np.testing.assert_allclose(known.state_mean, np.concatenate([s for s, _ in episodes]).mean(0), atol=1e-6)
    raw = as_stats_json(tmp_path / "stats.json")
    said = refused(capsys, source, tmp_path / "out", *OF_JOINTS, "--statistics", raw)
    assert re.search(r"actions as they stand.*differences from the state.*expected the data set itself", said)


def test_actions_relative_to_the_tool_s_pose_are_not_measured_of_rows(quantile, tmp_path, capsys):
    rows = np.random.default_rng(0).uniform(-1, 1, (2, 9, 10)) * 0.04
    folder = write_set(tmp_path / "set", [(rows[0], rows[1][:, :10])], tuple(f"n{i}" for i in range(10)))
    own = ("--convention", "grids", "--rate", 20, "--statistics", folder)
    assert "relative to the pose at the observation" in refused(capsys, quantile, tmp_path / "out", *own)


def test_what_a_statistics_file_lacks_is_named(quantile, tmp_path, capsys):
    for number, (values, expected) in enumerate(
        (
            ({}, "has no observation.state; expected statistics of observation.state and action"),
            ({"norm_stats": {"state": {}}}, "has no statistics of state and actions"),
            ({name: {"q01": "few", "q99": [1.0]} for name in STATISTICS}, "holds what is no list of numbers"),
            ({name: {"q01": [0.0] * 7, "q99": [1.0]} for name in STATISTICS}, "are of [1, 7] numbers"),
        )
    ):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(values))
        assert expected in refused(capsys, quantile, tmp_path / "out", *POSES, "--statistics", path)


def test_openpi_s_differences_repeat_an_episode_s_last_action(tmp_path):
    rng = np.random.default_rng(2)
    scale = np.array([0.3] * 7 + [0.2])
    states, actions = (scale * rng.uniform(-1.0, 1.0, (2, 11, 8)) + 0.3).astype(np.float32)
    folder = write_set(tmp_path / "set", [(states, actions)], (*(f"joint_{i}" for i in range(7)), "gripper"))
    source = save_openpi(tmp_path / "theirs", pi0())
    own = ("--convention", "droid-joints", "--rate", 15, "--gripper", 1, 0, 0.08, "--joints", *JOINTS, "joint7")
    known = convert(source, tmp_path / "ours", *own, "--statistics", folder)
    chunks = []
    for start in range(11):
        chunk = np.stack([actions[min(start + step, 10)] for step in range(5)]).astype(np.float64)
        chunk[:, :7] -= states[start, :7]
        chunks.append(chunk)
    flat = np.concatenate(chunks)
    np.testing.assert_allclose(known.action_mean[:7], flat[:, :7].mean(0), atol=1e-6)
    np.testing.assert_allclose(known.action_std[:7], flat[:, :7].std(0) + 1e-6, atol=1e-6)
    np.testing.assert_allclose(known.action_mean[7], 0.08 * (1.0 - flat[:, 7].mean()), atol=1e-6)


def test_joint_positions_are_no_statistics_of_velocities(tmp_path, capsys):
    """lerobot's port of DROID has the absolute joints as its action."""
    rng = np.random.default_rng(3)
    states = np.column_stack([np.cumsum(rng.normal(size=(40, 7)) * 0.02, axis=0) + 0.9, rng.uniform(0, 1, 40)])
    targets = (states + 0.01).astype(np.float32)
    folder = write_set(
        tmp_path / "set", [(states.astype(np.float32), targets)], (*(f"joint_{i}" for i in range(7)), "gripper")
    )
    source = save_openpi(tmp_path / "theirs", pi0())
    own = ("--convention", "droid", "--rate", 15, "--gripper", 1, 0, 0.08, "--joints", *JOINTS, "joint7")
    said = refused(capsys, source, tmp_path / "out", *own, "--statistics", folder)
    assert "are these joint positions?" in said and "--action-features names another feature" in said
    said = refused(
        capsys, source, tmp_path / "out", *own, "--statistics", folder, "--action-features", "action.joint_velocity"
    )
    assert "action.joint_velocity is no feature of numbers, expected observation.state, action" in said


def test_features_are_those_of_a_data_set(tmp_path, capsys):
    source = save_openpi(tmp_path / "theirs", pi0())
    with pytest.raises(SystemExit) as ended:
        main([str(source), "--out", str(tmp_path / "out"), *POSES, "--action-features", "action"])
    assert ended.value.code == 2
    assert "are of a data set, expected --statistics FOLDER" in capsys.readouterr().err

"""What convert does not understand it refuses by name; what it writes has run; the contract says what it is."""

import json

import numpy as np
import pytest
import torch
from foreign import STATISTICS, WORDS, flat_statistics, pi0, save_lerobot, save_norm_stats, save_openpi
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from grids_ros import files
from grids_ros.convert import __main__ as command
from grids_ros.policy.checkpoint import load

FOLLOWED = ("--convention", "absolute", "--rate", "20", "--precision", "float32")
JOINTS = tuple(f"fr3_joint{i}" for i in range(1, 8))


@pytest.fixture(scope="module")
def lerobot(tmp_path_factory):
    return save_lerobot(tmp_path_factory.mktemp("theirs") / "lerobot", pi0())


@pytest.fixture
def source(lerobot, tmp_path):
    import shutil

    return shutil.copytree(lerobot, tmp_path / "source")


def convert(source, out, *options):
    try:
        return command.main([str(source), "--out", str(out), *map(str, options)])
    except SystemExit as ended:
        return ended.code


def refused(capsys, source, out, *options):
    assert convert(source, out, *(options or FOLLOWED)) == 2
    reason = capsys.readouterr().err.strip().splitlines()[-1]
    assert not out.exists() and "Traceback" not in reason
    return reason


def edit(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def step(values, name):
    return next(each for each in values["steps"] if each["registry_name"] == name)


BEFORE, AFTER, CONFIG = "policy_preprocessor.json", "policy_postprocessor.json", "config.json"


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        (
            BEFORE,
            lambda v: v["steps"].append({"registry_name": "image_crop_resize_processor"}),
            "step 'image_crop_resize",
        ),
        (BEFORE, lambda v: v["steps"].append({"class": "my.Step", "config": {}}), "step 'my.Step' is not understood"),
        (BEFORE, lambda v: v["steps"].append(v["steps"][1]), "step 'to_batch_processor' stands there twice"),
        (BEFORE, lambda v: v["steps"].pop(2), "lacks the step 'pi0_new_line_processor'"),
        (
            BEFORE,
            lambda v: v["steps"].insert(5, v["steps"].pop(6)),
            "step 'normalizer_processor' stands before 'relative_actions_processor'",
        ),
        (AFTER, lambda v: v["steps"].reverse(), "'absolute_actions_processor' stands before 'unnormalizer_processor'"),
        (BEFORE, lambda v: v.update(steps="all"), "expected a list of objects"),
        (
            BEFORE,
            lambda v: step(v, "device_processor")["config"].update(float_dtype="float16"),
            'float_dtype is "float16"',
        ),
        (
            BEFORE,
            lambda v: step(v, "tokenizer_processor")["config"].update(padding_side="left"),
            'padding_side is "left"',
        ),
        (
            BEFORE,
            lambda v: step(v, "tokenizer_processor")["config"].update(task_key="subtask"),
            'task_key is "subtask"',
        ),
        (BEFORE, lambda v: step(v, "to_batch_processor")["config"].update(new=1), '"new" is unknown'),
        (
            BEFORE,
            lambda v: step(v, "normalizer_processor")["config"].update(
                normalize_observation_keys=["observation.images.x"]
            ),
            "normalize_observation_keys is .*leaves observation.state as it is",
        ),
        (
            BEFORE,
            lambda v: step(v, "normalizer_processor")["config"]["norm_map"].pop("STATE"),
            "norm_map.STATE is missing",
        ),
        (
            BEFORE,
            lambda v: step(v, "normalizer_processor")["config"]["norm_map"].update(STATE="LOG"),
            'norm_map.STATE is "LOG", expected "MEAN_STD" or',
        ),
        (
            AFTER,
            lambda v: step(v, "unnormalizer_processor")["config"]["norm_map"].update(ACTION="MIN_MAX"),
            "norm_map has MIN_MAX for ACTION, config.json says MEAN_STD",
        ),
        (
            AFTER,
            lambda v: step(v, "unnormalizer_processor")["config"]["features"].pop("action"),
            "features lacks action, so lerobot would not normalise it",
        ),
        (
            BEFORE,
            lambda v: step(v, "relative_actions_processor")["config"].update(enabled=True),
            "relative actions are on in the preprocessor, off in the postprocessor and off in config.json",
        ),
        (
            BEFORE,
            lambda v: step(v, "rename_observations_processor")["config"].update(
                rename_map={"observation.pose": "observation.state"}
            ),
            "rename_map has observation.pose to observation.state, expected names of images",
        ),
        (
            BEFORE,
            lambda v: step(v, "normalizer_processor").update(state_file="../other.safetensors"),
            "expected a plain name",
        ),
        (BEFORE, lambda v: step(v, "normalizer_processor").update(state_file="/etc/passwd"), "expected a plain name"),
        (CONFIG, lambda v: v.update(use_peft=True), "an adapter that is not merged"),
        (CONFIG, lambda v: v.update(action_is_a_velocity=True), "action_is_a_velocity is unknown"),
        (CONFIG, lambda v: v.update(n_obs_steps=2), "n_obs_steps is 2, expected 1"),
        (CONFIG, lambda v: v.update(chunk_size="five"), 'chunk_size is "five", expected an integer'),
        (CONFIG, lambda v: v.update(num_inference_steps=0), "num_inference_steps is 0, expected an integer in"),
        (CONFIG, lambda v: v["input_features"]["observation.state"].update(shape="7"), 'shape is "7", expected a list'),
        (CONFIG, lambda v: v["input_features"]["observation.state"].update(kind=1), '"kind" is unknown'),
        (CONFIG, lambda v: v.pop("output_features"), "output_features is missing"),
        (CONFIG, lambda v: v.update(min_period=float("nan")), "is not valid JSON.*NaN"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(name, change, expected, source, tmp_path, capsys):
    edit(source / name, change)
    import re

    reason = refused(capsys, source, tmp_path / "out")
    assert re.search(expected, reason), reason


@pytest.mark.parametrize("name", [BEFORE, AFTER, CONFIG])
def test_every_other_value_of_a_folder_s_json_is_refused_or_changes_nothing_without_a_traceback(
    name, source, tmp_path, capsys
):
    """Each value of each file as null, a negative, a huge number and another type."""
    whole, number = json.loads((source / name).read_text()), 0
    places = [(key,) for key in whole] + [("steps", i, "config") for i in range(len(whole.get("steps", [])))]
    for place in places:
        for bad in (None, -1, 10**30, "x", [], {"a": None}):
            values = json.loads(json.dumps(whole))
            inner = values
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = bad
            (source / name).write_text(json.dumps(values))
            number += 1
            code = convert(source, tmp_path / str(number), *FOLLOWED)
            err = capsys.readouterr().err
            assert code in (0, 2) and "Traceback" not in err, (place, bad, err)
        if number > 120:
            break


def test_paths_stay_inside_the_folder(source, tmp_path, capsys):
    whole = load_file(source / "model.safetensors")
    (source / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = source / "model.safetensors.index.json"
    for name in ("../outside.safetensors", str(tmp_path / "outside.safetensors"), "a/b", "..", ""):
        index.write_text(json.dumps({"weight_map": dict.fromkeys(whole, name)}))
        assert "expected a plain name inside the folder" in refused(capsys, source, tmp_path / "out")
    for broken in ({}, {"weight_map": []}, {"weight_map": {"a": 3}}):
        index.write_text(json.dumps(broken))
        assert "weight_map" in refused(capsys, source, tmp_path / "out")


def with_statistics(source, **changes):
    """Other statistics: {"observation.state.mean": {6: 0.5}}."""
    values = flat_statistics()
    for name, numbers in changes.items():
        feature, kind = name.split("__")
        for index, number in numbers.items():
            values[f"{ {'state': 'observation.state', 'action': 'action'}[feature] }.{kind}"][index] = number
    for path in source.glob("*normalizer_processor.safetensors"):
        save_file(values, path)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"state__mean": {1: float("nan")}}, "the mean of state number 1 is NaN or infinite"),
        ({"action__std": {2: float("inf")}}, "the deviation of action number 2 is NaN or infinite"),
        ({"state__std": {4: 0.0}}, "state number 4 never changes in the statistics"),
        ({"action__std": {6: 0.0}}, "action number 6 never changes in the statistics"),
        ({"state__mean": {0: 450.0, 2: 300.0}}, r"mean state is at \(450, 0, 300\) m.*are these millimetres"),
        ({"state__mean": {0: -45.0}}, r"mean state is at .* angles of joints in degrees"),
        ({"action__mean": {0: 4.0}}, "mean action is at .* out of any arm's reach"),
        ({"state__mean": {3: 170.0}}, "the mean state is turned by 170 rad.*degrees"),
        ({"action__mean": {5: -90.0}}, "the mean action is turned by .*degrees"),
        ({"state__mean": {6: 0.5}, "state__std": {6: 0.5}}, "state's opening is 0.5 m .*are these 0 to 1"),
        ({"action__mean": {6: 0.1}, "action__std": {6: 0.45}}, "action's opening is 0.1 m .*are these 0 to 1"),
        ({"action__mean": {6: 40.0}, "action__std": {6: 20.0}}, "0 to 100, or millimetres"),
        ({"state__mean": {6: -0.9}}, "state's opening is -0.9 m"),
    ],
)
def test_numbers_that_no_robot_has_are_refused_with_a_guess(changes, expected, source, tmp_path, capsys):
    import re

    with_statistics(source, **changes)
    reason = refused(capsys, source, tmp_path / "out")
    assert re.search(expected, reason), reason


def test_numbers_that_are_not_normalised_tell_nothing_of_their_units(tmp_path):
    source = save_lerobot(tmp_path / "theirs", pi0(), mode="IDENTITY")
    assert convert(source, tmp_path / "ours", *FOLLOWED) == 0
    assert (load(tmp_path / "ours").normalization.state_std == 1.0).all()


def test_states_and_actions_may_have_grippers_of_different_numbers(source, tmp_path, capsys):
    with_statistics(source, state__mean={6: 40.0}, state__std={6: 30.0}, action__mean={6: 0.5}, action__std={6: 0.4})
    own = ("--gripper-state", 0, 100, 0.08, "--gripper-action", 1, 0, 0.08)
    assert convert(source, tmp_path / "ours", *FOLLOWED, *own) == 0
    known = load(tmp_path / "ours").normalization
    assert known.state_mean[6] == pytest.approx(0.032) and known.action_mean[6] == pytest.approx(0.04)
    assert known.action_std[6] == pytest.approx(-0.032)
    assert "those of this checkpoint" in refused(capsys, source, tmp_path / "out", *FOLLOWED, "--gripper", 0, 1, 0.08)


@pytest.mark.parametrize(
    ("names", "convention", "expected"),
    [
        ([f"panda_joint{i}" for i in range(1, 7)] + ["gripper"], "absolute", "the actions are of joints .panda_joint1"),
        (["shoulder_pan.pos", "x", "y", "z", "a", "b", "gripper.pos"], "absolute", "of joints .shoulder_pan.pos"),
        (["x.pos", "y.pos", "z.pos", "wrist_x", "wrist_y", "wrist_z", "gripper.pos"], "absolute", None),
        (["x", "y", "z", "rx", "ry", "rz", "gripper"], "joints", "the actions are x, y, z, rx, which are no joints"),
    ],
)
def test_names_of_the_numbers_are_read(names, convention, expected, source, tmp_path, capsys):
    edit(source / CONFIG, lambda v: v.update(action_feature_names=names))
    more = ("--joints", *JOINTS[:6]) if convention == "joints" else ()
    options = ("--convention", convention, "--rate", 20, *more)
    if expected is None:
        assert convert(source, tmp_path / "ours", *options) == 0
        return
    import re

    assert re.search(expected, refused(capsys, source, tmp_path / "out", *options))


def test_names_beside_a_data_set_s_statistics_are_read_as_well(source, tmp_path, capsys):
    (tmp_path / "stats.json").write_text(json.dumps(STATISTICS))
    features = {name: {"names": {"motors": [f"j{i}" for i in range(6)] + ["gripper"]}} for name in STATISTICS}
    (tmp_path / "info.json").write_text(json.dumps({"features": features}))
    reason = refused(capsys, source, tmp_path / "out", *FOLLOWED, "--statistics", tmp_path / "stats.json")
    assert "the states are of joints (j0, j1" in reason and "droid" in reason


def test_a_tokenizer_larger_than_the_embedding_is_another_model_s(source, tmp_path, capsys):
    words = [*WORDS, "extra"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(source / "tokenizer.json"))
    assert f"ids up to {len(WORDS)}, the model's embedding {len(WORDS)} rows" in refused(
        capsys, source, tmp_path / "out"
    )


def test_an_adapter_is_not_taken_for_a_policy(tmp_path, capsys):
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").write_text("{}")
    assert "is a PEFT adapter: merge it into its base" in refused(capsys, tmp_path / "peft", tmp_path / "out")


# --- after writing ---------------------------------------------------------------------------------------------------


def test_what_was_written_is_loaded_and_run_before_it_is_done(source, tmp_path, capsys, monkeypatch):
    assert convert(source, tmp_path / "ours", *FOLLOWED) == 0
    assert "loaded and run once" in capsys.readouterr().out.splitlines()[-1]
    tensors = load_file(source / "model.safetensors")
    tensors["model.action_out_proj.weight"].fill_(3e38)  # finite, and what comes of it is not
    save_file(tensors, source / "model.safetensors")
    assert "gives actions that are NaN or infinite" in refused(capsys, source, tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(files.PART)]
    monkeypatch.setattr(command, "load", lambda folder: (_ for _ in ()).throw(RuntimeError("no memory")))
    assert "what was written does not run: no memory" in refused(capsys, source, tmp_path / "out")


def test_the_contract_is_printed_and_kept(source, tmp_path, capsys):
    assert convert(source, tmp_path / "ours", *FOLLOWED) == 0
    kept = (tmp_path / "ours" / "contract.txt").read_text()
    assert kept in capsys.readouterr().out
    for part in ("front, left_wrist_0_rgb", "20 actions per second", "5 steps, 0.25 s", "rotation x [rad], 2.5 to 3.5",
                 "6  gripper opening [m], 0.01 to 0.07", "states MEAN_STD, actions MEAN_STD", "up to 12 tokens",
                 "nothing in it names its numbers"):  # fmt: skip
        assert part in kept, part


def test_lerobot_0_4_and_the_image_s_place_are_options_with_a_printed_default(source, tmp_path, capsys):
    edit(source / CONFIG, lambda v: [v.pop(key) for key in ("use_relative_actions", "action_feature_names")])
    found = {}
    for name, more in {
        "by default": (),
        "later": ("--lerobot-version", "0.5"),
        "old": ("--image-anchor", "end"),
    }.items():
        assert convert(source, tmp_path / name, *FOLLOWED, *more) == 0
        found[name] = load(tmp_path / name).spec.image
    assert found["by default"].padding == -3.0 and found["later"].padding == -1.0 and found["old"].anchor == "end"
    assert (
        "taken for lerobot 0.4's, which pads images with -3" in (tmp_path / "by default" / "contract.txt").read_text()
    )
    assert {fit.filter for fit in found.values()} == {"bilinear"}


# --- presets and joints ----------------------------------------------------------------------------------------------


def droid(folder, numbers=8):
    """openpi's folder of a policy in DROID's terms: seven joints, and a gripper that is 1 when closed."""
    save_openpi(folder, pi0())
    state = {"mean": [0.0, -0.4, 0.0, -2.4, 0.0, 2.0, 0.8, 0.3], "std": [0.3] * 7 + [0.4]}
    actions = {"mean": [0.0] * 7 + [0.4], "std": [0.3] * 7 + [0.4]}
    kept = {
        name: {kind: [*one[kind][:numbers], *[0.0] * (32 - numbers)] for kind in one}
        for name, one in (("state", state), ("actions", actions))
    }
    for path in (folder / "assets").rglob("norm_stats.json"):
        path.write_text(json.dumps({"norm_stats": kept}))
    return folder


def test_the_preset_of_droid_is_seven_joints_at_15_hz_and_two_cameras(tmp_path, capsys):
    source = droid(tmp_path / "theirs")
    assert convert(source, tmp_path / "ours", "--preset", "droid") == 0
    checkpoint = load(tmp_path / "ours")
    spec = checkpoint.spec
    assert (spec.state.name, spec.action.name, spec.joints) == ("joints", "joint-droid", JOINTS)
    assert (
        spec.cameras == ("base", "wrist") and spec.step_s == pytest.approx(1 / 15) and spec.image.filter == "antialias"
    )
    np.testing.assert_allclose(checkpoint.normalization.state_mean[-1], 0.085 * 0.7, rtol=1e-6)
    kept = (tmp_path / "ours" / "contract.txt").read_text()
    assert "fr3_joint1 [0.2 rad per step]" in kept and "Robotiq" in kept and "bfloat16 weights cost 0.6 mm" in kept
    assert "gripper        open by 0.085 m or closed, as DROID's clients tell it" in kept
    assert convert(source, tmp_path / "hand", "--preset", "droid", "--gripper", 1, 0, 0.08) == 0
    other = load(tmp_path / "hand")
    assert other.spec.action.binary_m == 0.08 and other.normalization.state_mean[-1] == pytest.approx(0.056)


def test_a_preset_s_joints_and_grippers_go_where_another_convention_has_no_use_for_them(source, tmp_path, capsys):
    with_statistics(
        source, **{f"{n}__{k}": {6: 0.5 if k == "mean" else 0.4} for n in ("state", "action") for k in ("mean", "std")}
    )
    for name in ("droid", "so101"):
        hand = () if name == "droid" else ("--gripper", 1, 0, 0.085)
        assert convert(source, tmp_path / name, "--preset", name, "--convention", "absolute", *hand) == 0
        spec = load(tmp_path / name).spec
        assert spec.action.name == "tool-absolute" and spec.joints == ()
        np.testing.assert_allclose(load(tmp_path / name).normalization.action_mean[6], 0.0425, rtol=1e-6)


def test_a_gripper_of_states_alone_leaves_that_of_actions_to_the_preset(tmp_path):
    assert (
        convert(droid(tmp_path / "theirs"), tmp_path / "ours", "--preset", "droid", "--gripper-state", 1, 0, 0.08) == 0
    )
    checkpoint = load(tmp_path / "ours")
    known = checkpoint.normalization
    assert known.state_mean[-1] == pytest.approx(0.08 * 0.7) and known.action_mean[-1] == pytest.approx(0.085 * 0.6)
    assert checkpoint.spec.action.binary_m == 0.085


@pytest.mark.parametrize(
    ("options", "binary_m"),
    [
        (("--preset", "droid", "--binary-gripper", "no"), None),
        (("--preset", "droid", "--convention", "droid-joints"), 0.085),
        (("--preset", "droid", "--convention", "joint-velocities", "--rate", 60), 0.085),
        (("--convention", "droid", "--rate", 15, "--joints", *JOINTS, "--gripper", 1, 0, 0.08), 0.08),
        (("--convention", "joints", "--rate", 30, "--joints", *JOINTS, "--gripper", 1, 0, 0.08), None),
    ],
)
def test_droid_s_gripper_is_open_or_closed_where_its_clients_make_it_so(options, binary_m, tmp_path):
    assert convert(droid(tmp_path / "theirs"), tmp_path / "ours", *options) == 0
    assert load(tmp_path / "ours").spec.action.binary_m == binary_m


def test_droid_s_velocities_mean_15_hz(tmp_path, source, capsys):
    theirs = droid(tmp_path / "theirs")
    said = refused(capsys, theirs, tmp_path / "out", "--preset", "droid", "--rate", 60)
    assert "--rate is 60: convention droid means 0.2 rad in each step at 15 Hz, which would be 12 rad/s" in said
    assert "--convention joint-velocities" in said
    said = refused(capsys, source, tmp_path / "out", *FOLLOWED, "--binary-gripper", "yes")
    assert "--binary-gripper yes needs a convention of joints" in said


def test_the_preset_of_so101_turns_degrees_into_radians(tmp_path, source):
    kept = {
        "observation.state": {"mean": [10.0, -40.0, 60.0, 20.0, 5.0, 30.0], "std": [20.0] * 5 + [25.0]},
        "action": {"mean": [10.0, -40.0, 60.0, 20.0, 5.0, 30.0], "std": [20.0] * 5 + [25.0]},
    }
    (tmp_path / "stats.json").write_text(json.dumps(kept))
    assert convert(source, tmp_path / "ours", "--preset", "so101", "--statistics", tmp_path / "stats.json") == 0
    checkpoint = load(tmp_path / "ours")
    assert checkpoint.spec.action.name == "joint-positions" and len(checkpoint.spec.joints) == 5
    np.testing.assert_allclose(checkpoint.normalization.action_mean[:5], np.deg2rad(kept["action"]["mean"][:5]))


def so101_statistics(path, worth, least=-90.0, largest=95.0):
    """States and actions of five joints, multiplied by `worth`, and a gripper of 0 to 100."""
    joints = {"mean": [10.0, -40.0, 60.0, 20.0, 5.0], "std": [20.0] * 5, "min": [least] * 5, "max": [largest] * 5}
    hand = {"mean": 30.0, "std": 25.0, "min": 0.0, "max": 100.0}
    kept = {kind: [*(worth * np.array(joints[kind])).tolist(), hand[kind]] for kind in joints}
    path.write_text(json.dumps({"observation.state": kept, "action": kept}))
    return path


def test_an_so101_in_radians_or_without_a_unit_is_noticed(tmp_path, source, capsys):
    radians = so101_statistics(tmp_path / "radians.json", np.pi / 180)
    own = ("--preset", "so101", "--statistics")
    said = refused(capsys, source, tmp_path / "out", *own, radians)
    assert "varies by more than 0.35 degrees: are these radians? Give --joint-unit rad" in said
    assert convert(source, tmp_path / "rad", *own, radians, "--joint-unit", "rad") == 0
    np.testing.assert_allclose(load(tmp_path / "rad").normalization.state_mean[0], np.radians(10.0))
    assert "its numbers are degrees" not in (tmp_path / "rad" / "contract.txt").read_text()
    assert convert(source, tmp_path / "sure", *own, radians, "--joint-unit", "degrees") == 0
    for name, path, warned in (
        ("range", so101_statistics(tmp_path / "range.json", 1.0, -100.0, 99.8), True),
        ("degrees", so101_statistics(tmp_path / "degrees.json", 1.0), False),
        ("beyond", so101_statistics(tmp_path / "beyond.json", 1.0, -100.0, 110.0), False),
    ):
        assert convert(source, tmp_path / name, *own, path) == 0
        kept = (tmp_path / name / "contract.txt").read_text()
        assert ("warning        joints end at 100, as where use_degrees was off" in kept) == warned
        assert "lerobot's default was -100 to 100" in kept


def test_relative_actions_of_joints_are_offsets(source, tmp_path, capsys):
    names = [f"joint{i}.pos" for i in range(1, 7)] + ["gripper.pos"]
    edit(source / CONFIG, lambda v: v.update(use_relative_actions=True, action_feature_names=names))
    edit(
        source / BEFORE,
        lambda v: step(v, "relative_actions_processor")["config"].update(enabled=True, action_names=names),
    )
    edit(source / AFTER, lambda v: step(v, "absolute_actions_processor")["config"].update(enabled=True))
    joints = ("--convention", "joints", "--rate", 30, "--joints", *JOINTS[:6])
    assert convert(source, tmp_path / "ours", *joints) == 0
    assert load(tmp_path / "ours").spec.action.name == "joint-offsets"
    assert "which add up for joints and not for rotations" in refused(capsys, source, tmp_path / "out")
    for change in ({"exclude_joints": []}, {"exclude_joints": ["gripper"], "action_names": None}):
        edit(source / BEFORE, lambda v, new=change: step(v, "relative_actions_processor")["config"].update(new))
        assert "expected all but the last, the gripper" in refused(capsys, source, tmp_path / "out", *joints)
    short = {"action_names": ["joint1.pos", "gripper.pos"]}  # lerobot makes offsets of the numbers beyond, too
    edit(source / BEFORE, lambda v: step(v, "relative_actions_processor")["config"].update(short))
    assert "expected all but the last, the gripper" in refused(capsys, source, tmp_path / "out", *joints)


def test_conventions_of_joints_need_names_and_those_of_poses_take_none(source, tmp_path, capsys):
    assert "--joints is missing" in refused(capsys, source, tmp_path / "out", "--convention", "joints", "--rate", 9)
    assert "are for conventions of joints" in refused(capsys, source, tmp_path / "out", *FOLLOWED, "--joints", "a")
    few = refused(capsys, source, tmp_path / "out", "--convention", "joints", "--rate", 9, "--joints", "a", "b")
    assert "the states are 7 numbers, this convention has 3" in few
    with_statistics(source, state__mean={0: 90.0})
    six = ("--convention", "joints", "--rate", 9, "--joints", *JOINTS[:6])
    assert "--joint-unit degrees" in refused(capsys, source, tmp_path / "out", *six)


def test_the_epsilon_of_a_sampler_is_that_of_its_library(tmp_path):
    weights = {f"active_token_sampler.{name}": tensor for name, tensor in sampler_with_norm().items()}
    save_openpi(tmp_path / "theirs", pi0(), weights)
    save_norm_stats(tmp_path / "theirs" / "assets" / "physical-intelligence" / "libero", state=8)
    libero = ("--preset", "libero")
    for name, more, expected in (("torch", (), 1e-5), ("flax", ("--epsilon", "1e-6"), 1e-6)):
        assert convert(tmp_path / "theirs", tmp_path / name, *libero, *more) == 0
        assert load(tmp_path / name).spec.sampler.layer_norm_epsilon == expected
        assert load(tmp_path / name).model.model.vlm.multi_modal_projector.sampler.input_norm.eps == expected
    assert load(tmp_path / "torch").spec.action.name == "tool-steps-less-state"


def sampler_with_norm() -> dict[str, torch.Tensor]:
    from foreign import grids_sampler

    return grids_sampler(norm=True)

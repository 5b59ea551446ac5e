"""The folder of a checkpoint: never half new, never a mixture, and every value in its JSON files within bounds."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from spoilt import other_values, places, replaced
from tiny import INSTRUCTIONS, observation, reseal, rich, save_tiny, tiny

from grids_ros import files
from grids_ros.policy import checkpoint as checkpoints
from grids_ros.policy.checkpoint import load, record_evaluation, save, save_notes
from grids_ros.policy.errors import CheckpointError
from grids_ros.policy.preprocess import ImageFit
from grids_ros.policy.runtime import Policy
from grids_ros.policy.schema import parse_json

ROOT = Path(__file__).resolve().parents[1]
PLACES = {"config.json": 24, "grids.json": 24, "normalization.json": 6, "tokenizer.json": 6, "provenance.json": 3}


def chunk_of(folder):
    return Policy.load(folder).infer(observation()).chunk.positions


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "policy"
    save(rich(), folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


# --- every value of every JSON ---------------------------------------------------------------------------------------


def outcome(folder, expected, name):
    """Nothing, or what is wrong: the policy loads and differs, or something else than CheckpointError came out."""
    try:
        found = chunk_of(folder)
    except CheckpointError as error:
        return None if name in str(error) or "provenance" in name else f"an error that does not name it: {error}"
    except Exception as error:  # noqa: BLE001 - that is the fault looked for
        return f"{type(error).__name__}: {error}"
    return None if np.array_equal(found, expected) else "a policy with other actions"


def attack(folder, name, expected, limit=None):
    """Every key of one file replaced in every way; what went wrong. limit: at most so many places, spread evenly."""
    path = folder / name
    text = path.read_text()
    values, faults = json.loads(text), []
    everywhere = list(places(values))
    step = max(1, len(everywhere) // limit) if limit else 1
    sys.set_int_max_str_digits(0)
    for place in everywhere[::step]:
        old = values
        for key in place:
            old = old[key]
        for new in other_values(old):
            path.write_text(json.dumps(replaced(values, place, new)))
            if fault := outcome(folder, expected, name):
                faults.append(f"{name} {place} = {str(new)[:30]!r}: {fault}")
        for strange in (["x"], {"new": 1}) if isinstance(old, (list, dict)) else ():
            grown = [*old, *strange] if isinstance(old, list) else {**old, "new": 1}
            path.write_text(json.dumps(replaced(values, place, grown)))
            if fault := outcome(folder, expected, name):
                faults.append(f"{name} {place} with more: {fault}")
    path.write_text(text)
    return faults


@pytest.mark.parametrize("name", PLACES)
def test_no_value_of_a_json_file_gives_another_policy_or_another_error(folder, name):
    faults = attack(folder, name, chunk_of(folder), limit=PLACES[name])
    assert not faults, "\n".join(faults[:20])


@pytest.mark.parametrize("name", PLACES)
def test_a_key_twice_in_one_object_is_refused(folder, name):
    path = folder / name
    text = path.read_text()
    for key in json.loads(text):
        path.write_text(text.replace(f'"{key}"', f'"{key}": null, "{key}"', 1))
        with pytest.raises(CheckpointError, match=name):
            load(folder)
    path.write_text(text)
    load(folder)


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "3", "{", '{"a": NaN}', '{"a": -Infinity}', '{"a": 1e999}', "[" * 10**5]
)
def test_what_is_no_object_of_finite_numbers_is_refused(text):
    with pytest.raises(ValueError):
        parse_json(text)


@pytest.mark.parametrize("name", ["config.json", "normalization.json"])
def test_values_are_refused_by_key_without_the_digests_as_well(folder, name):
    """As in a folder of format 1, or where whoever changes a file names it in grids.json too."""
    values = json.loads((folder / name).read_text())
    for key in values:
        for bad in (None, float("nan"), -(10**9), 10**12, "x", {}):
            (folder / name).write_text(json.dumps({**values, key: bad}))
            reseal(folder)
            with pytest.raises(CheckpointError, match=f"{name}.*({key}|NaN)"):
                load(folder)


def test_a_grids_json_that_was_changed_is_refused_until_its_digests_go(folder):
    values = json.loads((folder / "grids.json").read_text())
    values["sampler"]["align_corners"] = False
    (folder / "grids.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"grids.json was changed after it was saved.*set its `files` to null"):
        load(folder)
    (folder / "grids.json").write_text(json.dumps({**values, "files": None}))
    assert not load(folder).spec.sampler.align_corners


def test_a_key_of_config_json_never_chooses_code(folder):
    """transformers takes attn_implementation, auto_map and more from a configuration; here they are not taken."""
    values = json.loads((folder / "config.json").read_text())
    assert "attn_implementation" not in values and "_name_or_path" not in values
    before = chunk_of(folder)
    strange = {"attn_implementation": "kernels-community/flash-attn", "auto_map": {"AutoConfig": "a--b.C"}}
    values |= strange
    values["dit_config"] |= strange
    values["vlm_config"]["text_config"] |= strange
    (folder / "config.json").write_text(json.dumps(values))
    reseal(folder)
    np.testing.assert_array_equal(chunk_of(folder), before)


def test_the_description_of_a_space_decides_nothing(folder):
    before = chunk_of(folder)
    values = json.loads((folder / "grids.json").read_text())
    values["action"]["description"] = "joint velocities"
    (folder / "grids.json").write_text(json.dumps(values))
    reseal(folder)
    np.testing.assert_array_equal(chunk_of(folder), before)


def test_what_a_policy_does_does_not_depend_on_its_provenance(folder):
    before, budgets = chunk_of(folder), Policy.load(folder).budgets
    for text in (None, "{}", '{"stages": [{"nested": [1]}], "data": {"instructions": ["b"]}}'):
        (folder / "provenance.json").unlink() if text is None else (folder / "provenance.json").write_text(text)
        policy = Policy.load(folder)
        assert policy.budgets == budgets == (2, 4) and policy.instructions == tuple(INSTRUCTIONS)
        np.testing.assert_array_equal(chunk_of(folder), before)


def test_a_tokenizer_with_more_words_than_the_embedding_is_refused(folder):
    values = json.loads((folder / "tokenizer.json").read_text())
    values["model"]["vocab"]["extra"] = 1000
    (folder / "tokenizer.json").write_text(json.dumps(values))
    reseal(folder)
    with pytest.raises(
        CheckpointError, match=r"tokenizer.json has token ids up to 1000, the model's embedding has \d+"
    ):
        load(folder)


# --- never half new --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["config.json", "normalization.json", "tokenizer.json", "model.safetensors", "grids.json"]
)
def test_a_file_of_another_checkpoint_is_refused(folder, tmp_path, name):
    """Both are of one kind: each file alone is valid."""
    other = dataclasses.replace(rich(seed=1), tokenizer=tiny(cameras=("base", "wrist")).tokenizer)
    other.normalization.state_mean[:] = 0.1
    other.model.config.max_period = 5.0
    save(other, tmp_path / "other")
    if (tmp_path / "other" / name).read_bytes() == (folder / name).read_bytes():
        (folder / name).write_text((folder / name).read_text() + " ")
    else:
        shutil.copy(tmp_path / "other" / name, folder / name)
    with pytest.raises(CheckpointError, match=r"does not belong to .*grids.json.*mixes two checkpoints"):
        load(folder)


def test_a_save_that_fails_anywhere_leaves_the_old_checkpoint_or_the_new_one(whole, folder, tmp_path, monkeypatch):
    """A full disk, or the end of the process, at each of its calls to the file system."""
    save(rich(seed=1), tmp_path / "new")
    old, new = chunk_of(folder), chunk_of(tmp_path / "new")
    calls, limit, seen = [0], [10**9], []

    def failing(real):
        def call(*arguments, **options):
            calls[0] += 1
            if calls[0] > limit[0]:
                raise OSError(28, "No space left on device")
            return real(*arguments, **options)

        return call

    for owner, name in ((Path, "write_text"), (Path, "rename"), (Path, "replace"), (Path, "mkdir"), (Path, "rmdir")):
        monkeypatch.setattr(owner, name, failing(getattr(owner, name)))
    monkeypatch.setattr(os, "fsync", failing(os.fsync))
    monkeypatch.setattr(checkpoints.safetensors, "write", failing(checkpoints.safetensors.write))
    for count in range(60):
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)
        calls[0], limit[0] = 0, count
        with contextlib.suppress(OSError, files.OutputError):
            save(rich(seed=1), folder)
            break
        limit[0] = 10**9
        found = chunk_of(folder)
        seen.append("new" if np.array_equal(found, new) else "old" if np.array_equal(found, old) else "neither")
        save(rich(seed=2), folder)  # the next one succeeds, whatever was left
    assert set(seen) == {"old", "new"} and seen == sorted(seen, reverse=True), seen


SAVING = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tiny import rich
from grids_ros.policy.checkpoint import save
policies = [rich(seed) for seed in (1, 2)]
print("ready", flush=True)
while True:
    for policy in policies:
        save(policy, Path(sys.argv[1]))
"""


def test_a_killed_save_leaves_a_whole_checkpoint(tmp_path):
    expected = []
    for seed in (1, 2):
        save(rich(seed), tmp_path / str(seed))
        expected.append(chunk_of(tmp_path / str(seed)))
    folder, random = tmp_path / "out", np.random.default_rng(0)
    save(rich(1), folder)
    for _ in range(2):
        command = [sys.executable, "-c", SAVING, folder, Path(__file__).parent]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stdout.readline() == "ready\n"
        time.sleep(random.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = chunk_of(folder)
        assert any(np.array_equal(found, one) for one in expected)


def test_other_files_in_the_folder_stay(folder):
    (folder / "losses.jsonl").write_text("{}\n")
    save(rich(seed=1), folder)
    assert (folder / "losses.jsonl").read_text() == "{}\n"
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_notes_change_without_the_weights(folder):
    before = (folder / "model.safetensors").stat().st_mtime_ns
    checkpoint = load(folder)
    points = {"base": ((0.5, 0.5),) * 4, "wrist": ((0.1, 0.9),) * 4}
    checkpoint.provenance["diagnosis"] = {"samples": 3, "last_step_error_mm": {"right": 2.0}}
    changed = dataclasses.replace(checkpoint.spec, mean_coordinates=points)
    save_notes(dataclasses.replace(checkpoint, spec=changed), folder)
    evaluation = {"task": "lift", "ood": None, "first_seed": 1, "episodes": 4, "tokens_per_camera": 4, "join": "rtc"}
    evaluation |= {"delay_ms": 0, "successes": 3, "wilson_95": [0.2, 0.9], "wrong_objects": 0, "time_to_success_s": 1.0}
    for successes in (3, 4):
        record_evaluation(folder, {**evaluation, "successes": successes})
    after = load(folder)
    assert after.spec.mean_coordinates == points and (folder / "model.safetensors").stat().st_mtime_ns == before
    assert [one["successes"] for one in after.provenance["evaluations"]] == [4]
    assert "4 of 4" in (folder / "README.md").read_text() and "right | 2.0" in (folder / "README.md").read_text()


# --- the earlier format ----------------------------------------------------------------------------------------------


def test_a_folder_of_format_1_is_the_policy_that_it_was(folder):
    before = chunk_of(folder)
    old = json.loads((folder / "grids.json").read_text())
    new = load(folder).spec
    spaces = {what: old.pop(what)["description"] for what in ("state", "action")}
    for key in ("format", "image", "joints", "prompt", "token_budgets", "instructions", "mean_coordinates", "files"):
        old.pop(key)
    old["sampler"].pop("layer_norm_epsilon")
    (folder / "grids.json").write_text(json.dumps({**old, "spaces": spaces}))
    points = {"base": [[0.25, 0.5]] * 4, "wrist": [[0.25, 0.5]] * 4}
    facts = {
        "stages": [{"nested": [2]}],
        "data": {"instructions": INSTRUCTIONS},
        "diagnosis": {"mean_coordinates": points},
    }
    (folder / "provenance.json").write_text(json.dumps(facts))
    assert load(folder).spec == new
    np.testing.assert_array_equal(chunk_of(folder), before)
    facts["stages"][0]["nested"] = [-1]
    (folder / "provenance.json").write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match=r"provenance.json: stages\[-1\].nested\[0\] is -1"):
        load(folder)


def test_the_shipped_policy_is_read_as_it_was():
    spec = load(ROOT / "models" / "demo").spec
    assert (spec.state.name, spec.action.name, spec.image) == ("tool-matrix", "tool-relative", ImageFit())
    assert (
        spec.token_budgets in ((), (16,))
        and len(spec.instructions) == 12
        and set(spec.mean_coordinates) == {"base", "wrist"}
    )


def test_a_saved_spec_is_read_back(tmp_path):
    folder = save_tiny(tmp_path / "a", tokens=None)
    policy = rich()
    fit = ImageFit("bilinear", -3.0, "end")
    policy = dataclasses.replace(policy, spec=dataclasses.replace(policy.spec, image=fit))
    save(policy, tmp_path / "b")
    assert load(tmp_path / "b").spec == policy.spec and load(folder).spec.sampler is None


@pytest.mark.parametrize(
    ("key", "index", "value", "said"),
    [
        ("action_std", 0, -0.04, r"action_std\[0\] \(x\) is -0.04, expected more than 0: only a gripper counts"),
        ("state_std", 3, -0.04, r"state_std\[3\] \(R11\) is -0.04"),
        ("state_std", 1, 1e-300, r"state_std\[1\] \(y\) is 1e-300, expected 1e-06 to 1e\+06"),
        ("action_std", 6, -1e-7, r"action_std\[6\] \(gripper opening\) is -1e-07, expected 1e-06"),
        ("action_std", 2, 0.0, r"action_std\[2\] \(z\) is 0, expected 1e-06"),
    ],
)
def test_a_deviation_that_no_data_has_is_refused_by_the_name_of_its_number(folder, key, index, value, said):
    path = folder / "normalization.json"
    values = json.loads(path.read_text())
    values[key][index] = value
    path.write_text(json.dumps(values))
    reseal(folder)
    with pytest.raises(CheckpointError, match=said):
        load(folder)


def test_a_gripper_may_count_the_other_way(folder):
    path = folder / "normalization.json"
    values = json.loads(path.read_text())
    for key in ("state_std", "action_std"):
        values[key][-1] *= -1.0
    path.write_text(json.dumps(values))
    reseal(folder)
    assert load(folder).normalization.action_std[-1] < 0.0


def test_a_file_of_another_training_in_the_shipped_folder_is_found_out(tmp_path):
    copy = shutil.copytree(ROOT / "models" / "demo", tmp_path / "demo")
    values = json.loads((copy / "normalization.json").read_text())
    values["action_mean"][0] += 0.001
    (copy / "normalization.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="does not belong to"):
        load(copy)

"""Checkpoints of other projects: what they mean there is what they do here, and what cannot be followed is refused."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import (
    INSTRUCTION,
    STATISTICS,
    WORDS,
    grids_sampler,
    jax_tree,
    lerobot_names,
    nested,
    openpi_names,
    pi0,
    save_lerobot,
    save_norm_stats,
    save_openpi,
)
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from scipy.spatial.transform import Rotation
from torch.nn import functional

from grids_ros.convert import openpi, sampler
from grids_ros.convert.__main__ import main
from grids_ros.convert.foreign import ConversionError, between
from grids_ros.convert.source import checkpoint_folder, local
from grids_ros.data.lerobot.dataset import located
from grids_ros.data.lerobot.export import DatasetWriter, Frame, Layout
from grids_ros.datatypes import Observation, Pose
from grids_ros.policy.backbone import backbone_of
from grids_ros.policy.checkpoint import load
from grids_ros.policy.grids import attached
from grids_ros.policy.runtime import Policy
from grids_ros.policy.weights import LazyTensor

FOLLOWED = ("--convention", "absolute", "--rate", "20")
LIBERO = ("--convention", "libero-less-state", "--rate", "10")
OTHERS = {"--rate": FOLLOWED[:2], "--convention": FOLLOWED[2:], "--margin": FOLLOWED, "--joint-unit": FOLLOWED}
OTHERS["--epsilon"] = FOLLOWED
POSE = Pose((0.45, 0.1, 0.35), Rotation.from_rotvec([2.8, 0.2, -0.1]).as_quat())


def convert(source, out, *options, precision="float32"):
    assert main([str(source), "--out", str(out), "--precision", precision, *map(str, options)]) == 0
    return load(out)


def refuse(capsys, source, out, *options):
    """What is said of a source that is refused."""
    try:
        code = main([str(source), "--out", str(out), *map(str, options)])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said and not out.exists()
    return said


def same_weights(model, expected):
    """The expert's word embedding apart, which nothing uses."""
    own, theirs = model.state_dict(), expected.state_dict()
    assert set(theirs) - set(own) == {"model.dit.embed_tokens.weight"} and not set(own) - set(theirs)
    return all(torch.equal(tensor, theirs[name].to(tensor.dtype)) for name, tensor in own.items())


def observation(cameras, size=24):
    rng = np.random.default_rng(3)
    images = {name: rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for name in cameras}
    return Observation(7, images, POSE, 0.03, INSTRUCTION)


def actions_of(model, seen, state, cells, length):
    """Transformers' own inference on an observation, as openpi and lerobot prepare it: normalised actions (5, 7)."""
    cameras = len(seen.images)
    ids = [len(WORDS)] * (cameras * cells) + [WORDS.index(w) for w in ("<bos>", *INSTRUCTION.split(), "\n")]
    mask = [1] * len(ids) + [0] * (cameras * cells + length - len(ids))
    ids += [0] * (len(mask) - len(ids))
    pixels = torch.stack(
        [torch.from_numpy(image).permute(2, 0, 1) / 255.0 * 2.0 - 1.0 for image in seen.images.values()]
    )
    result = model.sample_actions(
        state=functional.pad(torch.tensor(state, dtype=torch.float32), (0, 32 - len(state)))[None],
        input_ids=torch.tensor([ids]),
        pixel_values=pixels[None],
        attention_mask=torch.tensor([mask]),
        pixel_attention_mask=torch.ones(1, cameras, dtype=torch.bool),
        noise=torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0)),
    )
    return result[0, :, :7].double().numpy()


# --- lerobot -------------------------------------------------------------------------------------------------------


def test_a_lerobot_fine_tune_does_here_what_it_does_there(tmp_path, capsys):
    model = pi0()
    source = save_lerobot(tmp_path / "theirs", model)
    gripper = ("--gripper", 1, 0, 0.08)
    checkpoint = convert(source, tmp_path / "ours", *FOLLOWED, *gripper)
    assert same_weights(checkpoint.model, model)
    assert checkpoint.spec.cameras == ("front", "left_wrist_0_rgb")  # as the data's; the empty one sees nothing
    assert checkpoint.spec.step_s == 0.05 and checkpoint.spec.denoising_steps == 3
    said = capsys.readouterr().out
    assert all(part in said for part in ("lerobot", "dense", "front, left_wrist_0_rgb", "rotation vector 3 [rad]"))

    seen = observation(checkpoint.spec.cameras)
    mean, std = (np.array(STATISTICS["observation.state"][name]) for name in ("mean", "std"))
    state = np.concatenate([POSE.position, Rotation.from_quat(POSE.quaternion).as_rotvec(), [1.0 - 0.03 / 0.08]])
    model.config.num_inference_steps = 3
    expected = actions_of(model, seen, (state - mean) / (std + 1e-8), 16, 12)
    mean, std = (np.array(STATISTICS["action"][name]) for name in ("mean", "std"))
    expected = expected * std + mean
    chunk = Policy(checkpoint).infer(seen, seed=0).chunk
    np.testing.assert_allclose(chunk.positions, expected[:, :3], atol=1e-5)
    turned = Rotation.from_quat(chunk.quaternions) * Rotation.from_rotvec(expected[:, 3:6]).inv()
    assert turned.magnitude().max() < 1e-4
    np.testing.assert_allclose(chunk.gripper, 0.08 * (1.0 - expected[:, 6]), atol=1e-5)


@pytest.mark.parametrize(
    ("mode", "low", "high"), [("MIN_MAX", -2.0, 3.0), ("QUANTILES", -1.9, 2.1), ("QUANTILE10", -1.2, 1.3)]
)
def test_bounds_become_minus_one_and_one(mode, low, high, tmp_path):
    source = save_lerobot(tmp_path / "theirs", pi0(), mode=mode)
    normalization = convert(source, tmp_path / "ours", *FOLLOWED).normalization
    mean, std = (np.array(STATISTICS["observation.state"][name]) for name in ("mean", "std"))
    np.testing.assert_allclose(normalization.normalize_state(mean + low * std), -1.0, atol=1e-5)
    np.testing.assert_allclose(normalization.normalize_state(mean + high * std), 1.0, atol=1e-5)
    mean, std = (np.array(STATISTICS["action"][name]) for name in ("mean", "std"))
    np.testing.assert_allclose(normalization.denormalize_actions(np.ones(7)), mean + high * std, atol=1e-6)


def test_a_number_that_never_changes_becomes_minus_one_as_lerobot_has_it():
    """NormalizerProcessorStep: 2 (x - min) / eps - 1 where min and max are equal."""
    scale = between(np.array([0.0, 0.3]), np.array([1.0, 0.3]), np.array([0.0, 1e-8]))
    np.testing.assert_allclose((np.array([0.0, 0.3]) - scale.mean) / scale.std, -1.0, atol=1e-6)


def test_the_word_embedding_is_found_under_either_name(tmp_path):
    model = pi0()
    source = save_lerobot(tmp_path / "theirs", model)
    whole = lerobot_names(model)
    head = "model.paligemma_with_expert.paligemma.lm_head.weight"
    embedding = "model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
    for index, left_out in enumerate((head, embedding)):
        save_file({name: t for name, t in whole.items() if name != left_out}, source / "model.safetensors")
        assert same_weights(convert(source, tmp_path / str(index), *FOLLOWED).model, model)
    save_file({**whole, head: torch.zeros_like(whole[head])}, source / "model.safetensors")  # the head is never asked
    assert same_weights(convert(source, tmp_path / "both", *FOLLOWED).model, model)


def test_the_vision_tower_is_named_as_by_transformers_4_or_5(tmp_path):
    model = pi0()
    source = save_lerobot(tmp_path / "theirs", model)
    newer = {name.replace(".vision_model.", "."): tensor for name, tensor in lerobot_names(model).items()}
    assert set(newer) != set(lerobot_names(model))
    save_file(newer, source / "model.safetensors")
    assert same_weights(convert(source, tmp_path / "ours", *FOLLOWED).model, model)


def test_weights_in_several_files(tmp_path):
    model = pi0()
    source = save_lerobot(tmp_path / "theirs", model)
    whole = lerobot_names(model)
    (source / "model.safetensors").unlink()
    where = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(whole)}
    for file in set(where.values()):
        save_file({name: tensor for name, tensor in whole.items() if where[name] == file}, source / file)
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert same_weights(convert(source, tmp_path / "ours", *FOLLOWED).model, model)


def test_half_precision_is_that_of_every_tensor(tmp_path):
    model = pi0()
    source = save_lerobot(tmp_path / "theirs", model)
    half = convert(source, tmp_path / "half", *FOLLOWED, precision="bfloat16")
    assert {tensor.dtype for tensor in half.model.state_dict().values()} == {torch.bfloat16}
    assert same_weights(half.model, model)
    whole = convert(source, tmp_path / "whole", *FOLLOWED)
    seen = observation(whole.spec.cameras)
    chunks = [Policy(checkpoint).infer(seen).chunk for checkpoint in (half, whole)]
    spread = np.abs(chunks[1].positions - POSE.position).max()
    np.testing.assert_allclose(chunks[0].positions, chunks[1].positions, atol=0.05 * spread)
    assert (chunks[0].positions != chunks[1].positions).any()


def test_cameras_are_chosen_and_named_in_the_order_of_the_model(tmp_path, capsys):
    source = save_lerobot(tmp_path / "theirs", pi0())

    def named(*cameras):
        return convert(source, tmp_path / cameras[0], *FOLLOWED, "--cameras", *cameras).spec.cameras

    assert named("left_wrist_0_rgb=wrist", "base_0_rgb=base") == ("base", "wrist")
    assert named("left_wrist_0_rgb") == ("left_wrist_0_rgb",)
    out = tmp_path / "refused"
    said = refuse(capsys, source, out, *FOLLOWED, "--cameras", "top=base")
    assert "no camera top; the checkpoint has base_0_rgb, left_wrist_0_rgb" in said
    said = refuse(capsys, source, out, *FOLLOWED, "--cameras", "base_0_rgb=a", "left_wrist_0_rgb=a")
    assert "each with its own name" in said
    assert "topic" in refuse(capsys, source, out, *FOLLOWED, "--cameras", "base_0_rgb=my.camera")


def test_what_cannot_be_followed_is_refused(tmp_path, capsys):
    joints = [f"joint_{i}.pos" for i in range(6)] + ["gripper.pos"]
    changes = {
        "joints": ({"action_feature_names": joints}, r"actions are of joints (joint_0.pos,"),
        "relative": (
            {"use_relative_actions": True},
            "off in the postprocessor and on in config.json, expected the same in all",
        ),
        "act": ({"type": "act"}, "type 'act', expected one of 'pi0', 'pi05', 'smolvla'"),
        "pi05": ({"type": "pi05"}, "policy_preprocessor.json: step 'pi0_new_line_processor' is not understood"),
        "smolvla": (
            {"type": "smolvla", "resize_imgs_with_padding": [512, 512]},
            "step 'pi0_new_line_processor' is not understood",
        ),
        "oblong": ({"type": "smolvla", "resize_imgs_with_padding": [512, 384]}, "512 by 384, expected a square"),
        "aloha": (
            {"type": "smolvla", "resize_imgs_with_padding": [512, 512], "adapt_to_pi_aloha": True},
            "adapt_to_pi_aloha is true, expected false",
        ),
        "images": (
            {"normalization_mapping": {**dict.fromkeys(("STATE", "ACTION"), "MEAN_STD"), "VISUAL": "MEAN_STD"}},
            "images by MEAN_STD, expected IDENTITY",
        ),
    }
    for name, (change, expected) in changes.items():
        source = save_lerobot(tmp_path / name, pi0(), **change)
        assert expected in refuse(capsys, source, tmp_path / "out", *FOLLOWED)
    source = save_lerobot(tmp_path / "degrees", pi0())
    (tmp_path / "stats.json").write_text(
        json.dumps({name: {"mean": [40.0] * 7, "std": [9.0] * 7} for name in STATISTICS})
    )
    said = refuse(capsys, source, tmp_path / "out", *FOLLOWED, "--statistics", tmp_path / "stats.json")
    assert "mean state is at (40, 40, 40) m" in said
    said = refuse(capsys, source, tmp_path / "out", *LIBERO, "--gripper", 1, 0, 0.08)
    assert "settled by this convention" in said
    said = refuse(capsys, source, tmp_path / "out", *FOLLOWED, "--gripper", 1, 1, 0.08)
    assert "expected two different numbers" in said
    source = save_lerobot(tmp_path / "ok", pi0())
    said = refuse(capsys, source, tmp_path / "out", "--convention", "grids", "--rate", 10)
    assert "the states are 7 numbers, this convention has 10" in said and "absolute 7 and 7" in said


def test_a_base_without_statistics_needs_those_of_some_data(tmp_path, capsys):
    source = save_lerobot(tmp_path / "theirs", pi0())
    for name in ("policy_preprocessor", "policy_postprocessor"):
        steps = json.loads((source / f"{name}.json").read_text())
        for step in steps["steps"]:
            step.pop("state_file", None)
        (source / f"{name}.json").write_text(json.dumps(steps))
    assert "--statistics takes" in refuse(capsys, source, tmp_path / "out", *FOLLOWED)
    (tmp_path / "stats.json").write_text(json.dumps(STATISTICS))
    save_norm_stats(tmp_path)
    found = [
        convert(source, tmp_path / str(index), *FOLLOWED, "--statistics", tmp_path / name).normalization
        for index, name in enumerate(("stats.json", "norm_stats.json", "1/normalization.json"))
    ]
    for one in found:
        np.testing.assert_allclose(one.action_mean, STATISTICS["action"]["mean"])
        np.testing.assert_allclose(one.state_std, STATISTICS["observation.state"]["std"], atol=2e-6)
    (tmp_path / "other.json").write_text("{}")
    said = refuse(capsys, source, tmp_path / "out", *FOLLOWED, "--statistics", tmp_path / "other.json")
    assert "norm_stats (openpi's)" in said


def test_statistics_are_taken_of_a_data_set(tmp_path, capsys):
    source = save_lerobot(tmp_path / "theirs", pi0())
    rng, of = np.random.default_rng(0), ("x", "y", "z", "rx", "ry", "rz", "gripper")
    scale = np.array([0.2, 0.2, 0.1, 0.5, 0.5, 0.5, 0.02])
    rows = np.array([0.4, 0.0, 0.3, 0.0, 0.0, 0.0, 0.04]) + scale * rng.uniform(-1, 1, (2, 60, 7))
    image = np.zeros((16, 16, 3), np.uint8)
    with DatasetWriter(tmp_path / "set", Layout(20.0, ("base",), of, of, "absolute", "png")) as writer:
        frames = (Frame({"base": image}, *pair) for pair in zip(*rows, strict=True))
        writer.add_episode("lift it", frames)
    found = convert(source, tmp_path / "out", *FOLLOWED, "--statistics", tmp_path / "set").normalization
    np.testing.assert_allclose(found.state_mean, rows[0].mean(0), atol=1e-6)
    np.testing.assert_allclose(found.action_std, rows[1].std(0), atol=1e-6)
    said = refuse(capsys, source, tmp_path / "other", *FOLLOWED, "--statistics", tmp_path / "nowhere")
    assert "expected a file with statistics or a LeRobot data set" in said


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda t: t.pop("model.action_out_proj.bias"),
            "lacks 1 tensors, by transformers' names: action_out_proj.bias",
        ),
        (lambda t: t.update({"model.extra.weight": torch.zeros(2)}), "names that π0 has not, among them extra.weight"),
        (lambda t: t.update({"model.action_out_proj.bias": torch.zeros(3)}), "shape (3,), expected (32,)"),
        (lambda t: t["model.state_proj.bias"].fill_(float("nan")), "state_proj.bias holds NaN or infinity"),
        (lambda t: t.update({"model.time_mlp_in.bias": torch.zeros(2)}), "π0 has not, among them time_mlp_in.bias"),
        (lambda t: t.update({"normalize_inputs.buffer_action.mean": torch.zeros(2)}), "layout before 0.4"),
        (lambda t: t.update({"model.x.lora_A.weight": torch.zeros(2)}), "a LoRA that is not merged"),
    ],
)
def test_wrong_tensors_are_named(change, expected, tmp_path, capsys):
    source = save_lerobot(tmp_path / "theirs", pi0())
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, source / "model.safetensors")
    before = sorted(tmp_path.iterdir())
    assert expected in refuse(capsys, source, tmp_path / "out", *FOLLOWED)
    assert sorted(tmp_path.iterdir()) == before


def test_missing_files_are_named(tmp_path, capsys):
    source = save_lerobot(tmp_path / "theirs", pi0())
    for name, expected in (
        ("tokenizer.json", "tokenizer is google/paligemma-3b-pt-224; --tokenizer takes"),
        ("policy_preprocessor.json", "lacks policy_preprocessor.json"),
        ("policy_preprocessor_step_6_normalizer_processor.safetensors", "step_6_normalizer_processor.safetensors is"),
        ("model.safetensors", "neither model.safetensors nor model.safetensors.index.json"),
    ):
        kept = (source / name).read_bytes()
        (source / name).unlink()
        assert expected in refuse(capsys, source, tmp_path / "out", *FOLLOWED)
        (source / name).write_bytes(kept)
    (source / "config.json").write_text("{}")
    (source / "model.safetensors").unlink()
    assert "expected a lerobot policy" in refuse(capsys, source, tmp_path / "out", *FOLLOWED)
    assert "no hub id" in refuse(capsys, tmp_path / "nowhere", tmp_path / "out", *FOLLOWED)


class Hub:
    """In place of snapshot_download: copies what the patterns let through, as the hub's client picks it."""

    def __init__(self, source, cache):
        self.source, self.cache, self.asked = source, cache, []

    def __call__(self, name, allow_patterns=None, ignore_patterns=None):
        self.asked.append(name)
        files = [path.relative_to(self.source).as_posix() for path in self.source.rglob("*") if path.is_file()]
        for each in filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            (self.cache / each).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.source / each, self.cache / each)
        return str(self.cache)

    def given(self):
        return {path.relative_to(self.cache).as_posix() for path in self.cache.rglob("*") if path.is_file()}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("code.py", "other/config.json", "optimizer.pt", "README.md"):
        (tmp_path / "theirs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "theirs" / name).write_text("no")
    made = Hub(tmp_path / "theirs", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", made)
    return made


def test_a_hub_id_asks_for_weights_and_settings_only(hub, tmp_path, monkeypatch, capsys):
    save_lerobot(tmp_path / "saved", pi0())
    shutil.copytree(tmp_path / "saved", hub.source, dirs_exist_ok=True)
    convert("somebody/pi0_mine", tmp_path / "ours", *FOLLOWED)
    assert hub.asked == ["somebody/pi0_mine"] and hub.given() == {path.name for path in (tmp_path / "saved").iterdir()}
    assert "fetching the repository somebody/pi0_mine" in capsys.readouterr().err

    def offline(*_, **__):
        raise FileNotFoundError("cannot find the requested files in the disk cache\nmore")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(ConversionError, match="the hub does not give it: cannot find.*cache$"):
        local("somebody/pi0_mine")


def test_a_hub_id_of_openpi_brings_its_statistics(hub, tmp_path):
    save_openpi(tmp_path / "saved", pi0())
    own = {
        path.relative_to(tmp_path / "saved").as_posix() for path in (tmp_path / "saved").rglob("*") if path.is_file()
    }
    shutil.copytree(tmp_path / "saved", hub.source, dirs_exist_ok=True)
    for name in ("params/_METADATA", "params/d/1", "assets/droid/picture.png"):
        (hub.source / name).parent.mkdir(parents=True, exist_ok=True)
        (hub.source / name).write_text("0")
    convert("somebody/pi0_mine", tmp_path / "ours", *FOLLOWED)
    assert hub.given() == own, "JAX weights are not fetched beside those of PyTorch"
    for path in (hub.source / "model.safetensors", hub.source / "config.json", hub.cache / "model.safetensors"):
        path.unlink()
    assert (checkpoint_folder("somebody/pi0_mine") / "params" / "d" / "1").is_file()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("models/dens", "models/dens does not exist; models is a folder here, so it is no name on the hub"),
        ("runs/tokenizer.json", "runs/tokenizer.json does not exist, and is no hub id"),
        ("a/b/c", "a/b/c does not exist, and is no hub id"),
    ],
)
def test_a_mistyped_path_is_not_looked_for_on_the_hub(name, said, hub, tmp_path, capsys):
    (tmp_path / "models").mkdir()
    assert said in refuse(capsys, name, tmp_path / "out", *FOLLOWED)
    save_lerobot(tmp_path / "ours", pi0())
    named = refuse(capsys, tmp_path / "ours", tmp_path / "out", *FOLLOWED, "--statistics", "runs/stats.json")
    assert "--statistics is runs/stats.json, expected a file with statistics or a LeRobot data set" in named
    assert located(name) == Path(name) and not hub.asked


def test_nothing_is_written_over(tmp_path, capsys):
    source = save_lerobot(tmp_path / "theirs", pi0())
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    with pytest.raises(SystemExit, match="2"):
        main([str(source), "--out", str(source), *FOLLOWED])
    assert "holds something already" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (("--rate", "0"), r"--rate is 0, expected a value in \(0, 1000\]"),
        (("--margin", "0.5"), r"--margin is 0.5, expected a value in \[0, 0.5\)"),
        (("--convention", "legs"), "expected one of grids, absolute, libero.*droid"),
        (("--joint-unit", "turns"), "expected one of rad, degrees"),
        (("--epsilon", "0"), "--epsilon is 0, expected a value in"),
    ],
)
def test_options_out_of_range_name_the_valid_ones(option, expected, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--out", str(tmp_path / "out"), *option, *OTHERS[option[0]]])
    assert re.search(expected, capsys.readouterr().err)


# --- openpi --------------------------------------------------------------------------------------------------------


def test_an_openpi_folder_in_pytorch(tmp_path):
    model = pi0()
    save_openpi(tmp_path / "theirs", model)
    save_norm_stats(tmp_path / "theirs" / "assets" / "physical-intelligence" / "libero", state=8)
    checkpoint = convert(tmp_path / "theirs", tmp_path / "ours", *LIBERO)
    assert same_weights(checkpoint.model, model)
    assert checkpoint.spec.cameras == ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
    assert checkpoint.model.config.chunk_size == 5


def test_a_converted_policy_warms_up_whatever_its_words_take(tmp_path, monkeypatch):
    """PaliGemma frames a prompt with two tokens, and what is shortest in its vocabulary is no word: as the nodes do."""
    model = pi0()
    save_openpi(tmp_path / "theirs", model)
    save_norm_stats(tmp_path / "theirs" / "assets" / "physical-intelligence" / "libero", state=8)
    policy = Policy(convert(tmp_path / "theirs", tmp_path / "ours", *LIBERO))
    lengths = []
    real = type(policy._engine).prepare

    def watched(engine, pairs):
        lengths.extend(int(arguments[2].sum()) for pair in pairs for arguments in pair)
        return real(engine, pairs)

    monkeypatch.setattr(type(policy._engine), "prepare", watched)
    policy.warm_up()
    assert set(lengths) == {3 * 16 + 48}, "the longest instruction that it takes"


def test_libero_s_actions_become_steps_of_the_tool(tmp_path):
    """LIBERO takes 1 for 0.05 m and 0.5 rad, -1 for an open gripper; pi0_libero adds the state to what π0 says."""
    model = pi0()
    save_openpi(tmp_path / "theirs", model)
    save_norm_stats(tmp_path / "theirs" / "assets" / "physical-intelligence" / "libero", state=8)
    cameras = ("--cameras", "base_0_rgb=base", "left_wrist_0_rgb=wrist")
    seen = observation(("base", "wrist"))
    turn = Rotation.from_quat(POSE.quaternion).as_rotvec()
    state = np.concatenate([POSE.position, turn, [0.015, -0.015]])
    mean, std = (np.resize(STATISTICS["observation.state"][name], 8) for name in ("mean", "std"))
    raw = actions_of(model, seen, (state - mean) / (std + 1e-6), 16, 48)
    raw = raw * (np.array(STATISTICS["action"]["std"]) + 1e-6) + STATISTICS["action"]["mean"]
    less_state = raw + np.concatenate([state[:6], [0.0]])
    for convention, steps in (("libero", raw), ("libero-less-state", less_state)):
        ours = convert(tmp_path / "theirs", tmp_path / convention, "--convention", convention, "--rate", 10, *cameras)
        chunk = Policy(ours).infer(seen, seed=0).chunk
        np.testing.assert_allclose(chunk.positions, POSE.position + np.cumsum(0.05 * steps[:, :3], 0), atol=1e-4)
        first = Rotation.from_quat(chunk.quaternions[0]) * Rotation.from_quat(POSE.quaternion).inv()
        np.testing.assert_allclose(first.as_rotvec(), Rotation.from_rotvec(0.5 * steps[0, 3:6]).as_rotvec(), atol=1e-4)
        np.testing.assert_allclose(chunk.gripper, 0.04 * (1.0 - steps[:, 6]), atol=1e-4)


def read_jax(tree):
    return openpi.from_jax({name: array.shape for name, array in tree.items()}, tree.__getitem__)


@pytest.mark.parametrize("norm", [False, True])
def test_jax_names_and_axes_become_those_of_pytorch(norm):
    model, weights = pi0(), grids_sampler(norm=norm)
    found = read_jax(jax_tree(model, weights))
    expected = openpi_names(model)
    expected["paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"] = expected.pop(
        "paligemma_with_expert.paligemma.lm_head.weight"
    )
    del expected["paligemma_with_expert.gemma_expert.lm_head.weight"]
    expected |= {f"active_token_sampler.{name}": tensor for name, tensor in weights.items()}
    assert set(found) == set(expected)
    for name, tensor in found.items():
        assert tensor.shape == tuple(expected[name].shape) and torch.equal(tensor.read(), expected[name]), name


def test_each_jax_array_is_read_once():
    tree, read = jax_tree(pi0()), []
    found = openpi.from_jax({name: array.shape for name, array in tree.items()}, lambda n: read.append(n) or tree[n])
    assert not read
    for tensor in found.values():
        tensor.read()
    assert sorted(read) == sorted(tree)


def test_jax_names_of_another_model_are_refused():
    tree = {"PaliGemma/llm/layers/attn/q_einsum_1/lora_a": np.zeros((2, 3, 3), np.float32)}
    with pytest.raises(ConversionError, match="lora_a has no counterpart in π0 or π0.5"):
        read_jax(tree)


def test_without_orbax_it_is_asked_for(tmp_path, capsys, monkeypatch):
    save_openpi(tmp_path / "theirs", pi0())
    (tmp_path / "theirs" / "params").mkdir()
    monkeypatch.setitem(__import__("sys").modules, "orbax.checkpoint", None)
    assert "pip install orbax-checkpoint" in refuse(capsys, tmp_path / "theirs", tmp_path / "out", *LIBERO)


def test_how_long_a_chunk_is_must_be_said_by_somebody(tmp_path, capsys):
    source = save_openpi(tmp_path / "theirs", pi0())
    save_norm_stats(source / "assets" / "physical-intelligence" / "libero", state=8)
    said = refuse(capsys, source, tmp_path / "out", *LIBERO, "--horizon", "6")
    assert "--horizon is 6, the checkpoint says 5" in said
    (source / "config.json").write_text("{}")
    assert "15 for openpi's pi05_droid, 10 for" in refuse(capsys, source, tmp_path / "out", *LIBERO)
    assert convert(source, tmp_path / "ours", *LIBERO, "--horizon", "5").model.config.chunk_size == 5


@pytest.mark.parametrize("leaf", [None, "value"])
def test_a_jax_folder_as_orbax_writes_it(leaf, tmp_path):
    checkpointing = pytest.importorskip("orbax.checkpoint", reason="JAX checkpoints need Orbax")
    model, weights = pi0(), grids_sampler()
    save_openpi(tmp_path / "theirs", model)
    (tmp_path / "theirs" / "model.safetensors").unlink()
    save_norm_stats(tmp_path / "theirs" / "assets" / "physical-intelligence" / "libero", state=8)
    tree = {"params": nested(jax_tree(model, weights), leaf)}
    checkpointing.PyTreeCheckpointer().save(os.path.abspath(tmp_path / "theirs" / "params"), tree)
    (tmp_path / "theirs" / "config.json").unlink()  # openpi's converter made it: JAX checkpoints have none
    checkpoint = convert(tmp_path / "theirs", tmp_path / "ours", *LIBERO, "--horizon", "5")
    assert checkpoint.spec.sampler.tokens == 3 and checkpoint.model.config.chunk_size == 5
    wrapped = attached(checkpoint.model)
    assert torch.equal(wrapped.sampler.coordinate_mlp[0].weight, weights["scout_mlp.0.weight"])
    assert torch.equal(wrapped.projector.linear.weight, model.model.vlm.multi_modal_projector.linear.weight)


# --- GridS ---------------------------------------------------------------------------------------------------------


def authors_sampler(weights, features):
    """Fediory/Grid-Sampler, core: pixel = coordinate * (size - 1), then four corners."""
    pooled = features.mean((1, 2))
    if "input_norm.weight" in weights:
        pooled = functional.layer_norm(
            pooled, pooled.shape[-1:], weights["input_norm.weight"], weights["input_norm.bias"]
        )
    hidden = functional.linear(pooled, weights["scout_mlp.0.weight"], weights["scout_mlp.0.bias"]).relu()
    unit = functional.linear(hidden, weights["scout_mlp.2.weight"], weights["scout_mlp.2.bias"]).sigmoid()
    unit = unit.view(len(features), -1, 2)
    read = functional.grid_sample(features.permute(0, 3, 1, 2), 2.0 * unit[:, None] - 1.0, align_corners=True)
    return read.squeeze(2).transpose(1, 2) + embedded(weights, unit)


def fork_sampler(weights, features):
    """The LeRobot fork's, between transformers 4.50's division and π0's multiplication by the root of the width."""
    root = features.shape[-1] ** 0.5
    features = features / root
    hidden = functional.linear(features.mean((1, 2)), weights["scout_mlp.0.weight"], weights["scout_mlp.0.bias"]).relu()
    unit = functional.linear(hidden, weights["scout_mlp.2.weight"], weights["scout_mlp.2.bias"]).sigmoid()
    unit = unit.view(len(features), -1, 2)
    read = functional.grid_sample(features.permute(0, 3, 1, 2), 2.0 * unit[:, None] - 1.0, align_corners=False)
    return root * (read.squeeze(2).transpose(1, 2) + embedded(weights, unit))


def embedded(weights, unit):
    hidden = functional.linear(unit, weights["coord_encoder.0.weight"], weights["coord_encoder.0.bias"]).relu()
    return functional.linear(hidden, weights["coord_encoder.2.weight"], weights["coord_encoder.2.bias"])


@pytest.mark.parametrize("place", ["beside the model", "in a file of its own"])
@pytest.mark.parametrize(
    ("prefix", "theirs", "norm"),
    [
        ("active_token_sampler", authors_sampler, False),
        ("active_token_sampler", authors_sampler, True),
        ("token_sampler", fork_sampler, False),
    ],
)
def test_grids_weights_read_the_same_places_and_give_the_same_tokens(prefix, theirs, norm, place, tmp_path):
    weights = grids_sampler(tokens=6, norm=norm)
    weights["scout_mlp.2.weight"] *= 6.0  # some coordinates in the outer half cells, where the variants differ most
    named = {f"{prefix}.{name}": tensor for name, tensor in weights.items()}
    inside = place == "beside the model"
    save_openpi(tmp_path / "theirs", pi0(), named if inside else None)
    save_file(named, tmp_path / "sampler.safetensors")
    options = () if inside else ("--sampler", tmp_path / "sampler.safetensors")
    checkpoint = convert(tmp_path / "theirs", tmp_path / "ours", *FOLLOWED, *options)
    features = torch.randn(8, 4, 4, 32, generator=torch.Generator().manual_seed(1))
    own = attached(checkpoint.model).sampler
    with torch.no_grad():
        tokens, coordinates = own(features)
        torch.testing.assert_close(tokens, theirs(weights, features), rtol=1e-4, atol=1e-4)
    assert ((coordinates < 0.125) | (coordinates > 0.875)).any() and own.config.tokens == 6
    assert own.config.align_corners == (prefix == "active_token_sampler") and own.config.layer_norm == norm
    output = Policy(checkpoint).infer(observation(checkpoint.spec.cameras))
    assert {points.shape for points in output.coordinates.values()} == {(6, 2)}


def lazy(weights):
    return {name: LazyTensor.of(tensor) for name, tensor in weights.items()}


def test_samplers_that_do_not_say_their_variant_or_say_two_are_refused():
    weights = grids_sampler()
    choices = r"active_token_sampler\.\* \(.*\) or token_sampler\.\* \(.*LeRobot fork\)"
    with pytest.raises(ConversionError, match=f"coord_encoder.* does not say of which variant.* expected {choices}"):
        sampler.split(lazy(weights))
    both = {f"{prefix}.{name}": t for prefix in sampler.VARIANTS for name, t in weights.items()}
    with pytest.raises(ConversionError, match=f"not interchangeable: {choices}"):
        sampler.split(lazy(both))


def test_a_sampler_of_another_width_or_with_other_names_is_refused():
    weights = lazy(grids_sampler(width=20))
    with pytest.raises(ConversionError, match="has 20 channels, the model's image features have 32"):
        sampler.config_of("token_sampler", weights, 32, 0.0, 1e-5)
    config = sampler.config_of("token_sampler", weights, 20, 0.0, 1e-5)
    with pytest.raises(ConversionError, match=r"token_sampler.score.weight is not known, expected scout_mlp\.\*"):
        sampler.translate(
            "token_sampler", {"score.weight": weights["scout_mlp.0.weight"]}, config, backbone_of("pi0"), 1.0
        )
    del weights["scout_mlp.2.weight"]
    with pytest.raises(ConversionError, match="lacks active_token_sampler.scout_mlp.2.weight"):
        sampler.config_of("active_token_sampler", weights, 20, 0.0, 1e-5)

"""A checkpoint folder: what is saved is what is loaded, and every way to break it is named."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import SIZE, observation, put_weights, reseal, save_tiny, tiny

from grids_ros.policy.checkpoint import load, save
from grids_ros.policy.errors import CheckpointError
from grids_ros.policy.runtime import Policy

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("checkpoints") / "whole")


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


@pytest.mark.parametrize("tokens", [None, 4])
def test_round_trip(tokens, tmp_path):
    before = tiny(tokens)
    save(before, tmp_path / "saved")
    after = load(tmp_path / "saved")
    assert after.spec == before.spec and after.provenance == before.provenance
    own = before.model.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in after.model.state_dict().items())
    assert after.tokenizer.to_str() == before.tokenizer.to_str()
    assert (after.normalization.action_std == before.normalization.action_std).all()


def test_weights_keep_their_precision_even_where_it_is_mixed(folder):
    tensors = load_file(folder / "model.safetensors")
    narrow = {name: t.bfloat16() if "language_model" in name else t for name, t in tensors.items()}
    put_weights(folder, narrow)
    read = load(folder).model.state_dict()
    assert {t.dtype for t in read.values()} == {torch.float32, torch.bfloat16}
    assert all(t.dtype == narrow[name].dtype and torch.equal(t, narrow[name]) for name, t in read.items())


def test_the_expert_s_word_embedding_may_be_left_out(folder):
    tensors = load_file(folder / "model.safetensors")
    before = Policy.load(folder).infer(observation())
    del tensors["model.dit.embed_tokens.weight"]
    put_weights(folder, tensors)
    without = load(folder)
    assert "model.dit.embed_tokens.weight" not in without.model.state_dict()
    np.testing.assert_array_equal(Policy(without).infer(observation()).chunk.positions, before.chunk.positions)


LOADING = """
import re, sys
from pathlib import Path
from grids_ros.policy.checkpoint import load
def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
load(sys.argv[1])  # what the libraries take once
before = peak()
kept = load(sys.argv[2])
print(peak() - before)
"""


def test_loading_holds_the_weights_once(folder, tmp_path):
    edit(folder, "config.json", lambda v: v["vlm_config"]["text_config"].update(vocab_size=1_000_000))
    edit(folder, "config.json", lambda v: v["vlm_config"].update(image_token_index=1_000_000))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.vlm.language_model.embed_tokens.weight"] = torch.ones(1_000_000, SIZE.width)
    del tensors["model.dit.embed_tokens.weight"]
    put_weights(folder, tensors)
    bytes_ = (folder / "model.safetensors").stat().st_size
    small = save_tiny(tmp_path / "small")
    ran = subprocess.run([sys.executable, "-c", LOADING, small, folder], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    assert 0.9 * bytes_ < int(ran.stdout) < 1.15 * bytes_


@pytest.mark.parametrize(
    "name",
    ["config.json", "grids.json", "normalization.json", "tokenizer.json", "model.safetensors"],
)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"lacks {name}; it needs config.json"):
        load(folder)


@pytest.mark.parametrize(
    "name",
    ["config.json", "grids.json", "normalization.json", "provenance.json", "tokenizer.json", "model.safetensors"],
)
def test_a_truncated_file_is_named(folder, name):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=name):
        load(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere does not exist"):
        load(tmp_path / "nowhere")


def edit(folder, name, change):
    values = json.loads((folder / name).read_text())
    change(values)
    (folder / name).write_text(json.dumps(values))
    reseal(folder)


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("grids.json", lambda v: v.pop("cameras"), "expected .*cameras"),
        ("grids.json", lambda v: v.update(cameras=[]), r"cameras is \[\], expected a list of 1 to 16 elements"),
        ("grids.json", lambda v: v.update(cameras="base"), 'cameras is "base", expected a list'),
        ("grids.json", lambda v: v.update(cameras=["../x"]), r'cameras\[0\] is "../x", expected a name'),
        ("grids.json", lambda v: v.update(cameras=["a", "a"]), "expected a list without repetitions"),
        (
            "grids.json",
            lambda v: v.update(denoising_steps=0),
            r"denoising_steps is 0, expected an integer in \[1, 1000",
        ),
        ("grids.json", lambda v: v["sampler"].update(margin=0.7), r"sampler.margin is 0.7, expected a number in \[0, "),
        ("grids.json", lambda v: v.update(token_budgets=[2, 8]), "expected up to the sampler's 4 tokens"),
        ("grids.json", lambda v: v.update(mean_coordinates={"base": [[0.5, 0.5]] * 4}), "expected base, wrist"),
        ("grids.json", lambda v: v["sampler"].pop("align_corners"), "expected .*align_corners"),
        (
            "grids.json",
            lambda v: v["action"].update(space="joint-torques"),
            "action is 'joint-torques' version 1, expected one of: tool-relative version 1",
        ),
        ("grids.json", lambda v: v["action"].update(version=2), "'tool-relative' version 2, expected one of"),
        ("grids.json", lambda v: v["state"].pop("space"), "state.space is missing, expected space"),
        ("grids.json", lambda v: v["sampler"].update(tokens=5), r"has shape \(8.*expected \(10"),
        ("grids.json", lambda v: v.update(sampler=None), "lacks 2 tensors, among them .*projector.linear"),
        ("grids.json", lambda v: v.update(stem=None), "tensors, among them"),
        ("config.json", lambda v: v.update(model_type="pi1"), "model_type is 'pi1', expected 'pi0'"),
        ("config.json", lambda v: v["dit_config"].update(hidden_size=64), "expected"),
        (
            "normalization.json",
            lambda v: v.update(state_std=[1.0]),
            r"state_std is \[1.0\], expected a list of 10 to 10 elements",
        ),
        ("normalization.json", lambda v: v["action_std"].__setitem__(0, 0.0), r"action_std\[0\] \(x\) is 0"),
    ],
)
def test_pieces_that_disagree_are_named(folder, name, change, text):
    edit(folder, name, change)
    with pytest.raises(CheckpointError, match=text):
        load(folder)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.pop("action_out_proj.bias"), "lacks 1 tensors, among them action_out_proj.bias"),
        (lambda t: t.update(extra=torch.zeros(1)), "unknown 1 tensors, among them extra"),
        (lambda t: t.update({"action_out_proj.bias": torch.zeros(3)}), r"shape \(3,\), expected \(7,\)"),
        (lambda t: t["action_out_proj.bias"].fill_(float("nan")), "NaN or infinity, among them action_out_proj.bias"),
    ],
)
def test_wrong_tensors_are_named(folder, change, text):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    put_weights(folder, tensors)
    with pytest.raises(CheckpointError, match=text):
        load(folder)


def test_the_caller_s_wishes_are_checked(whole):
    assert Policy.load(whole, tokens=4).tokens_per_camera == 4
    with pytest.raises(CheckpointError, match="tokens is 16, this checkpoint was trained with 4"):
        Policy.load(whole, tokens=16)
    with pytest.raises(CheckpointError, match="denoising_steps is -1"):
        Policy.load(whole, denoising_steps=-1)
    with pytest.raises(CheckpointError, match="device 'warp' cannot be used"):
        Policy.load(whole, device="warp")
    with pytest.raises(CheckpointError, match="precision is 'int4', expected one of auto, float32, bfloat16, float8"):
        Policy.load(whole, precision="int4")
    with pytest.raises(CheckpointError, match="'float8' on device 'cpu': FP8 products need a GPU"):
        Policy.load(whole, precision="float8")


def test_a_precision_of_one_s_choice_is_said(whole):
    assert all("bfloat16 products" in reason for reason in Policy.load(whole, precision="bfloat16").products.values())

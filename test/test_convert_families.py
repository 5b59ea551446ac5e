"""π0.5 and SmolVLA of other projects: names, prompts, images and normalisation, and what is refused."""

import json

import numpy as np
import pytest
import torch
from foreign import STATISTICS, flat_statistics, grids_sampler, save_tokenizer
from foreign_families import model_of, save_lerobot, their_names
from safetensors.torch import load_file, save_file

from grids_ros.convert import openpi
from grids_ros.convert.__main__ import main
from grids_ros.convert.foreign import ConversionError, quantiles
from grids_ros.policy.checkpoint import load
from grids_ros.policy.grids import attached
from grids_ros.policy.preprocess import ImageFit
from grids_ros.policy.prompt import PromptFormat

FOLLOWED = ("--convention", "absolute", "--rate", "20", "--precision", "float32")


def convert(source, out, *options):
    assert main([str(source), "--out", str(out), *FOLLOWED, *options]) == 0
    return load(out)


def refused(capsys, source, out, *options):
    assert main([str(source), "--out", str(out), *FOLLOWED, *options]) != 0
    assert not out.exists()
    return capsys.readouterr().err


@pytest.mark.parametrize("name", ["pi05", "smolvla"])
def test_every_weight_arrives(name, tmp_path):
    model = model_of(name)
    checkpoint = convert(save_lerobot(tmp_path / "theirs", name, model), tmp_path / "ours")
    own, theirs = checkpoint.model.state_dict(), model.state_dict()
    assert set(theirs) - set(own) == {"model.dit.embed_tokens.weight"} and not set(own) - set(theirs)
    assert all(torch.equal(tensor, theirs[n]) for n, tensor in own.items())
    assert checkpoint.model.config.chunk_size == 6
    assert checkpoint.spec.denoising_steps == (4 if name == "smolvla" else 10)
    assert checkpoint.spec.prompt_length == (48 if name == "smolvla" else 200)


@pytest.mark.parametrize(
    ("changes", "options", "padding", "state_width"),
    [
        ({}, (), -3.0, 12),
        ({}, ("--lerobot-version", "0.5"), -1.0, 0),
        ({"use_relative_actions": False}, (), -1.0, 0),
    ],
)
def test_the_version_of_lerobot_decides_the_padding(changes, options, padding, state_width, tmp_path, capsys):
    source = save_lerobot(tmp_path / "theirs", "pi05", model_of("pi05"), **changes)
    spec = convert(source, tmp_path / "ours", *options).spec
    assert spec.image == ImageFit("bilinear", padding)
    assert spec.prompt == PromptFormat(clean=True, state=True, state_width=state_width)
    assert ("taken for lerobot 0.4's" in capsys.readouterr().out) == (padding == -3.0)


def droid_port(folder, **changes):
    """openpi's weights in lerobot's layout, as lerobot/pi05_droid has them: no statistics of its own, older keys."""
    save_lerobot(folder, "pi05", model_of("pi05"), **changes)
    for name in ("policy_preprocessor", "policy_postprocessor"):
        values = json.loads((folder / f"{name}.json").read_text())
        for step in values["steps"]:
            step.pop("state_file", None)
        (folder / f"{name}.json").write_text(json.dumps(values))
    ends = {"q01": [-1.0] * 7 + [0.0], "q99": [1.0] * 8, "mean": [9.0] * 8, "std": [9.0] * 8}
    (folder.parent / "norm_stats.json").write_text(json.dumps({"norm_stats": {"state": ends, "actions": ends}}))
    return folder


def test_a_port_of_openpi_s_droid_is_run_as_openpi_trained_it(tmp_path, capsys):
    source = droid_port(tmp_path / "theirs")
    droid = ("--preset", "droid", "--precision", "float32", "--out")
    known = ("--statistics", str(tmp_path / "norm_stats.json"))
    assert main([str(source), *droid, str(tmp_path / "none")]) == 2
    assert "has no statistics of states and actions in its processors" in capsys.readouterr().err
    assert main([str(source), *droid, str(tmp_path / "port"), *known]) == 0
    spec, said = load(tmp_path / "port").spec, capsys.readouterr().out
    assert spec.image == ImageFit("bilinear", -1.0) and spec.prompt == PromptFormat(clean=True, state=True)
    assert "taken for openpi's weights, which were trained with images padded with -1 and the bare state" in said
    assert "states QUANTILES, actions QUANTILES; statistics of" in said
    np.testing.assert_allclose(load(tmp_path / "port").normalization.state_std[:7], 1.0)
    assert main([str(source), *droid, str(tmp_path / "chunk"), *known, "--horizon", "4"]) == 0
    assert load(tmp_path / "chunk").model.config.chunk_size == 4
    assert "chunks of 4 steps by --horizon; config.json says 6" in capsys.readouterr().out
    assert main([str(source), *droid, str(tmp_path / "named"), *known, "--lerobot-version", "0.4"]) == 0
    assert load(tmp_path / "named").spec.image.padding == -3.0
    (source / "train_config.json").write_text("{}")  # lerobot trained it
    assert main([str(source), *droid, str(tmp_path / "tuned"), *known]) == 0
    spec = load(tmp_path / "tuned").spec
    assert spec.image.padding == -3.0 and spec.prompt.state_width == 12


def test_a_version_that_the_keys_contradict_is_refused(tmp_path, capsys):
    source = save_lerobot(tmp_path / "theirs", "pi05", model_of("pi05"), use_relative_actions=False)
    assert "a key of later ones" in refused(capsys, source, tmp_path / "ours", "--lerobot-version", "0.4")


def test_images_of_another_size_than_the_tower_s_are_refused(tmp_path, capsys):
    source = save_lerobot(tmp_path / "theirs", "pi05", model_of("pi05"), image_resolution=[448, 448])
    said = refused(capsys, source, tmp_path / "ours")
    assert "images are fitted into 448 by 448 pixels, the vision tower's weights are for 32" in said
    oblong = save_lerobot(tmp_path / "oblong", "pi05", model_of("pi05"), image_resolution=[32, 48])
    assert "images are fitted into 32 by 48, expected a square" in refused(capsys, oblong, tmp_path / "ours")


@pytest.mark.parametrize(
    ("name", "file", "order", "said"),
    [
        (
            "pi05",
            "pre",
            (1, 0, 2),
            "'pi05_prepare_state_tokenizer_processor_step' stands before 'normalizer_processor'",
        ),
        ("pi05", "pre", (0, 2, 1), "'tokenizer_processor' stands before 'pi05_prepare_state_tokenizer_processor_step'"),
        ("smolvla", "pre", (2, 1, 0), "'tokenizer_processor' stands before 'smolvla_new_line_processor'"),
    ],
)
def test_steps_in_another_order_are_refused(name, file, order, said, tmp_path, capsys):
    source = save_lerobot(tmp_path / "theirs", name, model_of(name), use_relative_actions=False)
    path = source / f"policy_{file}processor.json"
    values = json.loads(path.read_text())
    values["steps"] = [values["steps"][index] for index in order]
    path.write_text(json.dumps(values))
    assert f"policy_{file}processor.json: step {said}, expected it after" in refused(capsys, source, tmp_path / "ours")


def test_smolvla_takes_images_at_the_end_and_a_line_break(tmp_path):
    spec = convert(save_lerobot(tmp_path / "theirs", "smolvla", model_of("smolvla")), tmp_path / "ours").spec
    assert spec.image == ImageFit("bilinear", -1.0, "end")
    assert spec.prompt == PromptFormat(line_break=True)


@pytest.mark.parametrize(
    ("changes", "every"),
    [
        ({"self_attn_every_n_layers": 2}, 2),
        ({"self_attn_every_n_layers": -1}, 0),
        ({"attention_mode": "self_attn"}, 1),
        ({"num_expert_layers": 4}, 2),
    ],
)
def test_which_layers_of_smolvla_cross_is_read_from_its_configuration(changes, every, tmp_path, capsys):
    source = save_lerobot(tmp_path / "theirs", "smolvla", model_of("smolvla", every), **changes)
    assert convert(source, tmp_path / "ours").model.config.self_attention_every == every
    other = save_lerobot(tmp_path / "other", "smolvla", model_of("smolvla", 3 - every), **changes)
    assert "has shape" in refused(capsys, other, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"adapt_to_pi_aloha": True}, "adapt_to_pi_aloha is true, expected false"),
        ({"add_image_special_tokens": True}, "add_image_special_tokens is true, expected false"),
        ({"num_expert_layers": 2}, "num_expert_layers is 2, expected as many as num_vlm_layers, 4"),
        ({"resize_imgs_with_padding": [512, 384]}, "images are fitted into 512 by 384, expected a square"),
        ({"resize_imgs_with_padding": None}, "resize_imgs_with_padding is null, expected a list"),
        ({"resize_imgs_with_padding": [256, 256]}, "into 256 by 256 pixels, the vision tower's weights are for 32"),
    ],
)
def test_a_smolvla_of_another_kind_is_refused(changes, expected, tmp_path, capsys):
    source = save_lerobot(tmp_path / "theirs", "smolvla", model_of("smolvla"), **changes)
    assert expected in refused(capsys, source, tmp_path / "ours")


# --- normalisation -------------------------------------------------------------------------------------------------


def test_quantiles_are_those_of_each_project(tmp_path):
    scale = quantiles("state", [0.0, -2.0], [1.0, 3.0], openpi.LEAST)  # openpi: (x - q01) / (q99 - q01 + 1e-6) * 2 - 1
    x = np.array([0.3, 2.0])
    np.testing.assert_allclose((x - scale.mean) / scale.std, (x - [0, -2]) / (np.array([1, 5]) + 1e-6) * 2 - 1)
    source = save_lerobot(tmp_path / "theirs", "pi05", model_of("pi05"))
    known = convert(source, tmp_path / "ours").normalization
    mean, std = (np.array(STATISTICS["observation.state"][n]) for n in ("mean", "std"))
    low, high = mean - 1.9 * std, mean + 2.1 * std
    np.testing.assert_allclose(known.normalize_state(mean), 2 * (mean - low) / (high - low) - 1, atol=1e-6)


def test_quantiles_that_span_nothing_are_refused_by_feature_and_dimension(tmp_path, capsys):
    with pytest.raises(ConversionError, match="quantiles of actions span nothing at 1, 2 "):
        quantiles("actions", [0.0, 1.0, 3.0, 0.5, 0.0], [1.0, 1.0, 2.0, 0.6, 0.0], 1e-6)
    assert len(quantiles("actions", [0.0, 0.0], [1.0, 0.0], 1e-6).mean) == 2, "zeros at the end only pad"
    source = save_lerobot(tmp_path / "theirs", "pi05", model_of("pi05"))
    path = next(source.glob("policy_preprocessor_*.safetensors"))
    kept = flat_statistics()
    kept["observation.state.q99"][6] = kept["observation.state.q01"][6]
    save_file(kept, path)
    assert "quantiles of observation.state span nothing at 6" in refused(capsys, source, tmp_path / "ours")


# --- openpi --------------------------------------------------------------------------------------------------------


def save_openpi(folder, model):
    folder.mkdir()
    save_file(
        {n.removeprefix("model."): t for n, t in their_names("pi05", model).items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps({"action_dim": 8, "action_horizon": 6}))
    stats = {name: {"q01": [-1.0] * 7 + [0.0], "q99": [1.0] * 7 + [0.0]} for name in ("state", "actions")}
    (folder / "assets" / "droid").mkdir(parents=True)
    (folder / "assets" / "droid" / "norm_stats.json").write_text(json.dumps({"norm_stats": stats}))
    save_tokenizer(folder)
    return folder


@pytest.mark.parametrize(("option", "state"), [((), True), (("--prompt-state", "no"), False)])
def test_openpi_s_pi05_has_the_state_in_its_prompt_or_not(option, state, tmp_path, capsys):
    source = save_openpi(tmp_path / "theirs", model_of("pi05"))
    checkpoint = convert(source, tmp_path / "ours", "--gripper", "1", "0", "0.08", *option)
    assert checkpoint.model.config.model_type == "pi05"
    assert checkpoint.spec.prompt == PromptFormat(clean=True, state=state)
    assert checkpoint.spec.image == ImageFit("antialias")
    assert ("--prompt-state no" in capsys.readouterr().out) == state, "what was assumed is printed"
    line_break = checkpoint.tokenizer.token_to_id("\n")
    assert (checkpoint.tokenizer.encode("lift").ids[-1] == line_break) == (not state)


def test_jax_names_of_the_adaptive_norms_become_those_of_pytorch():
    rng = np.random.default_rng(0)
    layers = "PaliGemma/llm/layers/"
    tree = {
        f"{layers}pre_attention_norm_1/Dense_0/kernel": rng.normal(size=(2, 4, 12)),
        f"{layers}pre_attention_norm_1/Dense_0/bias": rng.normal(size=(2, 12)),
        f"{layers}pre_ffw_norm_1/Dense_0/kernel": rng.normal(size=(2, 4, 12)),
        "PaliGemma/llm/final_norm_1/Dense_0/kernel": rng.normal(size=(4, 12)),
        "time_mlp_in/kernel": rng.normal(size=(4, 5)),
    }
    found = openpi.from_jax({name: array.shape for name, array in tree.items()}, tree.__getitem__)
    expert = "paligemma_with_expert.gemma_expert.model."
    for name, array in (
        (f"{expert}layers.1.input_layernorm.dense.weight", tree[f"{layers}pre_attention_norm_1/Dense_0/kernel"][1].T),
        (f"{expert}layers.0.input_layernorm.dense.bias", tree[f"{layers}pre_attention_norm_1/Dense_0/bias"][0]),
        (
            f"{expert}layers.0.post_attention_layernorm.dense.weight",
            tree[f"{layers}pre_ffw_norm_1/Dense_0/kernel"][0].T,
        ),
        (f"{expert}norm.dense.weight", tree["PaliGemma/llm/final_norm_1/Dense_0/kernel"].T),
        ("time_mlp_in.weight", tree["time_mlp_in/kernel"].T),
    ):
        np.testing.assert_allclose(found[name].read().numpy(), array, rtol=1e-6)


# --- GridS ---------------------------------------------------------------------------------------------------------


def with_sampler(source, prefix, width):
    own = {f"model.{prefix}.{name}": tensor for name, tensor in grids_sampler(width=width).items()}
    save_file(load_file(source / "model.safetensors") | own, source / "model.safetensors")
    return grids_sampler(width=width)


def test_the_authors_weights_go_into_smolvla_as_they_are(tmp_path):
    source = save_lerobot(tmp_path / "theirs", "smolvla", model_of("smolvla"))
    weights = with_sampler(source, "token_sampler", 48)
    checkpoint = convert(source, tmp_path / "ours")
    config, sampler = checkpoint.spec.sampler, attached(checkpoint.model).sampler
    assert (config.tokens, config.align_corners, config.border) == (3, False, "zeros")
    assert torch.equal(sampler.coordinate_mlp[0].weight, weights["scout_mlp.0.weight"])
    assert torch.equal(sampler.coordinate_embedding[2].weight, weights["coord_encoder.2.weight"])


@pytest.mark.parametrize(("name", "prefix"), [("pi05", "token_sampler"), ("smolvla", "active_token_sampler")])
def test_a_sampler_of_another_family_is_refused(name, prefix, tmp_path, capsys):
    source = save_lerobot(tmp_path / "theirs", name, model_of(name))
    with_sampler(source, prefix, {"pi05": 32, "smolvla": 48}[name])
    assert "weights of GridS for another family" in refused(capsys, source, tmp_path / "ours")

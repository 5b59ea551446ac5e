"""Small checkpoints of other projects under their true names and layouts, written as those projects write them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PI0Config, PI0ForConditionalGeneration

INSTRUCTION = "lift the red cube"
WORDS = ["<pad>", "<eos>", "<bos>", "<unk>", "\n", *INSTRUCTION.split(), "blue"]
STATISTICS = {
    "observation.state": {"mean": [0.5, 0.0, 0.3, 3.0, 0.1, 0.0, 0.04], "std": [0.1, 0.2, 0.1, 0.5, 0.3, 0.4, 0.03]},
    "action": {"mean": [0.4, 0.0, 0.2, 2.9, 0.0, 0.1, 0.04], "std": [0.2, 0.1, 0.3, 0.4, 0.2, 0.3, 0.03]},
}


def pi0(seed: int = 0) -> PI0ForConditionalGeneration:
    """Transformers' own, dense, at a thousandth of the size; 16 vision heads, as every π0 has."""
    torch.manual_seed(seed)
    gemma = {
        "model_type": "gemma",
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "vocab_size": len(WORDS),
    }
    config = PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": {**gemma, "hidden_size": 32, "intermediate_size": 48},
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": 32,
                "intermediate_size": 40,
                "num_hidden_layers": 2,
                "num_attention_heads": 16,
                "image_size": 24,
                "patch_size": 6,
                "vision_use_head": False,
            },
            "projection_dim": 32,
            "image_token_id": len(WORDS),
        },
        dit_config={**gemma, "hidden_size": 24, "intermediate_size": 36},
        chunk_size=5,
    )
    model = PI0ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases start at zero, where no mistake in them would show
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def openpi_names(model: PI0ForConditionalGeneration) -> dict[str, torch.Tensor]:
    """The same weights as openpi's PyTorch files have them: the tied word embedding under its head's name."""
    theirs = {}
    for name, tensor in model.state_dict().items():
        if name == "model.dit.embed_tokens.weight":
            theirs["paligemma_with_expert.gemma_expert.lm_head.weight"] = tensor
            continue
        if name == "model.vlm.language_model.embed_tokens.weight":
            theirs["paligemma_with_expert.paligemma.lm_head.weight"] = tensor
            continue
        name = name.replace(
            "model.vlm.vision_tower.", "paligemma_with_expert.paligemma.model.vision_tower.vision_model."
        )
        name = name.replace("model.vlm.", "paligemma_with_expert.paligemma.model.")
        name = name.replace("model.dit.", "paligemma_with_expert.gemma_expert.model.")
        theirs[name.replace("embed_action_time.", "")] = tensor
    return {name: tensor.clone() for name, tensor in theirs.items()}


def lerobot_names(model: PI0ForConditionalGeneration) -> dict[str, torch.Tensor]:
    """As lerobot saves them: everything below `model.`, and the embedding under both of its names."""
    theirs = openpi_names(model)
    head = theirs["paligemma_with_expert.paligemma.lm_head.weight"]
    theirs["paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"] = head.clone()
    return {f"model.{name}": tensor for name, tensor in theirs.items()}


def save_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))


def save_lerobot(folder: Path, model: PI0ForConditionalGeneration, mode: str = "MEAN_STD", **changes) -> Path:
    """A fine-tune of lerobot/pi0_base: two cameras, a third that is always empty, seven numbers either way."""
    folder.mkdir(parents=True)
    image, seven = {"type": "VISUAL", "shape": [3, 24, 24]}, {"shape": [7]}
    features = {
        "observation.images.base_0_rgb": image,
        "observation.images.left_wrist_0_rgb": image,
        "observation.images.empty_camera_0": image,
        "observation.state": {"type": "STATE", **seven},
    }
    norm_map = {"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode}
    config = {
        "type": "pi0",
        "input_features": features,
        "output_features": {"action": {"type": "ACTION", **seven}},
        "paligemma_variant": "gemma_2b",
        "action_expert_variant": "gemma_300m",
        "chunk_size": 5,
        "n_action_steps": 5,
        "max_state_dim": 32,
        "max_action_dim": 32,
        "num_inference_steps": 3,
        "min_period": 0.004,
        "max_period": 4.0,
        "use_relative_actions": False,
        "action_feature_names": None,
        "empty_cameras": 1,
        "normalization_mapping": norm_map,
        "tokenizer_max_length": 12,
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    normaliser = {"eps": 1e-8, "features": {**features, **config["output_features"]}, "norm_map": norm_map}
    renaming = {"observation.images.front": "observation.images.base_0_rgb"}
    tokenizing = {"max_length": 12, "padding_side": "right", "tokenizer_name": "google/paligemma-3b-pt-224"}
    save_processor(
        folder,
        "policy_preprocessor",
        [
            ("rename_observations_processor", {"rename_map": renaming}, False),
            ("to_batch_processor", {}, False),
            ("pi0_new_line_processor", {}, False),
            ("tokenizer_processor", tokenizing, False),
            ("device_processor", {"device": "cpu", "float_dtype": None}, False),
            ("relative_actions_processor", {"enabled": False, "exclude_joints": ["gripper"]}, False),
            ("normalizer_processor", normaliser, True),
        ],
    )
    save_processor(
        folder,
        "policy_postprocessor",
        [
            ("unnormalizer_processor", normaliser, True),
            ("absolute_actions_processor", {"enabled": False}, False),
            ("device_processor", {"device": "cpu", "float_dtype": None}, False),
        ],
    )
    save_file(lerobot_names(model), folder / "model.safetensors")
    save_tokenizer(folder)
    return folder


def save_processor(folder: Path, name: str, steps: list[tuple[str, dict, bool]]) -> None:
    """lerobot's pipeline: a JSON of its steps, and beside it the tensors of each that has some."""
    written = []
    for index, (kind, config, keeps) in enumerate(steps):
        step = {"registry_name": kind, "config": config}
        if keeps:
            step["state_file"] = f"{name}_step_{index}_{kind}.safetensors"
            save_file(flat_statistics(), folder / step["state_file"])
        written.append(step)
    (folder / f"{name}.json").write_text(json.dumps({"name": name, "steps": written}))


def flat_statistics() -> dict[str, torch.Tensor]:
    """Every statistic that lerobot keeps of a feature, by `feature.statistic`."""
    result = {}
    for feature, kept in STATISTICS.items():
        mean, std = (torch.tensor(kept[name], dtype=torch.float32) for name in ("mean", "std"))
        for name, value in (("mean", mean), ("std", std), ("min", mean - 2 * std), ("max", mean + 3 * std)):
            result[f"{feature}.{name}"] = value
        for name, offset in (("q01", -1.9), ("q10", -1.2), ("q90", 1.3), ("q99", 2.1)):
            result[f"{feature}.{name}"] = mean + offset * std
    return result


def save_norm_stats(folder: Path, state: int = 7, padded: int = 32) -> None:
    """openpi's statistics, of numbers that were padded before: those of the padding are zero."""

    def numbers(values, size):
        return [*np.resize(values, size).tolist(), *[0.0] * (padded - size)]

    kept = {}
    for theirs, ours, size in (("state", "observation.state", state), ("actions", "action", 7)):
        own = STATISTICS[ours]
        kept[theirs] = {name: numbers(own[name], size) for name in ("mean", "std")} | {"q01": None, "q99": None}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "norm_stats.json").write_text(json.dumps({"norm_stats": kept}))


def save_openpi(folder: Path, model: PI0ForConditionalGeneration, extra: dict[str, torch.Tensor] | None = None) -> Path:
    """What openpi's converter to PyTorch leaves: no prefix, its own config.json, the assets beside."""
    folder.mkdir(parents=True)
    save_file(openpi_names(model) | (extra or {}), folder / "model.safetensors")
    config = {"action_dim": 32, "action_horizon": 5, "paligemma_variant": "gemma_2b", "precision": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    save_norm_stats(folder / "assets" / "physical-intelligence" / "libero")
    save_tokenizer(folder)
    return folder


def grids_sampler(tokens: int = 3, width: int = 32, norm: bool = False, seed: int = 5) -> dict[str, torch.Tensor]:
    """Weights of the GridS authors' sampler, without a prefix."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"scout_mlp.0": (512, width), "scout_mlp.2": (2 * tokens, 512)}
    sizes |= {"coord_encoder.0": (256, 2), "coord_encoder.2": (width, 256)}
    weights = {}
    for name, (rows, columns) in sizes.items():
        weights[f"{name}.weight"] = torch.randn(rows, columns, generator=generator) / columns**0.5
        weights[f"{name}.bias"] = torch.randn(rows, generator=generator)
    if norm:
        weights |= {"input_norm.weight": torch.ones(width) * 1.1, "input_norm.bias": torch.ones(width) * 0.1}
    return weights


def jax_tree(model: PI0ForConditionalGeneration, sampler: dict[str, torch.Tensor] | None = None) -> dict:
    """The same weights as openpi's JAX model has them: its names, its axes, its layers stacked."""
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}

    def stack(pattern, move):
        rows = sorted(
            (n for n in weights if re.fullmatch(pattern, n)), key=lambda n: int(re.search(r"\.(\d+)\.", n)[1])
        )
        return np.stack([move(weights[name]) for name in rows])

    def gemma(prefix, suffix, heads, head_dim):
        row = re.escape(prefix) + r"layers\.\d+\."

        def pair(first, second, move):
            return np.stack([stack(row + first, move), stack(row + second, move)], axis=1)

        def split(w):
            return w.reshape(heads, head_dim, -1)

        keys_values = pair(r"self_attn\.k_proj\.weight", r"self_attn\.v_proj\.weight", lambda w: w.T[None])
        return {
            f"attn/q_einsum{suffix}/w": stack(
                row + r"self_attn\.q_proj\.weight", lambda w: split(w).transpose(0, 2, 1)
            ),
            f"attn/kv_einsum{suffix}/w": keys_values,
            f"attn/attn_vec_einsum{suffix}/w": stack(row + r"self_attn\.o_proj\.weight", lambda w: split(w.T)),
            f"mlp{suffix}/gating_einsum": pair(r"mlp\.gate_proj\.weight", r"mlp\.up_proj\.weight", np.transpose),
            f"mlp{suffix}/linear": stack(row + r"mlp\.down_proj\.weight", np.transpose),
            f"pre_attention_norm{suffix}/scale": stack(row + r"input_layernorm\.weight", np.array),
            f"pre_ffw_norm{suffix}/scale": stack(row + r"post_attention_layernorm\.weight", np.array),
        }

    flat = {}
    for prefix, suffix in (("model.vlm.language_model.", ""), ("model.dit.", "_1")):
        flat |= {f"PaliGemma/llm/layers/{n}": a for n, a in gemma(prefix, suffix, 2, 16).items()}
        flat[f"PaliGemma/llm/final_norm{suffix}/scale"] = weights[f"{prefix}norm.weight"]
    flat["PaliGemma/llm/embedder/input_embedding"] = weights["model.vlm.language_model.embed_tokens.weight"]
    tower, row = "model.vlm.vision_tower.", r"model\.vlm\.vision_tower\.encoder\.layers\.\d+\."
    block, attention = "PaliGemma/img/Transformer/encoderblock/", "MultiHeadDotProductAttention_0"
    for name, short in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        kernels = stack(rf"{row}self_attn\.{short}\.weight", lambda w: w.T.reshape(32, 16, 2))
        biases = stack(rf"{row}self_attn\.{short}\.bias", lambda b: b.reshape(16, 2))
        flat |= {f"{block}{attention}/{name}/kernel": kernels, f"{block}{attention}/{name}/bias": biases}
    flat[f"{block}{attention}/out/kernel"] = stack(
        rf"{row}self_attn\.out_proj\.weight", lambda w: w.T.reshape(16, 2, 32)
    )
    flat[f"{block}{attention}/out/bias"] = stack(rf"{row}self_attn\.out_proj\.bias", np.array)
    for i in (0, 1):
        flat[f"{block}LayerNorm_{i}/scale"] = stack(rf"{row}layer_norm{i + 1}\.weight", np.array)
        flat[f"{block}LayerNorm_{i}/bias"] = stack(rf"{row}layer_norm{i + 1}\.bias", np.array)
        flat[f"{block}MlpBlock_0/Dense_{i}/kernel"] = stack(rf"{row}mlp\.fc{i + 1}\.weight", np.transpose)
        flat[f"{block}MlpBlock_0/Dense_{i}/bias"] = stack(rf"{row}mlp\.fc{i + 1}\.bias", np.array)
    embedding = weights[f"{tower}embeddings.patch_embedding.weight"]
    flat["PaliGemma/img/embedding/kernel"] = embedding.transpose(2, 3, 1, 0)
    flat["PaliGemma/img/embedding/bias"] = weights[f"{tower}embeddings.patch_embedding.bias"]
    flat["PaliGemma/img/pos_embedding"] = weights[f"{tower}embeddings.position_embedding.weight"][None]
    flat["PaliGemma/img/Transformer/encoder_norm/scale"] = weights[f"{tower}post_layernorm.weight"]
    flat["PaliGemma/img/Transformer/encoder_norm/bias"] = weights[f"{tower}post_layernorm.bias"]
    flat["PaliGemma/img/head/kernel"] = weights["model.vlm.multi_modal_projector.linear.weight"].T
    flat["PaliGemma/img/head/bias"] = weights["model.vlm.multi_modal_projector.linear.bias"]
    for name in ("state_proj", "action_in_proj", "action_time_mlp_in", "action_time_mlp_out", "action_out_proj"):
        ours = name if name == "action_out_proj" else f"embed_action_time.{name}"
        flat |= {f"{name}/kernel": weights[f"{ours}.weight"].T, f"{name}/bias": weights[f"{ours}.bias"]}
    for name, tensor in (sampler or {}).items():
        module, *index, kind = name.split(".")
        place = f"action_active_sampler/{module}" + "".join(f"/layers_{i}" for i in index)
        if module == "input_norm":
            flat[f"{place}/{'scale' if kind == 'weight' else 'bias'}"] = tensor.numpy()
        else:
            flat[f"{place}/{'kernel' if kind == 'weight' else 'bias'}"] = tensor.numpy().T
    return flat


def nested(flat: dict[str, np.ndarray], leaf: str | None = None) -> dict:
    """The tree that these names describe; `leaf` is put below each, as nnx does in training."""
    tree: dict = {}
    for name, array in flat.items():
        *path, last = [*name.split("/"), *([leaf] if leaf else [])]
        branch = tree
        for key in path:
            branch = branch.setdefault(key, {})
        branch[last] = np.ascontiguousarray(array)
    return tree

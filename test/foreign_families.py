"""Small checkpoints of lerobot's π0.5 and SmolVLA, under their true names and layouts."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from families import Pi05Config, SmolVLAConfig, pi05_values, restless, smolvla_values
from foreign import WORDS, save_processor, save_tokenizer
from safetensors.torch import save_file

from grids_ros.policy.backbone import backbone_of

IMAGE = {"type": "VISUAL", "shape": [3, 32, 32]}


def model_of(name: str, every: int = 2):
    """A tiny model whose sizes `convert` can tell from shapes: heads as wide as the published ones."""
    torch.manual_seed(0)
    if name == "pi05":
        values = pi05_values(len(WORDS))
        values["vlm_config"]["vision_config"]["num_attention_heads"] = 16
    else:
        values = smolvla_values(len(WORDS), every)
        for part in (values["vlm_config"]["text_config"], values["dit_config"]):
            part["head_dim"] = 64
        values["vlm_config"]["vision_config"] |= {"hidden_size": 64, "num_attention_heads": 1}
    del values["model_type"]
    config = {"pi05": Pi05Config, "smolvla": SmolVLAConfig}[name](**values)
    return restless(backbone_of(name).build(config, None).eval())


def their_names(name: str, model) -> dict[str, torch.Tensor]:
    """As lerobot saves them."""
    changes = {
        "pi05": (
            ("model.vlm.vision_tower.", "paligemma_with_expert.paligemma.model.vision_tower.vision_model."),
            ("model.vlm.", "paligemma_with_expert.paligemma.model."),
            ("model.dit.", "paligemma_with_expert.gemma_expert.model."),
        ),
        "smolvla": (
            ("model.vlm.", "vlm_with_expert.vlm.model."),
            ("model.dit.", "vlm_with_expert.lm_expert."),
            ("embed_action_time.", ""),
        ),
    }[name]
    theirs = {}
    for own, tensor in model.state_dict().items():
        for before, after in changes:
            own = own.replace(before, after) if own.startswith(before) else own
        theirs[f"model.{own}"] = tensor.clone()
    return theirs


def save_lerobot(folder: Path, name: str, model, **changes) -> Path:
    """A folder of lerobot 0.4; with use_relative_actions=False of a later one."""
    folder.mkdir()
    features = {"observation.images.front": IMAGE, "observation.state": {"type": "STATE", "shape": [7]}}
    action = {"action": {"type": "ACTION", "shape": [7]}}
    mode = "QUANTILES" if name == "pi05" else "MEAN_STD"
    own = {"resize_imgs_with_padding": [32, 32], "num_steps": 4, "num_vlm_layers": 4} if name == "smolvla" else {}
    config = {
        "type": name,
        "input_features": features,
        "output_features": action,
        "chunk_size": 6,
        "max_state_dim": 12,
        **own,
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    norm_map = {"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode}
    step = {"eps": 1e-8, "features": {**features, **action}, "norm_map": norm_map}
    text = {"max_length": 200 if name == "pi05" else 48, "tokenizer_name": "theirs"}
    steps = [("smolvla_new_line_processor", {}, False), ("normalizer_processor", step, True)]
    if name == "pi05":
        steps = [("normalizer_processor", step, True), ("pi05_prepare_state_tokenizer_processor_step", {}, False)]
    save_processor(folder, "policy_preprocessor", [*steps, ("tokenizer_processor", text, False)])
    save_processor(folder, "policy_postprocessor", [("unnormalizer_processor", step, True)])
    save_file(their_names(name, model), folder / "model.safetensors")
    save_tokenizer(folder)
    return folder

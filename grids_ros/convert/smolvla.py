"""From lerobot's names of SmolVLA to those here; sizes from the shapes, and from config.json what they do not tell.

Source: lerobot `policies/smolvla/{modeling_smolvla,smolvlm_with_expert,configuration_smolvla}.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from grids_ros.convert.foreign import ConversionError, ForeignCheckpoint
from grids_ros.convert.names import Family, counted, shape_of
from grids_ros.policy.backbones.smolvla import SmolVLAConfig
from grids_ros.policy.weights import LazyTensor

HEAD = 64  # width of a head in every SmolVLM2, of 256M and 500M in the vision encoder too: no shape tells
ROPE_BASE = 10_000.0  # written into lerobot's code, whatever the language model was trained with


def self_attention_every(config: dict) -> int:
    """Of the fields of lerobot's config.json. Raises ConversionError for what has no counterpart here."""
    layers, own = config.get("num_vlm_layers", 16), config.get("num_expert_layers", -1)
    if own > 0 and own != layers:
        raise ConversionError(f"config.json: num_expert_layers is {own}, expected as many as num_vlm_layers, {layers}")
    if config.get("attention_mode", "cross_attn") == "self_attn":
        return 1
    return max(0, config.get("self_attn_every_n_layers", 2))


def config_of(tensors: Mapping[str, LazyTensor], foreign: ForeignCheckpoint) -> SmolVLAConfig:
    """The sizes that these shapes, by the names here, speak of. Raises ConversionError when one is missing."""
    vision, text, expert = "model.vlm.vision_model", "model.vlm.text_model", "model.dit"

    def shape(name: str) -> tuple[int, ...]:
        return shape_of(tensors, name)

    def llama(prefix: str) -> dict:
        queries, width = shape(f"{prefix}.layers.0.self_attn.q_proj.weight")
        return {
            "model_type": "llama",
            "hidden_size": width,
            "intermediate_size": shape(f"{prefix}.layers.0.mlp.gate_proj.weight")[0],
            "num_hidden_layers": counted(tensors, prefix),
            "num_attention_heads": queries // HEAD,
            "num_key_value_heads": shape(f"{prefix}.layers.0.self_attn.k_proj.weight")[0] // HEAD,
            "head_dim": HEAD,
            "vocab_size": words,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_BASE},
        }

    words, _ = shape(f"{text}.embed_tokens.weight")
    channels, _, patch, _ = shape(f"{vision}.embeddings.patch_embedding.weight")
    cells, _ = shape(f"{vision}.embeddings.position_embedding.weight")
    shuffled = shape("model.vlm.connector.modality_projection.proj.weight")[1]
    return SmolVLAConfig(
        vlm_config={
            "model_type": "smolvlm",
            "text_config": llama(text),
            "vision_config": {
                "hidden_size": channels,
                "intermediate_size": shape(f"{vision}.encoder.layers.0.mlp.fc1.weight")[0],
                "num_hidden_layers": counted(tensors, f"{vision}.encoder"),
                "num_attention_heads": 16 if channels == 1152 else channels // HEAD,  # SmolVLM2-2.2B has SigLIP So400m
                "image_size": patch * round(cells**0.5),
                "patch_size": patch,
            },
            "scale_factor": round((shuffled // channels) ** 0.5),
            "image_token_id": words,  # no word: the id after the last
        },
        dit_config=llama(expert),
        chunk_size=foreign.chunk,
        max_state_dim=shape("state_proj.weight")[1],
        max_action_dim=shape("embed_action_time.action_in_proj.weight")[1],
        num_inference_steps=foreign.denoising_steps,
        self_attention_every=foreign.self_attention_every,
        min_period=foreign.periods[0],
        max_period=foreign.periods[1],
    )


SMOLVLA = Family(
    "SmolVLA",
    (
        (re.compile(r"vlm_with_expert\.vlm\.model\.(.+)"), r"model.vlm.\1"),
        (re.compile(r"vlm_with_expert\.lm_expert\.(.+)"), r"model.dit.\1"),
        (re.compile(r"(action_in_proj|action_time_mlp_in|action_time_mlp_out)\.(.+)"), r"embed_action_time.\1.\2"),
        (re.compile(r"((?:state_proj|action_out_proj)\..+)"), r"\1"),
    ),
    ("vlm_with_expert.vlm.lm_head.weight", "vlm_with_expert.lm_expert.embed_tokens.weight"),
    {},
    "vlm_with_expert.vlm.model.*, vlm_with_expert.lm_expert.*, state_proj.*, action_in_proj.*, action_out_proj.*, "
    "action_time_mlp_in.*, action_time_mlp_out.*",
    config_of,
    ("token_sampler",),
)

"""config.json of the models on PaliGemma, π0 and π0.5: the keys that they need, and no others.

transformers takes more from a configuration, names of code among it (`attn_implementation`, `auto_map`).
"""

from __future__ import annotations

from grids_ros.policy.schema import Choice, Integer, Object, Real, Rule

_WIDTH, _DEPTH, _ID = Integer(1, 2**16), Integer(1, 256), Integer(0, 2**22)
DECODER: dict[str, Rule] = {  # the sizes of a decoder, of any family
    "vocab_size": Integer(1, 2**22),
    "hidden_size": _WIDTH,
    "intermediate_size": Integer(1, 2**18),
    "num_hidden_layers": _DEPTH,
    "num_attention_heads": Integer(1, 256),
    "num_key_value_heads": Integer(1, 256),
    "head_dim": Integer(1, 1024),
}
_GEMMA = Object(
    {
        "model_type": Choice(("gemma",)),
        **DECODER,
        "hidden_act": Choice(("gelu_pytorch_tanh",)),
        "rms_norm_eps": Real(1e-12, 1e-2),
        "rope_parameters": Object({"rope_theta": Real(1.0, 1e9), "rope_type": Choice(("default",))}),
        "attention_bias": Choice((False,)),
        "pad_token_id": _ID,
    },
    defaults={
        "hidden_act": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_theta": 10_000.0, "rope_type": "default"},
        "attention_bias": False,
        "pad_token_id": 0,
    },
    others=True,
)
_SIGLIP = Object(
    {
        "model_type": Choice(("siglip_vision_model",)),
        "hidden_size": _WIDTH,
        "intermediate_size": Integer(1, 2**18),
        "num_hidden_layers": _DEPTH,
        "num_attention_heads": Integer(1, 256),
        "num_channels": Choice((3,)),
        "image_size": Integer(8, 4096),
        "patch_size": Integer(1, 256),
        "hidden_act": Choice(("gelu_pytorch_tanh",)),
        "layer_norm_eps": Real(1e-12, 1e-2),
        "vision_use_head": Choice((False,)),
    },
    defaults={
        "num_channels": 3,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "vision_use_head": False,
    },
    others=True,
)
FIELDS: dict[str, Rule] = {
    "vlm_config": Object(
        {
            "model_type": Choice(("paligemma",)),
            "text_config": _GEMMA,
            "vision_config": _SIGLIP,
            "projection_dim": _WIDTH,
            "image_token_index": _ID,
        },
        others=True,
    ),
    "dit_config": _GEMMA,
    "chunk_size": Integer(1, 4096),
    "max_state_dim": Integer(1, 4096),
    "max_action_dim": Integer(1, 4096),
    "num_inference_steps": Integer(1, 1000),
    "time_sampling_beta_alpha": Real(1e-3, 100.0),
    "time_sampling_beta_beta": Real(1e-3, 100.0),
    "time_sampling_scale": Real(0.0, 1.0),
    "time_sampling_offset": Real(0.0, 1.0),
    "min_period": Real(1e-9, 1e6),
    "max_period": Real(1e-9, 1e6),
    "loss_reduction": Choice(("none",)),
}
DEFAULTS = {
    "num_inference_steps": 10,
    "time_sampling_beta_alpha": 1.5,
    "time_sampling_beta_beta": 1.0,
    "time_sampling_scale": 0.999,
    "time_sampling_offset": 0.001,
    "min_period": 4e-3,
    "max_period": 4.0,
    "loss_reduction": "none",
}


def schema(model_type: str) -> Object:
    """Of the whole file."""
    return Object({"model_type": Choice((model_type,)), **FIELDS}, DEFAULTS, others=True)


def checked(model_type: str, values: dict) -> dict:
    """What a configuration of transformers takes. Raises ValueError that names the key which is not valid."""
    vlm = values.get("vlm_config")
    if isinstance(vlm, dict) and "image_token_id" in vlm and "image_token_index" not in vlm:  # its other name
        values = {**values, "vlm_config": {**vlm, "image_token_index": vlm["image_token_id"]}}
    values = schema(model_type).check("", values)
    vlm = values["vlm_config"]
    if vlm["image_token_index"] < vlm["text_config"]["vocab_size"]:
        raise ValueError("vlm_config.image_token_index is a word's, expected an id after the vocabulary's last")
    if not values["min_period"] < values["max_period"]:
        raise ValueError(f"min_period is {values['min_period']:g}, expected less than max_period")
    if vlm["vision_config"]["hidden_size"] % vlm["vision_config"]["num_attention_heads"]:
        raise ValueError("vlm_config.vision_config.num_attention_heads does not divide its hidden_size")
    return {name: value for name, value in values.items() if name != "model_type"}

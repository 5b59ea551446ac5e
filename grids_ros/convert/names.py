"""From openpi's PyTorch names, which lerobot shares, to those of transformers' PI0; sizes from the shapes.

Sources: lerobot `policies/pi0/modeling_pi0.py`, openpi `models_pytorch/gemma_pytorch.py`, transformers
`conversion_mapping.py` ("pi0"). The word embedding is tied to a head that nothing uses, and files have it under one of
the two names or both: lerobot/pi0_base has only the head. The expert's own head is never used at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from transformers import PI0Config

from grids_ros.convert.found import ConversionError, Found
from grids_ros.policy.weights import Lazy

PALIGEMMA, EXPERT = "paligemma_with_expert.paligemma.", "paligemma_with_expert.gemma_expert."
EMBEDDING, HEAD = f"{PALIGEMMA}model.language_model.embed_tokens.weight", f"{PALIGEMMA}lm_head.weight"
UNUSED = (f"{EXPERT}lm_head.weight", f"{EXPERT}model.embed_tokens.weight")
RULES = (
    (re.compile(rf"{re.escape(PALIGEMMA)}model\.vision_tower\.(?:vision_model\.)?(.+)"), r"model.vlm.vision_tower.\1"),
    (re.compile(rf"{re.escape(PALIGEMMA)}model\.(language_model|multi_modal_projector)\.(.+)"), r"model.vlm.\1.\2"),
    (re.compile(rf"{re.escape(EXPERT)}model\.(.+)"), r"model.dit.\1"),
    (
        re.compile(r"(state_proj|action_in_proj|action_time_mlp_in|action_time_mlp_out)\.(.+)"),
        r"embed_action_time.\1.\2",
    ),
    (re.compile(r"(action_out_proj\..+)"), r"\1"),
)
VISION_HEADS = 16  # of SigLIP So400m: the one size that no shape tells


def plain(tensors: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """Without the `model.` that lerobot puts before every name."""
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def translate(tensors: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """By transformers' names. Raises ConversionError for another architecture, or names that are in none."""
    refuse_others(tensors)
    tensors = {name: tensor for name, tensor in tensors.items() if name not in UNUSED}
    head = tensors.pop(HEAD, None)
    if head is not None:
        tensors.setdefault(EMBEDDING, head)
    result, strange = {}, []
    for name, tensor in tensors.items():
        for pattern, replacement in RULES:
            if match := pattern.fullmatch(name):
                result[match.expand(replacement)] = tensor
                break
        else:
            strange.append(name)
    if strange:
        raise ConversionError(
            f"{len(strange)} tensors have names that π0 has not, among them {', '.join(sorted(strange)[:3])}; "
            f"expected {PALIGEMMA}*, {EXPERT}*, state_proj.*, action_in_proj.*, action_out_proj.*, "
            "action_time_mlp_in.*, action_time_mlp_out.*"
        )
    return result


def refuse_others(tensors: Mapping[str, Lazy]) -> None:
    """Raises ConversionError for what looks like π0 and is not."""
    for part, what in (
        ("normalize_inputs.", "lerobot's layout before 0.4: bring it up to date with lerobot's own migration script"),
        (".dense.", "π0.5 (its norms depend on time); only π0 is supported"),
        ("time_mlp_in.", "π0.5 (it has no state projection); only π0 is supported"),
        ("lora", "a LoRA that is not merged into its base: merge it before"),
    ):
        if named := [name for name in tensors if part in name and "action_time_mlp" not in name]:
            raise ConversionError(f"{named[0]} is of {what}")


def config_of(tensors: Mapping[str, Lazy], found: Found) -> PI0Config:
    """The sizes that these shapes, by transformers' names, speak of. Raises ConversionError when one is missing."""
    vision, text, expert = "model.vlm.vision_tower.encoder", "model.vlm.language_model", "model.dit"

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise ConversionError(f"tensor {name} (of transformers' π0) is missing: there are {len(tensors)} others")
        return tensors[name].shape

    def layers(prefix: str) -> int:
        rows = [re.match(re.escape(prefix) + r"\.layers\.(\d+)\.", name) for name in tensors]
        return 1 + max((int(row[1]) for row in rows if row), default=-1)

    def gemma(prefix: str) -> dict:
        queries, width = shape(f"{prefix}.layers.0.self_attn.q_proj.weight")
        head = shape(f"{prefix}.layers.0.self_attn.k_proj.weight")[0]  # both of π0's Gemmas have one K/V head
        return {
            "model_type": "gemma",
            "hidden_size": width,
            "intermediate_size": shape(f"{prefix}.layers.0.mlp.gate_proj.weight")[0],
            "num_hidden_layers": layers(prefix),
            "num_attention_heads": queries // head,
            "num_key_value_heads": 1,
            "head_dim": head,
            "vocab_size": words,
        }

    words, width = shape("model.vlm.language_model.embed_tokens.weight")
    channels, _, patch, _ = shape("model.vlm.vision_tower.embeddings.patch_embedding.weight")
    cells, _ = shape("model.vlm.vision_tower.embeddings.position_embedding.weight")
    return PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": gemma(text),
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": channels,
                "intermediate_size": shape(f"{vision}.layers.0.mlp.fc1.weight")[0],
                "num_hidden_layers": layers(vision),
                "num_attention_heads": VISION_HEADS,
                "image_size": patch * round(cells**0.5),
                "patch_size": patch,
                "vision_use_head": False,
            },
            "projection_dim": width,
            "image_token_id": words,  # no word: the id after the last
        },
        dit_config=gemma(expert),
        chunk_size=found.chunk,
        max_state_dim=shape("embed_action_time.state_proj.weight")[1],
        max_action_dim=shape("embed_action_time.action_in_proj.weight")[1],
        num_inference_steps=found.denoising_steps,
        min_period=found.periods[0],
        max_period=found.periods[1],
        loss_reduction="none",
    )


def complete(tensors: Mapping[str, Lazy], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ConversionError unless these are exactly the tensors of the model: its names, and the shapes."""
    for what, names in (("lacks", set(shapes) - set(tensors)), ("has unknown", set(tensors) - set(shapes))):
        if names:
            listed = ", ".join(sorted(names)[:5])
            raise ConversionError(f"the checkpoint {what} {len(names)} tensors, by transformers' names: {listed}")
    for name, tensor in tensors.items():
        if tensor.shape != tuple(shapes[name]):
            raise ConversionError(f"{name} has shape {tensor.shape}, expected {tuple(shapes[name])}")

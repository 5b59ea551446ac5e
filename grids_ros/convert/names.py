"""From openpi's PyTorch names of π0 and π0.5, which lerobot shares, to those here; sizes from the shapes.

Sources: lerobot `policies/{pi0,pi05}/modeling_*.py`, openpi `models_pytorch/{pi0_pytorch,gemma_pytorch}.py`,
transformers `conversion_mapping.py` ("pi0"). The word embedding is tied to a head that nothing uses, and files have it
under one of the two names or both: lerobot/pi0_base has only the head. The expert's own head is never used at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from transformers import PI0Config, PretrainedConfig

from grids_ros.convert.foreign import ConversionError, ForeignCheckpoint
from grids_ros.policy.backbones.pi05 import Pi05Config
from grids_ros.policy.weights import LazyTensor

PALIGEMMA, EXPERT = "paligemma_with_expert.paligemma.", "paligemma_with_expert.gemma_expert."
EMBEDDING, HEAD = f"{PALIGEMMA}model.language_model.embed_tokens.weight", f"{PALIGEMMA}lm_head.weight"
UNUSED = (f"{EXPERT}lm_head.weight", f"{EXPERT}model.embed_tokens.weight")
Rule = tuple[re.Pattern, str]
_TOWERS: tuple[Rule, ...] = (
    (re.compile(rf"{re.escape(PALIGEMMA)}model\.vision_tower\.(?:vision_model\.)?(.+)"), r"model.vlm.vision_tower.\1"),
    (re.compile(rf"{re.escape(PALIGEMMA)}model\.(language_model|multi_modal_projector)\.(.+)"), r"model.vlm.\1.\2"),
    (re.compile(rf"{re.escape(EXPERT)}model\.(.+)"), r"model.dit.\1"),
)
_PI0: tuple[Rule, ...] = (
    (
        re.compile(r"(state_proj|action_in_proj|action_time_mlp_in|action_time_mlp_out)\.(.+)"),
        r"embed_action_time.\1.\2",
    ),
    (re.compile(r"(action_out_proj\..+)"), r"\1"),
)
_PI05: tuple[Rule, ...] = ((re.compile(r"((?:action_in_proj|action_out_proj|time_mlp_in|time_mlp_out)\..+)"), r"\1"),)
VISION_HEADS = 16  # of SigLIP So400m: the one size that no shape tells


@dataclass(frozen=True)
class Family:
    """One family's names.

    title: for people. rules: names there to names here. unused: tensors that reach no action. same: a name there whose
    tensor may stand under another one. expected: the names there, for errors. config_of: of tensors by the names here.
    samplers: prefixes of the GridS weights that its authors publish for it.
    """

    title: str
    rules: tuple[Rule, ...]
    unused: tuple[str, ...]
    same: Mapping[str, str]
    expected: str
    config_of: Callable[[Mapping[str, LazyTensor], ForeignCheckpoint], PretrainedConfig]
    samplers: tuple[str, ...]


def plain(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Without the `model.` that lerobot puts before every name."""
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def translate(tensors: Mapping[str, LazyTensor], family: Family) -> dict[str, LazyTensor]:
    """By the names here. Raises ConversionError for names that the family has not."""
    refuse_others(tensors)
    tensors = {name: tensor for name, tensor in tensors.items() if name not in family.unused}
    for name, meant in family.same.items():
        if name in tensors:
            tensors.setdefault(meant, tensors[name])
            del tensors[name]
    result, strange = {}, []
    for name, tensor in tensors.items():
        for pattern, replacement in family.rules:
            if match := pattern.fullmatch(name):
                result[match.expand(replacement)] = tensor
                break
        else:
            strange.append(name)
    if strange:
        raise ConversionError(
            f"{len(strange)} tensors have names that {family.title} has not, among them "
            f"{', '.join(sorted(strange)[:3])}; expected {family.expected}"
        )
    return result


def refuse_others(tensors: Mapping[str, LazyTensor]) -> None:
    """Raises ConversionError for what looks like a policy and is none that can be run."""
    for part, what in (
        ("normalize_inputs.", "lerobot's layout before 0.4: bring it up to date with lerobot's own migration script"),
        ("lora", "a LoRA that is not merged into its base: merge it before"),
    ):
        if named := [name for name in tensors if part in name]:
            raise ConversionError(f"{named[0]} is of {what}")


def counted(tensors: Mapping[str, LazyTensor], prefix: str) -> int:
    """How many layers there are below a name."""
    rows = [re.match(re.escape(prefix) + r"\.layers\.(\d+)\.", name) for name in tensors]
    return 1 + max((int(row[1]) for row in rows if row), default=-1)


def shape_of(tensors: Mapping[str, LazyTensor], name: str) -> tuple[int, ...]:
    """Raises ConversionError for a tensor that is not there."""
    if name not in tensors:
        raise ConversionError(f"tensor {name} (by the names here) is missing: there are {len(tensors)} others")
    return tensors[name].shape


def config_of(tensors: Mapping[str, LazyTensor], foreign: ForeignCheckpoint) -> PI0Config:
    """The sizes that these shapes, by the names here, speak of. Raises ConversionError when one is missing."""
    vision, text, expert = "model.vlm.vision_tower.encoder", "model.vlm.language_model", "model.dit"

    def shape(name: str) -> tuple[int, ...]:
        return shape_of(tensors, name)

    def gemma(prefix: str) -> dict:
        queries, width = shape(f"{prefix}.layers.0.self_attn.q_proj.weight")
        head = shape(f"{prefix}.layers.0.self_attn.k_proj.weight")[0]  # both Gemmas have one K/V head
        return {
            "model_type": "gemma",
            "hidden_size": width,
            "intermediate_size": shape(f"{prefix}.layers.0.mlp.gate_proj.weight")[0],
            "num_hidden_layers": counted(tensors, prefix),
            "num_attention_heads": queries // head,
            "num_key_value_heads": 1,
            "head_dim": head,
            "vocab_size": words,
        }

    words, width = shape("model.vlm.language_model.embed_tokens.weight")
    channels, _, patch, _ = shape("model.vlm.vision_tower.embeddings.patch_embedding.weight")
    cells, _ = shape("model.vlm.vision_tower.embeddings.position_embedding.weight")
    is_pi05 = foreign.family == "pi05"
    actions = shape("action_in_proj.weight" if is_pi05 else "embed_action_time.action_in_proj.weight")[1]
    return (Pi05Config if is_pi05 else PI0Config)(
        vlm_config={
            "model_type": "paligemma",
            "text_config": gemma(text),
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": channels,
                "intermediate_size": shape(f"{vision}.layers.0.mlp.fc1.weight")[0],
                "num_hidden_layers": counted(tensors, vision),
                "num_attention_heads": VISION_HEADS,
                "image_size": patch * round(cells**0.5),
                "patch_size": patch,
                "vision_use_head": False,
            },
            "projection_dim": width,
            "image_token_id": words,  # no word: the id after the last
        },
        dit_config=gemma(expert),
        chunk_size=foreign.chunk,
        max_state_dim=actions if is_pi05 else shape("embed_action_time.state_proj.weight")[1],
        max_action_dim=actions,
        num_inference_steps=foreign.denoising_steps,
        min_period=foreign.periods[0],
        max_period=foreign.periods[1],
        loss_reduction="none",
    )


def complete(tensors: Mapping[str, LazyTensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ConversionError unless these are exactly the tensors of the model: its names, and the shapes."""
    for what, names in (("lacks", set(shapes) - set(tensors)), ("has unknown", set(tensors) - set(shapes))):
        if names:
            listed = ", ".join(sorted(names)[:5])
            raise ConversionError(f"the checkpoint {what} {len(names)} tensors, by transformers' names: {listed}")
    for name, tensor in tensors.items():
        if tensor.shape != tuple(shapes[name]):
            raise ConversionError(f"{name} has shape {tensor.shape}, expected {tuple(shapes[name])}")


_SAME = {HEAD: EMBEDDING}
PI0 = Family(
    "π0",
    _TOWERS + _PI0,
    UNUSED,
    _SAME,
    f"{PALIGEMMA}*, {EXPERT}*, state_proj.*, action_in_proj.*, action_out_proj.*, action_time_mlp_in.*, "
    "action_time_mlp_out.*",
    config_of,
    ("active_token_sampler", "token_sampler"),
)
PI05 = Family(
    "π0.5",
    _TOWERS + _PI05,
    UNUSED,
    _SAME,
    f"{PALIGEMMA}*, {EXPERT}* with *.dense.*, action_in_proj.*, action_out_proj.*, time_mlp_in.*, time_mlp_out.*",
    config_of,
    ("active_token_sampler",),
)


def is_pi05(tensors: Mapping[str, LazyTensor]) -> bool:
    """Whether openpi's tensors are of π0.5: its time has layers of its own."""
    return any(name.removeprefix("model.").startswith("time_mlp_in.") for name in tensors)

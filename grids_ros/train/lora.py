"""Updates of low rank in place of the weights (LoRA, arXiv 2106.09685), by peft.

They are merged into the weights when a policy is saved, and saved beside it as an adapter that peft loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor
from transformers import PreTrainedModel

from grids_ros.policy.backbone import backbone_of
from grids_ros.policy.grids import attached
from grids_ros.policy.weights import LazyTensor, write

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAPTER = "adapter"  # folder beside the policy
DOWN, UP, BASE = "lora_A.default", "lora_B.default", "base_layer"
_PREFIX = "base_model.model."  # of names in an adapter's file


def projections(model: PreTrainedModel) -> list[str]:
    """The names of the layers that are updated: each projection of the language model and the expert."""
    _, *towers = backbone_of(model.config.model_type).TOWERS
    return [n for n, _ in model.named_modules() if n.startswith(tuple(towers)) and n.rpartition(".")[2] in PROJECTIONS]


def settings(model: PreTrainedModel, rank: int) -> LoraConfig:
    """Of updates W x + up (down x), at first W x, for up is zero. Raises ValueError for a rank below 1."""
    if rank < 1:
        raise ValueError(f"rank is {rank}, expected at least 1")
    saved = [f"{backbone_of(model.config.model_type).PROJECTOR}.sampler"] if attached(model) else None
    return LoraConfig(r=rank, lora_alpha=rank, target_modules=projections(model), modules_to_save=saved)


def inject(model: PreTrainedModel, rank: int) -> LoraConfig:
    """Put updates of this rank beside the projections, in place; nothing else of the model trains then.

    The sampler is named in the settings and stays as it is: it trains with all its weights.
    """
    config = settings(model, rank)
    model.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=config.target_modules), model)
    return config


def original_name(name: str) -> str:
    """The name that a tensor had before the updates were put in."""
    return name.replace(f".{BASE}.", ".")


def is_update(name: str) -> bool:
    """Whether a tensor is of an update."""
    return f".{DOWN}." in name or f".{UP}." in name


def merged(name: str, weight: Tensor, updates: Mapping[str, LazyTensor]) -> Tensor:
    """The weight `name`, as it is called now, plus its update, where there is one."""
    down, up = (updates.get(name.replace(f".{BASE}.", f".{part}.")) for part in (DOWN, UP))
    if down is None or up is None:
        return weight
    return weight + up.read() @ down.read()


def save_adapter(folder: Path, config: LoraConfig, base: str, tensors: Mapping[str, LazyTensor]) -> None:
    """The updates and the sampler, as `peft.PeftModel.from_pretrained` loads them onto the policy with a GridS.

    base: name of the policy that it goes onto. tensors: of updates and sampler, by their names in the model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    named = {_PREFIX + name.replace(".default.", "."): tensor for name, tensor in tensors.items()}
    write(folder / "adapter_model.safetensors", named)
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(str(folder))

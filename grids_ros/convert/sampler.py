"""GridS weights of others. The published implementations disagree, so each name belongs to one meaning.

Sources, all in Fediory/Grid-Sampler: `core_idea/grid_{jax,pytorch,new}.py` and openpi's `models/grid.py` for
`active_token_sampler`; `lerobot/src/lerobot/policies/{active_token_sampler,pi0/modeling_pi0}.py` for `token_sampler`.
In that fork's π0, transformers 4.50 divides PaliGemma's image features by the root of their width, and the policy
multiplies them afterwards; the sampler stands in between. So the map that it sees is smaller than ours, and what it
adds is made larger: a factor that moves into the weights. SmolVLA multiplies after the sampler here as it does there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from grids_ros.convert.foreign import ConversionError
from grids_ros.policy.backbone import Backbone
from grids_ros.policy.weights import LazyTensor
from grids_ros.sampler import SamplerConfig


@dataclass(frozen=True)
class Variant:
    """What a prefix of names means. before_scaling: it sees the map divided by the root of its width."""

    of: str
    align_corners: bool
    border: str
    before_scaling: bool


VARIANTS = {
    "active_token_sampler": Variant("the GridS authors' JAX and PyTorch", True, "replicate", False),
    "token_sampler": Variant("the GridS authors' LeRobot fork", False, "zeros", True),
}
NAMES = {"scout_mlp": "coordinate_mlp", "coord_encoder": "coordinate_embedding", "input_norm": "input_norm"}


def split(tensors: Mapping[str, LazyTensor]) -> tuple[dict[str, LazyTensor], str | None, dict[str, LazyTensor]]:
    """A model's tensors, the variant of its sampler or None, and the sampler's tensors without their prefix.

    Raises ConversionError when there are samplers of both variants, or one that does not say its variant.
    """
    choices = " or ".join(f"{prefix}.* ({variant.of})" for prefix, variant in VARIANTS.items())
    prefixes = {name.split(".")[0] for name in tensors}
    found = [prefix for prefix in VARIANTS if prefix in prefixes]
    if len(found) > 1:
        raise ConversionError(f"there are samplers of two variants, whose weights are not interchangeable: {choices}")
    if nameless := prefixes & set(NAMES):
        raise ConversionError(f"{min(nameless)}.* does not say of which variant it is; expected {choices}")
    if not found:
        return dict(tensors), None, {}
    prefix = found[0] + "."
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}, found[0], own


def config_of(
    variant: str, tensors: Mapping[str, LazyTensor], width: int, margin: float, epsilon: float
) -> SamplerConfig:
    """Of a sampler's tensors, for a model of this width. Raises ConversionError for shapes of another."""
    try:
        doubled, channels = tensors["scout_mlp.2.weight"].shape[0], tensors["scout_mlp.0.weight"].shape[1]
    except KeyError as error:
        raise ConversionError(f"the sampler lacks {variant}.{error.args[0]}") from error
    if channels != width:
        raise ConversionError(f"the sampler has {channels} channels, the model's image features have {width}")
    return SamplerConfig(
        tokens=doubled // 2,
        channels=channels,
        align_corners=VARIANTS[variant].align_corners,
        border=VARIANTS[variant].border,
        layer_norm="input_norm.weight" in tensors,
        margin=margin,
        embed_coordinates="coord_encoder.0.weight" in tensors,
        layer_norm_epsilon=epsilon,
    )


def beside(name: str, projector: str) -> str:
    """What a dense model calls `name`, as it is called once a sampler is attached to `projector`."""
    if name.startswith(f"{projector}.") and not name.startswith(f"{projector}.sampler."):
        return f"{projector}.projector.{name.removeprefix(f'{projector}.')}"
    return name


def translate(
    variant: str, tensors: Mapping[str, LazyTensor], config: SamplerConfig, backbone: Backbone, scale: float
) -> dict[str, LazyTensor]:
    """By the names that they have here, in the scale that the map has here. Raises ConversionError for other names.

    scale: what the model multiplies an image's tokens by after the sampler, see `Backbone.image_scale`.
    """
    factor = config.channels**0.5 / scale if VARIANTS[variant].before_scaling else 1.0
    result = {}
    for name, tensor in tensors.items():
        first, _, rest = name.partition(".")
        if first not in NAMES:
            raise ConversionError(f"{variant}.{name} is not known, expected {', '.join(f'{n}.*' for n in NAMES)}")
        if factor != 1.0 and name == "scout_mlp.0.weight" and not config.layer_norm:  # a norm does not see the factor
            tensor = _times(tensor, 1.0 / factor)
        elif factor != 1.0 and name in ("coord_encoder.2.weight", "coord_encoder.2.bias"):
            tensor = _times(tensor, factor)
        result[f"{backbone.PROJECTOR}.sampler.{NAMES[first]}.{rest}"] = tensor
    return result


def _times(tensor: LazyTensor, factor: float) -> LazyTensor:
    return LazyTensor(tensor.dtype, tensor.shape, lambda: (tensor.read().float() * factor).to(tensor.dtype))

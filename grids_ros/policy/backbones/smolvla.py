"""SmolVLA: the first layers of SmolVLM2, and an action expert that attends across in every second layer.

- The state is the last token of the prefix: it sees images and words, and they do not see it.
- Image and word embeddings are multiplied by the root of the width. GridS stands before that, as in the authors' fork.
- A layer of the expert either attends to the prefix and to the actions so far, or crosses: its queries, counted from
  the first action, attend to keys and values that it projects anew from those of the language model's layer.
- Actions attend to those before them, not after.
- The rotary positions have base 10,000, whatever SmolVLM2 was trained with.

Sources: lerobot `policies/smolvla/{modeling_smolvla,smolvlm_with_expert}.py`, `policies/common/vla_utils.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    LlamaConfig,
    LlamaModel,
    PreTrainedConfig,
    PreTrainedModel,
    SmolVLMModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding, apply_rotary_pos_emb

from grids_ros.policy.backbones.flow_time import ActionTimeEmbedding, FlowTimeEmbedding
from grids_ros.policy.backbones.paligemma_config import DECODER, FIELDS
from grids_ros.policy.schema import Choice, Integer, Object, Real
from grids_ros.policy.stages import Prefix, TowerProducts, Velocity, prefix_of
from grids_ros.policy.towers import Decoder, Siglip

UNUSED = ("model.dit.embed_tokens",)
PROJECTOR = "model.vlm.connector"
TOWERS = ("model.vlm.vision_model.encoder", "model.vlm.text_model", "model.dit")

_LLAMA = {
    "num_attention_heads": 15,
    "num_key_value_heads": 5,
    "head_dim": 64,
    "num_hidden_layers": 16,
    "vocab_size": 49280,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
}
_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 512,
    "patch_size": 16,
}
_PARTS: dict[str, tuple[str, dict]] = {  # of the configuration: the kind by default, and its values
    "vlm_config": (
        "smolvlm",
        {
            "text_config": {"model_type": "llama", "hidden_size": 960, "intermediate_size": 2560, **_LLAMA},
            "vision_config": _VISION,
            "scale_factor": 4,
            "image_token_id": 49280,
        },
    ),
    "dit_config": ("llama", {"hidden_size": 720, "intermediate_size": 2048, **_LLAMA}),
}


class SmolVLAConfig(PreTrainedConfig):
    """Fields as PI0Config has them; the defaults are those of lerobot/smolvla_base.

    self_attention_every: one in so many of the expert's layers, from the first on, attends to the actions as well; 0
    for none.
    """

    model_type = "smolvla"
    sub_configs = dict.fromkeys(_PARTS, AutoConfig)

    vlm_config: Any = None  # a configuration; in the constructor a dictionary, or None for the default
    dit_config: Any = None
    chunk_size: int = 50
    max_state_dim: int = 32
    max_action_dim: int = 32
    num_inference_steps: int = 10
    self_attention_every: int = 2
    time_sampling_beta_alpha: float = 1.5
    time_sampling_beta_beta: float = 1.0
    time_sampling_scale: float = 0.999
    time_sampling_offset: float = 0.001
    min_period: float = 4e-3
    max_period: float = 4.0

    def __post_init__(self, **kwargs):
        for name, (kind, defaults) in _PARTS.items():
            given = getattr(self, name)
            if not isinstance(given, PreTrainedConfig):
                values = defaults if given is None else given
                setattr(self, name, CONFIG_MAPPING[values.get("model_type", kind)](**values))
        super().__post_init__(**kwargs)

    def crossing(self) -> frozenset[int]:
        """The expert's layers that attend to the prefix only."""
        every, layers = self.self_attention_every, range(self.dit_config.num_hidden_layers)
        return frozenset(index for index in layers if every < 1 or index % every)


class CrossAttention(LlamaAttention):
    """Attention to the keys and values of the language model's layer, which it projects anew."""

    def __init__(self, config: LlamaConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        width = config.num_key_value_heads * self.head_dim
        self.k_proj = nn.Linear(width, width, bias=config.attention_bias)
        self.v_proj = nn.Linear(width, width, bias=config.attention_bias)
        self.rotary_emb = LlamaRotaryEmbedding(config)

    def forward(self, hidden_states: Tensor, position_ids: Tensor, attention_mask: Tensor, past_key_values, **_options):
        """Tokens (B, n, width) to the same, and None. attention_mask: (B, 1, n, prefix and more), added to scores."""
        shape = (*hidden_states.shape[:2], -1, self.head_dim)
        queries = self.q_proj(hidden_states).view(shape).transpose(1, 2)
        cos, sin = self.rotary_emb(queries, position_ids - position_ids[:, :1])
        nothing = queries.new_empty(len(queries), self.config.num_key_value_heads, 0, self.head_dim)
        held = past_key_values.update(nothing, nothing, self.layer_idx)
        keys, values = (
            layer(part.transpose(1, 2).flatten(2)).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for layer, part in zip((self.k_proj, self.v_proj), held, strict=True)
        )
        queries, _ = apply_rotary_pos_emb(queries, queries, cos, sin)
        mask = attention_mask[..., : keys.shape[2]]
        seen = nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=True)
        return self.o_proj(seen.transpose(1, 2).flatten(2)), None


class SmolVLAForConditionalGeneration(PreTrainedModel):
    """The weights of SmolVLA; `embed`, `prefill` and `velocity` run it."""

    config: SmolVLAConfig
    model: Any  # holds the towers, by the names of the published weights
    base_model_prefix = "model"
    _supports_sdpa = True

    def __init__(self, config: SmolVLAConfig):
        super().__init__(config)
        expert = config.dit_config
        self.model = nn.Module()
        self.model.vlm, self.model.dit = SmolVLMModel(config.vlm_config), LlamaModel(expert)
        for index in config.crossing():
            self.model.dit.layers[index].self_attn = CrossAttention(expert, index)
        self.state_proj = nn.Linear(config.max_state_dim, config.vlm_config.text_config.hidden_size)
        self.embed_action_time = ActionTimeEmbedding(config)
        self.action_out_proj = nn.Linear(expert.hidden_size, config.max_action_dim)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.vlm.text_model.embed_tokens


_LLAMA_SCHEMA = Object(
    {
        "model_type": Choice(("llama",)),
        **DECODER,
        "hidden_act": Choice(("silu",)),
        "rms_norm_eps": Real(1e-12, 1e-2),
        "rope_parameters": Object({"rope_theta": Real(1.0, 1e9), "rope_type": Choice(("default",))}),
        "attention_bias": Choice((False,)),
        "mlp_bias": Choice((False,)),
    },
    others=True,
)
_VISION_SCHEMA = Object(
    {
        "hidden_size": Integer(1, 2**16),
        "intermediate_size": Integer(1, 2**18),
        "num_hidden_layers": Integer(1, 256),
        "num_attention_heads": Integer(1, 256),
        "num_channels": Choice((3,)),
        "image_size": Integer(8, 4096),
        "patch_size": Integer(1, 256),
        "hidden_act": Choice(("gelu_pytorch_tanh",)),
        "layer_norm_eps": Real(1e-12, 1e-2),
    },
    others=True,
)
SCHEMA = Object(
    {
        "model_type": Choice(("smolvla",)),
        "vlm_config": Object(
            {
                "model_type": Choice(("smolvlm",)),
                "text_config": _LLAMA_SCHEMA,
                "vision_config": _VISION_SCHEMA,
                "scale_factor": Integer(1, 64),
                "image_token_id": Integer(0, 2**22),
            },
            others=True,
        ),
        "dit_config": _LLAMA_SCHEMA,
        "self_attention_every": Integer(0, 256),
        **{name: FIELDS[name] for name in FIELDS if name not in ("vlm_config", "dit_config", "loss_reduction")},
    },
    others=True,
)


def configure(values: dict) -> SmolVLAConfig:
    """Of the content of config.json. Raises ValueError that names the key which is not valid."""
    values = SCHEMA.check("", values)
    vlm, vision = values["vlm_config"], values["vlm_config"]["vision_config"]
    if vlm["image_token_id"] < vlm["text_config"]["vocab_size"]:
        raise ValueError("vlm_config.image_token_id is a word's, expected an id after the vocabulary's last")
    if not values["min_period"] < values["max_period"]:
        raise ValueError(f"min_period is {values['min_period']:g}, expected less than max_period")
    if vision["hidden_size"] % vision["num_attention_heads"]:
        raise ValueError("vlm_config.vision_config.num_attention_heads does not divide its hidden_size")
    if vision["image_size"] // vision["patch_size"] % vlm["scale_factor"]:
        raise ValueError("vlm_config.scale_factor does not divide the patches of a row")
    return SmolVLAConfig(**{name: value for name, value in values.items() if name != "model_type"})


def describe(config: SmolVLAConfig) -> dict:
    """The content of config.json; the inverse of `configure`."""
    return SCHEMA.check("", config.to_dict())


def build(config: SmolVLAConfig, stem: Sequence[int] | None) -> SmolVLAForConditionalGeneration:
    """With random weights. Raises ValueError for a stem, and for an expert of other layers than the language model."""
    if stem:
        raise ValueError(f"stem is {list(stem)}, expected none: only a demo's π0 has a convolutional stem")
    text, expert = config.vlm_config.text_config, config.dit_config
    for name in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"):
        if getattr(text, name) != getattr(expert, name):
            raise ValueError(f"the expert's {name} is {getattr(expert, name)}, expected {getattr(text, name)}")
    return SmolVLAForConditionalGeneration(config)


def grid(config: SmolVLAConfig) -> tuple[int, int]:
    """Rows and columns of the feature map that the connector leaves."""
    side = config.vlm_config.vision_config.image_size // config.vlm_config.vision_config.patch_size
    return side // config.vlm_config.scale_factor, side // config.vlm_config.scale_factor


def width(config: SmolVLAConfig) -> int:
    """Channels of that map."""
    return config.vlm_config.text_config.hidden_size


def image_token(config: SmolVLAConfig) -> int:
    """The id that holds the place of an image's token: no word's."""
    return config.vlm_config.image_token_id


def image_size(config: SmolVLAConfig) -> int:
    """Pixels of the square that an image is fitted into."""
    return config.vlm_config.vision_config.image_size


def image_scale(config: SmolVLAConfig) -> float:
    """What embeddings of images and words are multiplied by."""
    return width(config) ** 0.5


# --- training ------------------------------------------------------------------------------------------------------


def embed(model: SmolVLAForConditionalGeneration, ids: Tensor, pixels: Tensor) -> Tensor:
    """Images and words, (B, L, width), of ids (B, L), placeholders first, and pixels (B, cameras, 3, S, S)."""
    vlm = model.model.vlm
    seen = vlm.connector(vlm.vision_model(pixels.flatten(0, 1)).last_hidden_state)
    seen = seen.reshape(len(pixels), -1, seen.shape[-1])
    words = vlm.text_model.embed_tokens(ids[:, seen.shape[1] :])
    return torch.cat((seen, words), 1) * image_scale(model.config)


def prefill(
    model: SmolVLAForConditionalGeneration, embedded: Tensor, mask: Tensor, state: Tensor
) -> BaseModelOutputWithPast:
    """As `Backbone.read`. The state's token ends the keys and values, and is left out of the output."""
    x = torch.cat((embedded, model.state_proj(state)[:, None]), 1)
    mask = nn.functional.pad(mask, (0, 1), value=1)
    output = model.model.vlm.text_model(
        inputs_embeds=x,
        attention_mask=_added(mask[:, None, None].bool() & _visible(x.shape[1], x.device), x.dtype),
        position_ids=mask.cumsum(-1) - 1,
        use_cache=True,
    )
    output.last_hidden_state = output.last_hidden_state[:, :-1]
    return output


def velocity(
    model: SmolVLAForConditionalGeneration,
    prefix: BaseModelOutputWithPast,
    mask: Tensor,
    state: Tensor,
    noisy: Tensor,
    times: Tensor,
) -> Tensor:
    """As `Backbone.velocity`."""
    context, n, draws = prefix.past_key_values, noisy.shape[1], len(noisy) // len(mask)
    context.batch_repeat_interleave(draws)
    mask = nn.functional.pad(mask, (0, 1 + n), value=1).repeat_interleave(draws, 0)
    actions = model.embed_action_time(noisy, times)
    attended = mask[:, None, None].bool() & _causal(n, mask.shape[1] - n, mask.device)
    output = model.model.dit(
        inputs_embeds=actions,
        attention_mask=_added(attended, actions.dtype),
        position_ids=mask.cumsum(-1)[:, -n:] - 1,
        past_key_values=context,
    )
    return model.action_out_proj(output.last_hidden_state)


def _visible(tokens: int, device: torch.device) -> Tensor:
    """(tokens, tokens), bool: all but the last token do not see the last, which is the state."""
    visible = torch.ones(tokens, tokens, dtype=torch.bool, device=device)
    visible[:-1, -1] = False
    return visible


def _causal(actions: int, prefix: int, device: torch.device) -> Tensor:
    """(actions, prefix + actions), bool: each action sees the prefix, itself and those before."""
    return torch.ones(actions, prefix + actions, dtype=torch.bool, device=device).tril(prefix)


def _added(attended: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask that is added to scores: 0 where one may be attended to."""
    return torch.zeros(attended.shape, dtype=dtype, device=attended.device).masked_fill(
        ~attended, torch.finfo(dtype).min
    )


# --- inference -----------------------------------------------------------------------------------------------------


class SmolVLAStages:
    """The crossing layers' keys and values are computed once: they hold no action."""

    def __init__(self, model: SmolVLAForConditionalGeneration, steps: int, products: TowerProducts):
        self._vlm, self._state, self._scale = model.model.vlm, model.state_proj, image_scale(model.config)
        self._vision = Siglip(self._vlm.vision_model, self._patches, products.vision)
        self._language = Decoder(self._vlm.text_model, products=products.language)
        self._expert = Decoder(model.model.dit, crossing=model.config.crossing(), products=products.expert)
        self._time = FlowTimeEmbedding(model.embed_action_time, model.action_out_proj, steps)
        self.towers = self._vision, self._language, self._expert

    def _patches(self, pixels: Tensor) -> Tensor:
        """Embeddings (B, cells, width): of whole square images, the positions are counted through."""
        embeddings = self._vlm.vision_model.embeddings
        return embeddings.patch_embedding(pixels).flatten(2).mT + embeddings.position_embedding.weight.float()

    def encode_images(self, pixels: Tensor) -> Tensor:
        tokens = self._vlm.connector(self._vision(pixels.flatten(0, 1))) * self._scale
        return tokens.reshape(len(pixels), -1, tokens.shape[-1])

    def prefill(self, seen: Tensor, ids: Tensor, mask: Tensor | None, state: Tensor) -> Prefix:
        words = self._vlm.text_model.embed_tokens.weight[ids].float() * self._scale
        x = torch.cat((seen, words, self._state(state).unsqueeze(1)), 1)
        mask = None if mask is None else nn.functional.pad(mask, (0, 1), value=True)
        return prefix_of(self._language, x, mask, _visible(x.shape[1], x.device))

    def velocity_field(self, prefix: Prefix, state: Tensor, steps: int) -> Velocity:
        expert, time, count = self._expert, self._time, torch.arange(steps, device=state.device)
        context = expert.project_context(prefix.context)
        rotation = expert.rotation(state, prefix.lengths + count)
        attended, padding = _causal(steps, prefix.context[0][0].shape[2], state.device), prefix.mask_for(steps)
        bias = expert.bias(attended if padding is None else attended & padding)
        crossing = expert.rotation(state, count.expand(len(state), -1)), expert.bias(prefix.mask_for(0))
        return lambda actions, step: time.leave(
            expert(time.enter(actions, step), rotation, bias, context, crossing=crossing)[0]
        )


def stages(model: SmolVLAForConditionalGeneration, steps: int, products: TowerProducts) -> SmolVLAStages:
    """At so many denoising steps."""
    return SmolVLAStages(model, steps, products)

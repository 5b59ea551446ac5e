"""π0.5: π0's PaliGemma and action expert, with the flow's time in the expert's norms and no token for the state.

The state is a part of the prompt, see `preprocess.Prompt`. Each norm of the expert is adaptive: a layer `dense` makes
scale, shift and the gate of the residual from an embedding of the time. At inference the times are known beforehand,
so are all of these.

Sources: openpi `models_pytorch/{pi0_pytorch,gemma_pytorch}.py`; lerobot `policies/pi05/`, `policies/pi_gemma.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import GemmaConfig, PI0Config, PI0Model, PI0PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.gemma.modeling_gemma import GemmaDecoderLayer

from grids_ros.policy.arithmetic import linear
from grids_ros.policy.backbones import paligemma_config
from grids_ros.policy.backbones.flow_time import flow_times, sinusoid
from grids_ros.policy.backbones.pi0 import (  # noqa: F401 - answers that are π0's
    PROJECTOR,
    TOWERS,
    UNUSED,
    embed,
    grid,
    image_scale,
    image_size,
    image_token,
    prefill,
    width,
)
from grids_ros.policy.stages import PaliGemmaStages, Prefix, TowerProducts, Velocity
from grids_ros.policy.towers import Decoder, Norm, Norms

silu = nn.functional.silu


class Pi05Config(PI0Config):
    """Of the fields of π0's; `max_state_dim` is the width that states are padded to and is used by no layer."""

    model_type = "pi05"


class AdaptiveNorm(nn.Module):
    """Normalisation by the root mean square, then scale and shift by a condition, which also gates what follows."""

    def __init__(self, config: GemmaConfig):
        super().__init__()
        self.eps = config.rms_norm_eps
        self.dense = nn.Linear(config.hidden_size, 3 * config.hidden_size)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """x (B, n, width) and a condition (B, width) to what the norm makes of x, and the gate (B, 1, width).

        Without a condition x comes back as it is: GemmaModel applies its last norm with none, and the caller after it.
        """
        if condition is None:
            return x
        scale, shift, gate = self.dense(condition).unsqueeze(1).chunk(3, -1)
        normalized = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + self.eps)
        return (normalized * (1.0 + scale.float()) + shift.float()).type_as(x), gate.type_as(x)


class AdaptiveLayer(GemmaDecoderLayer):
    """A Gemma layer with adaptive norms."""

    def __init__(self, config: GemmaConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.input_layernorm, self.post_attention_layernorm = AdaptiveNorm(config), AdaptiveNorm(config)

    def forward(self, hidden_states: Tensor, condition: Tensor, **options) -> Tensor:
        normalized, gate = self.input_layernorm(hidden_states, condition)
        hidden_states = hidden_states + gate * self.self_attn(hidden_states=normalized, **options)[0]
        normalized, gate = self.post_attention_layernorm(hidden_states, condition)
        return hidden_states + gate * self.mlp(normalized)


class Pi05ForConditionalGeneration(PI0PreTrainedModel):
    """The weights of π0.5; `embed`, `prefill` and `velocity` run it."""

    config: Pi05Config

    def __init__(self, config: Pi05Config):
        super().__init__(config)
        expert = config.dit_config
        self.model = PI0Model(config)
        self.model.dit.layers = nn.ModuleList(AdaptiveLayer(expert, i) for i in range(expert.num_hidden_layers))
        self.model.dit.norm = AdaptiveNorm(expert)
        self.action_in_proj = nn.Linear(config.max_action_dim, expert.hidden_size)
        self.time_mlp_in = nn.Linear(expert.hidden_size, expert.hidden_size)
        self.time_mlp_out = nn.Linear(expert.hidden_size, expert.hidden_size)
        self.action_out_proj = nn.Linear(expert.hidden_size, config.max_action_dim)
        self.post_init()

    def condition(self, times: Tensor) -> Tensor:
        """Of the adaptive norms, (B, width), at times (B,)."""
        embedded = sinusoid(times, self.config).to(self.time_mlp_in.weight.dtype)
        return silu(self.time_mlp_out(silu(self.time_mlp_in(embedded))))


def configure(values: dict) -> Pi05Config:
    """Of the content of config.json."""
    return Pi05Config(**paligemma_config.checked("pi05", values))


def describe(config: Pi05Config) -> dict:
    """The content of config.json; the inverse of `configure`."""
    return paligemma_config.schema("pi05").check("", config.to_dict())


def build(config: Pi05Config, stem: Sequence[int] | None) -> Pi05ForConditionalGeneration:
    """With random weights. Raises ValueError for a stem, which π0's demo alone has."""
    if stem:
        raise ValueError(f"stem is {list(stem)}, expected none: only a demo's π0 has a convolutional stem")
    return Pi05ForConditionalGeneration(config)


def velocity(
    model: Pi05ForConditionalGeneration,
    prefix: BaseModelOutputWithPast,
    mask: Tensor,
    state: Tensor,
    noisy: Tensor,
    times: Tensor,
) -> Tensor:
    """As `Backbone.velocity`; the state is in the prefix's words."""
    context, n, expert = prefix.past_key_values, noisy.shape[1], model.model.dit
    context.batch_repeat_interleave(len(noisy) // len(mask))
    mask = nn.functional.pad(mask, (0, n), value=1).repeat_interleave(len(noisy) // len(mask), 0)
    condition, actions = model.condition(times), model.action_in_proj(noisy)
    hidden = torch.zeros(len(mask), 1, n, mask.shape[1], dtype=actions.dtype, device=actions.device)
    hidden = hidden.masked_fill(mask[:, None, None] == 0, torch.finfo(actions.dtype).min)
    output = expert(
        inputs_embeds=actions,
        attention_mask=hidden,
        position_ids=mask.cumsum(-1)[:, -n:] - 1,
        past_key_values=context,
        condition=condition,
    ).last_hidden_state
    return model.action_out_proj(expert.norm(output, condition)[0])


class Pi05Stages(PaliGemmaStages):
    """The actions follow the prefix; every norm of the expert is that of the denoising step."""

    def __init__(self, model: Pi05ForConditionalGeneration, steps: int, products: TowerProducts):
        super().__init__(model, products)
        self._norms = norms(model, steps)
        self._expert = Decoder(model.model.dit, self._norms[0], products=products.expert)
        self._action_in, self._action_out = model.action_in_proj, model.action_out_proj
        self.towers = self._vision, self._language, self._expert

    def velocity_field(self, prefix: Prefix, state: Tensor, steps: int) -> Velocity:
        positions = prefix.lengths + torch.arange(steps, device=state.device)
        bias, rotation = self._expert.bias(prefix.mask_for(steps)), self._expert.rotation(state, positions)
        context = self._expert.cast(prefix.context)

        def velocity_at(actions: Tensor, step: int) -> Tensor:
            x = self._action_in(actions)
            return self._action_out(self._expert(x, rotation, bias, context, self._norms[step])[0])

        return velocity_at


def norms(model: Pi05ForConditionalGeneration, steps: int) -> list[Norms]:
    """Of every denoising step, in float32."""
    times = flow_times(steps, model.device)
    x = sinusoid(times, model.config)
    for layer in (model.time_mlp_in, model.time_mlp_out):
        x = silu(_widened(layer, x))

    def of(norm: AdaptiveNorm) -> list[Norm]:
        scale, shift, gate = _widened(norm.dense, x).chunk(3, -1)
        return [Norm(*numbers) for numbers in zip(1.0 + scale, shift, gate, strict=True)]

    layers = [(of(row.input_layernorm), of(row.post_attention_layernorm)) for row in model.model.dit.layers]
    last = of(model.model.dit.norm)
    return [Norms([(before[i], after[i]) for before, after in layers], last[i]) for i in range(steps)]


def _widened(layer: nn.Linear, x: Tensor) -> Tensor:
    return linear(x, layer.weight, layer.bias.float())


def stages(model: Pi05ForConditionalGeneration, steps: int, products: TowerProducts) -> Pi05Stages:
    """At so many denoising steps."""
    return Pi05Stages(model, steps, products)

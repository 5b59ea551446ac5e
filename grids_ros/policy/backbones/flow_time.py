"""The flow's time and the noisy actions on their way into an action expert.

Time runs from noise (1) to actions (0), here and in all of openpi's descendants.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from grids_ros.policy.arithmetic import linear


def flow_times(steps: int, device: torch.device) -> Tensor:
    """The time of each denoising step, (steps,): 1 - step / steps."""
    return 1.0 - torch.arange(steps, device=device) / steps


def sinusoid(times: Tensor, config: PretrainedConfig) -> Tensor:
    """Sines and cosines (B, expert's width) of times (B,), float32, at periods from `min_period` to `max_period`.

    In double precision, as openpi and lerobot compute them.
    """
    fraction = torch.linspace(0.0, 1.0, config.dit_config.hidden_size // 2, dtype=torch.float64, device=times.device)
    period = config.min_period * (config.max_period / config.min_period) ** fraction
    angle = 2.0 * math.pi / period * times.double()[:, None]
    return torch.cat((angle.sin(), angle.cos()), 1).float()


class ActionTimeEmbedding(nn.Module):
    """Mixes noisy actions with their time, by the names that transformers' PI0 gives the layers."""

    def __init__(self, config: PretrainedConfig):
        super().__init__()
        self.config, width = config, config.dit_config.hidden_size
        self.action_in_proj = nn.Linear(config.max_action_dim, width)
        self.action_time_mlp_in = nn.Linear(2 * width, width)
        self.action_time_mlp_out = nn.Linear(width, width)

    def sinusoid_embeds(self, times: Tensor) -> Tensor:
        return sinusoid(times, self.config)

    def forward(self, noisy: Tensor, times: Tensor) -> Tensor:
        """Noisy actions (B, n, action_dim) at times (B,) to the expert's input (B, n, width)."""
        actions = self.action_in_proj(noisy)
        time = self.sinusoid_embeds(times).to(actions.dtype)[:, None].expand_as(actions)
        mixed = self.action_time_mlp_in(torch.cat((actions, time), -1))
        return self.action_time_mlp_out(nn.functional.silu(mixed))


class FlowTimeEmbedding:
    """Between actions and the expert at the times of the denoising steps, with as much as is known of them computed.

    The projection of the actions and the layer after it are linear, so they are one matrix; the time is its bias.
    """

    def __init__(self, embedding: Any, action_out: nn.Linear, steps: int):
        """embedding: an `ActionTimeEmbedding`, or PI0's own of the same names."""
        action, mlp = embedding.action_in_proj, embedding.action_time_mlp_in
        times = embedding.sinusoid_embeds(flow_times(steps, mlp.weight.device)).float()
        first, second = mlp.weight.float().chunk(2, dim=1)  # for actions, for time
        biases = times @ second.T + first @ action.bias.float() + mlp.bias.float()
        self._biases, self._weight = biases, first @ action.weight.float()
        self._mlp_out, self._action_out = embedding.action_time_mlp_out, action_out

    def enter(self, actions: Tensor, step: int) -> Tensor:
        """Actions (B, n, action_dim) at the time of `step` to the expert's input (B, n, width)."""
        mixed = linear(actions, self._weight, self._biases[step])
        return self._mlp_out(nn.functional.silu(mixed))

    def leave(self, output: Tensor) -> Tensor:
        """The expert's output (B, n, width) to the flow's velocity, float32 (B, n, action_dim)."""
        return self._action_out(output)

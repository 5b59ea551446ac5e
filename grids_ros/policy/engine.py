"""Inference of transformers' PI0, at what one robot needs: the same actions from fewer operations.

Exact, against transformers' own `sample_actions`, up to the order of float additions:
- the prefix is the prompt without its padding, of the cameras that are there;
- of its last layer, only keys and values are computed, for the rest of that layer reaches no action;
- the state attends to no action, so its keys and values belong to the prefix and are computed once, not in every step;
- the flow's times are known beforehand, so what the time embeddings contribute is a bias of each step;
- the projection of noisy actions and the layer after it are linear, so they are one matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PI0ForConditionalGeneration

from grids_ros.policy.arithmetic import linear, widen_all_but
from grids_ros.policy.graph import Graphs
from grids_ros.policy.grids import attached, tokens_per_camera
from grids_ros.policy.rtc import Guidance
from grids_ros.policy.towers import Context, Gemma, Siglip

BUCKET = 8  # text tokens: on CUDA, prompts are padded to multiples of it, so that a few graphs serve all


class Engine:
    """A model in evaluation mode, ready to sample actions. Not safe to call from two threads at once.

    Weights are fused in place and, on a CPU, all but the large ones widened to float32; the model stays whole and goes
    on to work. An engine is of the weights at its making: training needs a new one afterwards, which copies nothing.
    `coordinates` holds those of the last call, (B * cameras, K, 2), or None for a dense model.
    """

    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(self, model: PI0ForConditionalGeneration, steps: int, merge: int = 0, bucket: int | None = None):
        """steps: of the flow. merge: image tokens that become part of others in each layer of the vision tower; any but
        0 changes the actions. bucket: text tokens are padded to multiples of it; None for what suits the device.
        Raises ValueError for more merges than there are tokens."""
        vlm = model.model.vlm
        self.steps, self.device = steps, model.device
        self.coordinates: Tensor | None = None
        self._model = model
        on_cpu = self.device.type == "cpu"
        self.dtype = torch.float32 if on_cpu else model.dtype
        self._bucket = bucket or (1 if on_cpu else BUCKET)
        if on_cpu:
            towers = (vlm.vision_tower.encoder, vlm.language_model, model.model.dit)
            linears = [m for tower in towers for m in tower.modules() if isinstance(m, nn.Linear | nn.Embedding)]
            widen_all_but(model, {m.weight for m in linears})
        self._vision, self._language = Siglip(vlm.vision_tower, merge), Gemma(vlm.language_model)
        self._expert, self._clock = Gemma(model.model.dit), Clock(model, steps, self.dtype)
        self.graphs: dict[int, Graphs] | None = {} if self.device.type == "cuda" else None  # by tokens per camera

    def sample_actions(
        self,
        pixels: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        state: Tensor,
        noise: Tensor,
        guidance: Guidance | None = None,
    ) -> Tensor:
        """Flow matching from noise (t = 1) to actions (t = 0), float32 (B, n, action_dim), normalised.

        pixels: (B, cameras, 3, S, S), of the cameras that are there. input_ids, attention_mask: (B, L), placeholders
        first, on the CPU. state: (B, state_dim). noise: (B, n, action_dim). Raises ValueError when the placeholders
        are not as many as the cameras' tokens.
        """
        tokens = tokens_per_camera(self._model)
        ids, mask = self._trim(input_ids, attention_mask, pixels.shape[1] * tokens)
        bound = (guidance.targets, guidance.weights) if guidance else (None, None)
        inputs = (pixels.to(self.dtype), ids, mask, state.to(self.dtype), noise, *bound)
        infer = self._infer if self.graphs is None else self.graphs.setdefault(tokens, Graphs(self._infer))
        actions, self.coordinates = infer(*map(self._upload, inputs))
        return actions

    def text_lengths(self, longest: int) -> Sequence[int]:
        """Of up to `longest` tokens: lengths of text that, each run once, leave nothing to be prepared later."""
        return (longest,) if self.graphs is None else range(longest, 0, -self._bucket)

    def _infer(self, pixels, ids, mask, state, noise, targets, weights) -> tuple[Tensor, Tensor | None]:
        """Of what is on the device; targets, weights: of the guidance, or None."""
        guidance = None if targets is None else Guidance(targets, weights)
        wrapped = attached(self._model)
        actions = self.act(*self.read(self.see(pixels), ids, mask), state, noise, guidance)
        return actions, wrapped.coordinates if wrapped else None

    # --- the stages ----------------------------------------------------------------------------------------------

    def see(self, pixels: Tensor) -> Tensor:
        """Image tokens (B, cameras * K, width) from pixels (B, cameras, 3, S, S)."""
        tokens = self._model.model.vlm.multi_modal_projector(self._vision(pixels.flatten(0, 1)))
        return tokens.reshape(len(pixels), -1, tokens.shape[-1])

    def read(self, seen: Tensor, ids: Tensor, mask: Tensor | None) -> tuple[Context, Tensor, Tensor | None]:
        """The prefix of image tokens and text ids (B, T): its context, its lengths (B, 1), and its mask.

        mask: (B, image tokens + T), True for what is no padding; or None where there is none.
        """
        x = torch.cat((seen, self._embed(ids)), 1)
        batch, length = x.shape[:2]
        if mask is None:
            positions = torch.arange(length, device=x.device).expand(batch, -1)
            return self._language.extend(x, self._language.rotation(x, positions)), positions[:, -1:] + 1, None
        positions = mask.cumsum(-1) - 1
        context = self._language.extend(x, self._language.rotation(x, positions), mask[:, None, None])
        return context, positions[:, -1:] + 1, mask

    def act(
        self, context: Context, lengths: Tensor, mask: Tensor | None, state: Tensor, noise: Tensor, guidance=None
    ) -> Tensor:
        """The actions, (B, n, action_dim), from what `read` gave, the state, and noise of the actions' shape."""
        expert, clock, n = self._expert, self._clock, noise.shape[1]
        embedded = self._model.embed_action_time.state_proj(state).unsqueeze(1)
        if mask is not None:  # the state and the actions after it are no padding
            mask = nn.functional.pad(mask, (0, 1 + n), value=True)[:, None, None]
        seen_by_state = None if mask is None else mask[..., :-n]
        context = expert.extend(embedded, expert.rotation(embedded, lengths), seen_by_state, context)
        rotation = expert.rotation(embedded, lengths + torch.arange(1, n + 1, device=noise.device))
        actions = noise.float()
        for step in range(self.steps):

            def field(actions: Tensor, _time: float, step: int = step) -> Tensor:
                return clock.leave(expert(clock.enter(actions, step), rotation, mask, context))

            time = 1.0 - step / self.steps
            velocity = guidance.velocity(field, actions, time) if guidance else field(actions, time)
            actions = actions - velocity / self.steps
        return guidance.close(actions) if guidance else actions

    def _embed(self, ids: Tensor) -> Tensor:
        """Text embeddings (B, T, width), scaled as Gemma wants them."""
        embedding = self._model.model.vlm.language_model.embed_tokens
        return embedding.weight[ids].to(self.dtype) * embedding.scalar_embed_scale

    # --- the way in ----------------------------------------------------------------------------------------------

    def _trim(self, ids: Tensor, mask: Tensor, placeholders: int) -> tuple[Tensor, Tensor | None]:
        """The text (B, T) without the padding that all of the batch share; and the mask, where padding is left.

        With graphs always the mask: each is recorded for one text length, with padding or without.
        """
        found = (ids == self._model.config.vlm_config.image_token_id).sum(-1)
        if (found != placeholders).any():
            raise ValueError(f"the prompt has {found.tolist()} image tokens, the cameras give {placeholders}")
        words = int(mask.sum(-1).max()) - placeholders
        end = min(placeholders - (-words // self._bucket) * self._bucket, ids.shape[1])
        mask = mask[:, :end].bool()
        return ids[:, placeholders:end], None if self.graphs is None and mask.all() else mask

    def _upload(self, tensor: Tensor | None) -> Tensor | None:
        """From pinned memory a copy to a GPU waits for nobody."""
        if tensor is None or tensor.device == self.device:
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)


class Clock:
    """Between actions and the expert, at times known beforehand: t = 1 - step / steps."""

    def __init__(self, model: PI0ForConditionalGeneration, steps: int, dtype: torch.dtype):
        embedding = model.embed_action_time
        times = 1.0 - torch.arange(steps, device=model.device) / steps
        first, second = embedding.action_time_mlp_in.weight.float().chunk(2, dim=1)  # for actions, for time
        action, constant = embedding.action_in_proj, embedding.action_time_mlp_in.bias.float()
        biases = embedding.sinusoid_embeds(times).float() @ second.T + first @ action.bias.float() + constant
        self._biases, self._weight = biases.to(dtype), (first @ action.weight.float()).to(dtype)
        self._mlp_out, self._action_out = embedding.action_time_mlp_out, model.action_out_proj

    def enter(self, actions: Tensor, step: int) -> Tensor:
        """Actions (B, n, action_dim) at the time of `step` to the expert's input (B, n, width)."""
        mixed = linear(actions.to(self._weight.dtype), self._weight, self._biases[step])
        return self._mlp_out(nn.functional.silu(mixed))

    def leave(self, output: Tensor) -> Tensor:
        """The expert's output (B, n, width) to the flow's velocity, float32 (B, n, action_dim)."""
        return self._action_out(output).float()

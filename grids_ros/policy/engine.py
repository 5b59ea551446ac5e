"""Inference at what one robot needs: the same actions from fewer operations.

Exact, against transformers' own `sample_actions` and the plain models of `backbones`, up to the order of additions:
- the prefix is the prompt without its padding, of the cameras that are there;
- of its last layer, only keys and values are computed, for the rest of that layer reaches no action;
- π0's state attends to no action, so its keys and values are computed once, in the first step;
- the flow's times are known beforehand, so what they contribute is a bias of each step, or its norms;
- the projection of noisy actions and the layer after it are linear, so they are one matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grids_ros.policy.arithmetic import Products, widen_all_but
from grids_ros.policy.backbone import backbone_of
from grids_ros.policy.graph import Inputs, Outputs
from grids_ros.policy.grids import attached, tokens_per_camera
from grids_ros.policy.products import choose
from grids_ros.policy.rtc import Guidance
from grids_ros.policy.runner import Backend, Runner, backends
from grids_ros.policy.stages import Prefix, TowerProducts
from grids_ros.policy.towers import Layers

PREFIX_ROWS = 64  # that the language model's products are measured with: two cameras of 16 tokens, and words
BUCKET = 16  # text tokens: on CUDA, longer prompts are padded to multiples of it, so that a few recordings serve all
FREE_ROWS = (
    160  # tokens of a prompt up to which a GPU takes the time to read the weights: it is padded to its full length
)


Arguments = tuple  # of `Engine.sample_actions`


class Engine:
    """A model in evaluation mode, ready to sample actions. Not safe to call from two threads at once.

    Weights are fused in place and all but those of the towers' layers widened to float32; the model stays whole and
    goes on to work. An engine is of the weights at its making: training needs a new one afterwards. It copies the
    weights of a tower that multiplies faster with packed ones, or with bfloat16 ones where they are float32.
    `coordinates` holds those of the last call, (B * cameras, K, 2), or None for a dense model. `products` says how each
    tower multiplies, and why; `backend` how an inference is launched.
    """

    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(
        self,
        model: PreTrainedModel,
        steps: int,
        bucket: int | None = None,
        products: torch.dtype | Products | None = None,
        ways: Sequence[Backend] | None = None,
        keep_model: bool = True,
    ):
        """steps: of the flow. bucket: text tokens are padded to multiples of it; None chooses for the device.
        products: how every tower multiplies, or in which dtype; None for the fastest of each, see `products`.
        ways: to launch an inference; None for those of the device. keep_model: False takes the model over. Weights that
        were copied then go, layer by layer, and the model itself computes nothing more."""
        backbone = backbone_of(model.config.model_type)
        self.steps, self.device = steps, model.device
        self.coordinates: Tensor | None = None
        self.model, self._image_token = model, backbone.image_token(model.config)
        on_cpu = self.device.type == "cpu"
        self._bucket = bucket or (1 if on_cpu else None)
        towers = [model.get_submodule(path) for path in backbone.TOWERS]
        linears = [m for tower in towers for m in tower.modules() if isinstance(m, nn.Linear | nn.Embedding)]
        widen_all_but(model, {m.weight for m in linears})
        rows = math.prod(backbone.grid(model.config)), PREFIX_ROWS, model.config.chunk_size
        before = 0, 0, PREFIX_ROWS
        self.products = TowerProducts(
            *(replace(choose(*of, products), release=not keep_model) for of in zip(towers, rows, before, strict=True))
        )
        self._stages = backbone.stages(model, steps, self.products)
        bfloat16 = all(tower.activations == torch.bfloat16 for tower in self.products)
        self._runner = Runner(self._infer, self._use, backends(self.device, bfloat16) if ways is None else ways)
        self._sampler: tuple[object, object] = (None, None)  # the one attached, and the coordinates that it holds

    @torch.inference_mode()
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
        inputs = self._inputs(pixels, input_ids, attention_mask, state, noise, guidance)
        actions, self.coordinates = self._runner(self._tokens(), inputs)
        assert actions is not None  # the first output of `_infer`
        return actions

    @property
    def backend(self) -> str:
        """How an inference is launched, see `runner`."""
        return self._runner.backend

    @property
    def refused_backends(self) -> list[str]:
        """Those that failed their check, and why."""
        return self._runner.refused

    @torch.inference_mode()
    def prepare(self, pairs: Sequence[Sequence[Arguments]]) -> None:
        """Get ready for arguments of these shapes, so that no inference waits for it later.

        pairs: arguments of `sample_actions`, two of each shape and as unlike as possible: the first is recorded, the
        second checks the recording. Call it again after another sampler was attached, or coordinates were held.
        """
        tokens = self._tokens()
        self._runner.prepare(tokens, [(self._inputs(*first), self._inputs(*second)) for first, second in pairs])

    def text_lengths(self, longest: int, placeholders: int) -> Sequence[int]:
        """Of up to `longest` tokens after the placeholders: lengths of text that, each prepared, leave none out."""
        return range(longest, 0, -self._padding(placeholders + longest)) if self._runner.records else (longest,)

    def _tokens(self) -> int:
        """Per camera. Recordings of another sampler, or of other held coordinates, go."""
        wrapped = attached(self.model)
        sampler = (wrapped.sampler, getattr(wrapped.sampler, "held", None)) if wrapped else (None, None)
        if any(new is not old for new, old in zip(sampler, self._sampler, strict=True)):
            self._runner.forget()
            self._sampler = sampler
        return tokens_per_camera(self.model)

    def _use(self, layers: Layers) -> None:
        for tower in self._stages.towers:
            tower.functions = layers

    def _infer(self, pixels, ids, mask, state, noise, targets, weights) -> Outputs:
        """Of what is on the device; targets, weights: of the guidance, or None."""
        guidance = None if targets is None else Guidance(targets, weights)
        wrapped = attached(self.model)
        actions = self.denoise(self.prefill(self.encode_images(pixels), ids, mask, state), state, noise, guidance)
        return actions, wrapped.coordinates if wrapped else None

    # --- the stages, see `Stages` ----------------------------------------------------------------------------------

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Image tokens (B, cameras * K, width) from pixels (B, cameras, 3, S, S)."""
        return self._stages.encode_images(pixels)

    def prefill(self, image_tokens: Tensor, ids: Tensor, mask: Tensor | None, state: Tensor) -> Prefix:
        """The prefix of image tokens, text ids (B, T) and state (B, state_dim)."""
        return self._stages.prefill(image_tokens, ids, mask, state)

    def denoise(self, prefix: Prefix, state: Tensor, noise: Tensor, guidance: Guidance | None = None) -> Tensor:
        """The actions, (B, n, action_dim), after the prefix, from noise of their shape."""
        velocity_field, actions = self._stages.velocity_field(prefix, state, noise.shape[1]), noise.float()
        for step in range(self.steps):

            def field(actions: Tensor, _time: float, step: int = step) -> Tensor:
                return velocity_field(actions, step)

            time = 1.0 - step / self.steps
            velocity = guidance.velocity(field, actions, time) if guidance else field(actions, time)
            actions = actions - velocity / self.steps
        return guidance.close(actions) if guidance else actions

    # --- the way in ----------------------------------------------------------------------------------------------

    def _inputs(self, pixels, input_ids, attention_mask, state, noise, guidance: Guidance | None = None) -> Inputs:
        """Of `_infer`, on the device, from the arguments of `sample_actions`."""
        ids, mask = self._trim(input_ids, attention_mask, pixels.shape[1] * tokens_per_camera(self.model))
        bound = (guidance.targets, guidance.weights) if guidance else (None, None)
        return tuple(map(self._upload, (pixels, ids, mask, state, noise, *bound)))

    def _padding(self, prompt: int) -> int:
        """Text tokens are padded to a multiple of this, for prompts of so many tokens at most."""
        return self._bucket or (prompt if prompt <= FREE_ROWS else BUCKET)

    def _trim(self, ids: Tensor, mask: Tensor, placeholders: int) -> tuple[Tensor, Tensor | None]:
        """The text (B, T) without the padding that all of the batch share; and the mask, where padding is left.

        Where prompts are padded, always the mask: a recording is of one length, with padding or without.
        """
        found = (ids == self._image_token).sum(-1)
        if (found != placeholders).any():
            raise ValueError(f"the prompt has {found.tolist()} image tokens, the cameras give {placeholders}")
        words, padding = int(mask.sum(-1).max()) - placeholders, self._padding(ids.shape[1])
        end = min(placeholders - (-words // padding) * padding, ids.shape[1])
        mask = mask[:, :end].bool()
        return ids[:, placeholders:end], None if padding == 1 and mask.all() else mask

    def _upload(self, tensor: Tensor | None) -> Tensor | None:
        """From pinned memory a copy to a GPU waits for nobody."""
        if tensor is None or tensor.device == self.device:
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

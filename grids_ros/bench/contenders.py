"""What is measured side by side: transformers' own `sample_actions` and our runtime, dense and with few tokens.

All share one model: a contender puts its own sampler in place, runs, and leaves. Where weights are in bfloat16 and
the device is a CPU, transformers is lent our matrix product; its own takes several times as long, and the comparison
would say nothing of tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers import PI0ForConditionalGeneration

from grids_ros.bench.sizes import Size
from grids_ros.policy import flops
from grids_ros.policy.arithmetic import linear
from grids_ros.policy.baselines import Baseline, BaselineConfig
from grids_ros.policy.engine import Engine
from grids_ros.policy.graph import Graphs
from grids_ros.policy.grids import attach, detach, place
from grids_ros.sampler import GridSampler, SamplerConfig

GRIDS = 16  # tokens per camera of the row that the figures promised are about, and of the baselines


@dataclass(eq=False)
class Contender:
    """One row. sampler: None for dense. ours: or transformers'. merge: as `Engine` takes it. seconds: of each run, by
    stage and "total"; grows as it runs. graphs: the engine's, which know no other sampler than theirs."""

    name: str
    tokens: int | None
    sampler: GridSampler | Baseline | None
    ours: bool
    merge: int = 0
    seconds: list[dict[str, float]] = field(default_factory=list)
    graphs: dict[int, Graphs] = field(default_factory=dict)


class Arena:
    """One model, one observation, and whoever runs on them."""

    def __init__(self, size: Size, model: PI0ForConditionalGeneration, cameras: int, merge: int = 0):
        """merge: of one more row. Raises ValueError for more than can be merged."""
        self.size, self.model, self.cameras, self._merge = size, model, cameras, merge
        self._engines = {count: Engine(model, size.steps, count) for count in {0, merge}}
        vlm = model.model.vlm
        self._spent: dict[str, float] = {}
        self._waits = False
        for engine in self._engines.values():
            self._watch(engine, "see", "see")
            self._watch(engine, "read", "read")
        self._watch(vlm, "get_image_features", "see")
        self._watch(vlm, "forward", "read")
        random = torch.Generator().manual_seed(0)
        config, side = model.config, model.config.vlm_config.vision_config.image_size
        self._words = torch.randint(3, 9, (1, size.padded), generator=random)
        self._pixels = torch.rand((1, cameras, 3, side, side), generator=random) * 2.0 - 1.0
        self._state = torch.randn((1, config.max_state_dim), generator=random)
        self._noise = torch.randn((1, config.chunk_size, config.max_action_dim), generator=random)

    def contenders(self, tokens: Iterable[int]) -> list[Contender]:
        """Dense and each number of tokens, transformers' and ours; and the baselines with as many as GRIDS."""
        width = self.model.config.vlm_config.projection_dim
        found = [Contender("dense, transformers", None, None, False), Contender("dense", None, None, True)]
        for count in tokens:
            sampler = attach(self.model, SamplerConfig(tokens=count, channels=width)).sampler.eval()
            detach(self.model)
            found += [Contender(f"GridS-{count}, transformers", count, sampler, False)]
            found += [Contender(f"GridS-{count}", count, sampler, True)]
            if count == GRIDS and self._merge:
                found += [Contender(f"GridS-{count}, merge {self._merge}", count, sampler, True, self._merge)]
        for name in ("fixed_grid", "average", "random_keep", "norm_top_k"):
            config = BaselineConfig(name, GRIDS, width, embed_coordinates=False)  # nothing learnt: the choice alone
            found.append(Contender(config.label, GRIDS, Baseline(config), True))
        return found

    @torch.no_grad()
    def run(self, contender: Contender) -> Tensor:
        """One inference; its times are added to the contender's. Returns the actions on the CPU."""
        with self._in_place(contender.sampler):
            self._spent.clear()
            self._waits = self.model.device.type == "cuda" and not contender.ours  # a graph that is recorded cannot
            started = time.perf_counter()
            actions = (self._ours if contender.ours else self._transformers)(contender).cpu()
            total = time.perf_counter() - started
        rest = total - sum(self._spent.values())
        stages = {**self._spent, "act": rest} if self._spent else {}  # inside a CUDA graph there are none to see
        contender.seconds.append({"total": total, **stages})
        return actions

    def work(self, contender: Contender) -> flops.Flops:
        """Its analytic count."""
        size, sampler = self.size, contender.sampler
        learnt = sampler.config if isinstance(sampler, GridSampler) else None
        text = size.text if contender.ours else size.padded
        counted = flops.runtime if contender.ours else flops.transformers
        tokens = contender.tokens, learnt, size.stem, contender.merge
        return counted(flops.Work(size.config, self.cameras, text, size.steps, *tokens))

    def bytes_read(self, contender: Contender) -> dict[str, int]:
        """Bytes of weights that each stage reads, each pass anew; activations, and keys and values, are not counted."""
        vlm, expert = self.model.model.vlm, self.model.model.dit
        prefix = _bytes(vlm.language_model.layers)
        state = 0
        if contender.ours:
            prefix -= _beside_keys(vlm.language_model.layers[-1])
            state = _bytes(expert.layers) - _beside_keys(expert.layers[-1])
        around = _bytes(self.model.embed_action_time) + _bytes(self.model.action_out_proj)
        return {
            "vision": _bytes(vlm.vision_tower),
            "projector": _bytes(vlm.multi_modal_projector),
            "sampler": _bytes(contender.sampler) if contender.sampler else 0,
            "prefix": prefix,
            "expert": self.size.steps * (_bytes(expert.layers) + around) + state,
        }

    def parameters(self, contender: Contender) -> int:
        """How many numbers the model holds with this sampler."""
        with self._in_place(contender.sampler):
            return sum(parameter.numel() for parameter in self.model.parameters())

    def _ours(self, contender: Contender) -> Tensor:
        engine = self._engines[contender.merge]
        if engine.graphs is not None:
            engine.graphs = contender.graphs
        return engine.sample_actions(self._pixels, *self._prompt(contender), self._state, self._noise)

    def _transformers(self, contender: Contender) -> Tensor:
        ids, mask = self._prompt(contender)
        dtype, device = self._engines[0].dtype, self.model.device
        with self._lent(dtype):
            return self.model.sample_actions(
                state=self._state.to(device, dtype),
                input_ids=ids.to(device),
                pixel_values=self._pixels.to(device, dtype),
                noise=self._noise.to(device, dtype),
                attention_mask=mask.to(device),
                pixel_attention_mask=torch.ones(1, self.cameras, dtype=torch.bool, device=device),
                num_steps=self.size.steps,
            )

    def _prompt(self, contender: Contender) -> tuple[Tensor, Tensor]:
        vision = self.model.config.vlm_config.vision_config
        placeholders = self.cameras * (contender.tokens or (vision.image_size // vision.patch_size) ** 2)
        images = torch.full((1, placeholders), self.model.config.vlm_config.image_token_id)
        ids = torch.cat((images, self._words), 1)
        return ids, (torch.arange(ids.shape[1]) < placeholders + self.size.text).long()[None]

    @contextmanager
    def _in_place(self, sampler) -> Iterator[None]:
        if sampler is not None:
            place(self.model, sampler)
        try:
            yield
        finally:
            if sampler is not None:
                detach(self.model)

    @contextmanager
    def _lent(self, dtype: torch.dtype) -> Iterator[None]:
        """Our matrix product in transformers' layers, for weights of another dtype than what is computed in; and text
        embeddings in that dtype, or all that follows would be rounded to theirs."""
        own = nn.functional.linear

        def product(x, weight, bias=None):
            return own(x, weight, bias) if x.dtype == weight.dtype else linear(x, weight, bias)

        def embed(embedding, ids, _output):
            return embedding.weight[ids[0]].to(dtype) * embedding.scalar_embed_scale

        hook = self.model.model.vlm.get_input_embeddings().register_forward_hook(embed)
        with patch.object(nn.functional, "linear", product):
            try:
                yield
            finally:
                hook.remove()

    def _watch(self, owner: object, method: str, stage: str) -> None:
        """Add up what calls of a method take."""
        original: Callable = getattr(owner, method)

        def watched(*arguments, **options):
            self._settle()
            started = time.perf_counter()
            result = original(*arguments, **options)
            self._settle()
            self._spent[stage] = self._spent.get(stage, 0.0) + time.perf_counter() - started
            return result

        setattr(owner, method, watched)

    def _settle(self) -> None:
        """Until the device has done what it was told: what is timed is not only how long that took to say."""
        if self._waits:
            torch.cuda.synchronize()


def _bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def _beside_keys(layer: nn.Module) -> int:
    """Of a Gemma layer, what only its output needs."""
    used = (layer.input_layernorm, layer.self_attn.k_proj, layer.self_attn.v_proj)
    return _bytes(layer) - sum(map(_bytes, used))

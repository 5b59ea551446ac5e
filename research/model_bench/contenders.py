"""What is measured side by side: transformers' own `sample_actions` and our runtime, dense and with few tokens.

All share one model: a contender puts its own sampler in place, runs, and leaves. transformers runs bfloat16 weights
on a CPU in two ways: native, as its users do, everything in bfloat16; and lent our matrix product, in float32. Which
is faster depends on the CPU. Figures compare with the faster.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grids_ros.bench.sizes import Size
from grids_ros.policy.arithmetic import linear
from grids_ros.policy.backbone import backbone_of
from grids_ros.policy.backbones.pi05 import AdaptiveNorm
from grids_ros.policy.engine import Engine
from grids_ros.policy.grids import attach, detach, place
from grids_ros.policy.stages import TowerProducts
from grids_ros.sampler import GridSampler, SamplerConfig
from research import flops
from research.pruners import Baseline, BaselineConfig

GRIDS = 16  # tokens per camera of the row that the figures promised are about, and of the baselines


@dataclass(eq=False)
class Contender:
    """One row. sampler: None for dense. lent: None for ours; else transformers' own, in float32 with our product where
    weights are in half precision, or native, in the dtype of the weights. seconds: of each run, by stage and "total";
    grows as it runs. engine: ours; on a GPU each has its own, whose recordings are of its sampler."""

    name: str
    tokens: int | None
    sampler: GridSampler | Baseline | None
    lent: bool | None = None
    seconds: list[dict[str, float]] = field(default_factory=list)
    engine: Engine | None = None

    @property
    def ours(self) -> bool:
        return self.lent is None


class ModelBench:
    """One model, one observation, and whoever runs on them."""

    def __init__(self, size: Size, model: PreTrainedModel, cameras: int):
        self.size, self.model, self.cameras = size, model, cameras
        self._engine = Engine(model, size.steps)
        self._backbone = backbone_of(model.config.model_type)
        self._compared = model.config.model_type == "pi0"  # transformers has no other
        self._spent: dict[str, float] = {}
        self._waits = False
        self._watch(self._engine, "encode_images", "see")
        self._watch(self._engine, "prefill", "read")
        if self._compared:
            self._watch(model.model.vlm, "get_image_features", "see")
            self._watch(model.model.vlm, "forward", "read")
        random = torch.Generator().manual_seed(0)
        config, side = model.config, self._backbone.image_size(model.config)
        self._words = torch.randint(3, 9, (1, size.padded), generator=random)
        self._pixels = torch.rand((1, cameras, 3, side, side), generator=random) * 2.0 - 1.0
        self._state = torch.randn((1, config.max_state_dim), generator=random)
        self._noise = torch.randn((1, config.chunk_size, config.max_action_dim), generator=random)

    @property
    def products(self) -> TowerProducts:
        """How our runtime multiplies, by tower."""
        return self._engine.products

    def contenders(self, tokens: Iterable[int]) -> list[Contender]:
        """Dense and each number of tokens, transformers' and ours; and the baselines with as many as GRIDS."""
        width = self._backbone.width(self.model.config)
        found = [*self._both("dense", None, None)]
        for count in tokens:
            sampler = attach(self.model, SamplerConfig(tokens=count, channels=width)).sampler.eval()
            detach(self.model)
            found += self._both(f"GridS-{count}", count, sampler)
        for name in ("fixed_grid", "average", "random_keep", "norm_top_k"):
            config = BaselineConfig(name, GRIDS, width, embed_coordinates=False)  # nothing learnt: the choice alone
            found.append(Contender(config.label, GRIDS, Baseline(config)))
        return found

    def _both(self, name: str, tokens: int | None, sampler: GridSampler | None) -> list[Contender]:
        """transformers' rows, and ours. A GPU has no use for our product."""
        if not self._compared:
            return [Contender(name, tokens, sampler)]
        half, on_cpu = self.size.dtype != torch.float32, self.model.device.type == "cpu"
        ways = {"native": False, "lent": True} if half and on_cpu else {"native": False}
        theirs = [Contender(f"{name}, transformers {way}", tokens, sampler, lent) for way, lent in ways.items()]
        return [*theirs, Contender(name, tokens, sampler)]

    @torch.no_grad()
    def run(self, contender: Contender) -> Tensor:
        """One inference; its times are added to the contender's. Returns the actions on the CPU."""
        if contender.ours and contender.engine is None:
            self._prepare(contender)
        with self._in_place(contender.sampler), self._arithmetic(contender):
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
        tokens = contender.tokens, learnt, size.stem
        return counted(flops.Work(size.config, self.cameras, text, size.steps, *tokens))

    def bytes_read(self, contender: Contender) -> dict[str, int]:
        """Bytes of weights that each stage reads, each pass anew; activations, and keys and values, are not counted."""
        vision, *others = self._backbone.TOWERS
        language, expert = map(self.model.get_submodule, others)
        prefix, each = _bytes(language.layers), _bytes(expert.layers)
        if contender.ours:
            prefix -= _beside_keys(language.layers[-1])
            each -= sum(_known(layer) for layer in expert.layers)
        around = _bytes(self.model) - _bytes(self.model.model)
        return {
            "vision": _bytes(self.model.get_submodule(vision.rpartition(".")[0])),
            "projector": _bytes(self.model.get_submodule(self._backbone.PROJECTOR)),
            "sampler": _bytes(contender.sampler) if contender.sampler else 0,
            "prefix": prefix,
            "expert": self.size.steps * (each + around),
        }

    def parameters(self, contender: Contender) -> int:
        """How many numbers the model holds with this sampler."""
        with self._in_place(contender.sampler):
            return sum(parameter.numel() for parameter in self.model.parameters())

    def _ours(self, contender: Contender) -> Tensor:
        return contender.engine.sample_actions(*self._arguments(contender))

    def _arguments(self, contender: Contender, scale: float = 1.0) -> tuple[Tensor, ...]:
        """Of `Engine.sample_actions`; another scale makes another observation."""
        return scale * self._pixels, *self._prompt(contender), scale * self._state, scale * self._noise

    def _prepare(self, contender: Contender) -> None:
        """Give it an engine that is ready."""
        on_cuda = self.model.device.type == "cuda"
        contender.engine = Engine(self.model, self.size.steps) if on_cuda else self._engine
        with self._in_place(contender.sampler):
            contender.engine.prepare([(self._arguments(contender, 0.5), self._arguments(contender))])

    def _transformers(self, contender: Contender) -> Tensor:
        ids, mask = self._prompt(contender)
        dtype, device = torch.float32 if contender.lent else self.size.dtype, self.model.device
        return self.model.sample_actions(
            state=self._state.to(device, dtype),
            input_ids=ids.to(device),
            pixel_values=self._pixels.to(device, dtype),
            noise=self._noise.to(device, dtype),
            attention_mask=mask.to(device),
            pixel_attention_mask=torch.ones(1, self.cameras, dtype=torch.bool, device=device),
            num_steps=self.size.steps,
        )

    def _arithmetic(self, contender: Contender) -> AbstractContextManager:
        """What the contender computes with, set up before its time runs."""
        if contender.ours or self.size.dtype == torch.float32:
            return nullcontext()
        return self._lent() if contender.lent else self._narrowed()

    @contextmanager
    def _narrowed(self) -> Iterator[None]:
        """The whole model in the dtype of its weights, as transformers loads it: the engine widened a part."""
        widened = {p: p.data for p in self.model.parameters() if p.dtype != self.size.dtype}
        for parameter, wide in widened.items():
            parameter.data = wide.to(self.size.dtype)
        try:
            yield
        finally:
            for parameter, wide in widened.items():
                parameter.data = wide

    def _prompt(self, contender: Contender) -> tuple[Tensor, Tensor]:
        placeholders = self.cameras * (contender.tokens or math.prod(self._backbone.grid(self.model.config)))
        images = torch.full((1, placeholders), self._backbone.image_token(self.model.config))
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
    def _lent(self) -> Iterator[None]:
        """Our matrix product in transformers' layers, for half precision weights; and text embeddings in float32, or
        all that follows would be rounded to theirs."""
        own = nn.functional.linear

        def product(x, weight, bias=None):
            return own(x, weight, bias) if x.dtype == weight.dtype else linear(x, weight, bias)

        def embed(embedding, ids, _output):
            return embedding.weight[ids[0]].float() * embedding.scalar_embed_scale

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


def _known(layer: nn.Module) -> int:
    """What the engine computes of a layer before any inference: π0.5's norms, as the time modulates them."""
    return sum(_bytes(module.dense) for module in layer.modules() if isinstance(module, AdaptiveNorm))


def _beside_keys(layer: nn.Module) -> int:
    """Of a decoder's layer, what only its output needs."""
    used = (layer.input_layernorm, layer.self_attn.k_proj, layer.self_attn.v_proj)
    return _bytes(layer) - sum(map(_bytes, used))

"""The analytic count against torch's own counter, and what it says of the full size."""

import families
import pytest
import torch
from inference import inputs, shared_heads, transformers_own
from tiny import SIZE, tiny
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PI0Config

from grids_ros.policy.backbones.pi0 import build
from grids_ros.policy.engine import Engine
from grids_ros.policy.grids import attached
from grids_ros.sampler import SamplerConfig
from research import flops

GRIDS_16 = SamplerConfig(tokens=16, channels=2048)


def counted(function) -> int:
    with (
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):  # it knows no fused kernel of the CPU
        function()
    return counter.get_total_flops()


def models():
    """Dense, with few tokens, with Pi0's own patches, with shared keys."""
    for tokens in (None, 1, 4):
        yield tiny(tokens).model, SIZE.stem
    yield build(tiny(None).model.config, None).eval(), None
    yield shared_heads(2), SIZE.stem


@pytest.mark.parametrize(("model", "stem"), models())
@pytest.mark.parametrize("steps", [1, 3])
def test_the_count_is_that_of_torch(model, stem, steps):
    wrapped = attached(model)
    given_inputs = inputs(tiny(wrapped.sampler.config.tokens if wrapped else None), batch=1)
    few = (wrapped.sampler.active, wrapped.sampler.config) if wrapped else ()
    padded, words = 12, 5  # "lift the red cube" after its begin token
    own = flops.transformers(flops.Work(model.config, 2, padded, steps, *few, stem=stem))
    assert own.total == pytest.approx(counted(lambda: transformers_own(model, steps=steps, **given_inputs)), rel=0.01)
    here = flops.runtime(flops.Work(model.config, 2, words, steps, *few, stem=stem))
    engine = Engine(model, steps)
    assert here.total == pytest.approx(counted(lambda: engine.sample_actions(**given_inputs)), rel=0.01)
    seen = engine.encode_images(given_inputs["pixels"])
    ids = given_inputs["input_ids"][:, -padded:][:, :words]
    prefix = engine.prefill(seen, ids, None, given_inputs["state"])
    for expected, stage in (
        (here.vision + here.projector + here.sampler, lambda: engine.encode_images(given_inputs["pixels"])),
        (here.prefix, lambda: engine.prefill(seen, ids, None, given_inputs["state"])),
        (here.expert, lambda: engine.denoise(prefix, given_inputs["state"], given_inputs["noise"])),
    ):
        assert expected == pytest.approx(counted(stage), rel=0.01)


@pytest.mark.parametrize("name", ["pi05", "smolvla"])
@pytest.mark.parametrize("tokens", [None, 4])
def test_the_count_of_each_family_is_that_of_torch(name, tokens):
    checkpoint = families.family(name, tokens)
    words, model, prompt = 5, checkpoint.model, checkpoint.prompt()
    given_inputs = families.inputs(checkpoint, (words,))
    few = (tokens, checkpoint.spec.sampler) if tokens else ()
    here = flops.runtime(flops.Work(model.config, 2, words, 3, *few))
    engine, state = Engine(model, 3), given_inputs["state"]
    ids = given_inputs["input_ids"][:, prompt.placeholders :][:, :words]
    seen = engine.encode_images(given_inputs["pixels"])
    prefix = engine.prefill(seen, ids, None, state)
    for expected, stage in (
        (here.vision + here.projector + here.sampler, lambda: engine.encode_images(given_inputs["pixels"])),
        (here.prefix, lambda: engine.prefill(seen, ids, None, state)),
        (here.expert, lambda: engine.denoise(prefix, state, given_inputs["noise"])),
    ):
        assert expected == pytest.approx(counted(stage), rel=0.01)


def test_the_full_size_is_what_the_paper_left_uncounted():
    """Two cameras, 48 padded text tokens, 10 steps: three quarters of GridS-16's operations were never saved."""
    dense = flops.transformers(flops.Work(PI0Config(), 2, 48, 10))
    pruned = flops.transformers(flops.Work(PI0Config(), 2, 48, 10, 16, GRIDS_16))
    assert dense.total / 1e9 == pytest.approx(3073, rel=0.01)
    assert pruned.total / 1e9 == pytest.approx(1089, rel=0.01)
    assert pruned.vision / 1e9 == pytest.approx(440, rel=0.01)


@pytest.mark.parametrize("text", [1, 8, 16])
def test_what_is_exact_saves_seven_tenths_whatever_the_instruction(text):
    dense = flops.transformers(flops.Work(PI0Config(), 2, 48, 10))
    here = flops.runtime(flops.Work(PI0Config(), 2, text, 10, 16, GRIDS_16))
    assert 0.28 < here.total / dense.total < 0.31

"""The runtime against transformers' own `sample_actions`: nothing that was left out reaches the actions."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_policy import inputs, ours, transformers_own
from tiny import SIZE, tiny

from grids_ros.policy.arithmetic import fuse, linear
from grids_ros.policy.checkpoint import load, save
from grids_ros.policy.engine import Engine
from grids_ros.policy.grids import attach
from grids_ros.policy.model import build, demo_config
from grids_ros.policy.rtc import Guidance
from grids_ros.sampler import SamplerConfig


def restless(model):
    """No weight at its initial value: a norm of scale one or a bias of zero would hide a mistake."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def shared_heads(kv_heads):
    """A tiny model whose queries share this many key and value heads."""
    config = demo_config(SIZE, 9, 6, 10, 7).to_dict()
    for part in (config["vlm_config"]["text_config"], config["dit_config"]):
        part.update(num_attention_heads=4, num_key_value_heads=kv_heads)
    torch.manual_seed(0)
    model = build(type(demo_config(SIZE, 9, 6, 10, 7)).from_dict(config), SIZE.stem).eval()
    attach(model, SamplerConfig(tokens=4, channels=SIZE.width))
    return restless(model)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=3), st.integers(1, 3), st.sampled_from([1, 4, 8, 100]))
def test_prompts_of_any_lengths_in_any_bucket_give_transformers_actions(words, cameras, bucket):
    model = restless(tiny(4).model)
    generator = torch.Generator().manual_seed(sum(words))
    batch, placeholders = len(words), 4 * cameras
    ids = torch.randint(1, 9, (batch, placeholders + 12), generator=generator)
    ids[:, :placeholders] = model.config.vlm_config.image_token_id
    mask = (torch.arange(placeholders + 12) < placeholders + torch.tensor(words)[:, None]).long()
    given_inputs = {
        "pixels": torch.randn(batch, cameras, 3, SIZE.image_size, SIZE.image_size, generator=generator),
        "input_ids": ids * mask,
        "attention_mask": mask,
        "state": torch.randn(batch, 10, generator=generator),
        "noise": torch.randn(batch, 6, 7, generator=generator),
    }
    with torch.no_grad():
        have = Engine(model, 3, bucket=bucket).sample_actions(**given_inputs)
    torch.testing.assert_close(have, transformers_own(model, steps=3, **given_inputs), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_heads_that_share_keys_share_them_as_in_transformers(kv_heads):
    model, given_inputs = shared_heads(kv_heads), inputs(tiny(4))
    have = ours(model, 2, **given_inputs)
    torch.testing.assert_close(have, transformers_own(model, steps=2, **given_inputs), rtol=1e-3, atol=1e-4)


def test_a_camera_that_is_absent_is_left_out():
    """transformers computes its features and then takes none of them; the runtime is never given it."""
    checkpoint = tiny(4)
    given_inputs = inputs(checkpoint)
    have = ours(restless(checkpoint.model), 2, **given_inputs)
    pixels = given_inputs.pop("pixels")
    three = torch.cat((pixels[:, :1], torch.full_like(pixels[:, :1], 9.0), pixels[:, 1:]), 1)
    present = torch.tensor([[True, False, True]] * 2)
    own = checkpoint.model.sample_actions(pixel_values=three, pixel_attention_mask=present, num_steps=2, **given_inputs)
    torch.testing.assert_close(have, own, rtol=1e-3, atol=1e-4)


def test_placeholders_that_do_not_match_the_cameras_are_an_error():
    checkpoint = tiny(4)
    given_inputs = inputs(checkpoint)
    given_inputs["pixels"] = given_inputs["pixels"][:, :1]
    with pytest.raises(ValueError, match=r"\[8, 8\] image tokens, the cameras give 4"):
        ours(checkpoint.model, 2, **given_inputs)


# --- weights in half precision, and fused ------------------------------------------------------------------------


@pytest.mark.parametrize("guided", [False, True])
def test_bfloat16_weights_act_as_float32_ones_of_the_same_values(guided):
    half = restless(tiny(4).model)
    for parameter in half.parameters():
        parameter.data = parameter.data.bfloat16()
    whole = copy.deepcopy(half).float()
    given_inputs = inputs(tiny(4))
    guidance = Guidance(torch.ones(1, 2, 6, 7), torch.rand(6, 7)) if guided else None
    have = ours(half, 3, guidance, **given_inputs)
    assert half.model.dit.layers[0].mlp.down_proj.weight.dtype == torch.bfloat16, "stored as they were"
    torch.testing.assert_close(have, ours(whole, 3, guidance, **given_inputs), rtol=1e-3, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 5), st.integers(1, 3000))
def test_a_widened_product_and_its_gradient_are_those_of_the_float32_weight(out, width, rows, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("grids_ros.policy.arithmetic.BLOCK", block)
        weight, bias = torch.randn(out, width).bfloat16(), torch.randn(out)
        x, gradient = torch.randn(2, rows, width, requires_grad=True), torch.randn(2, rows, out)
        (have,) = torch.autograd.grad(linear(x, weight, bias), x, gradient)
        torch.testing.assert_close(linear(x, weight, bias), torch.nn.functional.linear(x, weight.float(), bias))
        torch.testing.assert_close(have, gradient @ weight.float())


def test_fusing_keeps_one_copy_and_is_done_once():
    layers = [torch.nn.Linear(4, out) for out in (3, 5, 2)]
    before = [(layer.weight.clone(), layer.bias.clone()) for layer in layers]
    weight, bias = fuse(*layers)
    for have, wanted in zip((weight, bias), zip(*before, strict=True), strict=True):
        assert torch.equal(have, torch.cat(wanted))
    with torch.no_grad():
        layers[1].weight.fill_(7.0)  # what trains the layers trains the fused weight
    assert (weight[3:8] == 7.0).all()
    assert fuse(*layers)[0].data_ptr() == weight.data_ptr()


def test_a_model_that_has_run_trains_and_is_saved_as_before(tmp_path):
    checkpoint = tiny(4)
    before = {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}
    given_inputs = inputs(checkpoint)
    with torch.inference_mode():
        Engine(checkpoint.model, 2).sample_actions(**given_inputs)
    save(checkpoint, tmp_path)
    after = load(tmp_path).model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    loss = checkpoint.model.model.dit.layers[0].self_attn.q_proj(torch.ones(1, SIZE.expert_width)).square().sum()
    loss.backward()
    assert np.isfinite(float(loss.detach()))
    assert checkpoint.model.model.dit.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0

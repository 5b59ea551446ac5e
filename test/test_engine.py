"""The runtime against transformers' own `sample_actions`: nothing that was left out reaches the actions."""

import copy
import itertools
import sys

import numpy as np
import pytest
import torch
from families import restless
from hypothesis import given, settings
from hypothesis import strategies as st
from inference import inputs, ours, shared_heads, transformers_own
from tiny import SIZE, tiny
from transformers.activations import ACT2FN

from grids_ros.policy import products
from grids_ros.policy.arithmetic import Products, Weights, attention, fuse, gated, linear, prepare
from grids_ros.policy.checkpoint import load, save
from grids_ros.policy.engine import Engine
from grids_ros.policy.rtc import Guidance


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


def in_bfloat16(model):
    """A copy of a model as transformers runs it in bfloat16."""
    return copy.deepcopy(model).to(torch.bfloat16)


@pytest.mark.parametrize("seed", range(4))
def test_native_bfloat16_stays_nearer_to_float32_than_transformers_own_does(seed):
    """What the choice of bfloat16 products changes: at most what transformers' users accept already."""
    half = in_bfloat16(restless(tiny(4, seed=seed).model))
    given_inputs = {**inputs(tiny(4), batch=8, seed=seed)}
    exact = transformers_own(copy.deepcopy(half).float(), steps=5, **given_inputs)
    narrow = {name: t.bfloat16() if t.is_floating_point() else t for name, t in given_inputs.items()}
    theirs = (transformers_own(half, steps=5, **narrow).float() - exact).square().mean().sqrt()
    with torch.no_grad():
        have = Engine(half, 5, products=torch.bfloat16).sample_actions(**given_inputs)
    assert (have - exact).square().mean().sqrt() < theirs < 0.1 * exact.std()


def test_float32_weights_multiply_in_bfloat16_and_stay_what_they_were():
    model, given_inputs = restless(tiny(4).model), inputs(tiny(4), batch=8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        exact, half = (
            Engine(model, 5, products=dtype).sample_actions(**given_inputs) for dtype in (None, torch.bfloat16)
        )
    assert 0.0 < (half - exact).square().mean().sqrt() < 0.05 * exact.std()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("guided", [False, True])
def test_fp8_weights_act_roughly_as_they_did(guided):
    """torchao's rounding, on the CPU without that of the activations: 3 bits of mantissa."""
    pytest.importorskip("torchao")
    model, given_inputs = restless(tiny(4).model), inputs(tiny(4), batch=8)
    guidance = Guidance(torch.ones(1, 8, 6, 7), torch.rand(6, 7)) if guided else None
    exact, rounded = (
        Engine(model, 3, products=products).sample_actions(**given_inputs, guidance=guidance)
        for products in (None, torch.float8_e4m3fn)
    )
    assert 0.0 < (rounded - exact).square().mean().sqrt() < 0.2 * exact.std()


def test_fp8_without_its_library_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ValueError, match="products in float8 need the package torchao"):
        Engine(tiny(4).model, 2, products=torch.float8_e4m3fn)


@pytest.mark.parametrize("guided", [False, True])
def test_towers_of_several_dtypes_work_together(guided):
    """The choice is each tower's own: bfloat16 keys of the language model before a float32 expert, and the reverse."""
    guidance = Guidance(torch.ones(1, 2, 6, 7), torch.rand(6, 7)) if guided else None
    given_inputs, found = inputs(tiny(4)), []
    for chosen in itertools.product((torch.float32, torch.bfloat16), repeat=3):
        left = iter(chosen)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("grids_ros.policy.engine.choose", lambda *_, left=left: Products(next(left)))
            found.append(ours(restless(tiny(4).model), 3, guidance, **given_inputs))
    for other in found[1:]:
        assert 0.0 < (other - found[0]).square().mean().sqrt() < 0.05


@pytest.mark.parametrize(
    ("native_s", "packed_s", "chosen"),
    [
        (1.0, 0.5, "bfloat16, packed"),
        (1.0, 0.95, "bfloat16"),
        (1.9, 1.0, "bfloat16, packed"),
        (1.9, 1.8, "float32"),
        (30.0, 30.0, "float32"),
    ],
)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_the_fastest_product_is_chosen_and_bfloat16_by_a_margin(native_s, packed_s, chosen, stored, monkeypatch):
    taken = {"float32": 2.5, "bfloat16": native_s, "bfloat16, packed": packed_s}
    monkeypatch.setattr(products, "packs", lambda: True)  # so says a processor that may not
    monkeypatch.setattr(products, "_product", lambda *_: None)
    monkeypatch.setattr(products, "_seconds", lambda functions, device: {name: taken[name] for name in functions})
    found = products.fastest(torch.ones(4, 8, dtype=stored), 3)
    assert found.dtype == (torch.float32 if chosen == "float32" else torch.bfloat16)
    assert found.packed == chosen.endswith("packed")
    assert found.reason.startswith(f"{chosen} products") and f"{1e3 * native_s:.1f} ms in bfloat16" in found.reason


def test_the_measurement_runs_every_product():
    assert "3 by (4, 8) takes" in products.fastest(torch.ones(4, 8).bfloat16(), 3).reason


@pytest.mark.parametrize(("batched_s", "fused"), [(0.5, False), (0.9, True), (2.0, True)])
def test_the_faster_attention_is_chosen_by_a_margin(batched_s, fused, monkeypatch):
    taken = {"torch's kernel": 1.0, "two batched products": batched_s}
    monkeypatch.setattr(products, "_seconds", lambda functions, device: taken)
    found = products.attend(Products(torch.bfloat16), products.Scores(2, 3, 5, 8))
    assert found.fused_attention == fused and "attention by" in found.reason
    assert products.attend(Products(), products.Scores(2, 3, 5, 8)).fused_attention, "in float32 never measured"


@pytest.mark.parametrize("bias", [None, torch.tensor([[0.0, 0.0, float("-inf"), 0.0, 0.0]])])
def test_both_ways_of_attention_agree(bias):
    queries, keys, values = (torch.randn(2, 3, count, 8).bfloat16() for count in (4, 5, 5))
    bias = None if bias is None else bias.bfloat16()
    fused, batched = (attention(queries, keys, values, bias, fused=way) for way in (True, False))
    torch.testing.assert_close(fused, batched, rtol=0.05, atol=0.05)


def test_a_chosen_way_is_measured_where_it_pays_and_named_for_every_tower(monkeypatch):
    monkeypatch.setattr(products, "MEASURED_FROM", 1)
    engine = Engine(tiny(4).model, 2)
    assert all("takes" in chosen.reason and "attention by" in chosen.reason for chosen in engine.products)


# --- packed weights ----------------------------------------------------------------------------------------------

needs_packing = pytest.mark.skipif(not products.packs(), reason="this processor packs no bfloat16 weights")
PACKED = Products(torch.bfloat16, packed=True)


@needs_packing
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 70), st.booleans())
def test_a_packed_product_is_the_native_one(out, width, rows, biased):
    weight, bias = torch.randn(out, width).bfloat16(), torch.randn(out).bfloat16() if biased else None
    x = torch.randn(2, rows, width).bfloat16()
    with torch.inference_mode():
        have = linear(x, *prepare(Weights(weight, bias), PACKED))
    torch.testing.assert_close(have, torch.nn.functional.linear(x, weight, bias), rtol=0.02, atol=0.05)


@needs_packing
@pytest.mark.parametrize("name", ["gelu_pytorch_tanh", "silu", "relu"])
def test_what_is_fused_into_a_packed_product_is_the_activation(name):
    activation, x = ACT2FN[name], torch.randn(6, 16).bfloat16()
    gate, up = (torch.nn.Linear(16, 24, bias=False).bfloat16() for _ in range(2))
    with torch.inference_mode():
        have = gated(x, [prepare(Weights(layer.weight), PACKED) for layer in (gate, up)], activation)
        wanted = gated(x.float(), [prepare(fuse(gate, up), Products())], activation)
    torch.testing.assert_close(have.float(), wanted, rtol=0.03, atol=0.02)


@needs_packing
@pytest.mark.parametrize("guided", [False, True])
def test_packed_weights_act_as_native_ones_and_the_model_stays_whole(guided):
    model, given_inputs = restless(tiny(4).model), inputs(tiny(4), batch=8)
    guidance = Guidance(torch.ones(1, 8, 6, 7), torch.rand(6, 7)) if guided else None
    exact = ours(model, 3, guidance, **given_inputs)
    for way in (Products(torch.bfloat16), PACKED):
        have = Engine(model, 3, products=way).sample_actions(**given_inputs, guidance=guidance)
        assert 0.0 < (have - exact).square().mean().sqrt() < 0.05 * exact.std()
    torch.testing.assert_close(ours(model, 3, guidance, **given_inputs), exact)


@needs_packing
def test_a_model_that_is_taken_over_holds_no_weight_twice():
    kept, taken = (restless(tiny(4, seed=1).model) for _ in range(2))
    given_inputs = inputs(tiny(4))
    whole, alone = (
        Engine(model, 2, products=PACKED, keep_model=model is kept).sample_actions(**given_inputs)
        for model in (kept, taken)
    )
    assert torch.equal(whole, alone)
    towers = taken.model.vlm.language_model.layers, taken.model.dit.layers, taken.model.vlm.vision_tower.encoder.layers
    linears = [layer for tower in towers for layer in tower.modules() if isinstance(layer, torch.nn.Linear)]
    assert linears and not any(layer.weight.numel() for layer in linears)


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
    weight, bias, _ = fuse(*layers)
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

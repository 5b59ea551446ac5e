"""π0.5 and SmolVLA: what the engine computes is what the plain model does, and all that serves π0 serves them."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from families import CAMERAS, CELLS, FAMILIES, eager, family, inputs, restless
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import INSTRUCTIONS, observation
from training_samples import samples
from transformers import SmolVLMVisionConfig
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMVisionEmbeddings

from grids_ros.control.continuity import Continuation
from grids_ros.policy.backbone import backbone_of
from grids_ros.policy.backbones import smolvla
from grids_ros.policy.checkpoint import load, save
from grids_ros.policy.engine import Engine
from grids_ros.policy.grids import attach, attached, detach, tokens_per_camera
from grids_ros.policy.prompt import PromptFormat, integers
from grids_ros.policy.rtc import Guidance
from grids_ros.policy.runtime import Policy
from grids_ros.train.batches import Batches
from grids_ros.train.distillation import distillation, unpruned
from grids_ros.train.loop import Trainer
from grids_ros.train.lora import projections
from grids_ros.train.recipe import Recipe
from grids_ros.train.units import in_units
from research.pruners import PRUNERS, BaselineConfig

NEW = ("pi05", "smolvla")
DISTIL = Recipe(4, batch=4, distil=True)


# --- the engine ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=12, deadline=None)
@given(
    words=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    cameras=st.integers(1, 3),
    bucket=st.sampled_from([1, 8, 100]),
    tokens=st.sampled_from([None, 4]),
    steps=st.integers(1, 3),
)
def test_the_engine_gives_the_actions_of_the_plain_model(name, words, cameras, bucket, tokens, steps):
    checkpoint = family(name, tokens)
    given_inputs = inputs(checkpoint, words, cameras, seed=sum(words))
    model = restless(checkpoint.model)
    wanted = eager(model, **given_inputs, steps=steps)
    with torch.no_grad():
        have = Engine(model, steps, bucket=bucket, products=torch.float32).sample_actions(**given_inputs)
    torch.testing.assert_close(have, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("every", [0, 1, 2, 3])
def test_layers_of_smolvla_cross_or_not_by_its_configuration(every):
    checkpoint = family("smolvla", every=every)
    model, given_inputs = restless(checkpoint.model), inputs(checkpoint)
    assert model.config.crossing() == {i for i in range(4) if every == 0 or i % every}
    with torch.no_grad():
        have = Engine(model, 2, products=torch.float32).sample_actions(**given_inputs)
    torch.testing.assert_close(have, eager(model, **given_inputs, steps=2), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("side", [4, 32])
def test_positions_of_whole_images_are_counted_through(side):
    """transformers finds them through fractions of the image, for images of any shape."""
    config = SmolVLMVisionConfig(hidden_size=8, image_size=2 * side, patch_size=2)
    embeddings, pixels = SmolVLMVisionEmbeddings(config), torch.zeros(1, 3, 2 * side, 2 * side)
    whole = torch.ones(1, side, side, dtype=torch.bool)
    patches = embeddings.patch_embedding(pixels).flatten(2).mT
    torch.testing.assert_close(embeddings(pixels, whole), patches + embeddings.position_embedding.weight)


@pytest.mark.parametrize("name", NEW)
def test_bfloat16_weights_act_as_float32_ones_of_the_same_values(name):
    checkpoint = family(name)
    given_inputs = inputs(checkpoint)
    half = restless(checkpoint.model)
    for parameter in half.parameters():
        parameter.data = parameter.data.bfloat16()
    wanted = eager(copy.deepcopy(half).float(), **given_inputs, steps=2)
    with torch.no_grad():
        have = Engine(half, 2, products=torch.float32).sample_actions(**given_inputs)
    torch.testing.assert_close(have, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NEW)
def test_guidance_binds_the_first_steps_and_leaves_the_rest_finite(name):
    checkpoint = family(name)
    given_inputs = inputs(checkpoint)
    weights = torch.zeros(6, 8)
    weights[:2] = 1.0
    targets = torch.randn(1, 2, 6, 8)
    engine = Engine(restless(checkpoint.model), 3, products=torch.float32)
    with torch.no_grad():
        free = engine.sample_actions(**given_inputs)
        bound = engine.sample_actions(**given_inputs, guidance=Guidance(targets, weights))
    torch.testing.assert_close(bound[:, :2], targets[0, :, :2])
    assert bound.isfinite().all() and not torch.allclose(bound[:, 2:], free[:, 2:])


# --- policies and checkpoints --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("tokens", [None, 4])
def test_a_policy_comes_back_from_its_folder_as_it_was(name, tokens, tmp_path):
    checkpoint = family(name, tokens)
    restless(checkpoint.model)
    save(checkpoint, tmp_path / "policy")
    before, after = Policy(checkpoint), Policy(load(tmp_path / "policy"))
    seen = observation()
    one, other = before.infer(seen, seed=3), after.infer(seen, seed=3)
    np.testing.assert_array_equal(one.chunk.positions, other.chunk.positions)
    assert load(tmp_path / "policy").spec == checkpoint.spec
    assert set(one.coordinates) == (set(CAMERAS) if tokens else set())
    after.warm_up()
    following = dataclasses.replace(seen, stamp_ns=seen.stamp_ns + 100_000_000)
    assert len(after.infer(following, continuation=Continuation(other.chunk, delay_s=0.1)).chunk) == 6


@pytest.mark.parametrize("name", FAMILIES)
def test_every_camera_the_words_and_the_state_reach_the_actions(name):
    checkpoint = family(name)
    restless(checkpoint.model)
    policy, seen = Policy(checkpoint), observation()
    own = policy.infer(seen).chunk.positions
    others = [
        observation(INSTRUCTIONS[1]),
        dataclasses.replace(seen, gripper=0.9),
        *(
            dataclasses.replace(seen, images={**seen.images, camera: 255 - seen.images[camera]})
            for camera in seen.images
        ),
    ]
    for other in others:
        assert np.abs(policy.infer(other).chunk.positions - own).max() > 1e-9


@pytest.mark.parametrize("name", NEW)
def test_a_stem_is_refused(name):
    with pytest.raises(ValueError, match="expected none"):
        backbone_of(name).build(family(name).model.config, (8, 16))


def test_an_expert_of_other_layers_than_the_language_model_is_refused():
    config = family("smolvla").model.config
    config.dit_config.num_hidden_layers = 2
    with pytest.raises(ValueError, match="num_hidden_layers is 2, expected 4"):
        smolvla.build(config, None)


# --- GridS and what it is compared with ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_grids_is_attached_and_detached(name):
    model = family(name, None).model
    assert tokens_per_camera(model) == CELLS
    for pruner in PRUNERS:
        width = backbone_of(name).width(model.config)
        attach(model, BaselineConfig(pruner, 4, width))
        assert tokens_per_camera(model) == 4
        detach(model)
    assert attached(model) is None and tokens_per_camera(model) == CELLS


def test_smolvla_is_pruned_before_the_scale():
    """As in the authors' fork: its sampler sees the connector's map, and what it adds is scaled with the rest."""
    checkpoint = family("smolvla")
    model, given_inputs = restless(checkpoint.model), inputs(checkpoint)
    vlm = model.model.vlm
    with torch.no_grad():
        embedded = smolvla.embed(model, given_inputs["input_ids"], given_inputs["pixels"])
        dense = vlm.connector.projector(vlm.vision_model(given_inputs["pixels"].flatten(0, 1)).last_hidden_state)
        tokens, _ = vlm.connector.sampler(dense.unflatten(1, (4, 4)))
    torch.testing.assert_close(embedded[:, :8], 48**0.5 * tokens.reshape(2, 8, 48))


# --- training ------------------------------------------------------------------------------------------------------


def own_samples():
    """Of a robot: where the objects are is not known."""
    return dataclasses.replace(samples(), objects=np.full((24, 4, 3), np.nan))


def batch_of(checkpoint, recipe=DISTIL):
    return Batches(own_samples(), checkpoint, recipe).at(0)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_teacher_is_the_dense_model(name):
    dense, student = family(name, None), family(name, None)
    student.model.load_state_dict(dense.model.state_dict())
    width = backbone_of(name).width(dense.model.config)
    attach(student.model, BaselineConfig("average", 4, width))
    student = dataclasses.replace(
        student, spec=dataclasses.replace(student.spec, sampler=BaselineConfig("average", 4, width))
    )
    ours, theirs, backbone = batch_of(student), batch_of(dense), backbone_of(name)
    with torch.no_grad():
        embedded = backbone.embed(student.model, ours.input_ids, ours.pixels)
        embedded, mask = unpruned(student.model, embedded, ours)
        prefix = backbone.prefill(student.model, embedded, mask, ours.state)
        taught = backbone.velocity(student.model, prefix, mask, ours.state, *ours.flow())
        embedded = backbone.embed(dense.model, theirs.input_ids, theirs.pixels)
        prefix = backbone.prefill(dense.model, embedded, theirs.attention_mask, theirs.state)
        wanted = backbone.velocity(dense.model, prefix, theirs.attention_mask, theirs.state, *theirs.flow())
    torch.testing.assert_close(taught, wanted)


@pytest.mark.parametrize("name", NEW)
def test_who_reads_every_cell_has_nothing_to_learn_and_who_reads_few_has(name):
    dense = family(name, None)
    width = backbone_of(name).width(dense.model.config)
    attach(dense.model, BaselineConfig("fixed_grid", CELLS, width, embed_coordinates=False))
    terms = distillation(dense.model, batch_of(dense))
    assert terms["velocity"].item() < 1e-10 and terms["readout"].item() < 1e-10
    few = family(name)
    restless(few.model)
    terms = distillation(few.model, batch_of(few))
    assert terms["velocity"].item() > 1e-9 and terms["readout"].item() > 1e-9


@pytest.mark.parametrize("name", NEW)
def test_layers_that_are_computed_again_give_the_same_gradients(name):
    gradients = []
    for again in (False, True):
        checkpoint = family(name)
        if again:
            in_units(checkpoint.model, recompute=True)
        terms = distillation(checkpoint.model, batch_of(checkpoint))
        sum(terms.values()).backward()
        gradients.append({n: p.grad for n, p in checkpoint.model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for one, other in zip(*(each.values() for each in gradients), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", NEW)
def test_a_distilled_policy_is_saved_and_moves_its_sampler_alone(name, tmp_path):
    checkpoint = family(name)
    before = {n: t.clone() for n, t in checkpoint.model.state_dict().items()}
    trainer = Trainer(checkpoint, own_samples(), DISTIL)
    for _ in trainer.run(tmp_path / "log", trainer.last):
        pass
    save(checkpoint, tmp_path / "policy", trainer.weights())
    after = load(tmp_path / "policy").model.state_dict()
    moved = {n for n, tensor in after.items() if not torch.equal(tensor, before[n])}
    assert moved == {n for n in before if ".sampler." in n}


@pytest.mark.parametrize("name", NEW)
def test_low_rank_updates_hang_on_language_model_and_expert(name):
    names = projections(family(name).model)
    layers = {"pi05": 2, "smolvla": 4}[name]
    assert len(names) == 2 * 7 * layers and not any("vision" in each for each in names)


# --- the prompt ----------------------------------------------------------------------------------------------------


def test_the_state_is_text_as_openpi_and_lerobot_write_it():
    state = np.array([-1.0, -1.2, 0.0, 0.9999, 1.0, 7.0, -0.996], np.float32)
    assert integers(state) == [0, -1, 128, 255, 255, 255, 0]
    assert integers(np.nextafter(np.array([-1.0, 0.0, 0.5], np.float32), np.float32(-2.0))) == [0, 128, 192]
    text = PromptFormat(clean=True, state=True).text(" lift\nthe red_cube ", state)
    assert text == "Task: lift the red cube, State: 0 -1 128 255 255 255 0;\nAction: "
    padded = PromptFormat(clean=True, state=True, state_width=32).text("lift", state[:2])
    assert padded == f"Task: lift, State: 0 -1 {' '.join(['128'] * 30)};\nAction: "


def test_a_prompt_ends_in_one_line_break():
    for instruction in ("lift", "lift\n"):
        assert PromptFormat(line_break=True).text(instruction) == "lift\n"
        assert PromptFormat().text(instruction) == "lift", "the tokenizer adds one"


def test_a_state_that_is_missing_from_the_prompt_is_an_error():
    with pytest.raises(ValueError, match="holds the state"):
        PromptFormat(state=True).text("lift")


def test_the_ids_of_a_policy_with_the_state_in_its_prompt_follow_the_state():
    prompt = family("pi05").prompt()
    ids = [prompt.encode(INSTRUCTIONS[0], np.full(10, value))[0] for value in (0.0, 0.5, 0.5)]
    assert (ids[0] != ids[1]).any() and (ids[1] == ids[2]).all()

"""PI0 with GridS attached, against transformers' own; preprocessing against its inverse; inference, repeatable."""

import dataclasses

import cv2
import numpy as np
import pytest
import tape
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inference import inputs, observation, ours, transformers_own
from scipy.spatial.transform import Rotation
from tiny import INSTRUCTIONS, SIZE, tiny
from transformers import PI0ForConditionalGeneration

from grids_ros.control.continuity import Continuation
from grids_ros.datatypes import Pose
from grids_ros.policy import preprocess
from grids_ros.policy.backbones.pi0 import build
from grids_ros.policy.errors import CheckpointError, InputError
from grids_ros.policy.grids import attach, attached, detach, tokens_per_camera
from grids_ros.policy.runtime import Policy
from grids_ros.sampler import SamplerConfig


@pytest.mark.parametrize("tokens", [None, 1, 4])
def test_our_loop_equals_transformers_sample_actions(tokens):
    checkpoint = tiny(tokens)
    given_inputs = inputs(checkpoint)
    have = ours(checkpoint.model, 3, **given_inputs)
    torch.testing.assert_close(have, transformers_own(checkpoint.model, steps=3, **given_inputs), rtol=1e-5, atol=1e-6)


def test_the_dense_model_is_the_untouched_transformers_model():
    checkpoint = tiny(None)
    config = checkpoint.model.config
    untouched = PI0ForConditionalGeneration(config).eval()
    plain = build(config, stem=None).eval()
    plain.load_state_dict(untouched.state_dict())
    given_inputs = inputs(checkpoint)
    have = ours(plain, 2, **given_inputs)
    torch.testing.assert_close(have, transformers_own(untouched, steps=2, **given_inputs), rtol=1e-5, atol=1e-6)


def test_attach_then_detach_leaves_the_model_as_it_was():
    checkpoint = tiny(None)
    given_inputs = inputs(checkpoint)
    before = ours(checkpoint.model, 2, **given_inputs)
    attach(checkpoint.model, SamplerConfig(tokens=3, channels=SIZE.width))
    assert tokens_per_camera(checkpoint.model) == 3
    with pytest.raises(ValueError, match="3 tokens is attached already"):
        attach(checkpoint.model, SamplerConfig(tokens=3, channels=SIZE.width))
    detach(checkpoint.model)
    assert tokens_per_camera(checkpoint.model) == 16
    after = ours(checkpoint.model, 2, **given_inputs)
    assert torch.equal(before, after)
    with pytest.raises(ValueError, match="not attached"):
        detach(checkpoint.model)


def test_attach_refuses_another_width():
    with pytest.raises(ValueError, match="7 channels, the model's image features have 32"):
        attach(tiny(None).model, SamplerConfig(tokens=3, channels=7))


def test_each_camera_is_pruned_to_k_tokens_and_the_prompt_has_as_many_placeholders():
    checkpoint = tiny(4)
    prompt = checkpoint.prompt()
    ids, mask = prompt.encode("lift the red cube")
    assert (ids == prompt.image_token).sum() == 8
    assert mask.sum() == 8 + 1 + 4
    given_inputs = inputs(checkpoint)
    features = checkpoint.model.model.vlm.get_image_features(given_inputs["pixels"].flatten(0, 1)).pooler_output
    assert features.shape == (4, 4, SIZE.width)
    assert attached(checkpoint.model).coordinates.shape == (4, 4, 2)


def test_every_camera_every_word_and_the_state_reach_the_actions():
    policy = Policy(tiny(4))
    base = policy.infer(observation()).chunk.positions
    other = observation(seed=1)
    for name in ("base", "wrist"):
        images = {**observation().images, name: other.images[name]}
        changed = dataclasses.replace(observation(), images=images)
        assert not np.array_equal(policy.infer(changed).chunk.positions, base)
    for instruction in INSTRUCTIONS[1:]:
        assert not np.array_equal(policy.infer(observation(instruction)).chunk.positions, base)
    opened = dataclasses.replace(observation(), gripper=0.0)
    assert not np.array_equal(policy.infer(opened).chunk.positions, base)


def test_inference_repeats_bit_for_bit_and_seeds_differ():
    policy, again = Policy(tiny(4)), Policy(tiny(4))
    first = policy.infer(observation(), seed=3)
    for other in (policy.infer(observation(), seed=3), again.infer(observation(), seed=3)):
        for name in ("times", "positions", "quaternions", "gripper"):
            assert np.array_equal(getattr(first.chunk, name), getattr(other.chunk, name))
    assert not np.array_equal(first.chunk.positions, policy.infer(observation(), seed=4).chunk.positions)


def test_the_flow_starts_from_the_middle_of_its_noise_unless_a_seed_is_given(monkeypatch):
    policy, starts = Policy(tiny(4)), []
    sample = policy._engine.sample_actions
    monkeypatch.setattr(policy._engine, "sample_actions", lambda *given: starts.append(given[4]) or sample(*given))
    policy.infer(observation())
    policy.infer(observation(), seed=0)
    assert torch.equal(starts[0], torch.zeros_like(starts[0])) and starts[1].std() > 0.5


@pytest.mark.parametrize(("free_rows", "recordings"), [(160, 2), (8, 6)])
def test_after_warming_up_no_instruction_needs_another_recording(free_rows, recordings, monkeypatch, caplog):
    """A prompt is padded to its whole length where that takes no time, else to a multiple: 12 tokens, 4 at a time."""
    monkeypatch.setattr("grids_ros.policy.engine.FREE_ROWS", free_rows)
    monkeypatch.setattr("grids_ros.policy.engine.BUCKET", 4)
    policy = Policy(tiny(4))
    policy._engine._runner._ways.insert(0, tape.backend())
    policy._engine._bucket = None  # as on a GPU
    policy.warm_up()
    runner = policy._engine._runner
    assert runner.backend == "taped" and len(runner._recordings) == recordings, caplog.text
    monkeypatch.setattr(runner, "_call", None)  # nothing runs that was not recorded
    for words in range(1, 10):
        seen = observation(" ".join(["cube"] * words))
        chunk = policy.infer(seen).chunk
        policy.infer(dataclasses.replace(seen, stamp_ns=8), continuation=Continuation(chunk, 0.1))


def test_the_chunk_is_stamped_with_the_observation_and_timed_from_it():
    output = Policy(tiny(4)).infer(observation())
    assert output.chunk.stamp_ns == 7
    np.testing.assert_allclose(output.chunk.times, 0.1 * np.arange(1, 7))
    assert set(output.coordinates) == {"base", "wrist"}
    assert all(
        points.shape == (4, 2) and (points >= 0).all() and (points <= 1).all() for points in output.coordinates.values()
    )
    assert Policy(tiny(None)).infer(observation()).coordinates == {}


def test_a_missing_camera_is_an_input_error():
    blind = dataclasses.replace(observation(), images={"base": observation().images["base"]})
    with pytest.raises(InputError, match=r"lacks cameras \['wrist'\]"):
        Policy(tiny(4)).infer(blind)


@pytest.mark.parametrize(
    ("instruction", "text"),
    [
        ("lift the purple cube", r"does not know: \['purple'\]; it knows \['blue', 'cube'"),
        ("hebe den roten Würfel", "does not know: .*'Würfel'"),
        ("拿起红色方块 🟥", "does not know"),
        ("lift the red cube " * 20, "takes 81 tokens, this policy takes at most 12"),
    ],
)
def test_instructions_that_cannot_be_obeyed_are_refused(instruction, text):
    with pytest.raises(InputError, match=text):
        tiny(4).prompt().encode(instruction)


def test_case_and_spacing_do_not_matter():
    prompt = tiny(4).prompt()
    np.testing.assert_array_equal(prompt.encode(" Lift the  RED cube ")[0], prompt.encode("lift the red cube")[0])


# --- preprocessing -----------------------------------------------------------------------------------------------

coordinate = st.floats(-1.0, 1.0)
quaternion = st.tuples(*[coordinate] * 4).filter(lambda q: np.linalg.norm(q) > 0.1).map(lambda q: q / np.linalg.norm(q))


@settings(max_examples=80, deadline=None)
@given(
    quaternion,
    st.lists(st.tuples(*[coordinate] * 3), min_size=1, max_size=4),
    st.lists(quaternion, min_size=4, max_size=4),
)
def test_actions_and_chunks_are_inverse(start, positions, turns):
    pose = Pose((0.4, -0.1, 0.2), start)
    quaternions, gripper = np.array(turns[: len(positions)]), np.linspace(0.0, 0.08, len(positions))
    actions = preprocess.to_actions(pose, np.array(positions), quaternions, gripper)
    chunk = preprocess.to_chunk(5, pose, actions, 0.1)
    np.testing.assert_allclose(chunk.positions, positions, atol=1e-12)
    np.testing.assert_allclose(chunk.gripper, gripper)
    apart = Rotation.from_quat(chunk.quaternions) * Rotation.from_quat(quaternions).inv()
    assert apart.magnitude().max() < 1e-6


def test_actions_are_in_base_axes():
    pose = Pose((0, 0, 0), Rotation.from_euler("z", 90, degrees=True).as_quat())
    turned = Rotation.from_euler("xz", [30, 90], degrees=True)
    action = preprocess.to_actions(pose, np.array([[0.1, 0, 0]]), turned.as_quat()[None], np.array([0.0]))[0]
    expected = (turned * Rotation.from_quat(pose.quaternion).inv()).as_rotvec()
    np.testing.assert_allclose(action[:6], [0.1, 0, 0, *expected], atol=1e-12)


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 60), st.integers(2, 60), st.floats(0, 1), st.floats(0, 1))
def test_undoing_the_letterbox_finds_the_same_place(height, width, x, y):
    longest = max(height, width)
    boxed = np.array([0.5 + (x - 0.5) * width / longest, 0.5 + (y - 0.5) * height / longest])
    np.testing.assert_allclose(preprocess.undo_letterbox(boxed, height, width), [x, y], atol=1e-9)


@pytest.mark.parametrize(("height", "width"), [(60, 80), (80, 60), (10, 90), (64, 64), (32, 32)])
def test_letterbox_keeps_the_picture_in_its_middle(height, width):
    image = np.full((height, width, 3), 200, np.uint8)
    boxed = preprocess.letterbox(image, 32)
    assert boxed.shape == (32, 32, 3) and boxed.dtype == np.uint8
    share = height * width / max(height, width) ** 2
    assert (boxed == 200).all(-1).mean() == pytest.approx(share, abs=0.04)
    assert set(np.unique(boxed)) <= {0, 200}


@pytest.mark.parametrize(
    ("height", "width", "size"), [(480, 640, 128), (640, 480, 128), (63, 63, 21), (255, 510, 2), (100, 150, 50)]
)
def test_letterbox_averages_as_opencv_does(height, width, size):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    top, left, inner_h, inner_w = preprocess.ImageFit().box(height, width, size)
    expected = cv2.resize(image, (inner_w, inner_h), interpolation=cv2.INTER_AREA)
    boxed = preprocess.letterbox(image, size)
    np.testing.assert_array_equal(boxed[top : top + inner_h, left : left + inner_w], expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_normalisation_is_inverse_and_of_unit_spread(seed):
    rng = np.random.default_rng(seed)
    states, actions = rng.normal(2.0, 3.0, (50, 10)), rng.normal(-1.0, 0.2, (50, 6, 7))
    normalization = preprocess.Normalization.of(states, actions)
    unit = normalization.normalize_actions(actions)
    np.testing.assert_allclose(normalization.denormalize_actions(unit), actions, atol=1e-5)
    np.testing.assert_allclose(unit.reshape(-1, 7).std(0), 1.0, atol=1e-3)
    np.testing.assert_allclose(normalization.normalize_state(states).mean(0), 0.0, atol=1e-5)


def test_pixels_span_minus_one_to_one():
    pixels = preprocess.to_pixels(np.array([[[0, 255, 128]]], dtype=np.uint8))
    torch.testing.assert_close(pixels.flatten(), torch.tensor([-1.0, 1.0, 128 / 127.5 - 1.0]))
    assert pixels.shape == (3, 1, 1)


def test_the_number_of_tokens_changes_between_two_inferences_and_back():
    checkpoint = tiny(4, budgets=(2, 4))
    policy = Policy(checkpoint)
    assert policy.budgets == (2, 4)
    all_of_them = policy.infer(observation())
    policy.use_tokens(2)
    fewer = policy.infer(observation())
    assert {name: len(points) for name, points in fewer.coordinates.items()} == {"base": 2, "wrist": 2}
    np.testing.assert_array_equal(fewer.coordinates["base"], all_of_them.coordinates["base"][:2])
    policy.use_tokens(4)
    np.testing.assert_array_equal(policy.infer(observation()).chunk.positions, all_of_them.chunk.positions)
    with pytest.raises(CheckpointError, match="tokens is 3, this checkpoint was trained with 2 or 4"):
        policy.use_tokens(3)

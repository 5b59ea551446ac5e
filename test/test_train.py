"""Training: labels cut where they should be, losses with known values, runs that resume to the same numbers."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from step_bag import write_bag
from tiny import INSTRUCTIONS, SIZE, tiny
from training_samples import samples

from grids_ros import cli
from grids_ros.data.bags import Episode
from grids_ros.data.reader import BagError
from grids_ros.data.settings import chosen, topics_of
from grids_ros.data.targets import targets_at
from grids_ros.data.topics import Topics
from grids_ros.datatypes import NANOSECONDS, Pose
from grids_ros.observation.buffer import Snapshot
from grids_ros.policy.backbones.pi0 import demo_config
from grids_ros.policy.checkpoint import create, record_evaluation, save
from grids_ros.policy.errors import CheckpointError
from grids_ros.policy.grids import attached, detach
from grids_ros.policy.preprocess import (
    ACTION_DIM,
    STATE_DIM,
    ImageFit,
    fill_padding,
    letterbox,
    padded_pixels,
    padding_of,
    to_chunk,
    to_pixels,
    word_tokenizer,
)
from grids_ros.policy.spaces import ABSOLUTE, VECTOR
from grids_ros.sampler import GridSampler
from grids_ros.sim import mujoco_model
from grids_ros.sim.scene import Scene
from grids_ros.train import __main__ as train
from grids_ros.train import dataset, diagnosis
from grids_ros.train.batches import Batches
from grids_ros.train.dataset import Window, samples_of
from grids_ros.train.initial_checkpoint import start_from, vision_layers_of
from grids_ros.train.keypoint_labels import keypoints
from grids_ros.train.loop import Trainer
from grids_ros.train.loss_plot import plot_losses
from grids_ros.train.losses import Counts, LocationHeads, attraction, known, named_and_known, sample_times
from grids_ros.train.recipe import Recipe

STEP_NS = NANOSECONDS // 20  # of the targets
RECIPE = Recipe(steps=8, batch=4, warm_up=2)


def image(value):
    return SimpleNamespace(height=40, width=40, encoding="rgb8", step=120, is_bigendian=0, data=bytes([value]) * 4800)


def episode(missing=(), seconds=3.0):
    """A tool that moves along x at 0.1 m/s and turns about z at 0.2 rad/s; the gripper closes at 1.5 s."""
    ticks = np.array([i for i in range(int(seconds * 20)) if i not in missing])
    stamps = ticks * STEP_NS
    positions = np.stack([0.1 * stamps / NANOSECONDS, np.zeros(len(ticks)), np.full(len(ticks), 0.2)], axis=1)
    turns = Rotation.from_rotvec(np.outer(0.2 * stamps / NANOSECONDS, (0, 0, 1))).as_quat()
    frames = [(int(i * NANOSECONDS // 10), image(i)) for i in range(int(seconds * 10))]
    tables = np.array([stamp for stamp, _ in frames])
    still = np.tile((0.0, 0.0, 0.0, 1.0), (len(frames), 1))
    at_rest = Pose((0.0, 0.0, 0.2), (0.0, 0.0, 0.0, 1.0))
    seen = [Snapshot(stamp, dict.fromkeys(("base", "wrist"), (stamp, shown)), at_rest, 0.08) for stamp, shown in frames]
    return Episode(
        INSTRUCTIONS[0],
        seen,
        (tables, np.tile((0.0, 0.0, 0.2), (len(frames), 1)), still),
        (tables, np.full(len(frames), 0.08)),
        (stamps, positions, turns),
        (np.array([0, 1_500_000_000]), np.array([0.08, 0.0])),
        (tables, np.zeros((len(frames), 4, 3))),
    )


def test_targets_are_read_from_the_recorded_motion():
    times = np.array([525, 1625]) * 1_000_000
    positions, quaternions, openings = targets_at(episode(), times)
    np.testing.assert_allclose(positions[:, 0], [0.0525, 0.1625], atol=1e-9)
    np.testing.assert_allclose(Rotation.from_quat(quaternions).as_rotvec()[:, 2], [0.105, 0.325], atol=1e-9)
    assert openings.tolist() == [0.08, 0.0]


@pytest.mark.parametrize(("start_ms", "end_ms"), [(-50, 100), (2800, 3200), (900, 1300)])
def test_no_target_beyond_the_ends_or_across_an_interruption(start_ms, end_ms):
    cut = episode(missing=range(20, 25))
    assert targets_at(cut, np.array([start_ms, end_ms]) * 1_000_000) is None
    assert targets_at(cut, np.array([300, 900]) * 1_000_000) is not None


def test_a_hand_that_was_told_nothing_stays_as_open_as_it_is():
    told = dataclasses.replace(episode(), gripper_commands=(np.array([1_500_000_000]), np.array([0.0])))
    never = dataclasses.replace(told, gripper_commands=(np.zeros(0, np.int64), np.zeros(0)))
    times = np.array([525, 1625]) * 1_000_000
    assert targets_at(told, times)[2].tolist() == [0.08, 0.0]
    assert targets_at(never, times)[2].tolist() == [0.08, 0.08]
    assert targets_at(dataclasses.replace(never, grippers=never.gripper_commands), times) is None


ABROAD = {"cameras": {"base": "zed/left", "wrist": "zed/hand"}, "current_pose": "ur/tcp", "joint_states": "hand/joints"}


def abroad(tmp_path, *more):
    """What train's options make of a bag with other names for everything."""
    write_bag(tmp_path / "bag", steps=12, topics=Topics(**ABROAD))
    names = {"current_pose": "ur/tcp", "joint_states": "hand/joints"}
    names |= {f"camera/{name}/image_raw": f"zed/{topic}" for name, topic in (("base", "left"), ("wrist", "hand"))}
    remaps = [part for name, topic in names.items() for part in ("-r", f"{name}:=/{topic}")]
    options = cli.parse("train", ["bag", "--out", str(tmp_path / "out"), *remaps, *more])
    return dataset._load_bag(
        tmp_path / "bag",
        topics_of(tmp_path / "bag", chosen(options.robot), ("base", "wrist")),
        Window(("base", "wrist"), 32, 6, 0.1),
    )


def test_training_reads_the_bags_of_another_robot(tmp_path):
    assert len(abroad(tmp_path)) == 2 * 6, "the last six images of each episode are followed by too few targets"


def test_a_hand_whose_joints_have_other_names_is_said_to_be_missing(tmp_path):
    with pytest.raises(BagError, match="hand/joints within an episode has left, right, see finger_joints"):
        abroad(tmp_path, "-p", "finger_joints:=[left, right]")


def test_what_is_wrong_with_the_bags_is_said_without_a_traceback(tmp_path, capsys):
    write_bag(tmp_path / "bag")
    for remap, said in (
        ("current_pose:=/tcp", "has no messages on tcp; it has"),
        ("current_pose", "expected from:=to"),
    ):
        assert train.main([str(tmp_path / "bag"), "--out", str(tmp_path / "out"), "-r", remap]) == 2
        assert said in capsys.readouterr().err
    assert train.main([str(tmp_path / "nothing"), "--out", str(tmp_path / "out")]) == 2
    assert "no rosbag2 folder" in capsys.readouterr().err


def test_samples_mean_what_the_robot_will_do():
    window = Window(("base", "wrist"), 32, 6, 0.1)
    samples = list(samples_of(episode(), window))
    assert len(samples) == 24  # the last image whose 0.6 s of targets all lie within 2.95 s is that at 2.3 s
    images, state, actions, objects, tool, sizes = samples[5]
    assert sizes.tolist() == 2 * [[image(0).height, image(0).width]]
    assert images.shape == (2, 32, 32, 3) and (images == 5).all()
    assert state.shape == (10,) and objects.shape == (4, 3)
    np.testing.assert_allclose(tool, [0, 0, 0.2, 0, 0, 0, 1])
    chunk = to_chunk(0, Pose((0, 0, 0.2), (0, 0, 0, 1)), actions, 0.1)
    np.testing.assert_allclose(chunk.positions[:, 0], 0.1 * (0.5 + 0.1 * np.arange(1, 7)), atol=1e-9)


def test_samples_are_in_the_spaces_of_the_policy_that_is_trained():
    ours, theirs = (
        list(samples_of(episode(), Window(("base", "wrist"), 32, 6, 0.1, *spaces)))[5]
        for spaces in ((), (VECTOR, ABSOLUTE))
    )
    assert theirs[1].shape == (VECTOR.size,)
    np.testing.assert_allclose(theirs[2][:, :3], (0, 0, 0.2) + ours[2][:, :3], atol=1e-9)


# --- losses ------------------------------------------------------------------------------------------------------


def test_attraction_is_the_squared_distance_to_the_nearest_point():
    points = torch.tensor([[[[0.1, 0.1], [0.9, 0.9]]]])
    there = torch.tensor([[[[0.1, 0.3]]]])
    assert attraction(points, there, 1).item() == pytest.approx(0.04, abs=1e-4)
    hidden = torch.tensor([[[[float("nan"), 0.3], [1.2, 0.5]]]])
    assert attraction(points, hidden, 0).item() == 0.0


def test_attraction_pulls_only_the_nearest_point():
    points = torch.tensor([[[[0.2, 0.2], [0.8, 0.8]]]], requires_grad=True)
    attraction(points, torch.tensor([[[[0.3, 0.2]]]]), 1).backward()
    assert points.grad[0, 0, 0, 0] < -0.1
    assert points.grad[0, 0, 1].abs().max() < 1e-6


def test_flow_times_follow_their_distribution():
    times = sample_times(tiny().model.config, 200_000, torch.Generator().manual_seed(0))
    assert 0.0 < times.min() and times.max() <= 1.0
    assert times.mean().item() == pytest.approx(0.999 * 0.6 + 0.001, abs=3e-3)  # Beta(1.5, 1) has mean 0.6


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_places_are_where_the_camera_sees_them(seed):
    """The tool itself, projected: it must hang at the same place of the wrist camera whatever the arm does."""
    scene = Scene(seed)
    tool = scene.tool_pose()
    tools = np.concatenate([tool.position, tool.quaternion])[None]
    seen = keypoints(tool.position[None, None], tools, ("wrist", "base"))
    assert np.isfinite(seen).all()
    for index, camera in enumerate(("wrist", "base")):
        pose = scene.camera_pose(camera)
        local = Rotation.from_quat(pose.quaternion).inv().apply(tool.position - pose.position)
        pixel = scene.camera_intrinsics(camera) @ (local / local[2])
        np.testing.assert_allclose(seen[0, index, 0], pixel[:2] / scene.image_size, atol=2e-3)


# --- the loop ----------------------------------------------------------------------------------------------------


def trained(folder, stops, recipe=RECIPE):
    """Train in stretches, each resumed from what the one before saved; the trainer of the last."""
    folder.mkdir()
    for index, stop in enumerate(stops):
        trainer = Trainer(tiny(), samples(), recipe)
        if index:
            trainer.resume(folder / "training")
        for _ in trainer.run(folder / "losses.jsonl", stop):
            pass
        trainer.save(folder / "training")
    return trainer


def test_a_resumed_run_ends_on_the_same_numbers(tmp_path):
    whole, resumed = trained(tmp_path / "a", [6]), trained(tmp_path / "b", [2, 6])
    for (name, a), (_, b) in zip(whole.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7, msg=name)
    logs = [[json.loads(line)["flow"] for line in (tmp_path / n / "losses.jsonl").open()] for n in "ab"]
    assert logs[0] == logs[1] and len(logs[0]) == 6


def test_a_run_that_is_resumed_with_another_recipe_remembers_both(tmp_path):
    same = trained(tmp_path / "run", [1, 2])
    assert [stage["from_step"] for stage in same.stages] == [0]
    other = Trainer(tiny(), samples(), dataclasses.replace(RECIPE, batch=2))
    other.resume(tmp_path / "run" / "training")
    assert [(stage["from_step"], stage["batch"]) for stage in other.stages] == [(0, RECIPE.batch), (2, 2)]


def test_training_lowers_the_loss_on_what_it_sees(tmp_path):
    recipe = dataclasses.replace(RECIPE, steps=60, learning_rate=3e-3)
    trained(tmp_path / "run", [60], recipe)
    flow = [json.loads(line)["flow"] for line in (tmp_path / "run" / "losses.jsonl").open()]
    assert np.mean(flow[-10:]) < 0.8 * np.mean(flow[:10])


def test_nested_training_sees_each_number_of_tokens_and_repeats(tmp_path, monkeypatch):
    recipe = dataclasses.replace(RECIPE, steps=12, nested=(1, 2))
    seen = []
    forward = GridSampler.forward

    def watched(self, features):
        tokens, coordinates = forward(self, features)
        seen.append(coordinates.shape[1])
        return tokens, coordinates

    monkeypatch.setattr(GridSampler, "forward", watched)
    trained(tmp_path / "a", [12], recipe)
    whole, seen[:] = list(seen), []
    resumed = trained(tmp_path / "b", [5, 12], recipe)
    assert set(whole) == {1, 2, 4} and seen == whole
    assert [stage["nested"] for stage in resumed.stages] == [[1, 2]], "it is no other recipe after a resume"


@pytest.mark.parametrize(("words", "length"), [(5, 16), (18, 19)])
def test_a_new_policy_takes_the_longest_instruction_of_its_data(words, length, monkeypatch):
    monkeypatch.setattr(train, "DemoSize", lambda: SIZE)
    long = " ".join(f"word{n}" for n in range(words))
    data = dataclasses.replace(samples(12), instructions=np.array([long, *INSTRUCTIONS[:1]] * 6))
    made = train.new_checkpoint(data, Window(("base", "wrist"), SIZE.image_size, 12, 0.1), 4, 0)
    assert made.spec.prompt_length == length
    for instruction in set(data.instructions.tolist()):
        made.prompt().encode(instruction)


@pytest.mark.parametrize("numbers", [(0, 1), (1, 2, 2, 7), (25, 26), tuple(range(3, 60))])
def test_an_episode_is_held_out_of_those_that_hold_samples_however_they_are_numbered(numbers):
    data = samples(len(numbers))
    kept, unseen = train.split(dataclasses.replace(data, episodes=np.array(numbers)))
    assert len(kept) and len(unseen) and not set(kept.episodes) & set(unseen.episodes)


def test_the_state_of_another_model_is_refused(tmp_path):
    trainer = trained(tmp_path / "a", [1])
    dense = Trainer(tiny(None), samples(), RECIPE)
    dense.save(tmp_path / "dense")
    with pytest.raises(ValueError, match="is from another model"):
        trainer.resume(tmp_path / "dense")


def test_a_start_carries_every_weight_over_and_words_by_their_spelling():
    torch.manual_seed(1)
    earlier = tiny()
    earlier.provenance.update(steps=7, data={"instructions": INSTRUCTIONS})
    _, fresh = mixed()
    fresh = dataclasses.replace(fresh, model=create(_with_words(fresh), fresh.spec))
    before = {name: tensor.clone() for name, tensor in fresh.model.named_parameters()}
    start_from(earlier, fresh)
    known, ours, theirs = (dict(earlier.model.named_parameters()), *(c.tokenizer.get_vocab() for c in (fresh, earlier)))
    for name, tensor in fresh.model.named_parameters():
        if not name.endswith("embed_tokens.weight"):
            assert torch.equal(tensor, known[name]), name
            continue
        for word, row in ours.items():
            wanted = known[name][theirs[word]] if word in theirs else before[name][row]
            assert torch.equal(tensor[row], wanted), (name, word)
    assert fresh.provenance["start"] == {"tokens": "GridS-4", "steps": 7, "data": {"instructions": INSTRUCTIONS}}


def _with_words(checkpoint):
    return demo_config(SIZE, checkpoint.tokenizer.get_vocab_size(), 6, STATE_DIM, ACTION_DIM)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda: tiny(cameras=("base",)), "cameras are base, expected base, wrist"),
        (lambda: tiny(8), "has shape .*, expected"),
        (lambda: tiny(pruner="fixed_grid"), "is missing: it is another model"),
    ],
)
def test_a_start_from_another_model_is_refused(other, said):
    with pytest.raises(CheckpointError, match=said):
        start_from(other(), tiny())


def deep(checkpoint, vision_layers):
    """The same policy with random weights and so many vision layers."""
    size = dataclasses.replace(SIZE, vision_layers=vision_layers)
    config = demo_config(size, checkpoint.tokenizer.get_vocab_size(), 6, STATE_DIM, ACTION_DIM)
    return dataclasses.replace(checkpoint, model=create(config, checkpoint.spec))


def test_a_start_with_more_vision_layers_gives_its_first_ones():
    deeper, shallow = deep(tiny(seed=1), 3), tiny()
    assert (vision_layers_of(deeper), vision_layers_of(shallow)) == (3, 1)
    start_from(deeper, shallow)
    known = dict(deeper.model.named_parameters())
    assert all(torch.equal(tensor, known[name]) for name, tensor in shallow.model.named_parameters())
    with pytest.raises(CheckpointError, match="encoder.layers.1.*is missing: it is another model"):
        start_from(shallow, deeper)


@pytest.mark.parametrize("pruner", ["grids", "token_learner"])
def test_a_start_from_a_dense_policy_leaves_the_sampler_as_it_was(pruner):
    dense, fresh = tiny(None, seed=1), tiny(pruner=pruner)
    before = {name: tensor.clone() for name, tensor in attached(fresh.model).sampler.named_parameters()}
    start_from(dense, fresh)
    after = detach(fresh.model)
    assert before and all(torch.equal(tensor, before[name]) for name, tensor in after.named_parameters())
    known = dict(dense.model.named_parameters())
    assert all(torch.equal(tensor, known[name]) for name, tensor in fresh.model.named_parameters())


def test_a_start_in_half_precision_is_trained_on_in_float32():
    half, fresh = tiny(seed=1), tiny()
    half.model.half()
    start_from(half, fresh)
    known = dict(half.model.named_parameters())
    assert all(
        tensor.dtype == torch.float32 and torch.equal(tensor, known[name].float())
        for name, tensor in fresh.model.named_parameters()
    )


def test_a_dense_start_from_a_pruned_policy_takes_all_but_its_sampler():
    pruned, dense = tiny(seed=1), tiny(None)
    start_from(pruned, dense)
    assert attached(pruned.model) is None
    known = dict(pruned.model.named_parameters())
    assert all(torch.equal(tensor, known.pop(name)) for name, tensor in dense.model.named_parameters())
    assert not known


def test_a_batch_depends_on_its_step_and_seed_alone():
    checkpoint = tiny()
    batches = Batches(samples(), checkpoint, RECIPE)
    first, again, next_one = batches.at(3), batches.at(3), batches.at(4)
    assert torch.equal(first.pixels, again.pixels) and not torch.equal(first.pixels, next_one.pixels)
    assert set(first.named.flatten().tolist()) <= {0, 1, 2}


MIXED = ["lift the red cube"] * 20 + ["put the green cube into the bowl"] * 3 + ["stack the blue cube on the red cube"]


def mixed():
    """24 samples, most of them of one task, and a checkpoint that knows all their words."""
    data = dataclasses.replace(samples(), instructions=np.array(MIXED))
    return data, dataclasses.replace(tiny(), tokenizer=word_tokenizer(sorted({*MIXED, *INSTRUCTIONS})))


def test_each_task_has_its_share_of_every_batch_however_little_data_it_has():
    data, checkpoint = mixed()
    batches, totals = Batches(data, checkpoint, dataclasses.replace(RECIPE, batch=8)), np.zeros(3)
    for step in range(6):
        named = batches.at(step).named
        lifted, in_bowl = named[:, 1] == -1, named[:, 1] == mujoco_model.OBJECTS.index("bowl")
        counts = np.array([lifted.sum(), in_bowl.sum(), (~lifted & ~in_bowl).sum()])
        assert counts.min() >= 2 and counts.sum() == 8
        totals += counts
    assert (totals == 16).all(), "what is left over goes round"


def test_one_task_alone_is_drawn_as_from_a_single_heap():
    drawn = Batches(samples(), tiny(), RECIPE).at(5)
    rows = np.sort(np.random.default_rng((RECIPE.seed, 5)).choice(24, RECIPE.batch, replace=False))
    assert drawn.named.tolist() == [[row % 3] for row in rows]


def test_the_words_name_the_cube_and_then_its_target():
    data, checkpoint = mixed()
    named = {tuple(row) for step in range(3) for row in Batches(data, checkpoint, RECIPE).at(step).named.tolist()}
    assert named == {(0, -1), (1, 3), (2, 0)}


def test_labels_of_another_recording_are_of_the_objects_that_its_instruction_names():
    """Two of four known, as of a benchmark's demonstrations: they count, and no camera of the simulation is asked."""
    data, checkpoint = mixed()
    data.objects[::2, 2:] = np.nan
    assert len(data.instructions[::2]) > 3
    batches = Batches(data, checkpoint, RECIPE)
    for batch in (batches.at(step) for step in range(3)):
        partly = ~known(batch.objects).all(-1)
        assert partly.any() and batch.named[partly].tolist() == [[0, 1]] * int(partly.sum())
        assert batch.keypoints[partly].isnan().all() and batch.keypoints[~partly].isfinite().any()
        assert named_and_known(batch.objects, batch.named)[partly].all()
        assert batch.counts.names * len(batch.objects) == named_and_known(batch.objects, batch.named).sum()


def test_all_labels_are_of_the_simulation_where_the_instruction_names_its_objects_alone():
    data, checkpoint = mixed()
    tasks = np.array(["pick up the soup", *MIXED[1:]])
    words = sorted({*tasks, *MIXED, *INSTRUCTIONS})
    checkpoint = dataclasses.replace(checkpoint, tokenizer=word_tokenizer(words))
    batches = Batches(dataclasses.replace(data, instructions=tasks), checkpoint, RECIPE)
    assert batches._named[0].tolist() == [0, 1, 2, 3] and np.isnan(batches._keypoints[0]).all()
    assert batches._named[1, 2:].tolist() == [-1, -1] and not np.isnan(batches._keypoints[1]).all()


def test_fewer_objects_than_labels_are_filled_up_and_more_are_refused():
    window, places = Window(("base", "wrist"), 32, 6, 0.1), np.arange(15.0).reshape(1, 5, 3)
    two, five = (dataclasses.replace(episode(), objects=(np.zeros(1, np.int64), places[:, :n])) for n in (2, 5))
    *_, objects, _, _ = next(samples_of(two, window))
    np.testing.assert_array_equal(objects, [[0, 1, 2], [3, 4, 5], [np.nan] * 3, [np.nan] * 3])
    with pytest.raises(ValueError, match="object_poses has 5 poses, expected at most 4"):
        next(samples_of(five, window))


def test_the_location_loss_asks_for_the_target_too():
    """Heads that tell the truth about everything but the second object named; the loss is that error alone."""
    torch.manual_seed(0)
    heads = LocationHeads(tiny().model, cameras=2, objects=4, names=2)
    truth = torch.randn(3, 4, 3)
    named = torch.tensor([[0, -1], [1, 3], [2, 0]])
    batch = SimpleNamespace(objects=truth, named=named, counts=Counts(4.0, 0.0, 5 / 3))
    heads.pooled = heads.tokens = torch.nn.Identity()
    goals = torch.stack([torch.cat([truth[b, i], truth[b, j]]) for b, (i, j) in enumerate(named)])
    heads.named = torch.nn.Identity()
    exact = truth.flatten(1)
    assert heads(exact, exact, goals, batch).item() == pytest.approx(0.0, abs=1e-12)
    goals[:, 3:] += 0.5
    assert heads(exact, exact, goals, batch).item() == pytest.approx(0.25 * 2 / 5), "two targets of five objects named"


def test_a_shift_moves_the_picture_and_its_labels_together():
    data = samples(4)
    data.images[:] = 0
    data.images[:, :, 16, 10] = 255
    batch = Batches(data, tiny(), Recipe(steps=1, batch=4, shift=3)).at(0)
    unshifted = Batches(data, tiny(), Recipe(steps=1, batch=4, shift=0)).at(0)
    moved = (batch.keypoints - unshifted.keypoints)[:, :, 0] * SIZE.image_size
    bright = batch.pixels.sum(2)
    for b, c in np.ndindex(4, 2):
        y, x = np.unravel_index(int(bright[b, c].argmax()), bright[b, c].shape)
        if torch.isfinite(moved[b, c]).all():
            np.testing.assert_allclose(moved[b, c], [x - 10, y - 16], atol=1e-4)


TALL = ImageFit("area", -3.0)


def padded(shift: int, anchor: str = "centre"):
    """A batch of images of 24x32 and 32x20 in squares of 32, and where they have padding."""
    fit = dataclasses.replace(TALL, anchor=anchor)
    checkpoint, data = tiny(), samples(4)
    data.sizes[:] = [[24, 32], [32, 20]]
    data.images[padding_of(data.sizes, 32, fit)] = 0
    spec = dataclasses.replace(checkpoint.spec, image=fit)
    recipe = Recipe(steps=1, batch=4, shift=shift)
    return Batches(data, dataclasses.replace(checkpoint, spec=spec), recipe).at(0), data


@pytest.mark.parametrize("anchor", ["centre", "end"])
def test_padding_that_is_not_black_is_written_into_the_batch(anchor):
    batch, data = padded(0, anchor)
    outside = padding_of(data.sizes, 32, ImageFit(anchor=anchor))
    assert outside[0, 0].sum() == 8 * 32 and outside[0, 1].sum() == 12 * 32
    np.testing.assert_array_equal((batch.pixels == -3.0).all(2).numpy(), outside)
    assert batch.pixels[(batch.pixels != -3.0)].abs().max() <= 1.0


def test_padding_moves_with_the_picture():
    moved = (padded(3)[0].pixels == -3.0).all(2).numpy()
    above = moved[:, 0].argmin(1)[:, 16]  # rows of padding above the first camera's image
    assert len(set(above.tolist())) > 1 and set(above.tolist()) <= set(range(1, 8))
    np.testing.assert_array_equal(moved[:, 0].sum((1, 2)), 8 * 32)


@pytest.mark.parametrize("fit", [TALL, ImageFit("bilinear", -3.0, "end"), ImageFit()])
@pytest.mark.parametrize("size", [(24, 32), (32, 20), (32, 32), (50, 31)])
def test_training_pads_as_the_robot_does(fit, size):
    shown = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    boxed = letterbox(shown, 32, fit)
    ours = padded_pixels(boxed[None, None], np.array([[size]]), fit)[0, 0]
    torch.testing.assert_close(ours, fill_padding(to_pixels(boxed), *size, fit), rtol=0.0, atol=0.0)


def test_a_wrong_instruction_is_one_that_was_taught_even_if_the_held_out_samples_have_only_one(monkeypatch):
    told = []
    monkeypatch.setattr(diagnosis, "predict", _remembering(told))
    whole, checkpoint = samples(), tiny()
    checkpoint = dataclasses.replace(
        checkpoint, spec=dataclasses.replace(checkpoint.spec, instructions=tuple(INSTRUCTIONS))
    )
    held_out = whole.rows(whole.instructions == INSTRUCTIONS[0])
    diagnosis.diagnose(checkpoint, held_out, np.arange(len(held_out)))
    assert set(told[0]) == {INSTRUCTIONS[0]} and set(told[1]) == set(INSTRUCTIONS[1:])


def _remembering(told: list):
    def predict(checkpoint, engine, images, states, instructions, sizes):
        told.append([str(words) for words in instructions])
        return np.zeros((len(states), 6, 7)), np.full((len(states), 2, 4, 2), 0.5, np.float32)

    return predict


def test_points_that_are_held_are_read_whatever_is_in_the_image():
    checkpoint, data = tiny(), samples()
    rows = np.arange(5)
    asked = data.images[rows], data.states[rows], data.instructions[rows], data.sizes[rows]
    engine = diagnosis.Engine(checkpoint.model.eval(), checkpoint.spec.denoising_steps)
    actions, looked = diagnosis.predict(checkpoint, engine, *asked)
    sampler = attached(checkpoint.model).sampler
    points = np.random.default_rng(0).uniform(0.1, 0.9, looked.shape[1:]).astype(np.float32)
    sampler.hold(torch.from_numpy(points))
    _, held = diagnosis.predict(checkpoint, engine, *asked)
    sampler.hold(None)
    again, after = diagnosis.predict(checkpoint, engine, *asked)
    np.testing.assert_array_equal(held, np.repeat(points[None], len(rows), 0))
    np.testing.assert_array_equal(after, looked)
    np.testing.assert_array_equal(again, actions)


def test_there_must_be_something_to_resume(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.parse("train", ["demos", "--out", str(tmp_path / "new"), "--resume"])
    assert "training to resume from" in capsys.readouterr().err


def test_diagnosis_card_and_plot(tmp_path):
    trainer = trained(tmp_path / "run", [2])
    data = samples()
    report = diagnosis.diagnose(trainer.checkpoint, data, np.arange(12))
    conditions = {"right", "wrong_instruction", "no_instruction", "shuffled_images", "fixed_coordinates"}
    assert set(report["last_step_error_mm"]) == conditions
    assert set(report["coordinate_motion"]) == {"base", "wrist"}
    facts = {
        "parameters": 1000,
        "data": {"instructions": INSTRUCTIONS, "episodes": 6, "samples": 24},
        "steps": 2,
        "stages": trainer.stages,
        "hardware": "a test",
        "diagnosis": report,
    }
    checkpoint = dataclasses.replace(trainer.checkpoint, provenance=facts)
    save(checkpoint, tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    asked = {"task": "lift", "ood": None, "first_seed": 7, "tokens_per_camera": 4, "join": "rtc", "delay_ms": 60.0}
    told = {"wilson_95": [0.3, 0.7], "wrong_objects": 1, "time_to_success_s": None, "episodes": 10}
    for successes, delay_ms in ((1, 60.0), (5, 60.0), (4, 150.0)):
        record_evaluation(tmp_path / "saved", {**asked, **told, "successes": successes, "delay_ms": delay_ms})
    record_evaluation(tmp_path / "saved", {**asked, **told, "successes": 3, "tokens_per_camera": 2})
    scored = (tmp_path / "saved" / "README.md").read_text()
    assert "| lift, 2 tokens |" in scored and "| lift |" in scored
    assert "| 5 of 10 |" in scored and "| 4 of 10 |" in scored and "| 1 of 10 |" not in scored
    assert "GridS-4" in card and "shuffled images" in card and "6 episodes, 24 samples" in card
    plot_losses(tmp_path / "run" / "losses.jsonl", tmp_path / "losses.png")
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")

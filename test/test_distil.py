"""GridS on a dense checkpoint: what is distilled, what trains, and that no way of computing it changes the numbers."""

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from distil_stages import DISTIL, TUNE, advance, own_data, pruned, together, trainer
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny import observation, save_tiny, tiny
from training_samples import samples

from grids_ros import cli
from grids_ros.data.topics import Topics
from grids_ros.policy.backbones import pi0
from grids_ros.policy.checkpoint import load, save
from grids_ros.policy.errors import CheckpointError
from grids_ros.policy.grids import attach
from grids_ros.policy.runtime import Policy
from grids_ros.train import __main__ as command
from grids_ros.train.batches import Batches
from grids_ros.train.distillation import distillation, relative_error, unpruned
from grids_ros.train.initial_checkpoint import prune
from grids_ros.train.loop import Trainer
from grids_ros.train.lora import is_update, original_name, projections
from grids_ros.train.losses import in_view
from research.pruners import BaselineConfig

CELLS = 16  # of the tiny model's feature map


def gradients(trainer):
    trainer._backward()
    return {name: p.grad for name, p in trainer.module.named_parameters() if p.grad is not None}


# Biases that change nothing: added to every key alike, or taken away again by the norm that follows, whose groups have
# one channel each here. Their gradients are rounding errors and nothing else, of which Adam makes whole steps.
VAIN = ("k_proj.bias", "patch_embedding.layers.0.bias")


def assert_same(ours, theirs, tolerance=1e-4):
    """Equal up to float32's rounding, beside the largest number of each tensor."""
    assert ours.keys() == theirs.keys() and ours
    for name, tensor in ours.items():
        if name.endswith(VAIN):
            continue
        scale = theirs[name].abs().max().item()
        torch.testing.assert_close(tensor, theirs[name], rtol=0.0, atol=tolerance * scale + 1e-8, msg=name)


# --- what is distilled -------------------------------------------------------------------------------------------


def test_the_teacher_is_the_dense_model():
    dense, student = tiny(None), pruned()
    ours, theirs = (Batches(own_data(), c, DISTIL).at(0) for c in (student, dense))
    with torch.no_grad():
        embedded, mask = unpruned(student.model, pi0.embed(student.model, ours.input_ids, ours.pixels), ours)
        prefix = pi0.prefill(student.model, embedded, mask, ours.state)
        taught = pi0.velocity(student.model, prefix, mask, ours.state, *ours.flow())
        embedded, mask = pi0.embed(dense.model, theirs.input_ids, theirs.pixels), theirs.attention_mask
        prefix = pi0.prefill(dense.model, embedded, mask, theirs.state)
        wanted = pi0.velocity(dense.model, prefix, mask, theirs.state, *theirs.flow())
    torch.testing.assert_close(taught, wanted)


def test_who_reads_every_cell_has_nothing_to_learn_and_who_reads_few_has():
    dense = tiny(None)
    width = dense.model.config.vlm_config.projection_dim
    attach(dense.model, BaselineConfig("fixed_grid", CELLS, width, embed_coordinates=False))
    terms = distillation(dense.model, Batches(own_data(), dense, DISTIL).at(0))
    assert terms["velocity"].item() < 1e-10 and terms["readout"].item() < 1e-10
    few = pruned()
    terms = distillation(few.model, Batches(own_data(), few, DISTIL).at(0))
    assert terms["velocity"].item() > 1e-6 and terms["readout"].item() > 1e-6


@settings(deadline=None)
@given(st.floats(1e-3, 1e3), st.integers(0, 1000))
def test_the_readout_s_error_knows_no_scale_and_is_a_mean_over_samples(scale, seed):
    answer, lesson = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(seed))
    error = relative_error(answer, lesson)
    torch.testing.assert_close(relative_error(scale * answer, scale * lesson), error)
    torch.testing.assert_close(
        (relative_error(answer[:1], lesson[:1]) + 3 * relative_error(answer[1:], lesson[1:])) / 4, error
    )
    torch.testing.assert_close(relative_error(torch.zeros_like(lesson), lesson), torch.ones(()))


def test_distilling_moves_the_sampler_alone_and_towards_the_teacher(tmp_path):
    recipe = dataclasses.replace(DISTIL, steps=40, learning_rate=3e-3)
    before = {name: tensor.clone() for name, tensor in pruned().model.state_dict().items()}
    model = advance(trainer(recipe), tmp_path).model
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if ".sampler." in name}
    lines = [json.loads(line) for line in (tmp_path / "losses.jsonl").open()]
    for term in ("velocity", "readout"):
        assert np.mean([line[term] for line in lines[-8:]]) < 0.9 * np.mean([line[term] for line in lines[:8]]), term


def test_a_dense_policy_keeps_all_but_its_tokens():
    dense = tiny(None)
    student = prune(dense, "mine", 4, 0)
    assert student.spec.sampler.tokens == 4 and student.provenance["distilled_from"]["name"] == "mine"
    assert dataclasses.replace(student.spec, sampler=None) == dense.spec
    assert student.normalization is dense.normalization and student.tokenizer is dense.tokenizer
    with pytest.raises(CheckpointError, match="has a sampler of 4 tokens, expected a dense policy"):
        prune(student, "mine", 4, 0)


def test_the_second_stage_sees_every_token_whatever_number_the_first_ended_on(tmp_path):
    checkpoint = pruned()
    first = Trainer(checkpoint, own_data(), dataclasses.replace(DISTIL, nested=(1, 2)))
    advance(first, tmp_path)
    first.checkpoint.model.model.vlm.multi_modal_projector.sampler.use(1)  # as a draw of one leaves it
    second = Trainer(checkpoint, own_data(), dataclasses.replace(TUNE, nested=(1, 2)), after=first)
    image = checkpoint.model.config.vlm_config.image_token_id
    assert (second._batches.at(4).input_ids == image).sum(-1).tolist() == [2 * 4] * TUNE.batch
    advance(second, tmp_path)


# --- updates of low rank -----------------------------------------------------------------------------------------


def test_updates_of_low_rank_begin_at_nothing_and_are_all_that_trains_beside_the_sampler(tmp_path):
    plain, low = trainer(TUNE), trainer(dataclasses.replace(TUNE, lora=2))
    assert low._backward() == plain._backward(), "the updates are zero at first"
    before = {name: tensor.clone() for name, tensor in pruned().model.state_dict().items()}
    advance(low, tmp_path)
    after = {original_name(name): tensor for name, tensor in low.model.state_dict().items() if not is_update(name)}
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if ".sampler." in name}
    projected = {f"{name}.weight" for name in projections(pruned().model)}
    assert len(projected) == 2 * 2 * 7, "towers, layers, projections"
    last = "model.vlm.language_model.layers.1."  # whose keys and values alone reach an action
    reached = {n for n in projected if not n.startswith(last) or "k_proj" in n or "v_proj" in n}
    saved = {name: lazy.read() for name, lazy in low.weights().items()}
    assert {name for name in before if not torch.equal(saved[name], before[name])} == changed | reached
    update = saved[up := "model.dit.layers.0.mlp.up_proj.weight"] - before[up]
    assert torch.linalg.matrix_rank(update, tol=1e-7) == 2


def test_merged_updates_act_as_they_did_in_training(tmp_path):
    low = advance(trainer(dataclasses.replace(TUNE, lora=2, learning_rate=1e-2)), tmp_path)
    save(low.checkpoint, tmp_path / "merged", low.weights())
    low.average()
    batch = Batches(own_data(), low.checkpoint, TUNE).at(9)
    with torch.no_grad():
        low.model.eval()
        trained = distillation(low.model, batch)
        merged = distillation(load(tmp_path / "merged").model, batch)
    torch.testing.assert_close(merged["velocity"], trained["velocity"])
    assert Policy.load(tmp_path / "merged").infer(observation()).chunk.positions.shape == (6, 3)


# --- the same numbers, computed otherwise ------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [DISTIL, TUNE, dataclasses.replace(TUNE, lora=2)])
@pytest.mark.parametrize("change", [{"accumulate": 3}, {"recompute": True}])
def test_gradients_are_the_same_in_parts_and_when_layers_are_computed_twice(recipe, change):
    changed = gradients(trainer(dataclasses.replace(recipe, **change)))
    assert_same(changed, gradients(trainer(recipe)))


def test_the_aids_are_the_same_in_parts_though_each_part_knows_of_other_objects():
    data = samples()
    data.objects[:] = np.random.default_rng(1).uniform((0.3, -0.3, 0.0), (0.7, 0.3, 0.1), data.objects.shape)
    data.objects[:, 0] += (0.0, 5.0, 0.0)  # out of every image
    data.objects[::3] = np.nan
    recipe = dataclasses.replace(TUNE, batch=8, attraction=50.0)

    def of(accumulate):
        trainer = Trainer(tiny(), data, dataclasses.replace(recipe, accumulate=accumulate))
        batch = trainer._batches.at(0)
        unknown, seen = batch.objects.isnan().any(-1).any(-1), in_view(batch.keypoints)
        assert 0 < unknown.sum() < 8 and seen.any() and not seen[:, :, 0].any()
        terms = trainer._backward()
        assert terms["locations"] > 0.0 and "attraction" in terms
        return {name: p.grad for name, p in trainer.module.named_parameters() if p.grad is not None}

    assert_same(of(3), of(1))


def test_layers_under_the_checkpoint_run_twice():
    twice = trainer(dataclasses.replace(TUNE, recompute=True))
    runs = []
    for layers in (twice.model.model.vlm.vision_tower.encoder.layers, twice.model.model.dit.layers):
        layers[0].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    twice._backward()
    assert len(runs) == 4


def test_bfloat16_computes_coarsely_and_keeps_what_it_trains_exact(tmp_path):
    exact, coarse = trainer(DISTIL), trainer(dataclasses.replace(DISTIL, bf16=True))
    wanted, terms = exact._backward(), coarse._backward()
    assert terms != wanted and terms["velocity"] == pytest.approx(wanted["velocity"], rel=0.2)
    advance(coarse, tmp_path)
    assert {p.dtype for p in coarse.module.parameters()} == {torch.float32}


def test_a_dense_policy_in_bfloat16_stays_one_even_without_the_expert_s_words(tmp_path):
    dense = tiny(None)
    dense.model.bfloat16()
    dense.model.model.dit.embed_tokens = None  # as published checkpoints have it
    narrow = advance(Trainer(prune(dense, "dense", 4, 0), own_data(), DISTIL), tmp_path, 1)
    assert {p.dtype for p in narrow.module.parameters()} == {torch.float32}
    save(narrow.checkpoint, tmp_path / "saved", narrow.weights())
    assert {tensor.dtype for tensor in load_file(tmp_path / "saved" / "model.safetensors").values()} == {torch.bfloat16}
    assert np.isfinite(Policy.load(tmp_path / "saved").infer(observation()).chunk.positions).all()


def test_a_part_of_a_batch_is_that_part_of_the_whole():
    batches = Batches(samples(), tiny(), TUNE)
    whole, part = batches.at(3), batches.at(3, slice(1, 3))
    assert part.counts == whole.counts, "so that the parts add up"
    for field in dataclasses.fields(whole)[:-1]:
        ours, theirs = getattr(part, field.name), getattr(whole, field.name)[1:3]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True, msg=field.name)


SECOND = """
import sys; sys.path[:0] = sys.argv[4:]
from pathlib import Path
from distil_stages import together
together(Path(sys.argv[1]), sys.argv[2] == "sharded", int(sys.argv[3]))
"""


def in_two_processes(monkeypatch, folder, *arguments):
    """`together` in this process and another; what it gives here."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "OMP_NUM_THREADS": "1"}
    for name, value in {**shared, "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    for name in ("both", "second"):
        (folder / name).mkdir()
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    told = ["sharded" if arguments[0] else "replicated", *map(str, arguments[1:])]
    script = [sys.executable, "-c", SECOND, str(folder / "second"), *told, *paths]
    said, environment = folder / "second.log", {**os.environ, "RANK": "1", "PYTHONFAULTHANDLER": "1"}
    with said.open("w") as log, subprocess.Popen(script, env=environment, stderr=log) as second:
        try:
            both = together(folder / "both", *arguments)
            assert second.wait(60) == 0, said.read_text()
        finally:
            second.kill()
    for name in (*shared, "RANK"):
        monkeypatch.delenv(name)
    return both


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return folder, together(folder)


@pytest.mark.parametrize("shard", [False, True], ids=["DDP", "FSDP"])
def test_two_processes_train_as_one_with_the_whole_batch(shard, alone, tmp_path, monkeypatch):
    folder, expected = alone
    both = in_two_processes(monkeypatch, tmp_path, shard, 1)
    for ours, theirs in zip(both, expected, strict=True):
        assert_same(ours, theirs)
    logs = [[json.loads(line) for line in (each / "losses.jsonl").open()] for each in (tmp_path / "both", folder)]
    for ours, theirs in zip(*logs, strict=True):
        del ours["seconds"], theirs["seconds"]
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert not list((tmp_path / "second").iterdir()), "the first process alone writes"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("dense") / "teacher", tokens=None)


@pytest.fixture
def train(monkeypatch, dense):
    """The command, on samples in place of bags."""
    monkeypatch.setattr(command, "find_bags", lambda paths: list(paths))
    monkeypatch.setattr(command, "topics_of", lambda *_: Topics())
    monkeypatch.setattr(command, "load", lambda bags, window, workers: own_data(120))

    def run(out, *options, teacher=dense):
        fixed = ["--tokens", "4", "--batch", "4", "--threads", "1"]
        return command.main(["bag", "--out", str(out), "--from", str(teacher), *fixed, *options])

    return run


def tensors(folder):
    return load_file(folder / "model.safetensors")


def test_the_command_leaves_a_policy_that_says_where_it_is_from(train, dense, tmp_path):
    assert train(tmp_path / "out", "--distil-steps", "2", "--steps", "2", "--lora", "2") == 0
    made = load(tmp_path / "out")
    assert (made.spec.sampler.tokens, made.provenance["steps"]) == (4, 4)
    assert [stage["distil"] for stage in made.provenance["stages"]] == [True, False]
    assert (made.normalization.state_std == load(dense).normalization.state_std).all()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "GridS-4 policy" in card and "distilled from the dense policy `teacher`" in card and "lora 2" in card
    assert (tmp_path / "out" / "losses.png").read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(line) for line in (tmp_path / "out" / "losses.jsonl").open()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert ["velocity" in line for line in lines] == [True, True, False, False]
    assert not any("attraction" in line for line in lines), "nobody knows where the objects are"


@pytest.mark.parametrize("stop", [("1", "0"), ("2", "1")])
def test_a_run_that_is_cut_off_in_either_stage_ends_on_the_same_numbers(train, stop, tmp_path, monkeypatch, capsys):
    wanted = ["--distil-steps", "2", "--steps", "2"]
    assert train(tmp_path / "whole", *wanted) == 0
    cut = _cut_after(sum(map(int, stop)))
    monkeypatch.setattr(command, "SAVE_EVERY", 1)
    monkeypatch.setattr(Trainer, "run", cut)
    assert train(tmp_path / "cut", *wanted) == 130
    assert "--resume goes on from it" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(command, "find_bags", lambda paths: list(paths))
    monkeypatch.setattr(command, "topics_of", lambda *_: Topics())
    monkeypatch.setattr(command, "load", lambda bags, window, workers: own_data(120))
    assert train(tmp_path / "cut", *wanted, "--resume") == 0
    whole, resumed = tensors(tmp_path / "whole"), tensors(tmp_path / "cut")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    stages = [load(tmp_path / name).provenance["stages"] for name in ("whole", "cut")]
    assert stages[0] == stages[1]


def test_a_folder_that_holds_a_run_is_refused_without_resume_and_stays_as_it_is(train, tmp_path, capsys):
    out = tmp_path / "out"
    assert train(out, "--distil-steps", "1", "--steps", "0") == 0
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    state = shutil.copytree(out / command.STATE, tmp_path / "state")
    capsys.readouterr()
    for kept in ({*before, command.STATE}, {command.STATE}, {"losses.jsonl"}, {"grids.json"}):
        for name in set(before) - kept:
            (out / name).unlink()
        if command.STATE not in kept:
            shutil.rmtree(out / command.STATE)
        with pytest.raises(SystemExit, match="2"):
            train(out, "--distil-steps", "2", "--steps", "0")
        assert "of another run: --resume goes on with it" in capsys.readouterr().err
        assert all((out / name).exists() for name in kept)
        for name, content in before.items():
            (out / name).write_bytes(content)
        shutil.copytree(state, out / command.STATE, dirs_exist_ok=True)


def test_what_a_policy_scored_is_not_said_of_the_weights_that_come_after(train, tmp_path):
    out = tmp_path / "out"
    assert train(out, "--distil-steps", "0", "--steps", "1") == 0
    facts = json.loads((out / "provenance.json").read_text())
    (out / "provenance.json").write_text(json.dumps({**facts, "evaluations": [{"successes": 9}]}))
    assert train(out, "--distil-steps", "0", "--steps", "2", "--resume") == 0
    after = json.loads((out / "provenance.json").read_text())
    assert after["steps"] == 2 and "evaluations" not in after and "diagnosis" in after


def _cut_after(last):
    run = Trainer.run

    def cut(self, log, until):
        for step in run(self, log, until):
            yield step
            if step == last:
                raise KeyboardInterrupt

    return cut


def test_what_cannot_be_distilled_is_refused_with_the_reason(train, tmp_path, capsys, monkeypatch):
    pruned_already = save_tiny(tmp_path / "pruned")
    assert train(tmp_path / "out", teacher=pruned_already) == 2
    assert "expected a dense policy" in capsys.readouterr().err
    assert train(tmp_path / "out", "--cameras", "wrist", "base") == 2
    assert "its cameras are base, wrist" in capsys.readouterr().err
    stranger = dataclasses.replace(own_data(), instructions=np.array(["fold the shirt"] * 24))
    monkeypatch.setattr(command, "load", lambda *_: stranger)
    assert train(tmp_path / "out") == 2
    assert "words this policy does not know: ['fold'" in capsys.readouterr().err


@pytest.mark.parametrize(("weights", "second"), [(99_999_999, 1e-3), (100_000_000, 1e-4)])
def test_each_stage_warms_up_and_cools_down_from_a_rate_for_its_size(dense, weights, second):
    options = cli.parse(
        "train", ["bags", "--out", "out", "--from", str(dense), "--distil-steps", "50", "--steps", "4000"]
    )
    for stage, highest in zip(command.recipes(options, weights), (1e-3, second), strict=True):
        rates = [stage.rate(step) for step in range(stage.steps)]
        top = int(np.argmax(rates))
        assert max(rates) == pytest.approx(highest) and top <= stage.steps / 10
        assert (np.diff(rates[: top + 1]) > 0).all() and (np.diff(rates[top + 1 :]) < 0).all()
        assert rates[-1] < 0.02 * highest


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--lora", "4"], "without --from"),
        (["--from", "dense", "--tokens", "0"], "--tokens is 0, expected at least 1"),
        (["--from", "dense", "--steps", "0", "--distil-steps", "0"], "expected at least one step"),
        (["--batch", "3", "--accumulate", "4"], "expected at least 4"),
    ],
)
def test_options_that_make_no_sense_are_named(options, said, dense, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.parse(
            "train", ["bags", "--out", str(tmp_path), *(str(dense) if each == "dense" else each for each in options)]
        )
    assert said in capsys.readouterr().err

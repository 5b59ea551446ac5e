"""Training at full size: memory known beforehand, processes that share data, adapters that peft loads."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distil_stages import DISTIL, LOW, TUNE, advance, own_data, pruned, trainer
from families import FAMILIES, family
from peft import PeftModel
from recording import write_recording
from safetensors.torch import load_file
from tiny import save_tiny

from grids_ros.policy.checkpoint import load, save
from grids_ros.train.batches import Batches
from grids_ros.train.distillation import distillation
from grids_ros.train.footprint import FLOAT, FootprintError, Footprints, _activations, _Alive, _shapes, _trained
from grids_ros.train.lora import save_adapter
from grids_ros.train.losses import losses
from grids_ros.train.objective import Objective
from grids_ros.train.units import in_units

WORDS = ("lift the red cube", "lift the blue cube")


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("recipe", [TUNE, dataclasses.replace(DISTIL, recompute=True)], ids=["all", "distil twice"])
def test_activations_that_are_foretold_are_those_of_a_step(name, recipe):
    checkpoint = family(name)
    shapes = _shapes(checkpoint)
    if recipe.recompute:
        in_units(shapes, True)
    _trained(shapes, recipe)
    foretold = _activations(shapes, checkpoint, recipe, recipe.batch)
    model = checkpoint.model
    _trained(model, recipe)
    if recipe.recompute:
        in_units(model, True)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    objective, batch = Objective(model, None, recipe).train(), Batches(own_data(), checkpoint, recipe).at(0)
    with _Alive() as alive:
        sum(objective(batch).values()).backward()
    assert foretold == pytest.approx(alive.most, rel=0.1)


def test_what_the_optimiser_keeps_is_foretold_and_sharding_divides_it(tmp_path):
    one = advance(trainer(TUNE), tmp_path, 1)
    foretold = Footprints(pruned()).of(TUNE)
    held = sum(p.numel() for p in one.model.parameters()) * FLOAT
    moments = sum(t.nbytes for state in one.optimiser.state.values() for k, t in state.items() if k != "step")
    assert foretold.weights == held and foretold.average == sum(t.nbytes for t in one.averaged.values())
    assert 0.9 < moments / foretold.moments <= 1.0, "some weights reach no action and get no moments"
    four = Footprints(pruned()).of(TUNE, 4, shard=True)
    assert four.weights == foretold.weights // 4 and four.moments == foretold.moments // 4 and four.gathered > 0
    low, lean = Footprints(pruned()).of(LOW), Footprints(pruned()).of(dataclasses.replace(TUNE, average=False))
    assert low.moments < foretold.moments / 2 and lean.average == 0


def test_a_stage_that_does_not_fit_is_refused_with_what_would_make_it_fit():
    prints = Footprints(pruned())
    recipe = dataclasses.replace(TUNE, batch=32)
    room = prints.of(dataclasses.replace(recipe, accumulate=32)).total
    with pytest.raises(
        FootprintError, match=r"training: .* GiB in each process, which has .*expected one of: "
    ) as told:
        prints.divided([DISTIL, recipe], 1, room, "auto")
    assert "--accumulate 32" in str(told.value)
    assert prints.divided([dataclasses.replace(recipe, accumulate=32)], 1, room, "auto")[0] is False
    with pytest.raises(FootprintError, match="no option helps, nor do 64 processes"):
        prints.divided([recipe], 1, 1000, "auto")


def test_weights_are_sharded_where_one_process_cannot_hold_them_all():
    prints = Footprints(pruned())
    whole, quarter = (prints.of(TUNE, 4, shard).total for shard in (False, True))
    assert quarter < whole
    assert prints.divided([TUNE], 4, whole, "auto")[0] is False
    assert prints.divided([TUNE], 4, quarter, "auto")[0] is True
    assert prints.divided([TUNE], 4, whole, "on")[0] is True
    with pytest.raises(FootprintError):
        prints.divided([TUNE], 4, quarter, "off")


def test_an_adapter_that_peft_loads_onto_the_dense_policy_acts_as_the_merged_one(tmp_path):
    low = advance(trainer(dataclasses.replace(LOW, learning_rate=1e-2)), tmp_path)
    save(low.checkpoint, tmp_path / "merged", low.weights())
    save_adapter(tmp_path / "adapter", low.lora, "dense", low.adapter())
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 2
    other = pruned()
    with torch.no_grad():
        for parameter in other.model.model.vlm.multi_modal_projector.sampler.parameters():
            parameter.zero_()  # whatever it was: the adapter brings its own
    adapted = PeftModel.from_pretrained(other.model, str(tmp_path / "adapter")).merge_and_unload().eval()
    merged = load(tmp_path / "merged").model
    batch = Batches(own_data(), low.checkpoint, TUNE).at(9)
    with torch.no_grad():
        ours, theirs = losses(adapted, None, batch)["flow"], losses(merged, None, batch)["flow"]
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(distillation(adapted, batch), distillation(merged, batch))


def train(out, *sources, processes=1, options=()):
    """`grids train`, under torchrun for several processes; what it said."""
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", f"--nproc-per-node={processes}", "--standalone", "-m"]
    fixed = ["--tokens", "4", "--batch", "4", "--threads", "1", "--distil-steps", "1", "--steps", "2", "--seed", "3"]
    command = [*start, "grids_ros", "train", *map(str, sources), "--out", str(out), *fixed, *options]
    root = Path(__file__).parents[1]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=root
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran


@pytest.mark.timeout(600)
def test_two_processes_share_bags_and_data_sets_and_train_as_one(tmp_path):
    dense = save_tiny(tmp_path / "dense", tokens=None)
    bags = [write_recording(tmp_path / f"bag{n}", seconds=1.5, words=WORDS) for n in range(3)]
    made = [sys.executable, "-m", "grids_ros", "export", str(bags[2]), "--out", str(tmp_path / "set"), "--codec", "png"]
    subprocess.run(made, check=True, capture_output=True, cwd=Path(__file__).parents[1])
    sources = [*bags[:2], tmp_path / "set"]
    train(tmp_path / "one", *sources, options=["--from", str(dense)])
    said = train(tmp_path / "two", *sources, processes=2, options=["--from", str(dense), "--shard", "on"])
    assert "training: " in said.stderr and "of 2, sharded" in said.stderr
    ours, theirs = ([json.loads(line) for line in (tmp_path / n / "losses.jsonl").open()] for n in ("two", "one"))
    assert len(ours) == 3, "the last step's loss shows the weights that the others left"
    for one, other in zip(ours, theirs, strict=True):
        del one["seconds"], other["seconds"]
        assert one == pytest.approx(other, rel=1e-3)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert {name: tensor.shape for name, tensor in one.items()} == {name: t.shape for name, t in two.items()}
    facts = [json.loads((tmp_path / name / "provenance.json").read_text()) for name in ("one", "two")]
    assert facts[0]["data"] == facts[1]["data"]
    assert not (tmp_path / "two" / "images.part").exists(), "what the processes shared goes at the end"

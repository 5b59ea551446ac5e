"""The baselines read where they say, and stand where a sampler stands."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from inference import inputs, ours, transformers_own
from tiny import SIZE, observation, tiny
from torch._subclasses.fake_tensor import FakeTensorMode
from training_samples import samples

from grids_ros.policy.checkpoint import PolicySpec, load, save
from grids_ros.policy.grids import attach, attached, tokens_per_camera
from grids_ros.policy.runtime import Policy
from grids_ros.sampler import SamplerConfig, sample_bilinear
from grids_ros.train.loop import Trainer
from grids_ros.train.losses import attraction
from grids_ros.train.recipe import Recipe
from research.pruners import PRUNERS, BaselineConfig
from research.train import split

KEEPERS = ("random_keep", "norm_top_k")
shapes = st.tuples(st.integers(1, 3), st.integers(3, 8), st.integers(3, 8))


def choose(name, features, tokens, **options):
    """Tokens without the embedding of their coordinates, and the coordinates."""
    return BaselineConfig(name, tokens, features.shape[-1], embed_coordinates=False, **options).build()(features)


@given(st.sampled_from(sorted(PRUNERS)), shapes, st.sampled_from([1, 4, 9]))
def test_a_constant_map_gives_the_constant_and_coordinates_lie_in_the_image(name, shape, tokens):
    constant = torch.randn(5)
    have, coordinates = choose(name, constant.expand(*shape, 5), tokens)
    assert have.shape == (shape[0], tokens, 5) and coordinates.shape == (shape[0], tokens, 2)
    torch.testing.assert_close(have, constant.expand_as(have))
    assert ((coordinates > 0.0) & (coordinates < 1.0)).all()


@pytest.mark.parametrize("name", sorted(PRUNERS))
def test_what_is_kept_from_a_measurement_of_memory_is_no_fake(name):
    """`train` runs a step on fake tensors first. An odd shape: no other test has kept anything of it."""
    features = torch.randn(2, 5, 7, 6)
    with FakeTensorMode() as fake:
        pruner = BaselineConfig(name, 6, 6).build()
        pruner(fake.from_tensor(features, static_shapes=True))
    tokens, coordinates = BaselineConfig(name, 6, 6).build()(features)
    with FakeTensorMode() as fake:  # and what is kept then does not get among fake ones
        BaselineConfig(name, 6, 6).build()(fake.from_tensor(features, static_shapes=True))
    assert tokens.isfinite().all() and coordinates.isfinite().all()


@given(st.sampled_from([*KEEPERS, "fixed_grid"]), shapes, st.integers(1, 9), st.integers(0, 2**31))
def test_a_token_is_what_lies_at_its_coordinate(name, shape, tokens, seed):
    features = torch.randn(*shape, 5, generator=torch.Generator().manual_seed(seed))
    have, coordinates = choose(name, features, tokens)
    torch.testing.assert_close(have, sample_bilinear(features, coordinates, align_corners=False), atol=1e-5, rtol=1e-4)
    assert len(coordinates[0].unique(dim=0)) == tokens


@given(shapes, st.integers(1, 9), st.integers(0, 2**31))
def test_no_cell_left_out_has_a_larger_norm(shape, tokens, seed):
    features = torch.randn(*shape, 5, generator=torch.Generator().manual_seed(seed))
    have, _ = choose("norm_top_k", features, tokens)
    wanted = features.flatten(1, 2).norm(dim=-1).sort(descending=True).values[:, :tokens]
    torch.testing.assert_close(have.norm(dim=-1), wanted)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**31))
def test_averages_of_whole_cells_have_the_mean_of_the_map(side, cell, seed):
    features = torch.randn(2, side * cell, side * cell, 5, generator=torch.Generator().manual_seed(seed))
    have, _ = choose("average", features, side**2)
    torch.testing.assert_close(have.mean(1), features.mean((1, 2)), atol=1e-5, rtol=1e-4)


def test_the_maps_of_token_learner_sum_to_one_and_its_coordinates_are_where_they_look_on_average():
    learner = BaselineConfig("token_learner", 3, 5).build()
    features = torch.randn(2, 4, 6, 5)
    maps = learner.maps(features)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 3))
    tokens, coordinates = learner.choose(features)
    torch.testing.assert_close(tokens, torch.einsum("bki,bic->bkc", maps, features.flatten(1, 2)))
    columns = maps.view(2, 3, 4, 6).sum(2) @ ((torch.arange(6) + 0.5) / 6)
    rows = maps.view(2, 3, 4, 6).sum(3) @ ((torch.arange(4) + 0.5) / 4)
    torch.testing.assert_close(coordinates, torch.stack([columns, rows], -1))


def test_token_learner_that_attends_to_one_cell_is_that_cell():
    learner = BaselineConfig("token_learner", 1, 5).build()
    features = torch.randn(1, 4, 6, 5)
    wanted = learner.attention[0](features[0, 1, 4])
    learner.attention = torch.nn.Sequential(learner.attention[0], Likeness(wanted.detach()))
    tokens, coordinates = learner.choose(features)
    torch.testing.assert_close(tokens[0, 0], features[0, 1, 4])
    torch.testing.assert_close(coordinates[0, 0], torch.tensor([4.5 / 6, 1.5 / 4]))


class Likeness(torch.nn.Module):
    def __init__(self, wanted):
        super().__init__()
        self.wanted = wanted

    def forward(self, x):
        return -1e4 * (x - self.wanted).square().sum(-1, keepdim=True)


@pytest.mark.parametrize("name", PRUNERS)
def test_each_adds_the_embedding_of_its_own_coordinates(name):
    pruner, features = BaselineConfig(name, 4, 5).build(), torch.randn(2, 4, 4, 5)
    torch.testing.assert_close(pruner(features)[0], pruner.choose(features)[0], msg="nothing is added at first")
    torch.nn.init.normal_(pruner.coordinate_embedding[-1].weight)
    tokens, coordinates = pruner(features)
    assert (tokens != pruner.choose(features)[0]).any()
    torch.testing.assert_close(tokens - pruner.coordinate_embedding(coordinates), pruner.choose(features)[0])


def test_cells_kept_at_random_are_the_same_for_a_seed_and_others_for_another():
    features = torch.randn(1, 8, 8, 2)
    first, again, other = (choose("random_keep", features, 4, seed=seed)[1] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("name", PRUNERS)
def test_each_stands_in_a_samplers_place(name):
    model, given_inputs = tiny(None).model, inputs(tiny(4))
    attach(model, BaselineConfig(name, 4, SIZE.width))
    assert tokens_per_camera(model) == 4
    have = ours(model, 2, **given_inputs)
    torch.testing.assert_close(have, transformers_own(model, steps=2, **given_inputs), rtol=1e-4, atol=1e-5)


# --- checkpoints and training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["grids", *PRUNERS])
def test_a_saved_policy_is_the_one_that_is_loaded(name, tmp_path):
    before = tiny(pruner=name, seed=3)
    save(before, tmp_path / "saved")
    after = load(tmp_path / "saved")
    assert after.spec == before.spec and after.budgets == (4,)
    have, wanted = Policy(after).infer(observation()), Policy(before).infer(observation())
    np.testing.assert_array_equal(have.chunk.positions, wanted.chunk.positions)
    np.testing.assert_array_equal(have.coordinates["wrist"], wanted.coordinates["wrist"])


@pytest.mark.parametrize("name", ["grids", *PRUNERS])
def test_each_trains_after_another_has_inferred_and_is_attracted_only_where_it_can_move(name, tmp_path):
    with torch.inference_mode():
        Policy(tiny(9, pruner=name)).infer(observation())
    trainer = Trainer(tiny(9, pruner=name), samples(), Recipe(steps=2, batch=4))
    list(trainer.run(tmp_path / "losses.jsonl", 2))
    terms = json.loads((tmp_path / "losses.jsonl").read_text().splitlines()[-1])
    assert terms["locations"] > 0.0
    assert ("attraction" in terms) == (name in ("grids", "token_learner"))


def test_attraction_moves_what_token_learner_looks_at():
    checkpoint, target = tiny(pruner="token_learner"), torch.tensor([0.9, 0.1])
    learner, features = attached(checkpoint.model).sampler, torch.randn(2, 4, 4, SIZE.width)
    optimiser = torch.optim.Adam(learner.attention.parameters(), lr=1e-2)
    before = (learner(features)[1] - target).norm(dim=-1).mean().item()
    for _ in range(30):
        optimiser.zero_grad()
        attraction(learner(features)[1].unsqueeze(1), target.expand(2, 1, 1, 2), 2).backward()
        optimiser.step()
    assert (learner(features)[1] - target).norm(dim=-1).min(-1).values.mean().item() < 0.5 * before


def test_a_file_from_before_there_were_baselines_means_grids():
    spec = tiny(4).spec
    values = spec.to_dict()
    assert set(values["sampler"]) == {f.name for f in dataclasses.fields(SamplerConfig)}, "as older packages read it"
    assert PolicySpec.from_dict(json.loads(json.dumps(values))) == spec


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="'magic', expected one of fixed_grid, average, random_keep, norm_top_k, tok"):
        BaselineConfig("magic", 4, 8)
    with pytest.raises(ValueError, match="tokens is 5, average pooling takes rows times columns, such as 6"):
        BaselineConfig("average", 5, 8)
    with pytest.raises(ValueError, match="tokens is 0, expected at least 1"):
        BaselineConfig("fixed_grid", 0, 8)
    with pytest.raises(ValueError, match="expected .*'pruner', 'seed', 'tokens'"):
        BaselineConfig.from_dict({"pruner": "average", "tokens": 4})
    for name in KEEPERS:
        with pytest.raises(ValueError, match=f"tokens is 9, {name} keeps some of 4 cells"):
            choose(name, torch.zeros(1, 2, 2, 3), 9)
    with pytest.raises(ValueError, match="tokens is 2, average has 4 and no fewer"):
        BaselineConfig("average", 4, 8).build().use(2)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--pruner", "magic"], "invalid choice: 'magic'"),
        (["--pruner", "average", "--tokens", "5"], "--pruner average: tokens is 5, average pooling takes"),
        (["--pruner", "fixed_grid", "--tokens", "0"], "--pruner fixed_grid: tokens is 0, expected at least 1"),
        (["--pruner", "fixed_grid", "--nested", "4"], "--nested needs --pruner grids, not fixed_grid"),
        (["--pruner", "fixed_grid", "--from", "dense"], "--from needs --pruner grids, not fixed_grid"),
    ],
)
def test_options_of_training_that_cannot_be_are_refused(arguments, text, tmp_path, capsys):
    with pytest.raises(SystemExit):
        split(["demos", "--out", str(tmp_path), *arguments])
    assert text in capsys.readouterr().err

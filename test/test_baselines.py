"""The baselines read where they say, and stand where a sampler stands."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_policy import inputs, ours, transformers_own
from tiny import SIZE, tiny

from grids_ros.policy.baselines import BASELINES, Baseline
from grids_ros.policy.grids import place, tokens_per_camera
from grids_ros.sampler import sample_bilinear

KEEPERS = ("random_keep", "norm_top_k")
shapes = st.tuples(st.integers(1, 3), st.integers(3, 8), st.integers(3, 8))


def choose(name, features, tokens):
    return Baseline(name, tokens, features.shape[-1])(features)


@given(st.sampled_from(sorted(BASELINES)), shapes, st.sampled_from([1, 4, 9]))
def test_a_constant_map_gives_the_constant_and_coordinates_lie_in_the_image(name, shape, tokens):
    constant = torch.randn(5)
    have, coordinates = choose(name, constant.expand(*shape, 5), tokens)
    assert have.shape == (shape[0], tokens, 5) and coordinates.shape == (shape[0], tokens, 2)
    torch.testing.assert_close(have, constant.expand_as(have))
    assert ((coordinates > 0.0) & (coordinates < 1.0)).all()


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


@pytest.mark.parametrize("name", BASELINES)
def test_each_stands_in_a_samplers_place(name):
    model, given_inputs = tiny(None).model, inputs(tiny(4))
    place(model, Baseline(name, 4, SIZE.width))
    assert tokens_per_camera(model) == 4
    have = ours(model, 2, **given_inputs)
    torch.testing.assert_close(have, transformers_own(model, steps=2, **given_inputs), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="'magic', expected one of fixed_grid, average, random_keep, norm_top_k"):
        Baseline("magic", 4, 8)
    with pytest.raises(ValueError, match="tokens is 5, average pooling takes rows times columns, such as 6"):
        choose("average", torch.zeros(1, 8, 8, 2), 5)

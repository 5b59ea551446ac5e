"""Jumps of sampling points: none without a cause, and what they do to the chunk is told apart from what is seen."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import INSTRUCTIONS, tiny
from tqdm import tqdm

from grids_ros.policy.errors import CheckpointError
from grids_ros.policy.grids import attached
from grids_ros.train.dataset import Samples
from research.stability import Measurement, consecutive, measure, noisy, page

EPISODES = np.repeat([0, 1], [7, 5])


def samples(seed=0):
    random, count = np.random.default_rng(seed), len(EPISODES)
    images = random.integers(0, 256, (count, 2, 32, 32, 3), dtype=np.uint8)
    states = random.normal(0.0, 0.1, (count, 10))
    words = np.array([INSTRUCTIONS[n % 3] for n in range(count)])
    actions, objects, tools = np.zeros((count, 6, 7)), np.zeros((count, 4, 3)), np.zeros((count, 7))
    return Samples(images, states, actions, objects, words, EPISODES, tools, np.full((count, 2, 2), 32))


def seeing(scale):
    """A policy whose points depend on the image by `scale`."""
    checkpoint = tiny(seed=1)
    last = attached(checkpoint.model).sampler.coordinate_mlp[-1]
    torch.nn.init.normal_(last.weight, std=scale)
    return checkpoint


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20))
def test_pairs_never_reach_across_episodes(lengths):
    episodes = np.repeat(np.arange(len(lengths)), lengths)
    first = consecutive(episodes)
    assert (episodes[first] == episodes[first + 1]).all()
    assert len(first) == sum(max(0, n - 1) for n in lengths)


def test_the_same_image_twice_changes_nothing():
    same = Measurement(seeing(1.0)).still(samples(), (lambda x, _: x, lambda x, _: x), tqdm(disable=True))
    assert (same.jump, same.change_mm, same.from_jump_mm) == (0.0, 0.0, 0.0) and same.pairs == len(EPISODES)


def test_points_that_see_nothing_do_not_jump_and_cause_nothing():
    moving = Measurement(seeing(0.0)).moving(samples(), tqdm(disable=True))
    assert moving.jump == 0.0 and moving.from_jump_mm == 0.0 and moving.change_mm > 0.0
    assert moving.pairs == len(EPISODES) - 2


def test_points_that_see_jump_and_the_sampler_looks_again_afterwards():
    checkpoint = seeing(30.0)
    results = measure(checkpoint, samples())
    assert results["moving"].jump > results["still, noise"].jump > 0.0
    assert results["moving"].from_jump_mm > 0.0
    assert attached(checkpoint.model).sampler.held is None
    table = page({"tiny": results}).splitlines()
    assert len(table) == 2 + len(results) and len({line.count("|") for line in table}) == 1


def test_noise_has_the_deviation_that_it_says():
    grey = np.full((1, 64, 64, 3), 128, np.uint8)
    assert abs(noisy(grey, np.random.default_rng(0)).std() - 2.0) < 0.1


def test_a_policy_without_points_is_refused():
    with pytest.raises(CheckpointError, match="no sampling points"):
        measure(tiny(tokens=None), samples())

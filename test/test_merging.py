"""Token merging keeps count of every cell, and loses nothing where tokens are alike."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_engine import restless
from test_flops import counted
from test_policy import inputs
from tiny import SIZE, tiny

from grids_ros.policy import flops
from grids_ros.policy.engine import Engine
from grids_ros.policy.merging import Merged, remaining
from grids_ros.policy.towers import Siglip

merges = st.integers(4, 17).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n // 2), st.integers(0, 2**31)))


@given(merges)
def test_a_token_is_the_mean_of_its_cells_and_every_cell_has_one(merge):
    cells, count, seed = merge
    generator = torch.Generator().manual_seed(seed)
    before = torch.randn(2, cells, 5, generator=generator)
    merged = Merged.of(before).merge(torch.randn(2, cells, 3, generator=generator), count)
    assert merged.tokens.shape == (2, cells - count, 5)
    for batch in range(2):
        for token in range(cells - count):
            own = before[batch, merged.owners[batch] == token]
            assert len(own) == merged.sizes[batch, token] >= 1
            torch.testing.assert_close(merged.tokens[batch, token], own.mean(0))
    assert torch.equal(merged.with_tokens(merged.tokens + 1.0).spread(), merged.spread() + 1.0)


@given(st.integers(0, 2**31))
def test_what_is_alike_is_merged_first_and_then_again(seed):
    generator = torch.Generator().manual_seed(seed)
    four = torch.nn.functional.normalize(torch.randn(1, 4, 8, generator=generator), dim=-1)
    pairs = four.repeat_interleave(2, 1)  # each twice, one in either half
    merged = Merged.of(pairs).merge(pairs, 4)
    assert (merged.sizes == 2).all()
    torch.testing.assert_close(merged.spread(), pairs)
    twice = merged.merge(merged.tokens, 1)
    assert twice.sizes.sum() == 8 and twice.owners.max() == 2


def test_equal_tokens_are_merged_without_loss():
    """An image without structure, no positions: every cell is the same, and stays so, whatever is merged."""
    tower = restless(tiny(None).model).model.vlm.vision_tower
    tower.embeddings.position_embedding.weight.data.zero_()
    tower.embeddings.patch_embedding = torch.nn.Conv2d(3, SIZE.stem[-1], 8, 8)
    image = torch.ones(2, 3, SIZE.image_size, SIZE.image_size)
    with torch.no_grad():
        torch.testing.assert_close(Siglip(tower, merge=7)(image), Siglip(tower)(image))


def test_merging_changes_the_actions_and_is_counted():
    checkpoint = tiny(4)
    given_inputs = inputs(checkpoint, batch=1)
    exact, merging = Engine(checkpoint.model, 2), Engine(checkpoint.model, 2, merge=5)
    with torch.no_grad():
        assert not torch.equal(exact.sample_actions(**given_inputs), merging.sample_actions(**given_inputs))
    work = flops.runtime(flops.Work(checkpoint.model.config, 2, 5, 2, 4, checkpoint.spec.sampler, SIZE.stem, merge=5))
    seen = counted(lambda: merging.see(given_inputs["pixels"]))
    assert work.vision + work.projector + work.sampler == pytest.approx(seen, rel=0.01)


def test_more_than_there_is_cannot_be_merged():
    assert remaining(256, 27, 9)[-1] == 13
    with pytest.raises(ValueError, match="merge is 10, expected 0 to 9 tokens in each of 27 layers of 256"):
        remaining(256, 27, 10)
    with pytest.raises(ValueError, match="merge is -1"):
        remaining(256, 27, -1)
    with pytest.raises(ValueError, match="merge is 9, expected 0 to 8"):
        Engine(tiny(4).model, 2, merge=9)

"""What we compute against the peers' own code, where their outputs are at hand: see test/peers.

GRIDS_PEERS=FOLDER python -m pytest test/test_peers.py
"""

import os
import sys
from pathlib import Path

import pytest

PEERS = Path(os.environ.get("GRIDS_PEERS", "/nowhere"))
sys.path.insert(0, str(Path(__file__).parent / "peers"))
import parity  # noqa: E402 - it lies below

pytestmark = pytest.mark.skipif(not parity.present(PEERS), reason="GRIDS_PEERS names no folder of peers' outputs")


@pytest.mark.parametrize("name", parity.present(PEERS) or ["none"])
def test_a_converted_checkpoint_computes_what_its_makers_code_does(name, tmp_path):
    have = parity.compare(name, PEERS, tmp_path)
    assert have.ids
    assert have.state < 1e-6 and have.prefix < 2e-4  # float32, of numbers up to 150
    assert have.velocity < 2e-4 and have.actions < 1e-4
    assert have.grey < 0.02 and have.whole < 1e-3


@pytest.mark.parametrize("variant", parity.SAMPLERS)
def test_the_authors_samplers_read_what_ours_does(variant):
    if not (PEERS / f"grids-{variant}.npz").is_file():
        pytest.skip("the GridS authors' outputs are not there")
    tokens, coordinates = parity.compare_sampler(variant, PEERS)
    assert coordinates < 1e-5
    if variant in parity.AT_ONE:
        assert tokens[0] > 0.1, "a coordinate of exactly 1: zeros there, the map's border here"
        tokens = tokens[1:]
    assert tokens.max() < 1e-5

"""python -m research average FIRST SECOND --out DIR: a policy between two, as between one and what was made of it.

Fine-tuning on something new costs a part of what was known. On the straight line between both sets of weights, when the
second training began with the first's, much of either is often kept: M. Wortsman et al., Robust fine-tuning of
zero-shot models, arXiv 2109.01903.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch

from grids_ros.policy.checkpoint import Checkpoint, load, save
from grids_ros.policy.errors import CheckpointError
from grids_ros.policy.preprocess import Normalization
from grids_ros.policy.provenance import read_provenance
from grids_ros.policy.spec import PolicySpec

KEPT = ("data", "stages", "steps")  # of the first's provenance


@torch.no_grad()
def average(first: Checkpoint, second: Checkpoint, share: float) -> Checkpoint:
    """Weights and statistics `share` of the way from `first` to `second`, in the model of `second`, in place.

    Its provenance is that of `second`, less what was measured on it, and says what the first was. Raises
    CheckpointError when the two are not of one kind: cameras, spaces, sampler, words or model.
    """
    if _kind(first) != _kind(second) or first.budgets != second.budgets:
        raise CheckpointError("their grids.json or their nested tokens disagree, expected two policies of one kind")
    if _model(first) != _model(second):
        raise CheckpointError("their config.json disagree, expected two policies of one kind")
    if first.tokenizer.to_str() != second.tokenizer.to_str():
        raise CheckpointError("their tokenizers disagree: a row of the embedding would be another word in each")
    theirs = first.model.state_dict()
    for name, tensor in second.model.state_dict().items():
        tensor.copy_(theirs[name].float().lerp(tensor.float(), share))
    names = [f.name for f in fields(Normalization)]
    pairs = [(getattr(first.normalization, name), getattr(second.normalization, name)) for name in names]
    normalization = Normalization(*(a + share * (b - a) for a, b in pairs))
    facts = {k: v for k, v in second.provenance.items() if k not in ("diagnosis", "evaluations")}
    facts["averaged"] = {"share": share, "with": {k: first.provenance[k] for k in KEPT if k in first.provenance}}
    spec = replace(second.spec, mean_coordinates=None)
    return Checkpoint(second.model, spec, second.tokenizer, normalization, facts)


def _kind(checkpoint: Checkpoint) -> PolicySpec:
    """Its grids.json, less what was measured."""
    return replace(checkpoint.spec, instructions=(), mean_coordinates=None)


def _model(checkpoint: Checkpoint) -> dict:
    """Its configuration, less who wrote it: what says the name and shape of every tensor, and more."""
    return {k: v for k, v in checkpoint.model.config.to_dict().items() if k != "transformers_version"}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m research average", description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path, help="checkpoint")
    parser.add_argument("second", type=Path, help="checkpoint; its training should have begun with the first")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new checkpoint")
    parser.add_argument("--share", type=float, default=0.5, help="of the second, 0 to 1 (default: %(default)s)")
    options = parser.parse_args(arguments)
    if not 0.0 <= options.share <= 1.0:
        parser.error(f"--share is {options.share}, expected 0 to 1")
    if options.out.exists() and any(options.out.iterdir()):
        parser.error(f"--out {options.out} is not empty")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 and the reason when the two cannot be averaged."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        for folder in (options.first, options.second):
            read_provenance(folder)
        result = average(load(options.first), load(options.second), options.share)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 1
    save(result, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

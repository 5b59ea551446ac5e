"""Training that starts from another checkpoint: new tasks for a policy that can already see."""

from __future__ import annotations

import torch

from grids_ros.policy.checkpoint import Checkpoint
from grids_ros.policy.errors import CheckpointError

WORDS = "embed_tokens.weight"  # how the names of the tensors end that have a row per word


def start_from(earlier: Checkpoint, checkpoint: Checkpoint) -> None:
    """Copy the weights of `earlier` into the model of `checkpoint`: words by their spelling, new ones stay random.

    Its provenance then says what came before. Raises CheckpointError when cameras or shapes disagree.
    """
    if earlier.spec.cameras != checkpoint.spec.cameras:
        has, wants = ", ".join(earlier.spec.cameras), ", ".join(checkpoint.spec.cameras)
        raise CheckpointError(f"cameras are {has}, expected {wants}")
    theirs, ours = earlier.tokenizer.get_vocab(), checkpoint.tokenizer.get_vocab()
    shared = sorted(theirs.keys() & ours.keys())
    known = dict(earlier.model.named_parameters())
    with torch.no_grad():
        for name, tensor in checkpoint.model.named_parameters():
            if name not in known:
                raise CheckpointError(f"{name} is missing: it is another model")
            if name.endswith(WORDS):
                tensor[[ours[word] for word in shared]] = known[name][[theirs[word] for word in shared]]
            elif known[name].shape == tensor.shape:
                tensor.copy_(known[name])
            else:
                raise CheckpointError(f"{name} has shape {list(known[name].shape)}, expected {list(tensor.shape)}")
    facts = ("data", "start", "stages", "steps")
    checkpoint.provenance["start"] = {name: earlier.provenance[name] for name in facts if name in earlier.provenance}

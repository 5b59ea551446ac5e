"""Training that starts from another checkpoint: new tasks for a policy that can already see, or fewer tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from grids_ros.policy.backbone import backbone_of
from grids_ros.policy.checkpoint import Checkpoint
from grids_ros.policy.errors import CheckpointError
from grids_ros.policy.grids import attach, detach, place
from grids_ros.sampler import SamplerConfig

WORDS = "embed_tokens.weight"  # how the names of the tensors end that have a row per word
SPOKEN = ("state_proj", "action_in_proj", "action_out_proj")  # what reads and writes the numbers of the robot


def start_from(earlier: Checkpoint, checkpoint: Checkpoint) -> None:
    """Copy the weights of `earlier` into the model of `checkpoint`: words by their spelling, new ones stay random.

    So does what reads states and actions that mean something else, and the sampler when `earlier` is dense: it is put
    on what has learnt without one. A dense model takes over all but the sampler, which `earlier` loses; a model with
    fewer vision layers the first ones. The provenance then says what came before. Raises CheckpointError when
    cameras or shapes disagree.
    """
    if earlier.spec.cameras != checkpoint.spec.cameras:
        has, wants = ", ".join(earlier.spec.cameras), ", ".join(checkpoint.spec.cameras)
        raise CheckpointError(f"cameras are {has}, expected {wants}")
    theirs, ours = earlier.tokenizer.get_vocab(), checkpoint.tokenizer.get_vocab()
    shared = sorted(theirs.keys() & ours.keys())
    label = earlier.spec.sampler.label if earlier.spec.sampler else "dense"
    if earlier.spec.sampler and not checkpoint.spec.sampler:
        detach(earlier.model)
    known = dict(earlier.model.named_parameters())
    fresh = detach(checkpoint.model) if checkpoint.spec.sampler and not earlier.spec.sampler else None
    others = {(each.spec.state, each.spec.action, each.spec.joints) for each in (earlier, checkpoint)}
    anew = SPOKEN if len(others) > 1 else ()
    with torch.no_grad():
        for name, tensor in checkpoint.model.named_parameters():
            if name not in known:
                raise CheckpointError(f"{name} is missing: it is another model")
            if any(f"{each}." in name for each in anew):
                continue
            if name.endswith(WORDS) and known[name].shape[1:] == tensor.shape[1:]:
                rows = known[name][[theirs[word] for word in shared]]
                tensor[[ours[word] for word in shared]] = rows.to(tensor.dtype)
            elif known[name].shape == tensor.shape:
                tensor.copy_(known[name])
            else:
                raise CheckpointError(f"{name} has shape {list(known[name].shape)}, expected {list(tensor.shape)}")
    if fresh:
        place(checkpoint.model, fresh)
    facts = _facts(earlier, ("data", "start", "stages", "steps"))
    checkpoint.provenance["start"] = {"tokens": label, **facts}


def vision_layers_of(checkpoint: Checkpoint) -> int:
    """How many its vision encoder has."""
    encoder: Any = checkpoint.model.get_submodule(backbone_of(checkpoint.model.config.model_type).TOWERS[0])
    return len(encoder.layers)


def prune(dense: Checkpoint, name: str, tokens: int, seed: int) -> Checkpoint:
    """The dense policy with a GridS of so many tokens, the points on a grid; all else stays, its model is the same one.

    name: of the dense policy, for the provenance. Raises CheckpointError when it has a sampler already.
    """
    if dense.spec.sampler:
        raise CheckpointError(
            f"its grids.json has a sampler of {dense.spec.sampler.tokens} tokens, expected a dense policy: "
            "one whose sampler is null, as `train --tokens 0` makes it"
        )
    torch.manual_seed(seed)
    sampler = sampler_config(tokens, backbone_of(dense.model.config.model_type).width(dense.model.config))
    attach(dense.model, sampler)
    facts = {"name": name, **_facts(dense, ("data", "converted", "stages", "steps", "evaluations"))}
    return replace(dense, spec=replace(dense.spec, sampler=sampler), provenance={"distilled_from": facts})


def sampler_config(tokens: int, width: int) -> SamplerConfig:
    """The variant that is trained here."""
    return SamplerConfig(tokens=tokens, channels=width, layer_norm=True, margin=0.02)


def _facts(checkpoint: Checkpoint, names: tuple[str, ...]) -> dict:
    return {name: checkpoint.provenance[name] for name in names if name in checkpoint.provenance}

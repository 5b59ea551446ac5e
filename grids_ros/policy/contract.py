"""What a policy takes and gives, number by number, for whoever connects it to a robot.

Made from grids.json, the model's configuration and the statistics; `save` keeps it in the folder as contract.txt, and
the policy node logs and publishes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from grids_ros.policy.joints import JointActions, JointState

if TYPE_CHECKING:
    from grids_ros.policy.checkpoint import Checkpoint

_PLACE = [(axis, "m") for axis in "xyz"]
_TURN = [(f"rotation {axis}", "rad") for axis in "xyz"]
_COLUMNS = [(f"R{row}{column}", "1") for column in (1, 2) for row in (1, 2, 3)]
_OPENING = ("gripper opening", "m")
NUMBERS = {  # name of a space of poses: its numbers, each with its unit
    "tool-matrix": [*_PLACE, *_COLUMNS, _OPENING],
    "tool-vector": [*_PLACE, *_TURN, _OPENING],
    "tool-fingers": [*_PLACE, *_TURN, ("finger", "m"), ("other finger, negative", "m")],
    **{
        name: [*_PLACE, *_TURN, _OPENING]
        for name in ("tool-relative", "tool-absolute", "tool-steps", "tool-steps-less-state")
    },
}
UNITS = {"position": "rad", "offset": "rad", "droid": "0.2 rad per step", "velocity": "rad/s"}
BFLOAT16 = "bfloat16 weights cost 0.6 mm of position on a small π0, against float32 ones"


def numbers_of(space) -> list[tuple[str, str]]:
    """Name and unit of each number of a state or action space."""
    if isinstance(space, JointState):
        return [(name, "rad") for name in space.joints] + [_OPENING]
    if isinstance(space, JointActions):
        return [(name, UNITS[space.kind]) for name in space.joints] + [_OPENING]
    return NUMBERS[space.name]


def contract(checkpoint: Checkpoint) -> str:
    """The text, one fact per line."""
    spec, config, known = checkpoint.spec, checkpoint.model.config, checkpoint.normalization
    facts = checkpoint.provenance.get("converted")
    facts = facts if isinstance(facts, dict) else {}
    budgets, length_s = ", ".join(map(str, checkpoint.budgets)), config.chunk_size * spec.step_s
    mode, label = facts.get("normalisation", "mean and deviation"), spec.sampler.label if spec.sampler else "dense"
    lines = [
        f"policy         {config.model_type}, {label}, {_precision(checkpoint)}",
        f"cameras        {', '.join(spec.cameras)}: tokens of each {budgets}",
        f"image          filter {spec.image.filter}, at the {spec.image.anchor}, padded with {spec.image.padding:g}",
        f"rate           {1.0 / spec.step_s:g} actions per second",
        f"chunk          {config.chunk_size} steps, {length_s:g} s; {spec.denoising_steps} denoising",
        f"prompt         {_prompt(spec)}",
        f"normalisation  {mode}; -1 and 1 stand for the range of each number",
        f"state          {spec.state.name}: {spec.state.description}",
        *_ranges(spec.state, known.state_mean, known.state_std),
        f"action         {spec.action.name}: {spec.action.description}",
        *_ranges(spec.action, known.action_mean, known.action_std),
        *_hand(spec.action),
        *(f"assumed        {note}" for note in facts.get("assumed", [])),
        *(f"warning        {note}" for note in facts.get("warnings", [])),
    ]
    return "\n".join(lines) + "\n"


def _ranges(space, mean: np.ndarray, deviation: np.ndarray) -> list[str]:
    rows = zip(numbers_of(space), mean - np.abs(deviation), mean + np.abs(deviation), strict=True)
    return [f"  {i:>2}  {name} [{unit}], {low:.4g} to {high:.4g}" for i, ((name, unit), low, high) in enumerate(rows)]


def _hand(space) -> list[str]:
    if not isinstance(space, JointActions) or space.binary_m is None:
        return []
    return [
        f"gripper        open by {space.binary_m:g} m or closed, as DROID's clients tell it: an action of less than "
        "half of that closes it"
    ]


def _precision(checkpoint: Checkpoint) -> str:
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in checkpoint.model.parameters()})
    return ", ".join(dtypes) + (f" ({BFLOAT16})" if "bfloat16" in dtypes else "")


def _prompt(spec) -> str:
    made = ["cleaned text" if spec.prompt.clean else "text as it is"]
    made += ["the state in it"] if spec.prompt.state else []
    made += [f"padded to {spec.prompt.state_width} numbers"] if spec.prompt.state_width else []
    return f"{', '.join(made)}; up to {spec.prompt_length} tokens"

"""grids convert SOURCE --out DIR: a checkpoint of lerobot, openpi or the GridS authors as one of this package."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from grids_ros import cli
from grids_ros.convert import lerobot, names, openpi, sampler
from grids_ros.convert.conventions import CONVENTIONS, Convention, Gripper, Units, doubts
from grids_ros.convert.foreign import ConversionError, ForeignCheckpoint
from grids_ros.convert.options import Conversion
from grids_ros.convert.presets import filled
from grids_ros.convert.smolvla import SMOLVLA
from grids_ros.convert.source import checkpoint_folder, local, tensors_in
from grids_ros.convert.statistics import Source, normalized
from grids_ros.files import OutputError, replacing
from grids_ros.options import refuse
from grids_ros.policy.backbone import backbone_of
from grids_ros.policy.checkpoint import Checkpoint, allocate, load, save
from grids_ros.policy.contract import contract
from grids_ros.policy.errors import CheckpointError
from grids_ros.policy.joints import DROID, DROID_HZ, DROID_STEP, JointActions
from grids_ros.policy.preprocess import frame
from grids_ros.policy.runtime import Policy
from grids_ros.policy.spaces import Actions
from grids_ros.policy.spec import PolicySpec
from grids_ros.policy.weights import LazyTensor, finite

FAMILIES = {"pi0": names.PI0, "pi05": names.PI05, "smolvla": SMOLVLA}
PRECISIONS = {"bfloat16": torch.bfloat16, "float32": torch.float32}
TOPIC = re.compile(r"[A-Za-z]\w*")  # what a camera can be called: its name is part of a topic's


def find(folder: Path, options: Conversion) -> ForeignCheckpoint:
    """Raises ConversionError for a folder of no known project."""
    state_in_prompt = {"yes": True, "no": False, None: None}[options.prompt_state]
    if (folder / "adapter_config.json").is_file():
        raise ConversionError(f"{folder} is a PEFT adapter: merge it into its base (merge_and_unload) before")
    if lerobot.recognises(folder):
        return lerobot.read(folder, options.lerobot_version, state_in_prompt, options.preset == "droid")
    if openpi.recognises(folder):
        if state_in_prompt is None and options.preset == "libero":
            state_in_prompt = False  # pi05_libero has discrete_state_input=False
        return openpi.read(folder, state_in_prompt)
    raise ConversionError(
        f"{folder} is no checkpoint that can be converted; expected a lerobot policy (config.json with "
        "input_features) or an openpi one (model.safetensors, or a params folder)"
    )


def convert(options: Conversion) -> Checkpoint:
    """Write the folder, load it and run it once. Raises ConversionError; then nothing is left of it."""
    folder = checkpoint_folder(options.source)
    foreign = find(folder, options)
    sure = options.joint_unit is not None
    options, notes = filled(options, foreign)
    foreign = with_horizon(foreign, options.horizon)
    convention = convention_of(foreign, options)
    units = replace(units_of(convention, options), sure=sure)
    foreign, known = normalized(foreign, convention, units, source_of(options))
    tokenizer = read_tokenizer(options.tokenizer, folder, foreign)
    weights, spec, variant = translate(foreign, convention, units, options)
    dtype, backbone = PRECISIONS[options.precision], backbone_of(foreign.family)
    config = FAMILIES[foreign.family].config_of(weights, foreign)
    refuse_size(foreign.image_size, config.vlm_config.vision_config.image_size)
    model = allocate(config, spec, dtype, "meta")
    refuse_words(tokenizer, model.get_submodule(backbone.TOWERS[1]).embed_tokens.weight.shape[0])
    if spec.sampler:
        weights = {sampler.beside(name, backbone.PROJECTOR): tensor for name, tensor in weights.items()}
    unused = {f"{name}.weight" for name in backbone.UNUSED}
    names.complete(weights, {n: tensor.shape for n, tensor in model.state_dict().items() if n not in unused})
    facts = provenance(foreign, convention, variant, notes, options)
    facts["converted"]["warnings"] = list(doubts(foreign, convention, units))
    facts["parameters"] = sum(math.prod(tensor.shape) for tensor in weights.values())
    checkpoint = Checkpoint(model, spec, tokenizer, known, facts)
    print(f"{options.source}: {foreign.kind}, {facts['parameters'] / 1e6:.1f} M parameters\n{contract(checkpoint)}")
    with replacing(options.out) as part:
        save(checkpoint, part, {name: as_dtype(name, tensor, dtype) for name, tensor in weights.items()})
        del weights, model
        try_out(part)
    return checkpoint


def try_out(folder: Path) -> None:
    """Load what was written and run it once. Raises ConversionError."""
    try:
        actions = Policy(load(folder)).try_out()
    except (CheckpointError, ValueError, RuntimeError) as error:
        raise ConversionError(f"what was written does not run: {error}") from error
    if not np.isfinite(actions).all():
        raise ConversionError("what was written gives actions that are NaN or infinite")


def provenance(
    foreign: ForeignCheckpoint, convention: Convention, variant: str | None, notes: Sequence[str], options: Conversion
) -> dict:
    """How it came about, and what was assumed on the way."""
    assumed = [*foreign.notes, *notes]
    if not foreign.action_names:
        assumed.append(f"nothing in it names its numbers: that they are {convention.summary} is by --convention alone")
    if variant == "token_sampler" and foreign.family != "smolvla":
        assumed.append(
            "token_sampler of a pi0 has no published source: the factor of the root of the width is a deduction"
        )
    named = next(name for name, one in CONVENTIONS.items() if one is convention)
    return {
        "converted": {
            "from": options.source,
            "kind": foreign.kind,
            "sampler": variant,
            "convention": named,
            "normalisation": foreign.normalisation,
            "assumed": assumed,
        }
    }


def convention_of(foreign: ForeignCheckpoint, options: Conversion) -> Convention:
    """Raises ConversionError for relative actions that the convention does not have."""
    if not foreign.relative:
        return CONVENTIONS[options.convention or ""]
    if options.convention not in ("joints", "droid-joints"):
        raise ConversionError(
            "it has use_relative_actions: differences of single numbers, which add up for joints and not for "
            "rotations; expected --convention joints, or a policy trained with absolute actions"
        )
    return CONVENTIONS["droid-joints"]


def units_of(convention: Convention, options: Conversion) -> Units:
    """What the options say of joints and gripper. Raises ConversionError where they do not fit the convention."""
    if convention.of_joints and not options.joints:
        raise ConversionError("--joints is missing: the names of the joints in the URDF, in the order of the numbers")
    if not convention.of_joints and (options.joints or options.joint_unit):
        raise ConversionError("--joints and --joint-unit are for conventions of joints, expected neither")
    state, action = options.gripper_state or options.gripper, options.gripper_action or options.gripper
    return Units(
        options.joints,
        options.joint_unit == "degrees",
        Gripper(*state) if state else None,
        Gripper(*action) if action else None,
    )


def source_of(options: Conversion) -> Source | None:
    """Where the statistics are; None for the checkpoint's own."""
    if options.statistics is None:
        return None
    return Source(options.statistics, options.state_features, options.action_features)


def action_of(convention: Convention, units: Units, options: Conversion) -> Actions:
    """What actions are. Raises ConversionError for a rate or a gripper that these cannot have."""
    action, hand = convention.action, units.gripper_action
    rate = options.rate or 0.0  # `filled` or `check` refuses none
    if action is DROID and abs(rate - DROID_HZ) > 0.01:
        raise ConversionError(
            f"--rate is {rate:g}: convention droid means {DROID_STEP:g} rad in each step at {DROID_HZ:g} Hz, which "
            f"would be {DROID_STEP * rate:.3g} rad/s; expected --rate {DROID_HZ:g}, or --convention joint-velocities "
            "for velocities in rad/s"
        )
    if options.binary_gripper == "yes" and not (convention.of_joints and hand):
        raise ConversionError("--binary-gripper yes needs a convention of joints, and the numbers of --gripper")
    if not isinstance(action, JointActions):
        return action
    of_droid = options.preset == "droid" or options.convention in ("droid", "droid-joints")
    wanted = options.binary_gripper == "yes" or (options.binary_gripper is None and of_droid)
    return replace(action, binary_m=hand.metres) if wanted and hand else action


def refuse_size(named: int | None, tower: int) -> None:
    """Raises ConversionError for images of another size than the weights of the vision tower are for."""
    if named not in (None, tower):
        raise ConversionError(
            f"config.json: images are fitted into {named} by {named} pixels, the vision tower's weights are for "
            f"{tower}; expected the same"
        )


def refuse_words(tokenizer: Tokenizer, rows: int) -> None:
    """Raises ConversionError for a tokenizer with ids that the model's embedding has not."""
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= rows:
        raise ConversionError(
            f"the tokenizer has ids up to {largest}, the model's embedding {rows} rows: it is another model's"
        )


def with_horizon(foreign: ForeignCheckpoint, steps: int | None) -> ForeignCheckpoint:
    """Every step of a chunk attends to every other: another number changes all of them.

    Of weights that were ported to lerobot without their statistics, config.json has lerobot's default.
    Raises ConversionError when neither the checkpoint nor the caller says how many there are, or they disagree.
    """
    if foreign.chunk is None and steps is None:
        raise ConversionError(
            "this checkpoint does not say how many steps its chunks have: give --horizon, the action_horizon that it "
            "was trained with: 15 for openpi's pi05_droid, 10 for its pi0_droid and pi05_libero, 50 by default"
        )
    if steps is None or foreign.chunk in (None, steps):
        return replace(foreign, chunk=foreign.chunk or steps)
    if foreign.kind != "lerobot" or foreign.states is not None:
        raise ConversionError(f"--horizon is {steps}, the checkpoint says {foreign.chunk}")
    note = f"chunks of {steps} steps by --horizon; config.json says {foreign.chunk}, without statistics of a training"
    return replace(foreign, chunk=steps, notes=(*foreign.notes, note))


def translate(
    foreign: ForeignCheckpoint, convention: Convention, units: Units, options: Conversion
) -> tuple[dict[str, LazyTensor], PolicySpec, str | None]:
    """The weights by transformers' names, what grids.json will say, and the sampler's variant or None."""
    assert options.rate is not None  # `filled` or `check` refuses that
    theirs = names.plain(foreign.tensors)
    if options.sampler:
        theirs |= names.plain(tensors_in(options.sampler))
    dense, variant, of_sampler = sampler.split(theirs)
    family = FAMILIES[foreign.family]
    weights = names.translate(dense, family)
    spec = PolicySpec(
        cameras=choose_cameras(foreign.cameras, options.cameras),
        prompt_length=foreign.prompt_length,
        step_s=1.0 / options.rate,
        denoising_steps=foreign.denoising_steps,
        stem=None,
        sampler=None,
        state=convention.state,
        action=action_of(convention, units, options),
        image=replace(foreign.image, anchor=options.image_anchor or foreign.image.anchor),
        joints=units.joints if convention.of_joints else (),
        prompt=foreign.prompt,
    )
    if variant:
        if variant not in family.samplers:
            raise ConversionError(
                f"{variant}.* are weights of GridS for another family: for {family.title} expected "
                f"{' or '.join(f'{name}.*' for name in family.samplers)}"
            )
        config, backbone = family.config_of(weights, foreign), backbone_of(foreign.family)
        epsilon = options.epsilon or foreign.epsilon
        of = sampler.config_of(variant, of_sampler, backbone.width(config), options.margin, epsilon)
        spec = replace(spec, sampler=of)
        weights |= sampler.translate(variant, of_sampler, of, backbone, backbone.image_scale(config))
    return weights, spec, variant


def choose_cameras(found: Mapping[str, str], wanted: Sequence[str]) -> tuple[str, ...]:
    """Our names in the order of the model. Raises ConversionError for unknown, equal or unfit names."""
    asked = dict(each.partition("=")[::2] for each in wanted) if wanted else dict(found)
    if strange := set(asked) - set(found):
        raise ConversionError(f"there is no camera {', '.join(sorted(strange))}; the checkpoint has {', '.join(found)}")
    chosen = tuple(asked[name] or name for name in found if name in asked)
    if unfit := [name for name in chosen if not TOPIC.fullmatch(name)]:
        raise ConversionError(
            f"camera {unfit[0]!r} cannot be part of a topic's name: give another, --cameras {unfit[0]}=name"
        )
    if not chosen or len(set(chosen)) < len(chosen):
        raise ConversionError(
            f"cameras are {', '.join(chosen) or 'none'}, expected at least one, each with its own name"
        )
    return chosen


def read_tokenizer(named: str | None, folder: Path, foreign: ForeignCheckpoint) -> Tokenizer:
    """Of a file, its folder or the hub, framed as the family's prompts are."""
    path = folder if named is None else local(named, ("tokenizer.json",))
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise ConversionError(
            f"{path} does not exist: this checkpoint's tokenizer is {foreign.tokenizer}; --tokenizer takes its "
            "tokenizer.json, a folder with it, or its hub id"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
        frame(tokenizer, *foreign.frame)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - it raises bare Exception, and panics outside of Exception
        raise ConversionError(f"{path} is not the tokenizer {foreign.tokenizer}: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def as_dtype(name: str, tensor: LazyTensor, dtype: torch.dtype) -> LazyTensor:
    """The same in another precision, made when it is asked for; a ConversionError then where it is not finite."""

    def read() -> torch.Tensor:
        values = tensor.read().to(dtype)
        if not finite(values):
            raise ConversionError(f"tensor {name} holds NaN or infinity")
        return values

    return LazyTensor(dtype, tensor.shape, read)


def run(options: Conversion) -> int:
    """Convert; the exit code."""
    try:
        convert(options)
    except (ConversionError, OutputError, OSError) as error:
        return refuse(f"{options.source}: {error}")
    print(f"loaded and run once: {options.out}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    return cli.call("convert", arguments)


if __name__ == "__main__":
    sys.exit(main())

"""python -m grids_ros convert SOURCE --out DIR: a checkpoint of lerobot, openpi or the GridS authors as one of ours."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tokenizers import Tokenizer

from grids_ros.convert import lerobot, names, openpi, sampler
from grids_ros.convert.conventions import CONVENTIONS, Convention, Gripper, normalization
from grids_ros.convert.found import ConversionError, Found
from grids_ros.convert.source import json_of, local, tensors_in
from grids_ros.policy.checkpoint import Checkpoint, PolicySpec, allocate, read_normalization, save
from grids_ros.policy.errors import CheckpointError
from grids_ros.policy.model import UNUSED
from grids_ros.policy.preprocess import Normalization, frame
from grids_ros.policy.weights import Lazy, finite
from grids_ros.train.card import write_card

PRECISIONS = {"bfloat16": torch.bfloat16, "float32": torch.float32}
TOPIC = re.compile(r"[A-Za-z]\w*")  # what a camera can be called: its name is part of a topic's


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m grids_ros convert",
        description=__doc__.splitlines()[0],
        epilog="conventions: " + "; ".join(f"{name}: {one.summary}" for name, one in CONVENTIONS.items()),
    )
    parser.add_argument("source", help="folder, or owner/name on the Hugging Face hub")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--convention", choices=CONVENTIONS, required=True, help="what states and actions mean")
    parser.add_argument("--rate", type=float, required=True, metavar="HZ", help="actions per second of the data")
    parser.add_argument("--horizon", type=int, metavar="STEPS", help="of a chunk, where the checkpoint does not say")
    parser.add_argument(
        "--gripper", type=float, nargs=3, metavar=("CLOSED", "OPEN", "METRES"), help="its numbers, if not [m]"
    )
    parser.add_argument("--cameras", nargs="+", default=[], metavar="THEIRS=OURS", help="only these (default: all)")
    parser.add_argument("--tokenizer", help="tokenizer.json, its folder, or a hub id (default: SOURCE)")
    parser.add_argument("--statistics", type=Path, help="stats.json, norm_stats.json or normalization.json")
    parser.add_argument("--sampler", type=Path, help="safetensors file of GridS weights to put on a dense model")
    parser.add_argument("--margin", type=float, default=0.0, help="of the sampler's coordinates (default: %(default)s)")
    parser.add_argument("--precision", choices=PRECISIONS, default="bfloat16", help="default: %(default)s")
    options = parser.parse_args(arguments)
    if not options.rate > 0.0:
        parser.error(f"--rate is {options.rate:g}, expected more than 0")
    if options.horizon is not None and options.horizon < 1:
        parser.error(f"--horizon is {options.horizon}, expected at least 1")
    if not 0.0 <= options.margin < 0.5:
        parser.error(f"--margin is {options.margin:g}, expected a value in [0, 0.5)")
    return options


def find(folder: Path) -> Found:
    """Raises ConversionError for a folder of no known project."""
    for project in (lerobot, openpi):
        if project.recognises(folder):
            return project.read(folder)
    raise ConversionError(
        f"{folder} is no checkpoint that can be converted; expected a lerobot policy (config.json with "
        "input_features) or an openpi one (model.safetensors, or a params folder)"
    )


def convert(options: argparse.Namespace) -> tuple[Found, Checkpoint]:
    """Write the folder; the model of what is returned has shapes and no weights. Raises ConversionError."""
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise ConversionError(f"{options.out} holds something already, expected a folder that is empty or not there")
    folder = local(options.source)
    found = with_horizon(find(folder), options.horizon)
    statistics = normalize(found, CONVENTIONS[options.convention], options)
    tokenizer = read_tokenizer(options.tokenizer, folder, found)
    weights, spec, variant = translate(found, options)
    dtype = PRECISIONS[options.precision]
    model = allocate(names.config_of(weights, found), spec, dtype, "meta")
    if spec.sampler:
        weights = {sampler.beside(name): tensor for name, tensor in weights.items()}
    unused = {f"{name}.weight" for name in UNUSED}
    names.complete(weights, {n: tensor.shape for n, tensor in model.state_dict().items() if n not in unused})
    origin = {"from": options.source, "kind": found.kind, "sampler": variant, "convention": options.convention}
    count = sum(math.prod(tensor.shape) for tensor in weights.values())
    checkpoint = Checkpoint(model, spec, tokenizer, statistics, {"converted": origin, "parameters": count})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=options.out.parent) as unfinished:  # nothing of a checkpoint that breaks off is left
        folder = Path(unfinished) / options.out.name
        save(checkpoint, folder, {name: as_dtype(name, tensor, dtype) for name, tensor in weights.items()})
        write_card(checkpoint, folder / "README.md")
        folder.rename(options.out)
    return found, checkpoint


def with_horizon(found: Found, steps: int | None) -> Found:
    """Every step of a chunk attends to every other: another number changes all of them.

    Raises ConversionError when neither the checkpoint nor the caller says how many there are, or they disagree.
    """
    if found.chunk is None and steps is None:
        raise ConversionError(
            "this checkpoint does not say how many steps its chunks have: give --horizon, the action_horizon that it "
            "was trained with (50 is openpi's default)"
        )
    if None not in (found.chunk, steps) and found.chunk != steps:
        raise ConversionError(f"--horizon is {steps}, the checkpoint says {found.chunk}")
    return replace(found, chunk=found.chunk or steps)


def translate(found: Found, options: argparse.Namespace) -> tuple[dict[str, Lazy], PolicySpec, str | None]:
    """The weights by transformers' names, what grids.json will say, and the sampler's variant or None."""
    theirs, convention = names.plain(found.tensors), CONVENTIONS[options.convention]
    if options.sampler:
        theirs |= names.plain(tensors_in(options.sampler))
    dense, variant, of_sampler = sampler.split(theirs)
    weights = names.translate(dense)
    spec = PolicySpec(
        cameras=choose_cameras(found.cameras, options.cameras),
        prompt_length=found.prompt_length,
        step_s=1.0 / options.rate,
        denoising_steps=found.denoising_steps,
        stem=None,
        sampler=None,
        state=convention.state,
        action=convention.action,
    )
    if variant:
        width = names.config_of(weights, found).vlm_config.projection_dim
        spec = replace(spec, sampler=sampler.config_of(variant, of_sampler, width, options.margin))
        weights |= sampler.translate(variant, of_sampler, spec.sampler)
    return weights, spec, variant


def normalize(found: Found, convention: Convention, options: argparse.Namespace) -> Normalization:
    """Of the source, or of the file that the user names in its place."""
    if options.statistics and "state_mean" in (values := json_of(options.statistics)):
        try:
            return read_normalization(options.statistics, convention.state.size)
        except CheckpointError as error:
            raise ConversionError(str(error)) from error
    if options.statistics and "norm_stats" in values:
        states, actions = openpi.norm_stats(values)
        found = replace(found, states=states, actions=actions)
    elif options.statistics:
        states, actions = lerobot.stats(values)
        found = replace(found, states=states, actions=actions)
    return normalization(found, convention, Gripper(*options.gripper) if options.gripper else None)


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


def read_tokenizer(named: str | None, folder: Path, found: Found) -> Tokenizer:
    """Of a file, its folder or the hub, framed as π0's prompts are: <bos>, the words, a line break."""
    path = folder if named is None else local(named, ("tokenizer.json",))
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise ConversionError(
            f"{path} does not exist: this checkpoint's tokenizer is {found.tokenizer}; --tokenizer takes its "
            "tokenizer.json, a folder with it, or its hub id"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
        frame(tokenizer, "<bos>", "\n")
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception for every kind of damage
        raise ConversionError(f"{path} is no tokenizer of PaliGemma: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def as_dtype(name: str, tensor: Lazy, dtype: torch.dtype) -> Lazy:
    """The same in another precision, made when it is asked for; a ConversionError then where it is not finite."""

    def fill(into: torch.Tensor) -> None:
        into.copy_(tensor.read()) if tensor.dtype != dtype else tensor.fill(into)
        if not finite(into):
            raise ConversionError(f"tensor {name} holds NaN or infinity")

    return Lazy(dtype, tensor.shape, fill)


def report(found: Found, checkpoint: Checkpoint, options: argparse.Namespace) -> str:
    """What was found, for the user to compare with what they know of it."""
    config, spec = checkpoint.model.config, checkpoint.spec
    count = checkpoint.provenance["parameters"]
    tokens = f"GridS-{spec.sampler.tokens}, align_corners {spec.sampler.align_corners}" if spec.sampler else "dense"
    lines = [
        f"{options.source}: {found.kind}, {count / 1e6:.1f} M parameters, now {options.precision} in {options.out}",
        f"  tokens    {tokens}",
        f"  cameras   {', '.join(spec.cameras)} at {config.vlm_config.vision_config.image_size} px",
        f"  chunk     {config.chunk_size} steps of {spec.step_s:g} s, {spec.denoising_steps} denoising steps",
        f"  state     {spec.state.meaning}",
        f"  action    {spec.action.meaning}",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        found, checkpoint = convert(options)
    except ConversionError as error:
        print(f"{options.source}: {error}", file=sys.stderr)
        return 1
    print(report(found, checkpoint, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())

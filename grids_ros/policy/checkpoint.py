"""A policy as one folder with everything needed to run it, and an error for every way it can be broken.

config.json           the model's configuration, by its backbone's schema
grids.json            sampler, stem, cameras in order, prompt length, chunk timing, spaces, image fit; and the digests
                      of the other files, so that a mixture of two checkpoints is refused
model.safetensors     every tensor of the model, the sampler's included
tokenizer.json        of the `tokenizers` library
normalization.json    mean and standard deviation of states and actions
provenance.json       how it was made and what it scored; decides nothing
README.md             the card: the same for people
contract.txt          what it takes and gives, number by number
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from grids_ros.files import current, replacing_files
from grids_ros.policy import weights as safetensors
from grids_ros.policy.backbone import backbone_of
from grids_ros.policy.card import card
from grids_ros.policy.contract import contract, numbers_of
from grids_ros.policy.errors import CheckpointError
from grids_ros.policy.format1 import upgraded
from grids_ros.policy.grids import attach, tokens_per_camera
from grids_ros.policy.preprocess import BEGIN, Normalization, Prompt, frame
from grids_ros.policy.provenance import PROVENANCE, read_provenance
from grids_ros.policy.schema import Array, Object, Real, read_json
from grids_ros.policy.spaces import Actions, States
from grids_ros.policy.spec import PolicySpec
from grids_ros.policy.weights import LazyTensor

WEIGHTS, CARD = "model.safetensors", "README.md"
CONTRACT = "contract.txt"
SMALLEST, LARGEST = 1e-6, 1e6  # of a standard deviation
NAMES = ("config.json", "grids.json", "normalization.json", "tokenizer.json", WEIGHTS)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded folder, or one about to be saved."""

    model: PreTrainedModel
    spec: PolicySpec
    tokenizer: Tokenizer
    normalization: Normalization
    provenance: dict

    @property
    def budgets(self) -> tuple[int, ...]:
        """Tokens per camera that it was trained to take, in ascending order; more than one after nested training."""
        if self.spec.sampler is None:
            return (tokens_per_camera(self.model),)
        return self.spec.token_budgets or (self.spec.sampler.tokens,)

    @property
    def spaces(self) -> tuple[States, Actions]:
        """What its states and actions mean, orientations written as in the data that it is normalised by."""
        known = self.normalization
        states, actions = (known.state_mean, known.state_std), (known.action_mean, known.action_std)
        return self.spec.state.about(*states), self.spec.action.about(states, actions)

    def prompt(self) -> Prompt:
        """How this policy's instructions become token ids."""
        return Prompt(
            tokenizer=self.tokenizer,
            length=self.spec.prompt_length,
            placeholders=len(self.spec.cameras) * tokens_per_camera(self.model),
            image_token=backbone_of(self.model.config.model_type).image_token(self.model.config),
            format=self.spec.prompt,
        )


def create(config: PretrainedConfig, spec: PolicySpec) -> PreTrainedModel:
    """The model of these configurations, with random weights, in evaluation mode."""
    model = backbone_of(config.model_type).build(config, spec.stem)
    if spec.sampler:
        attach(model, spec.sampler)
    return model.eval()


def allocate(config: PretrainedConfig, spec: PolicySpec, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """The model of these configurations, its weights not set: memory that nobody wrote to takes no room yet."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with no_init_weights(), torch.device(device):
            return create(config, spec)
    finally:
        torch.set_default_dtype(before)


# --- writing -------------------------------------------------------------------------------------------------------


def save(checkpoint: Checkpoint, folder: Path, weights: Mapping[str, LazyTensor] | None = None) -> None:
    """Write every file of the folder; those of a checkpoint there are replaced all together, once all are written.

    weights: in place of the model's own, for one that is not in memory. Raises OutputError or OSError where the folder
    cannot be written; it then holds what it held before.
    """
    if weights is None:
        weights = {name: LazyTensor.of(tensor) for name, tensor in checkpoint.model.state_dict().items()}
    config, normalization = checkpoint.model.config, checkpoint.normalization
    with replacing_files(Path(folder)) as part:
        _write_json(part / "config.json", backbone_of(config.model_type).describe(config))
        statistics = {f.name: getattr(normalization, f.name).tolist() for f in fields(Normalization)}
        _write_json(part / "normalization.json", statistics)
        checkpoint.tokenizer.save(str(part / "tokenizer.json"))
        files = {name: _digest(part / name) for name in ("config.json", "normalization.json", "tokenizer.json")}
        files[WEIGHTS] = safetensors.write(part / WEIGHTS, weights)
        _write_notes(checkpoint, part, files)


def save_notes(checkpoint: Checkpoint, folder: Path) -> None:
    """Write anew what is not learnt: grids.json, provenance.json and the card. The other files must be its own."""
    files = read_json(current(folder, "grids.json")).get("files")
    with replacing_files(Path(folder)) as part:
        _write_notes(checkpoint, part, files)


def record_evaluation(folder: Path, evaluation: dict) -> None:
    """Add what a checkpoint scored in closed loop to its provenance and card; the same question replaces.

    Raises CheckpointError for a spoilt provenance: call `read_provenance` before the work.
    """
    checkpoint = replace(load(folder), provenance=read_provenance(folder))
    question = ("task", "ood", "first_seed", "episodes", "tokens_per_camera", "join", "delay_ms", "swap_m")
    earlier = checkpoint.provenance.get("evaluations", [])
    others = [one for one in earlier if any(one.get(name) != evaluation.get(name) for name in question)]
    checkpoint.provenance["evaluations"] = [*others, evaluation]
    save_notes(checkpoint, folder)


def _write_notes(checkpoint: Checkpoint, folder: Path, files: dict[str, str] | None) -> None:
    """files: the digests of the other files, or None for a folder that has none."""
    values = checkpoint.spec.to_dict()
    sealed = {**files, "grids.json": seal(values)} if files else None
    _write_json(folder / "grids.json", {**values, "files": sealed})
    _write_json(folder / PROVENANCE, checkpoint.provenance)
    (folder / CARD).write_text(card(checkpoint))
    (folder / CONTRACT).write_text(contract(checkpoint))


def seal(values: dict) -> str:
    """The digest of a grids.json, less the digests in it."""
    content = {name: value for name, value in values.items() if name != "files"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=2, default=str) + "\n")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- reading -------------------------------------------------------------------------------------------------------


def load(folder: Path | str, device: str = "cpu") -> Checkpoint:
    """Read a checkpoint folder; its weights are never in memory twice.

    Raises CheckpointError for every missing, broken or disagreeing piece.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"checkpoint folder {folder} does not exist")
    paths = {name: current(folder, name) for name in NAMES}
    if missing := [name for name, path in paths.items() if not path.is_file()]:
        raise CheckpointError(f"checkpoint {folder} lacks {', '.join(missing)}; it needs {', '.join(NAMES)}")
    provenance = read_json(current(folder, PROVENANCE)) if current(folder, PROVENANCE).is_file() else {}
    spec, files = read_spec(paths["grids.json"], provenance)
    named = {"state_std": numbers_of(spec.state), "action_std": numbers_of(spec.action)}
    normalization = read_normalization(paths["normalization.json"], spec.state.size, spec.action.size, named)
    config = _read_config(paths["config.json"])
    tensors = _tensors(paths[WEIGHTS])
    model = _filled(config, spec, tensors, paths)
    if files is not None:
        _refuse_mixture(paths, files)
    tokenizer = read_tokenizer(paths["tokenizer.json"])
    _refuse_words(tokenizer, model, paths["tokenizer.json"])
    return Checkpoint(_on(model, device, paths[WEIGHTS]), spec, tokenizer, normalization, provenance)


def read_instructions(folder: Path) -> tuple[str, ...]:
    """The instructions that a policy was trained with, without loading it. Raises CheckpointError."""
    provenance = current(folder, PROVENANCE)
    return read_spec(current(folder, "grids.json"), read_json(provenance) if provenance.is_file() else {})[
        0
    ].instructions


def read_spec(path: Path, provenance: dict) -> tuple[PolicySpec, dict[str, str] | None]:
    """grids.json of this or the earlier format, and the digests of the other files or None. Raises CheckpointError.

    provenance: of the same folder, for the earlier format.
    """
    values = read_json(path)
    try:
        if "format" not in values and "spaces" in values:
            values = upgraded(values, provenance)
        spec = PolicySpec.from_dict(values)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    files = values.get("files")
    if files is None:
        return spec, None
    if set(files) != set(NAMES):
        raise CheckpointError(f"{path}: files has {', '.join(files) or 'nothing'}, expected {', '.join(NAMES)}")
    if files.pop("grids.json") != seal(values):
        raise CheckpointError(
            f"{path} was changed after it was saved; if you want the change, set its `files` to null: the digests are "
            "then not compared"
        )
    return spec, files


def read_normalization(
    path: Path, state_size: int, action_size: int, named: Mapping[str, Sequence[tuple[str, str]]] | None = None
) -> Normalization:
    """Of a normalization.json, for states and actions of so many numbers. Raises CheckpointError for any other.

    named: `state_std` and `action_std` to the names of their numbers, as of `contract.numbers_of`. Where they are
    given, no number but the gripper's has a negative deviation.
    """
    sizes = {"state_mean": state_size, "state_std": state_size, "action_mean": action_size, "action_std": action_size}
    schema = Object({name: Array(Real(-1e6, 1e6), size, size) for name, size in sizes.items()})
    try:
        arrays = {name: np.array(values) for name, values in schema.check("", read_json(path)).items()}
        for name in ("state_std", "action_std"):
            _refuse_deviations(name, arrays[name], [one for one, _ in named[name]] if named else None)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return Normalization(**arrays)


def _refuse_deviations(name: str, deviations: np.ndarray, called: Sequence[str] | None) -> None:
    """Raises ValueError for one that no data has: it would shrink, blow up or turn round what the policy does."""
    for index, deviation in enumerate(deviations):
        what = f"{name}[{index}]" + (f" ({called[index]})" if called else "")
        if not SMALLEST <= abs(deviation) <= LARGEST:
            raise ValueError(f"{what} is {deviation:g}, expected {SMALLEST:g} to {LARGEST:g}")
        if called and deviation < 0.0 and not any(word in called[index] for word in ("gripper", "finger")):
            raise ValueError(f"{what} is {deviation:g}, expected more than 0: only a gripper counts the other way")


def read_tokenizer(path: Path) -> Tokenizer:
    """Of a tokenizer.json. Raises CheckpointError for one that the `tokenizers` library does not take."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - it raises bare Exception, and panics outside of Exception
        raise CheckpointError(f"{path} is no tokenizer: {error}") from error
    if tokenizer.post_processor is None:  # a folder from before the tokenizer said what frames a prompt
        try:
            frame(tokenizer, BEGIN)
        except KeyError as error:
            raise CheckpointError(f"{path}: {error.args[0]}") from error
    return tokenizer


def _read_config(path: Path) -> PretrainedConfig:
    values = read_json(path)
    try:
        return backbone_of(values.get("model_type")).configure(values)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.load_tensors(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is truncated or no safetensors file: {error}") from error


def _refuse_mixture(paths: Mapping[str, Path], files: Mapping[str, str]) -> None:
    for name, expected in files.items():
        found = safetensors.digest_of(paths[name]) if name == WEIGHTS else _digest(paths[name])
        if found != expected:
            raise CheckpointError(
                f"{paths[name]} does not belong to {paths['grids.json']}: its digest is {(found or 'none')[:12]}, "
                f"expected {expected[:12]}; the folder mixes two checkpoints, or the file was changed"
            )


def _filled(
    config: PretrainedConfig, spec: PolicySpec, tensors: dict[str, Tensor], paths: Mapping[str, Path]
) -> PreTrainedModel:
    """The model with exactly these tensors: nothing stays at random values."""
    path, backbone = paths[WEIGHTS], backbone_of(config.model_type)
    try:
        shapes = allocate(config, spec, torch.float32, "meta").state_dict()
    except (ValueError, TypeError, KeyError, RuntimeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{paths['config.json']} and grids.json describe no model: {error}") from error
    unused = {f"{name}.weight" for name in backbone.UNUSED} - set(tensors)
    expected, found = set(shapes) - unused, set(tensors)
    for what, names in (("lacks", expected - found), ("has unknown", found - expected)):
        if names:
            raise CheckpointError(f"{path} {what} {len(names)} tensors, among them {', '.join(sorted(names)[:5])}")
    for name in sorted(expected):
        if tensors[name].shape != shapes[name].shape:
            wanted = tuple(shapes[name].shape)
            raise CheckpointError(f"{path}: {name} has shape {tuple(tensors[name].shape)}, expected {wanted}")
        if not tensors[name].is_floating_point() and shapes[name].is_floating_point():
            raise CheckpointError(f"{path}: {name} is of {tensors[name].dtype}, expected floating-point numbers")
    dtype = next((tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()), torch.float32)
    model = allocate(config, spec, dtype, "cpu")
    for name in unused:
        owner, _, attribute = name.removesuffix(".weight").rpartition(".")
        setattr(model.get_submodule(owner), attribute, None)
    model.load_state_dict(tensors, assign=True)
    return model


def _refuse_words(tokenizer: Tokenizer, model: PreTrainedModel, path: Path) -> None:
    words = len(model.get_submodule(backbone_of(model.config.model_type).TOWERS[1]).embed_tokens.weight)
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= words:
        raise CheckpointError(f"{path} has token ids up to {largest}, the model's embedding has {words} rows")


def _on(model: PreTrainedModel, device: str, path: Path) -> PreTrainedModel:
    model = model.to(device)
    broken = [name for name, tensor in model.state_dict().items() if not safetensors.finite(tensor)]
    if broken:
        raise CheckpointError(f"{path}: {len(broken)} tensors hold NaN or infinity, among them {broken[0]}")
    return model

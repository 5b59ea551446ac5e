"""The options of `grids train` and `grids diagnose`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from grids_ros.files import restore
from grids_ros.options import LARGEST, SEED, WORKERS, Place, Range, RobotOptions, UsageError
from grids_ros.train.recipe import Recipe

STATE = "training"  # folder of what --resume goes on from
FACTS = "state.json"  # in it
LOG = "losses.jsonl"
CHECKPOINT = ("config.json", "grids.json", "normalization.json", "tokenizer.json", "model.safetensors")
NOTES = ("provenance.json", "README.md", "contract.txt")
TUNE_RATE = 1e-4  # of --from, for a LARGE_MODEL: in small ones it leaves most of the gap to the dense policy
LARGE_MODEL = 100_000_000  # weights
CORES = max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))  # of each process of torchrun
BAGS = arg(metavar="BAG ...", help_behavior_hint="(required)")
STEPS = Range(0, LARGEST)


def restore_state(out: Path) -> None:
    """Put the state of a training back that stands aside since the training was killed while it wrote a new one."""
    state = out / STATE
    restore(state)
    before = out / f"{STATE}.before"  # where versions up to 0.1 put it
    if (before / FACTS).is_file() and not state.exists():
        before.rename(state)


Space = Literal["grids", "joints", "droid-joints", "droid", "joint-velocities"]  # that a new policy may have


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train a policy on bags: the demo's model from scratch, or GridS on a dense checkpoint. Runs under torchrun, too.

    Exit codes: 0 trained; 2 an option, a bag or a checkpoint that cannot be used.
    """

    bags: Positional[Annotated[tuple[Path, ...], BAGS]]
    """rosbag2 folders, or folders of them"""
    out: Annotated[Path, Place.OUT_FOLDER]
    """folder of the checkpoint"""
    dense: Annotated[Path | None, Place.FOLDER, arg(name="from", metavar="DENSE")] = None
    """dense checkpoint, to be given a GridS; default: the demo's model with random weights"""
    start: Annotated[Path | None, Place.FOLDER] = None
    """checkpoint to start from: same cameras, same K or dense"""
    tokens: Annotated[int, Range(0, 4096), arg(metavar="K")] = 16
    """per camera; 0 trains the dense model"""
    nested: Annotated[tuple[int, ...], Range(1, 4096), arg(metavar="K ...")] = ()
    """smaller K that must do as well, such as 4 8"""
    steps: Annotated[int, STEPS] = 3000
    """updates"""
    distil_steps: Annotated[int, STEPS] = 1000
    """--from: updates of the sampler alone, before --steps"""
    vision_layers: Annotated[int | None, Range(1, 64)] = None
    """of a new policy's vision encoder, the first ones of --start's; default: as many as --start has, or 2"""
    lora: Annotated[int, Range(0, 4096), arg(metavar="RANK")] = 0
    """--from: then train updates of this rank; 0 trains all weights"""
    expert_only: bool = False
    """--start, --from: train the action expert alone, and leave vision, language and sampler as they are"""
    batch: Annotated[int, Range(1, 1_000_000)] = Recipe.batch
    """samples of one update, in all processes and parts together"""
    learning_rate: Annotated[float | None, Range(0, 1, exclusive=True)] = None
    """default: 0.001; after --from, for a model of 100 million weights or more, 0.0001"""
    attraction: Annotated[float, Range(0, 1e6)] = Recipe.attraction
    """weight of the loss that draws points to objects, where bags say where they are"""
    seed: Annotated[int, SEED] = 0
    """of the weights and of the order of samples"""
    cameras: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ()
    """in order; default: base wrist, or those of --from"""
    space: Space = "grids"
    """what a new policy's states and actions mean: a convention of `convert`"""
    joints: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ()
    """of a new policy of joints: their names in joint_states, in order"""
    resume: bool = False
    """go on from OUT/training"""
    device: Literal["cpu", "cuda"] = "cpu"
    """where to compute"""
    threads: Annotated[int, WORKERS] = CORES
    """of each process"""
    bf16: bool = False
    """compute in bfloat16, for a GPU; weights stay in float32"""
    accumulate: Annotated[int, Range(1, 1_000_000), arg(metavar="N")] = 1
    """compute a batch in N parts, for less memory"""
    gradient_checkpointing: bool = False
    """compute layers twice, for less memory"""
    no_average: bool = False
    """save the weights as they end, not their moving average, for less memory"""
    shard: Literal["auto", "on", "off"] = "auto"
    """divide weights, gradients and Adam's moments among torchrun's processes; auto: where one cannot hold them"""
    robot: RobotOptions = RobotOptions()

    def check(self) -> None:
        """Raises UsageError for options that contradict each other."""
        if self.start and self.dense:
            raise UsageError("--start and --from are both given, expected one")
        least = {"tokens": 1 if self.dense else 0, "steps": 0 if self.dense else 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise UsageError(f"--{name} is {getattr(self, name)}, expected at least {bound}")
        if self.dense and self.steps + self.distil_steps == 0:
            raise UsageError("--steps and --distil-steps are both 0, expected at least one step")
        if self.expert_only and not (self.start or self.dense):
            raise UsageError("--expert-only, and without --start or --from there is nothing learnt to keep")
        if self.expert_only and self.lora:
            raise UsageError("--expert-only and --lora are both given, expected one")
        if self.lora and not self.dense:
            raise UsageError(f"--lora is {self.lora}, and without --from there are no weights to keep")
        restore_state(self.out)
        if self.resume and not (self.out / STATE).exists():
            raise UsageError(f"there is no {self.out / STATE} to resume from")
        held = [name for name in (STATE, LOG, *CHECKPOINT, *NOTES) if (self.out / name).exists()]
        if held and not self.resume:
            raise UsageError(
                f"--out {self.out} holds {held[0]} of another run: --resume goes on with it; otherwise take a folder "
                "without a run"
            )
        if self.dense and (self.space != "grids" or self.joints):
            raise UsageError("--space and --joints are those of --from, expected none")
        if (self.space != "grids") != bool(self.joints):
            expected = "none: the space has no joints" if self.joints else "the names of the joints"
            given = " ".join(self.joints) or "not given"
            raise UsageError(f"--space is {self.space} and --joints is {given}, expected {expected}")
        if self.dense and self.vision_layers:
            raise UsageError(f"--vision-layers is {self.vision_layers}, and with --from the model is that one")
        if any(k > self.tokens for k in self.nested):
            raise UsageError(f"--nested is {self.nested}, expected numbers from 1 to --tokens, {self.tokens}")
        if len(set(self.cameras)) < len(self.cameras) or "" in self.cameras:
            raise UsageError(f"--cameras is {' '.join(self.cameras)}, expected names that differ")
        parts = self.accumulate * int(os.environ.get("WORLD_SIZE", "1"))  # torchrun's
        if self.batch < parts:
            raise UsageError(f"--batch is {self.batch}, expected at least {parts}: one for each part and process")

    def written(self) -> list[Path]:
        """What the training writes."""
        return [self.out / name for name in (STATE, LOG, *CHECKPOINT, *NOTES)]

    def inputs(self) -> list[Path]:
        """What it reads beside the bags."""
        return [path for path in (self.dense, self.start, self.robot.params_file) if path is not None]

    def left(self) -> str:
        """After an interruption."""
        if (self.out / STATE).exists():
            return f"{self.out} holds the checkpoint last saved; --resume goes on from it"
        return f"{self.out} holds no checkpoint of this training"


@dataclass(frozen=True, kw_only=True)
class DiagnoseOptions:
    """Measure on bags whether a policy is blind, and whether its sampler looks.

    The bags hold episodes that it was not trained on. The result goes into the checkpoint's provenance and card; the
    last line of output is JSON. Exit codes: 0 measured; 2 an option, a bag or a checkpoint that cannot be used.
    """

    checkpoint: Annotated[Positional[Path], Place.FOLDER]
    """folder"""
    bags: Positional[Annotated[tuple[Path, ...], BAGS]]
    """rosbag2 folders, or folders of them, of other episodes"""
    workers: Annotated[int, WORKERS] = os.cpu_count() or 1
    """processes that read the bags"""
    robot: RobotOptions = RobotOptions()

    def left(self) -> str:
        """After an interruption."""
        return f"{self.checkpoint} is as before"

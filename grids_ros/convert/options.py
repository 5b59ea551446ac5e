"""The options of `grids convert`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from grids_ros.options import Place, Range, UsageError

Numbers = tuple[float, float, float]
GRIPPER = arg(metavar="CLOSED OPEN METRES")


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """Convert a checkpoint of lerobot, openpi or the GridS authors into a folder of this package.

    Prints the contract before it writes; loads and runs the result before it ends. Exit codes: 0 converted; 2 an
    option, a file or a checkpoint that cannot be used.
    """

    source: Positional[Annotated[str, arg(metavar="SOURCE")]]
    """folder, or owner/name on the Hugging Face hub"""
    out: Annotated[Path, Place.OUT_FOLDER]
    """folder of the checkpoint; must be empty or absent"""
    preset: Literal["droid", "libero", "so101"] | None = None
    """what is known of a robot and its data: convention, rate, gripper, cameras, joints; other options go before it"""
    convention: (
        Literal[
            "grids",
            "absolute",
            "libero",
            "libero-less-state",
            "droid",
            "droid-joints",
            "joints",
            "joint-velocities",
        ]
        | None
    ) = None
    """what states and actions mean; required without a preset"""
    rate: Annotated[float | None, Range(0, 1000, exclusive=True)] = None
    """actions per second of the data; required without a preset"""
    horizon: Annotated[int | None, Range(1, 4096)] = None
    """steps of a chunk, where the checkpoint does not have it"""
    gripper: Annotated[Numbers | None, GRIPPER] = None
    """its numbers when closed and open, and how wide open that is [m]; default: openings in metres"""
    gripper_state: Annotated[Numbers | None, GRIPPER] = None
    """the same for states alone"""
    gripper_action: Annotated[Numbers | None, GRIPPER] = None
    """the same for actions alone"""
    joints: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ()
    """conventions of joints: their names in the URDF and joint_states, in the order of the numbers"""
    joint_unit: Literal["rad", "degrees"] | None = None
    """conventions of joints; default: rad"""
    binary_gripper: Literal["yes", "no"] | None = None
    """policies of joints: whether an action opens or closes the gripper and nothing between, as DROID's clients have
    it; default: yes for conventions droid and droid-joints and for preset droid"""
    cameras: Annotated[tuple[str, ...], arg(metavar="THEIRS=OURS ...")] = ()
    """only these cameras; default: all"""
    tokenizer: str | None = None
    """tokenizer.json, its folder, or a hub id; default: SOURCE"""
    statistics: Path | None = None
    """stats.json, norm_stats.json or normalization.json in place of the checkpoint's, or a LeRobot data set"""
    state_features: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ()
    """of a data set for --statistics: the features that make a state, one behind the other; default: the usual names"""
    action_features: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ()
    """the same for an action"""
    sampler: Annotated[Path | None, Place.FILE] = None
    """safetensors file of GridS weights to put on a dense model"""
    margin: Annotated[float, Range(0, 0.5, below=True)] = 0.0
    """of the sampler's coordinates"""
    epsilon: Annotated[float | None, Range(0, 0.01, exclusive=True)] = None
    """of the sampler's layer norm; default: 1e-6 (flax) for JAX weights, 1e-5 (PyTorch) for others"""
    lerobot_version: Literal["0.4", "0.5"] | None = None
    """0.4 pads images with -3, 0.5 and later with -1; default: by config.json"""
    image_anchor: Literal["centre", "end"] | None = None
    """where an image lies in its square; "end" for fine-tunes from before lerobot 0.4; default: as the family has it"""
    prompt_state: Literal["yes", "no"] | None = None
    """whether the state is in the prompt of a π0.5; default: yes"""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """of the weights"""

    def check(self) -> None:
        """Raises UsageError for options that are missing or contradict each other."""
        if self.preset is None:
            for name in ("convention", "rate"):
                if getattr(self, name) is None:
                    raise UsageError(f"--{name} is missing, expected it or a --preset")
        if self.gripper and (self.gripper_state or self.gripper_action):
            raise UsageError("--gripper is for states and actions, expected it or --gripper-state and --gripper-action")
        if (self.state_features or self.action_features) and (not self.statistics or self.statistics.is_file()):
            raise UsageError("--state-features and --action-features are of a data set, expected --statistics FOLDER")
        if self.out.exists() and any(self.out.iterdir()):
            raise UsageError(f"--out {self.out} holds something already, expected a folder that is empty or not there")

    def left(self) -> str:
        """After an interruption."""
        return f"nothing was written to {self.out}"

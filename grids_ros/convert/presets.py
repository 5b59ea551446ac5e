"""What is known of common robots and their data: `--preset` fills in options that the user left out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from grids_ros.convert.conventions import CONVENTIONS
from grids_ros.convert.foreign import ForeignCheckpoint
from grids_ros.convert.options import Conversion

OPENPI_CAMERAS = {"base_0_rgb": "base", "left_wrist_0_rgb": "wrist"}


@dataclass(frozen=True)
class Preset:
    """convention, rate, gripper, joints, joint_unit: as of Conversion. cameras: theirs to ours, where they are there.
    notes: what the user should know of the robot. in_degrees: the same where its joints are taken for degrees."""

    convention: str
    rate: float
    gripper: tuple[float, float, float] | None = None
    joints: tuple[str, ...] = ()
    joint_unit: str | None = None
    cameras: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    in_degrees: tuple[str, ...] = ()

    def fitting(self, convention: str) -> Preset:
        """The same without what another convention has no use for: joints and their unit, or a gripper's numbers."""
        fit = CONVENTIONS.get(convention)
        if fit is None:
            return self
        kept = self if fit.of_joints else replace(self, joints=(), joint_unit=None, in_degrees=())
        return replace(kept, gripper=None) if fit.gripper else kept


PRESETS = {
    "droid": Preset(
        "droid",
        15.0,
        (1.0, 0.0, 0.085),
        tuple(f"fr3_joint{i}" for i in range(1, 8)),
        cameras=(
            *OPENPI_CAMERAS.items(),
            *(("exterior_image_1_left", "base"), ("wrist_image_left", "wrist")),  # openpi's and DROID's own names
            *(("exterior_1_left", "base"), ("wrist_left", "wrist")),  # lerobot/droid_1.0.1
        ),
        notes=("DROID's gripper is a Robotiq 2F-85, open by 0.085 m; for a Franka hand: --gripper 1 0 0.08",),
    ),
    "libero": Preset(
        "libero",
        20.0,
        cameras=(*OPENPI_CAMERAS.items(), ("image", "base"), ("image2", "wrist"), ("wrist_image", "wrist")),
    ),
    "so101": Preset(
        "joints",
        30.0,
        (0.0, 100.0, 0.07),
        ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll"),
        "degrees",
        notes=("an SO-101's angles depend on its calibration: its zeros must be those of the URDF",),
        in_degrees=(
            "its numbers are degrees; lerobot's default was -100 to 100 of each joint's range for long "
            "(use_degrees=False), and a policy of those cannot be followed",
        ),
    ),
}


def filled(options: Conversion, foreign: ForeignCheckpoint) -> tuple[Conversion, tuple[str, ...]]:
    """The options with those of their preset where the user gave none, and what is to be known of it."""
    if options.preset is None:
        return options, ()
    preset = PRESETS[options.preset]
    convention: Any = preset.convention
    if options.preset == "libero" and foreign.kind.startswith("openpi") and foreign.family == "pi0":
        convention = "libero-less-state"  # openpi's pi0_libero takes the state from the actions
    known = preset.fitting(options.convention or convention)
    unit: Any = known.joint_unit
    present = [(theirs, ours) for theirs, ours in preset.cameras if theirs in foreign.cameras]
    cameras = tuple(f"{theirs}={ours}" for theirs, ours in present) if len(present) > 1 else ()
    return (
        replace(
            options,
            convention=options.convention or convention,
            rate=options.rate or preset.rate,
            gripper=options.gripper or known.gripper,
            joints=options.joints or known.joints,
            joint_unit=options.joint_unit or unit,
            cameras=options.cameras or cameras,
        ),
        known.notes + (known.in_degrees if (options.joint_unit or unit) == "degrees" else ()),
    )

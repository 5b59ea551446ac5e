"""Numbers that no robot has are refused, with a guess of what they are: other units, joints, another gripper."""

from __future__ import annotations

import numpy as np

from grids_ros.convert.foreign import ConversionError, Scale

REACH = 3.0  # [m], of any arm's tool from its base
OPENING = 0.3  # [m], of any gripper for one hand
FULL_TURN = 2.0 * np.pi + 0.1  # [rad], of a rotation vector
TURNS = 4.0 * np.pi  # [rad], of a joint
STILL = np.radians(2.0)  # [rad], a deviation of joints that hardly move
RANGE, NEAR = 100.0, 0.5  # where lerobot's numbers without a unit end, and how near to that extremes count as there


def refuse_statistics(what: str, scale: Scale, least: float = 1e-6) -> None:
    """Raises ConversionError for statistics with NaN or infinity, or for a number that never changes in them."""
    for name, values in (("mean", scale.mean), ("deviation", scale.std)):
        if not np.isfinite(values).all():
            raise ConversionError(
                f"the {name} of {what} number {int((~np.isfinite(values)).argmax())} is NaN or infinite"
            )
    if (flat := np.abs(scale.std) <= least).any():
        raise ConversionError(
            f"{what} number {int(flat.argmax())} never changes in the statistics: its normalised value would be huge "
            "for any other; expected --statistics of data in which it moves"
        )


def refuse_place(what: str, scale: Scale) -> None:
    """`refuse_poses` for states that have no rotation vector."""
    flat = np.zeros(3)
    refuse_poses(what, Scale(np.r_[scale.mean[:3], flat], np.r_[scale.std[:3], flat]))


def refuse_poses(what: str, scale: Scale, relative: bool = False) -> None:
    """Raises ConversionError for means of position and rotation vector that no tool has. relative: of displacements."""
    place, turn = scale.mean[:3], scale.mean[3:6]
    far = float(np.linalg.norm(place))
    listed = ", ".join(f"{x:.3g}" for x in place)
    if far > (1.0 if relative else REACH):
        guess = (
            "millimetres" if far > 100.0 else "angles of joints in degrees, or centimetres" if far > 10.0 else "joints"
        )
        raise ConversionError(
            f"the mean {what} is at ({listed}) m, out of any arm's reach: are these {guess}? expected metres, "
            "see --convention and --preset"
        )
    widest = float(np.abs(scale.std[:3]).max())
    if widest > REACH:
        raise ConversionError(f"the {what} varies by {widest:.3g} m, more than any arm reaches: are these other units?")
    angle = float(np.linalg.norm(turn))
    if angle > FULL_TURN:
        raise ConversionError(
            f"the mean {what} is turned by {angle:.3g} rad, more than a full turn: are these degrees? expected radians"
        )


def refuse_opening(what: str, mean: float, deviation: float, named: bool) -> None:
    """Raises ConversionError for a gripper whose openings [m] no hand has. named: the user gave its numbers."""
    likely = abs(mean) + 2.0 * abs(deviation)
    if -0.02 <= mean <= OPENING and likely <= 2.0 * OPENING:
        return
    if named:
        raise ConversionError(
            f"the mean {what} opening is {mean:.3g} m with a deviation of {abs(deviation):.3g} m, which no hand has: "
            "are the numbers of --gripper those of this checkpoint? States and actions may have different ones: "
            "--gripper-state, --gripper-action"
        )
    guess = "0 to 1" if likely < 5.0 else "0 to 100, or millimetres" if likely < 500.0 else "0 to 255 or 1000"
    raise ConversionError(
        f"the mean {what} opening is {mean:.3g} m with a deviation of {abs(deviation):.3g} m, which no hand has: are "
        f"these {guess}? Give --gripper CLOSED OPEN METRES"
    )


def refuse_joint_angles(what: str, scale: Scale, count: int, guess: str = "degrees? Give --joint-unit degrees") -> None:
    """Raises ConversionError for joint positions [rad] beyond what a joint turns. guess: what they may be, and how to
    say so."""
    worst = int(np.abs(scale.mean[:count]).argmax())
    if abs(scale.mean[worst]) > TURNS or np.abs(scale.std[:count]).max() > TURNS:
        raise ConversionError(f"the mean of {what} joint {worst} is {scale.mean[worst]:.3g} rad: are these {guess}")


def refuse_still_joints(scale: Scale, count: int) -> None:
    """Raises ConversionError for joint positions [rad] that hardly vary when they are taken for degrees."""
    largest = float(np.abs(scale.std[:count]).max())
    if largest < STILL:
        raise ConversionError(
            f"no joint of the states varies by more than {np.degrees(largest):.2g} degrees: are these radians? Give "
            "--joint-unit rad; --joint-unit degrees says that they are degrees"
        )


def doubt_degrees(scale: Scale, count: int) -> str | None:
    """What to warn of where joints [degrees] end at -100 or 100, and none beyond: such numbers have no unit."""
    if scale.extremes is None:
        return None
    widest = np.maximum(-scale.extremes[0], scale.extremes[1])[:count]
    if not len(widest) or abs(widest.max() - RANGE) > NEAR:
        return None
    return (
        f"joints end at {RANGE:g}, as where use_degrees was off in lerobot: -100 to 100 of each joint's range are no "
        "degrees, and the arm would move elsewhere; train it again with degrees"
    )

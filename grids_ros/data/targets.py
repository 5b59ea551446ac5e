"""The targets that a recording gives the arm and the hand at any instant."""

from __future__ import annotations

import numpy as np

from grids_ros.control.trajectory import Trajectory
from grids_ros.data.bags import MAX_GAP_NS, Episode


def targets_at(episode: Episode, times_ns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Target positions (n, 3), quaternions (n, 4) and openings (n,) at these stamps; None across an interruption."""
    stamps, positions, quaternions = episode.targets
    after = np.searchsorted(stamps, times_ns)
    if after[0] == 0 or after[-1] == len(stamps):
        return None
    if np.diff(stamps)[after[0] - 1 : after[-1]].max() > MAX_GAP_NS:
        return None
    near = slice(after[0] - 1, after[-1] + 1)
    openings = _openings_at(episode, times_ns)
    if openings is None:
        return None
    return *Trajectory.of_stamps(stamps[near], positions[near], quaternions[near]).at(times_ns), openings


def joints_at(episode: Episode, times_ns: np.ndarray) -> np.ndarray | None:
    """Target joint positions (n, joints) [rad or m] at these stamps; None across an interruption."""
    stamps, positions = episode.joint_targets
    after = np.searchsorted(stamps, times_ns)
    if after[0] == 0 or after[-1] == len(stamps):
        return None
    if np.diff(stamps)[after[0] - 1 : after[-1]].max() > MAX_GAP_NS:
        return None
    return np.stack([np.interp(times_ns - stamps[0], stamps - stamps[0], column) for column in positions.T], axis=1)


def _openings_at(episode: Episode, times_ns: np.ndarray) -> np.ndarray | None:
    """The commanded opening, and before the first command the measured one: (n,) [m]; None where neither is known."""
    stamps, commands = episode.gripper_commands
    latest = np.searchsorted(stamps, times_ns, side="right") - 1
    commanded = latest >= 0
    if commanded.all():
        return commands[latest]
    measured_at, measured = episode.grippers
    if not len(measured_at):
        return None
    openings = np.interp(times_ns - measured_at[0], measured_at - measured_at[0], measured)
    openings[commanded] = commands[latest[commanded]]
    return openings

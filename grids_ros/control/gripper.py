"""Gripper openings to open and close commands, on change only.

A Franka gripper is an action server that blocks while it moves: a command at every tick, or one that chatters
around a threshold, makes it open and close for ever.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GripperHysteresis:
    """Below `close_below` [m] the gripper is told `closed` [m], above `open_above` [m] it is told `open` [m].

    In between, nothing changes. Nothing outside [closed, open] is ever sent, whatever the policy asks for.
    Raises ValueError unless 0 <= closed <= close_below < open_above <= open.
    """

    closed: float
    close_below: float
    open_above: float
    open: float

    def __post_init__(self):
        if not 0.0 <= self.closed <= self.close_below < self.open_above <= self.open:
            raise ValueError(
                f"gripper thresholds must satisfy 0 <= closed <= close_below < open_above <= open, "
                f"got {self.closed} <= {self.close_below} < {self.open_above} <= {self.open}"
            )

    def command(self, opening: float, last: float | None) -> float | None:
        """What to send for a wanted `opening` [m] when `last` was sent last; None: nothing."""
        if opening < self.close_below:
            wanted = self.closed
        elif opening > self.open_above:
            wanted = self.open
        else:
            return None
        return None if wanted == last else wanted

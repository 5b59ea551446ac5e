"""How a policy refuses. Apart from what needs torch, for processes that only wait for its answer."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded: names the file or tensor, what was found and what was expected."""


class InputError(ValueError):
    """An observation that this policy cannot take, through no fault of the program: says why."""

"""Entry points of the nodes. Handles signals before it imports a node: PyTorch alone takes seconds to import.

Ctrl-C during the imports ends the process without a traceback. After the node has given back its DDS participant,
the process ends at once: the interpreter would spend seconds on the objects of PyTorch, and a launch kills what has
not ended after ten.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

MISSING = 2  # exit code where a library is missing
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def leave(code: int) -> None:
    """End the process with this exit code; nothing but its output is flushed."""
    for output in (sys.stdout, sys.stderr):
        with suppress(BlockingIOError):  # nobody reads it
            output.flush()
    os._exit(code)


def _leave_quietly(number: int, frame: object) -> None:
    os._exit(0)


def _entry_point(module: str, logger: str, doing: str = "") -> Callable[[], None]:
    def main() -> None:
        for number in _SIGNALS:
            signal.signal(number, _leave_quietly)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)  # the launch file blocks SIGINT until here
        if doing:
            from rclpy.logging import get_logger

            get_logger(logger).info(doing)
        try:
            node = importlib.import_module(f"grids_ros.ros.{module}")
        except ModuleNotFoundError as error:
            if (error.name or "grids_ros").startswith("grids_ros"):
                raise
            print(f"{logger}: Python module {error.name} is not installed for {sys.executable}", file=sys.stderr)
            leave(MISSING)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        leave(node.main())

    return main


policy_node = _entry_point("policy_node", "grids_policy", "importing PyTorch")
follower_node = _entry_point("follower_node", "grids_follower")
sim_node = _entry_point("sim_node", "grids_sim", "importing MuJoCo")
gripper_node = _entry_point("gripper_node", "grids_gripper")

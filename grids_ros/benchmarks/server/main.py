"""The benchmark's process: python main.py FAMILY SUITE. Answers calls from standard input until it is closed.

A call is {"call": NAME, "arguments": {...}}; the answer {"result": ...} or {"error": TEXT}. What the simulator prints
goes to standard error, so that nothing else is on the wire.
"""

from __future__ import annotations

import os
import signal
import sys

CALLS = ("describe", "reset", "randomize", "step", "render", "expert")


def main() -> int:
    family, suite = sys.argv[1:3]
    wire_in, wire_out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # prints of libraries
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes the pipe
    import wire

    benchmark = None
    try:
        while True:
            try:
                request = wire.receive(wire_in)
            except wire.WireError:
                return 0
            try:
                if benchmark is None:
                    benchmark = _open(family, suite)
                name = request["call"]
                if name not in CALLS:
                    raise ValueError(f"unknown call {name!r}, expected one of {', '.join(CALLS)}")
                answer = {"result": getattr(benchmark, name)(**request["arguments"])}
            except (ValueError, KeyError, TypeError, ImportError, RuntimeError, OSError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            wire.send(wire_out, answer)
    finally:
        if benchmark is not None:
            benchmark.close()


def _open(family: str, suite: str):
    if family == "libero":
        from libero_tasks import Libero

        return Libero(suite)
    if family == "metaworld":
        from metaworld_tasks import MetaWorld

        return MetaWorld(suite)
    raise ValueError(f"unknown benchmark {family!r}, expected libero or metaworld")


if __name__ == "__main__":
    sys.exit(main())

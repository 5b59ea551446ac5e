"""A process whose output nobody reads goes on: it drops what cannot be written at once."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

OUTPUTS = (1, 2)  # stdout, stderr


def never_wait_for_readers() -> None:
    """Let writes to stdout and stderr return at once, where these are a terminal or a pipe.

    rclpy holds the interpreter while it writes a log line. Behind a paused terminal (Ctrl-S), a pager or a stalled
    connection that line would stop every thread, the control loop included. Each descriptor is opened anew, so that
    whoever shares the old one goes on waiting as before.
    """
    for number in OUTPUTS:
        with suppress(OSError):  # closed, a socket, or a terminal of another user: left as it is
            mode = os.fstat(number).st_mode
            if os.isatty(number) or stat.S_ISFIFO(mode):
                opened = os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
                os.dup2(opened, number)
                os.close(opened)

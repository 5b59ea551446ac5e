"""How a process is asked to end: by a signal, or by the end of the process that started it."""

from __future__ import annotations

import os
import select
import signal
import threading
from types import FrameType

from grids_ros.parameters import ParameterError

# All that end a process unless it handles them, but for those of its own faults (SIGSEGV, SIGABRT and the like) and
# those that Python ignores. SIGHUP comes when the terminal is closed, SIGQUIT with Ctrl-\, SIGXCPU from a limit on
# processor time.
_NAMES = "INT TERM HUP QUIT USR1 USR2 ALRM VTALRM PROF XCPU IO PWR STKFLT".split()
SIGNALS: tuple[int, ...] = (
    *(getattr(signal, f"SIG{name}") for name in _NAMES if hasattr(signal, f"SIG{name}")),  # the last is new in 3.11
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
)


class ShutdownRequest:
    """Turns the first of `SIGNALS` into a KeyboardInterrupt in the main thread, and ignores those after it.

    rclpy's own handlers shut the context down at once. Then nothing can be published any more, and an arm that moves
    stops at full speed.
    """

    def __init__(self):
        self.requested, self.suspended = False, False

    def install(self) -> None:
        """Take over the signals, but for those that are ignored on purpose (nohup); call from the main thread."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def watch_suspension(self) -> None:
        """From here on Ctrl-Z and `fg` set and clear `suspended`, and the process goes on."""
        signal.signal(signal.SIGTSTP, self._on_suspension)
        signal.signal(signal.SIGCONT, self._on_suspension)
        for number in (signal.SIGTTIN, signal.SIGTTOU):
            signal.signal(number, signal.SIG_IGN)

    def ignore(self) -> None:
        """Let further signals pass: ctrl-C reaches a launched node twice, once from the terminal."""
        self.requested = True
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _on_suspension(self, number: int, frame: FrameType | None) -> None:
        self.suspended = number == signal.SIGTSTP

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested = True
            raise KeyboardInterrupt


def end_with(pid: int) -> None:
    """Send this process a SIGTERM as soon as the process `pid` is gone: an arm is not left without its supervisor.

    Raises ParameterError if it is gone already, or is no process.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        raise ParameterError(f"parameter 'parent_pid' is {pid}, but no such process runs") from None
    except OSError as error:  # of a thread
        raise ParameterError(
            f"parameter 'parent_pid' is {pid}, expected the id of a process: {error.strerror}"
        ) from error

    def watch() -> None:
        select.select([handle], [], [])  # readable once it has ended, even before it is waited for
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()

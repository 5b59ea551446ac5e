"""Ctrl-C: a terminal sends SIGINT to the command and to every process that it has started, whatever they are doing.

And `| head`: whoever reads the output may go before the command has written all of it.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType

STDOUT, STDERR = 1, 2  # the files: Python's own objects may be in use
INTERRUPTED = 130  # exit code: 128 + SIGINT
UNREAD = 141  # 128 + SIGPIPE


def _leave(number: int, frame: object) -> None:
    os.write(STDERR, b"\ngrids: interrupted; nothing was written\n")
    os._exit(INTERRUPTED)


def leave_when_interrupted() -> None:
    """Until `interruptible`, Ctrl-C ends the process at once: libraries do not bear a KeyboardInterrupt in an import.

    A SIGINT that is ignored on purpose (nohup) stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def interruptible() -> None:
    """From here on Ctrl-C is a KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def unread() -> bool:
    """Whether the reader of stdout has gone; what is left of the output is then dropped."""
    pipe = select.poll()
    pipe.register(STDOUT, 0)
    gone = any(event & select.POLLERR for _, event in pipe.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
    return gone


def end(code: int) -> None:
    """End the process with this exit code.

    After an interruption at once: Python may forget the code and end by the signal, and PyTorch's threads may take
    seconds. Exit handlers run all the same: they end the processes that were started.
    """
    if code == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(UNREAD if unread() and not code else code)


@contextmanager
def shielded() -> Iterator[None]:
    """Processes that are started here never get SIGINT, not even while they import: their parent ends them.

    An interruption that comes meanwhile is raised at the end.
    """
    resource_tracker.ensure_running()  # starts with the first process otherwise, and takes the mask off
    came: list[FrameType | None] = []
    handler, main = signal.getsignal(signal.SIGINT), threading.current_thread() is threading.main_thread()
    if main:  # the mask is this thread's, and another may take the signal
        signal.signal(signal.SIGINT, lambda number, frame: came.append(frame))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which a new process inherits
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if main:
            signal.signal(signal.SIGINT, handler)
        if came and callable(handler):
            handler(signal.SIGINT, came[0])

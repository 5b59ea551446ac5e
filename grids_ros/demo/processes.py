"""Child processes that are watched while they run and of which none is left behind."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PATIENCE_S = 10.0  # how long a process may take to end after it was asked to
LOG_LINES = 15
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def node_command(module: str, **parameters: object) -> list[str]:
    """How to start a node of this package's, by its module, with these parameters."""
    overrides = (part for key, value in parameters.items() for part in ("-p", f"{key}:={value}"))
    return [sys.executable, "-m", module, "--ros-args", *overrides]


class ProcessDied(RuntimeError):
    """A process ended that should run; the message has its name, exit code and the end of its log."""


class Processes:
    """Named processes, each with a log file. A context manager that leaves nothing running."""

    def __init__(self, logs: Path):
        """logs: the folder of the log files; made if need be."""
        self._logs = logs
        self._running: dict[str, subprocess.Popen] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_) -> None:
        for process in self._running.values():
            if process.poll() is None:
                process.kill()
                process.wait()

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a process in a session of its own: Ctrl-C on the terminal reaches this process alone, which then
        takes the others down in order."""
        with self.log(name).open("wb") as log:
            self._running[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    def kill(self, name: str) -> None:
        """End one with SIGKILL; it is not watched any more."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def log(self, name: str) -> Path:
        """Where a process writes what it says."""
        return self._logs / f"{name}.log"

    def check(self) -> None:
        """Raises ProcessDied when one has ended."""
        for name, process in self._running.items():
            code = process.poll()
            if code is not None:
                raise ProcessDied(f"{name} ended with {_ending(code)}; {self.last_words(name)}")

    def said(self, name: str, words: str) -> bool:
        """Whether a process has printed these words."""
        return words in self._read(name)

    def _read(self, name: str) -> str:
        return self.log(name).read_text(errors="replace")

    def last_words(self, name: str) -> str:
        """The end of a process's log."""
        lines = self._read(name).splitlines()[-LOG_LINES:]
        return f"the end of {self.log(name)}:\n" + "\n".join(f"    {line}" for line in lines)

    def stop(self) -> list[str]:
        """End all, last started first: SIGINT, SIGTERM, SIGKILL. A sentence for each that did not end well."""
        return [complaint for name in reversed(list(self._running)) if (complaint := self._stop(name))]

    def _stop(self, name: str) -> str:
        process = self._running[name]
        if process.poll() is None:
            for number in (signal.SIGINT, signal.SIGTERM):
                process.send_signal(number)
                if _wait(process, PATIENCE_S):
                    break
            else:
                process.kill()
                process.wait()
                return f"{name} had to be killed; {self.last_words(name)}"
        if process.returncode == 0:
            return ""
        return f"{name} ended with {_ending(process.returncode)}; {self.last_words(name)}"


def _end_with_parent() -> None:
    """In the child: end when the parent is killed (Linux)."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(process: subprocess.Popen, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            return True
        time.sleep(0.02)
    return False


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

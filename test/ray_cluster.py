"""A Ray cluster of two nodes on loopback, and its workers as the operating system sees them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

AT_WORK = "ray::Actor.run"  # Ray names a process after the method that it runs


@dataclass(frozen=True)
class Cluster:
    """address: HOST:PORT. sessions: of the nodes' processes, one for each node."""

    address: str
    sessions: tuple[int, ...]

    def kill_one_at_work(self) -> bool:
        """SIGKILL for one worker in the middle of a piece; whether there was one.

        It is stopped first and looked at again, so that it cannot end its piece in between.
        """
        for pid in self._at_work():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                if _title(pid).startswith(AT_WORK):
                    os.kill(pid, signal.SIGKILL)
                    return True
                os.kill(pid, signal.SIGCONT)
        return False

    def _at_work(self) -> list[int]:
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [pid for pid in pids if _title(pid).startswith(AT_WORK) and _session(pid) in self.sessions]


@contextlib.contextmanager
def two_nodes() -> Iterator[Cluster]:
    """A cluster of two nodes with one processor each."""
    address = f"127.0.0.1:{_free_port()}"
    nodes = [_start_node("--head", f"--port={address.partition(':')[2]}", "--include-dashboard=false")]
    try:
        wait_until(lambda: _listens(address))
        nodes.append(_start_node(f"--address={address}"))
        yield Cluster(address, tuple(node.pid for node in nodes))
    finally:
        for node in nodes:
            os.killpg(node.pid, signal.SIGKILL)  # after SIGTERM a node takes half a minute
            node.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _listens(address: str) -> bool:
    host, _, port = address.partition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1.0):
        return True
    return False


def _start_node(*arguments: str) -> subprocess.Popen:
    """In a process group of its own; its workers import this package and the modules beside this one."""
    command = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--node-ip-address=127.0.0.1"]
    here = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(here), "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(
        [*command, "--num-cpus=1", "--disable-usage-stats", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def running(pid: int | str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _title(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    return ""


def _session(pid: int) -> int:
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(pid)
    return 0

"""Ctrl-C as a terminal sends it: to a command and to every process that it has started, whatever they are doing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from recording import write_recording

from grids_ros.parameters import PolicyParameters
from grids_ros.replay.policy_process import PolicyProcess
from grids_ros.replay.variants import Variant

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 240.0  # bound of every wait


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A bag of some size."""
    return write_recording(tmp_path_factory.mktemp("recording") / "bag", 10.0, ("lift the red cube",) * 3)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A checkpoint without a sampler."""
    from tiny import save_tiny

    return save_tiny(tmp_path_factory.mktemp("dense"), tokens=None)


@pytest.fixture
def command(tmp_path, checkpoint, dense, recording):
    """Starts a command in a session of its own; its output is in tmp_path / "said"."""
    places = {"BAG": str(recording), "CHECKPOINT": str(checkpoint), "DENSE": str(dense), "OUT": str(tmp_path / "out")}
    started = []

    def start(line: str) -> subprocess.Popen:
        words = [places.get(word, word) for word in line.split()]
        with (tmp_path / "said").open("wb") as said:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "grids_ros", *words],
                    cwd=ROOT,
                    env={**os.environ, "ROS_DOMAIN_ID": str(95 + os.getpid() % 6)},  # of no other test
                    stdout=said,
                    stderr=said,
                    start_new_session=True,
                )
            )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def members(session: int) -> dict[int, str]:
    """The command lines of what is left of a session, by process."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, sid = (path / "stat").read_text().rsplit(")", 1)[1].split()[:4]
            line = (path / "cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(sid) == session and state != "Z":
            found[int(path.name)] = line
    return found


def is_shielded(process: int) -> bool:
    """Whether SIGINT reaches none of its threads, or does nothing; a process that has ended is."""
    for thread in Path("/proc").glob(f"{process}/task/*"):
        try:
            status = (thread / "status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        masks = (re.search(rf"^{name}:\s*([0-9a-f]+)", status, re.MULTILINE)[1] for name in ("SigBlk", "SigIgn"))
        if not any(int(mask, 16) >> signal.SIGINT - 1 & 1 for mask in masks):
            return False
    return True


def until(condition, what) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.02)


# One for each way to work: processes of its own, a pool, a server of processes, none, nodes.
AT_WORK = [
    ("record --out OUT --episodes 50 --workers 2 --image-size 64", r"[1-9]\d*/50", "demonstrations so far"),
    ("evaluate --checkpoint CHECKPOINT --episodes 50 --workers 2", "evaluating", "nothing was written"),
    ("replay BAG --checkpoint CHECKPOINT --out OUT --workers 2", "forkserver", "holds no new report"),
    ("train BAG --out OUT --from DENSE --steps 1000 --threads 1", "reading bags", "no checkpoint of this training"),
    ("train BAG --out OUT --steps 100000 --threads 1", "held out", "holds no checkpoint of this training"),
    ("bench --checkpoint CHECKPOINT --out OUT", "Images", "no new results"),
    ("bench --checkpoint CHECKPOINT --out OUT", "image_latency listen", "no new results"),
]


@pytest.mark.parametrize(
    ("line", "sign", "left"), AT_WORK, ids=[f"{line.split()[0]} {sign}" for line, sign, _ in AT_WORK]
)
def test_ctrl_c_ends_a_command_at_work_and_all_that_it_has_started(command, tmp_path, line, sign, left):
    process = command(line)
    said = tmp_path / "said"

    def begun() -> bool:
        assert process.poll() is None, said.read_text()
        others = [line for line in members(process.pid).values() if "-m grids_ros " not in line]
        return any(re.search(sign, text) for text in (said.read_text(), *others))

    until(begun, said.read_text)
    reached = {other: line for other, line in members(process.pid).items() if not is_shielded(other)}
    assert set(reached) <= {process.pid}, reached
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE_S) == 130, said.read_text()
    until(lambda: not members(process.pid), lambda: members(process.pid))
    text = said.read_text()
    assert "interrupted" in text and left in text, text
    assert "Traceback" not in text and "KeyboardInterrupt" not in text, text


def test_ctrl_c_while_the_process_of_policies_starts_leaves_it_whole(checkpoint, monkeypatch):
    """Cut off in between, the new process ends with a traceback: it finds nothing to begin with."""
    started, real = [], ForkServerProcess.start

    def start(self):
        os.kill(os.getpid(), signal.SIGINT)
        real(self)
        started.append(self)

    monkeypatch.setattr(ForkServerProcess, "start", start)
    with pytest.raises(KeyboardInterrupt):
        PolicyProcess([Variant("tiny", checkpoint)], PolicyParameters(), 1)
    (process,) = started
    process.kill()
    process.join()


def test_ctrl_c_during_the_imports_ends_at_once(command, tmp_path):
    process = command("replay BAG --checkpoint CHECKPOINT --out OUT")
    maps = Path(f"/proc/{process.pid}/maps")
    until(lambda: "numpy" in maps.read_text() or process.poll() is not None, lambda: "numpy")
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE_S) == 130
    text = (tmp_path / "said").read_text()
    assert "interrupted" in text and "Traceback" not in text, text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["replay", "--nonsense"]])
def test_output_that_nobody_reads_is_no_error(arguments):
    """As of `grids --help | head`, whose reader is gone before the first line."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "grids_ros", *arguments]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S)
    os.close(writer)
    assert done.returncode == (2 if "--nonsense" in arguments else 141)
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr, done.stderr

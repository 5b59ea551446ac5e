"""Outputs are complete or absent: an earlier one survives every failure on the way to the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from grids_ros import files
from grids_ros.files import LOCK, OutputError, locked, part_of, replacing, require_writable, write_whole


def folder(path, text: str) -> None:
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "weights").write_text(text)


def content(path) -> str:
    return (path / "inner" / "weights").read_text() if path.is_dir() else path.read_text()


@pytest.fixture(params=["file", "folder"])
def write(request):
    """How an output is written: one file, or a folder of files."""
    return folder if request.param == "folder" else lambda path, text: path.write_text(text)


@pytest.mark.parametrize("exchange", [True, False], ids=["in one step", "in two"])
def test_a_new_output_takes_the_place_of_the_earlier_one(tmp_path, write, exchange, monkeypatch):
    if not exchange:
        monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    for text in ("old", "new"):
        with replacing(tmp_path / "out") as part:
            write(part, text)
            assert text == "old" or content(tmp_path / "out") == "old"
        assert content(tmp_path / "out") == text
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_earlier_output_survives_an_exception(tmp_path, write):
    write(tmp_path / "out", "old")
    with pytest.raises(OSError, match="full"), replacing(tmp_path / "out") as part:
        write(part, "half")
        raise OSError("disk full")
    assert content(tmp_path / "out") == "old" and not part_of(tmp_path / "out").exists()


def test_an_earlier_output_survives_a_kill_and_the_next_run_clears_the_rest(tmp_path):
    write_whole(tmp_path / "out", "old")
    code = (
        "import os, pathlib, sys; from grids_ros.files import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as part:\n"
        "    part.write_text('half'); os.kill(os.getpid(), 9)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], timeout=300)
    assert ended.returncode == -signal.SIGKILL
    assert content(tmp_path / "out") == "old" and part_of(tmp_path / "out").read_text() == "half"
    write_whole(tmp_path / "out", b"new")
    assert content(tmp_path / "out") == "new" and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_path_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write .*file/out"):
        require_writable(tmp_path / "file" / "out")
    require_writable(tmp_path / "new" / "folder" / "out")
    assert not list((tmp_path / "new" / "folder").iterdir())
    if os.geteuid():  # root may write everywhere
        (tmp_path / "new").chmod(0o500)
        with pytest.raises(OutputError):
            require_writable(tmp_path / "new" / "out")


def test_a_replacement_in_two_steps_touches_no_file_of_another_name(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    folder(tmp_path / "out", "old")
    for name in ("out.old", "out.before"):
        folder(tmp_path / name, "a user's")
    with replacing(tmp_path / "out") as part:
        folder(part, "new")
    assert content(tmp_path / "out") == "new"
    assert content(tmp_path / "out.old") == content(tmp_path / "out.before") == "a user's"


def test_an_output_that_a_kill_between_two_steps_left_aside_is_put_back(tmp_path):
    folder(tmp_path / "out", "old")
    code = (
        "import os, pathlib, sys; from grids_ros import files\n"
        "files._exchanged = lambda *_: False\n"
        "rename, steps = pathlib.Path.rename, []\n"
        "def killed(self, target):\n"
        "    if steps: os.kill(os.getpid(), 9)\n"
        "    steps.append(target); return rename(self, target)\n"
        "pathlib.Path.rename = killed\n"
        "with files.replacing(pathlib.Path(sys.argv[1])) as part: part.mkdir()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], timeout=300)
    assert ended.returncode == -signal.SIGKILL and not (tmp_path / "out").exists()
    require_writable(tmp_path / "out")
    assert content(tmp_path / "out") == "old"


def test_one_process_at_a_time_writes_into_a_folder(tmp_path):
    out = tmp_path / "out"
    code = "import pathlib, sys; from grids_ros.files import locked\nwith locked(pathlib.Path(sys.argv[1])): pass\n"

    def other() -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-c", code, str(out)], timeout=300, capture_output=True, text=True)

    with locked(out):
        assert "another process writes into" in other().stderr
        with pytest.raises(OutputError, match="another process writes into"), locked(out):
            pass
    assert not out.exists(), "nothing was written"
    out.mkdir()
    (out / LOCK).touch()  # of a process that was killed
    assert other().returncode == 0 and not list(out.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"), locked(tmp_path / "file"):
        pass

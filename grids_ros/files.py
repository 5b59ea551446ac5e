"""Outputs that are complete or absent, whenever the process ends.

A new output is written beside its path, synced to the disk, and then takes the path's place in one step. An earlier
output stays until then. What a killed process leaves is named `<name>.part`; no reader takes it for an output, and the
next run removes it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

PART = ".part"  # the suffix of an output that is not complete
COMPLETE = ".complete"  # in a folder: files that are valid, and not yet moved to their places
LOCK = ".grids_ros.lock"  # in a folder while a command writes into it
_EARLIER = ".grids_ros_earlier"  # ends the name of an output while a new one takes its place
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # of a file system that has none
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_HERE = -100  # AT_FDCWD: relative paths count from the working directory


class OutputError(ValueError):
    """A path that cannot be written: says which, and why."""


def require_writable(path: Path) -> None:
    """Raises OutputError when a file or folder cannot be written at `path`. Call it before the work.

    Creates the parent folder where it is missing, and restores an output that a killed process left aside.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        restore(path)
        probe = part_of(path)
        if not probe.exists():
            probe.touch()
            probe.unlink()
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(f"no permission to write {path}")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def part_of(path: Path) -> Path:
    """Where an output is written before it is complete: beside `path`, on the same file system."""
    return path.with_name(path.name + PART)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The path beside `path` at which to write a new file or folder; it takes the place of `path` on success.

    After an exception nothing changes at `path`, and what was written is removed. Raises OutputError where the parent
    cannot be written, OSError when the disk is full.
    """
    path = Path(path)
    require_writable(path)
    part = part_of(path)
    remove(part)
    try:
        yield part
        complete(part, path)
    except BaseException:
        remove(part)
        raise


@contextmanager
def replacing_files(folder: Path) -> Iterator[Path]:
    """A folder to write files into, which then take the place of those in `folder`: all of them or none.

    Other files in `folder` stay. One rename makes the new files valid, and `current` finds them from then on; moving
    them to their places comes after it. So a process that ends at any instant leaves the old files or the new ones.
    After an exception nothing changes. Raises OutputError where the folder cannot be written, OSError when the disk is
    full.
    """
    require_writable(folder / PART)
    _move_complete(folder)
    part = folder / PART
    remove(part)
    part.mkdir()
    try:
        yield part
        _sync(part)
        part.rename(folder / COMPLETE)
    except BaseException:
        remove(part)
        raise
    _sync_entry(folder)
    _move_complete(folder)


def current(folder: Path, name: str) -> Path:
    """Where the valid file of this name is, in a folder that `replacing_files` writes."""
    complete = folder / COMPLETE / name
    return complete if complete.is_file() else folder / name


def _move_complete(folder: Path) -> None:
    """The end of a replacement, of this process or of one that was killed."""
    complete = folder / COMPLETE
    if complete.is_dir():
        for path in complete.iterdir():
            path.replace(folder / path.name)
        _sync_entry(folder)
        complete.rmdir()


def complete(part: Path, path: Path) -> None:
    """Bring a complete file or folder to the disk, then let it take the place of `path`."""
    _sync(part)
    _swap(part, path)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that appears under its name once it is complete."""
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def digest(paths: Iterable[Path]) -> str:
    """The first twelve digits of the SHA-256 of these files, one behind the other."""
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            for part in iter(partial(file.read, 1 << 20), b""):
                found.update(part)
    return found.hexdigest()[:12]


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def restore(path: Path) -> None:
    """Put an output back that stands aside since a process was killed between the two steps of a replacement."""
    earlier = path.with_name(path.name + _EARLIER)
    if earlier.is_dir() and not path.exists():
        earlier.rename(path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The right to write into a folder, which one process at a time has; on file systems without locks every one.

    The folder is made where it is missing; one that is empty at the end then goes. Raises OutputError where another
    process has the right, and where the folder cannot be written.
    """
    path, made = folder / LOCK, not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _lock(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
        if made:
            with suppress(OSError):  # it holds something
                folder.rmdir()


def _lock(path: Path) -> int:
    """The handle of a lock file that is at its path. Raises OutputError where another process has it, or OSError."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    return handle
        except BlockingIOError as error:
            os.close(handle)
            raise OutputError(
                f"another process writes into {path.parent}: wait until it ends, or take another folder"
            ) from error
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return handle
            os.close(handle)
            raise
        os.close(handle)  # whoever had it has just removed it


def _swap(new: Path, path: Path) -> None:
    """`new` takes the place of `path`, in one step where the file system can; the earlier `path` is removed."""
    if not (path.is_dir() and not path.is_symlink()):
        os.replace(new, path)
    elif _exchanged(new, path):
        remove(new)
    else:  # in two steps: between them the earlier output stands beside its path
        earlier = path.with_name(path.name + _EARLIER)
        remove(earlier)
        path.rename(earlier)
        new.rename(path)
        remove(earlier)
    _sync_entry(path.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; False where the system or the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0


def _sync(path: Path) -> None:
    """Bring a file, or a folder with all its files, to the disk."""
    if path.is_dir():
        for entry in path.iterdir():
            _sync(entry)
    _sync_entry(path)


def _sync_entry(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

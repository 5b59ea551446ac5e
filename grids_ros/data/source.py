"""Any rosbag2, opened: folder or single file, MCAP or sqlite3, split, compressed, or broken off while it was recorded.

`rosbags` does the reading. What is added here is what a recording that ended badly needs: a folder without
metadata.yaml is read by its files, and an MCAP file without its end is read up to the last whole record.
"""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import apsw
import yaml
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection
from rosbags.rosbag2 import ReaderError
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STORAGE = (".mcap", ".db3")
# What rosbags and what it is built on raise for damage: its own checks, decompressors, parsers that met nonsense.
DAMAGE = (
    *(AnyReaderError, ReaderError, SerdeError, apsw.Error, zstd.ZstdError),
    *(OSError, EOFError, struct.error, ValueError, LookupError, TypeError, RuntimeError, AssertionError),
)
_MAGIC = b"\x89MCAP0\r\n"
_FOOTER = b"\x02" + struct.pack("<QQQI", 20, 0, 0, 0) + _MAGIC  # "no summary": the reader scans the records


class BagError(ValueError):
    """A bag that cannot be read, or that lacks a topic: says which, and what the bag holds."""


class Source:
    """One bag, open for reading. A context manager.

    `loss` says what could not be read, empty while nothing is missing; it may grow while `messages` is consumed.
    """

    def __init__(self, path: Path):
        """Raises BagError when there is nothing to read at all."""
        self.path, self.loss = Path(path), ""
        files = self._files()
        store = get_typestore(Stores.ROS2_JAZZY)
        try:
            self._reader = AnyReader(files, default_typestore=store)
            self._reader.open()
        except DAMAGE as error:
            whole = [_Whole(file) for file in self._mcap_files(files)]
            if not whole:
                raise BagError(f"cannot read {self.path} as a rosbag2: {_said(error)}") from error
            self._salvage(whole, error)

    def _files(self) -> list[Path]:
        """What rosbags is to open: the folder, or the files of one without metadata. Raises BagError."""
        path = self.path
        if not path.exists():
            raise BagError(f"{path} does not exist")
        if path.is_file():
            return [_folder_of_one(path)]
        if (path / "metadata.yaml").exists():
            return [path]
        files = sorted(file for file in path.iterdir() if file.suffix in STORAGE)
        if not files:
            raise BagError(f"{path} is no rosbag2: it has neither metadata.yaml nor {' nor '.join(STORAGE)} files")
        if any(file.suffix != ".mcap" for file in files):  # an MCAP file says itself whether it was closed
            self.loss = "metadata.yaml is missing: the recording was not closed"
        return files

    @staticmethod
    def _mcap_files(files: Sequence[Path]) -> list[Path]:
        (first, *_) = files
        found = sorted(first.glob("*.mcap")) if first.is_dir() else [file for file in files if file.suffix == ".mcap"]
        return [file for file in found if file.stat().st_size > len(_MAGIC)]

    def _salvage(self, files: list[_Whole], cause: Exception) -> None:
        lost = sum(file.lost for file in files)
        try:
            self._reader = AnyReader(files, default_typestore=get_typestore(Stores.ROS2_JAZZY))
            self._reader.open()
        except DAMAGE as error:
            raise BagError(f"cannot read {self.path} as a rosbag2: {_said(cause)}; nor its rest: {error}") from error
        self.loss = f"broken off: {_said(cause)}; {lost} bytes at the end hold no whole record"

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_) -> None:
        self._reader.close()

    @property
    def start_ns(self) -> int:
        """When the first message was received [ns]; of an empty bag meaningless."""
        return self._reader.start_time

    @property
    def end_ns(self) -> int:
        """Just after the last message was received [ns]."""
        return self._reader.end_time

    @property
    def empty(self) -> bool:
        return self._reader.message_count == 0

    @property
    def held(self) -> Mapping[str, list[Connection]]:
        """Topic, without its leading slash, to its connections: of those with messages."""
        topics: dict[str, list[Connection]] = {}
        for connection in self._reader.connections:
            if connection.msgcount:
                topics.setdefault(connection.topic.lstrip("/"), []).append(connection)
        return topics

    @property
    def types(self):
        """The message types, as the bag defines them."""
        return self._reader.typestore

    def described(self) -> str:
        """What the bag holds, for an error."""
        held = sorted(self.held.items())
        return ", ".join(f"{topic} ({where[0].msgtype})" for topic, where in held) or "no messages"

    def raw(
        self, connections: Sequence[Connection], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Connection, time of reception [ns] and CDR bytes, in order; ends early where the bag is damaged (`loss`)."""
        at_ns = start_ns
        try:
            for connection, at_ns, data in self._reader.messages(connections, start=start_ns, stop=stop_ns):  # noqa: B007
                yield connection, at_ns, data
        except DAMAGE as error:
            self._lose(at_ns, error)

    def messages(
        self, connections: Sequence[Connection], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[tuple[Connection, int, object]]:
        """The same, deserialised. A message that cannot be is passed over and stated in `loss`."""
        broken, first = 0, ""
        for connection, at_ns, data in self.raw(connections, start_ns, stop_ns):
            try:
                message = self._reader.deserialize(data, connection.msgtype)
            except DAMAGE as error:
                broken += 1
                first = first or f"{connection.topic}: {_said(error)}"
                self.loss = f"{broken} messages are damaged, the first on {first}"
                continue
            yield connection, at_ns, message

    def _lose(self, at_ns: int | None, error: Exception) -> None:
        where = "from its start on" if at_ns is None else f"after {(at_ns - self.start_ns) / 1e9:.3f} s"
        self.loss = f"damaged {where}: {_said(error)}"


class _Whole:
    """An MCAP file that broke off, as far as it is whole, with the end that it lacks. A path, to rosbags."""

    def __init__(self, path: Path):
        self._path = path
        self.suffix = path.suffix
        self._end = _last_whole_record(path)
        self.lost = path.stat().st_size - self._end

    def __str__(self) -> str:
        return str(self._path)

    def exists(self) -> bool:
        return True

    def is_dir(self) -> bool:
        return False

    def open(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Ended(self._path.open(mode, buffering=0), self._end))


class _Ended(io.RawIOBase):
    """The first `end` bytes of a file, then an MCAP footer."""

    def __init__(self, file: io.FileIO, end: int):
        self._file, self._end, self._at = file, end, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._end + len(_FOOTER)}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer) -> int:
        if self._at < self._end:
            self._file.seek(self._at)
            data = self._file.read(min(len(buffer), self._end - self._at))
        else:
            data = _FOOTER[self._at - self._end :][: len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _last_whole_record(path: Path) -> int:
    """Where the records of an MCAP file stop being whole [byte]: each is an opcode, a length and so many bytes."""
    size, at = path.stat().st_size, len(_MAGIC)
    with path.open("rb") as file:
        while True:
            file.seek(at)
            head = file.read(9)
            opcode, length = struct.unpack("<BQ", head) if len(head) == 9 else (0, 0)
            # 0: no such record; 2 and 15: footer and end of data, after which come only indexes
            if opcode in (0x00, 0x02, 0x0F) or at + 9 + length > size:
                return at
            at += 9 + length


def _folder_of_one(file: Path) -> Path:
    """The bag's folder when `file` is all that it holds, for what its metadata says (compression); else the file.

    Raises BagError for one compressed file out of several, or one that no reader knows.
    """
    metadata, whole = file.parent / "metadata.yaml", []
    if metadata.exists():
        try:
            about = yaml.safe_load(metadata.read_text())["rosbag2_bagfile_information"]
            whole = [Path(name).name for name in about["relative_file_paths"]]
        except (yaml.YAMLError, KeyError, TypeError):
            whole = []
        if whole == [file.name]:
            return file.parent
        if file.name in whole and about.get("compression_mode"):
            raise BagError(f"{file} is a compressed part of {len(whole)}: give the folder {file.parent}")
    if file.suffix not in STORAGE:
        raise BagError(f"{file} is no rosbag2: expected a folder, or a file that ends in {' or '.join(STORAGE)}")
    return file


def _said(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]

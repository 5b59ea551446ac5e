"""The one reader of rosbag2: folder or single file, MCAP or sqlite3, split, compressed, or broken off while recorded.

Nothing is lost without a word. `damage` states what is lost: what cannot be read, and what metadata.yaml or a file's
own statistics count beyond what was read. `notes` states what is left out or unusual, in a recording that is whole.
"""

from __future__ import annotations

import heapq
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rosbags.typesys.store import Typestore

from grids_ros.data.compression import LARGEST_MESSAGE, unpacked_zstd
from grids_ros.data.damage import DAMAGE, BagError, first_line
from grids_ros.data.definitions import types_of
from grids_ros.data.mcap_file import MAGIC, McapFile
from grids_ros.data.metadata import NAME, Metadata, read_metadata
from grids_ros.data.sqlite_file import SqliteFile

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["STORAGE", "BagError", "BagReader", "Connection", "storage_files"]

STORAGE = (".mcap", ".db3")
COMPRESSED = (".zstd", ".zst")
_SQLITE, _ZSTD = b"SQLite format 3\0", b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Connection:
    """One topic with one type. definition, encoding, digest: of the type. qos: profiles as text.

    msgcount: messages that the files count. ids: by file, under which numbers it stands there.
    """

    topic: str
    msgtype: str
    definition: str = field(repr=False)
    encoding: str
    digest: str
    qos: str = field(repr=False)
    msgcount: int
    ids: tuple[tuple[int, ...], ...] = field(repr=False)

    @property
    def latched(self) -> bool:
        """Whether its publishers keep their last messages for later subscribers."""
        return "transient_local" in self.qos or "durability: 1" in self.qos

    @property
    def types(self) -> Typestore:
        """The store that defines its type. Raises ValueError where nothing does."""
        return types_of(self.msgtype, self.definition, self.encoding)


class BagReader:
    """One bag, open for reading. A context manager.

    topics: topic, without its leading slash, to its connections, of those that hold ROS 2 messages.
    damage: what is lost, in words; it may grow while messages are read. notes: what is left out, or unusual.
    passed_over: by topic, how many messages could not be deserialised, and why the first could not.
    """

    def __init__(self, path: Path):
        """Raises BagError when there is nothing to read at all."""
        self.path = Path(path)
        self.damage: list[str] = []
        self.notes: list[str] = []
        self.passed_over: dict[str, tuple[int, str]] = {}
        self._unpacked: TemporaryDirectory | None = None
        self._files: list[McapFile | SqliteFile] = []
        self._short: set[str] = set()  # topics whose count was found wrong already
        try:
            paths, metadata = _chosen_files(self.path, self.notes, self.damage)
            self._open(paths)
            self.connections = self._merged()
            self.topics = self._readable()
            self._compare(metadata)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for file in self._files:
            file.close()
        if self._unpacked is not None:
            self._unpacked.cleanup()

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @property
    def loss(self) -> str:
        """Everything that could not be read, in words; "" for nothing."""
        by_topic = [
            f"{count} messages on {topic} are damaged, the first: {why}"
            for topic, (count, why) in self.passed_over.items()
        ]
        return "; ".join([*self._structural(), *by_topic])

    def _structural(self) -> list[str]:
        several = len(self._files) > 1
        told = [f"{f.path.name}: {text}" if several else text for f in self._files for text in f.damage]
        return [*self.damage, *told]

    @property
    def broken(self) -> str:
        """What is lost of the files themselves, in words; "" where only single messages are damaged."""
        return "; ".join(self._structural())

    @property
    def start_ns(self) -> int:
        """When the first message was received [ns]; 0 for an empty bag."""
        return min((file.span_ns[0] for file in self._files if file.span_ns), default=0)

    @property
    def end_ns(self) -> int:
        """Just after the last message was received [ns]; 0 for an empty bag."""
        return max((file.span_ns[1] + 1 for file in self._files if file.span_ns), default=0)

    @property
    def empty(self) -> bool:
        return not any(connection.msgcount for connection in self.connections)

    def describe(self) -> str:
        """The topics of the bag, for an error."""
        topics = sorted(self.topics.items())
        return ", ".join(f"{topic} ({connections[0].msgtype})" for topic, connections in topics) or "no messages"

    def raw(
        self, connections: Sequence[Connection], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[tuple[Connection, int, bytes]]:
        """Connection, time of reception [ns] and CDR bytes, in order of arrival.

        start_ns is included, stop_ns is not. What was read of the whole bag is compared with what the files count.
        """
        read: Counter[str] = Counter()
        parts = [self._of_file(index, connections, start_ns, stop_ns) for index in range(len(self._files))]
        for at_ns, connection, data in heapq.merge(*parts, key=lambda entry: entry[0]):
            read[connection.topic] += 1
            yield connection, at_ns, data
        if start_ns is None and stop_ns is None:
            counted: Counter[str] = Counter()
            for connection in connections:
                counted[connection.topic] += connection.msgcount
            for topic, count in counted.items():
                self._count(topic, read[topic], count, "the file's statistics count")

    def messages(
        self, connections: Sequence[Connection], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[tuple[Connection, int, object]]:
        """The same, deserialised. A message that cannot be is passed over and counted in `passed_over`."""
        for connection, at_ns, data in self.raw(connections, start_ns, stop_ns):
            try:
                plain = unpacked_zstd(data, LARGEST_MESSAGE) if data[:4] == _ZSTD else data
                message = connection.types.deserialize_cdr(plain, connection.msgtype)
            except DAMAGE as error:
                count, why = self.passed_over.get(connection.topic, (0, first_line(error)))
                self.passed_over[connection.topic] = (count + 1, why)
                continue
            yield connection, at_ns, message

    def events(
        self, topics: Mapping[str, str], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[tuple[str, int, object]]:
        """Role, time of reception [ns] and message, in order of arrival.

        topics: role to topic, without a leading slash. Raises KeyError for a topic that is not in `topics`.
        """
        role_of = {topic: role for role, topic in topics.items()}
        wanted = [connection for topic in role_of for connection in self.topics[topic]]
        for connection, at_ns, message in self.messages(wanted, start_ns, stop_ns):
            yield role_of[connection.topic.lstrip("/")], at_ns, message

    def _open(self, paths: Sequence[Path]) -> None:
        """Raises BagError when none of the files can be read."""
        faults = []
        for path in paths:
            try:
                self._files.append(self._opened(path))
            except (BagError, OSError) as error:
                faults.append(f"{path.name}: {first_line(error)}")
        if not self._files:
            raise BagError(f"cannot read {self.path} as a rosbag2: {'; '.join(faults)}")
        self.damage += faults

    def _opened(self, path: Path) -> McapFile | SqliteFile:
        """By its first bytes, whatever it is called."""
        with path.open("rb") as file:
            head = file.read(16)
        if head.startswith(_ZSTD):
            path = self._decompressed(path)
            with path.open("rb") as file:
                head = file.read(16)
        if not head:
            raise BagError("the file is empty")
        return SqliteFile(path) if head == _SQLITE else McapFile(path)

    def _decompressed(self, path: Path) -> Path:
        if self._unpacked is None:
            self._unpacked = TemporaryDirectory(prefix="grids_ros_")
        target = Path(self._unpacked.name) / path.name.removesuffix(path.suffix)
        with target.open("wb") as out:
            try:
                with zstd.open(path, "rb") as packed:
                    shutil.copyfileobj(packed, out)
            except DAMAGE as error:
                self.damage.append(f"{path.name} is damaged: {first_line(error)}")
        return target

    def _merged(self) -> list[Connection]:
        """Each topic and type once, whatever number of files it is split over."""
        found: dict[tuple[str, ...], list] = {}
        other: Counter[str] = Counter()
        for index, file in enumerate(self._files):
            for number, count, *key in _channels(file, other):
                entry = found.setdefault(tuple(key), [0, [[] for _ in self._files]])
                entry[0] += count
                entry[1][index].append(number)
        if other:
            listed = ", ".join(f"{topic} ({count})" for topic, count in sorted(other.items()))
            self.notes.append(f"left out, as they hold no ROS 2 messages: {listed}")
        merged: list[tuple[Any, ...]] = [(*key, count, tuple(map(tuple, ids))) for key, (count, ids) in found.items()]
        return [Connection(*fields) for fields in merged]

    def _readable(self) -> dict[str, list[Connection]]:
        topics: dict[str, list[Connection]] = {}
        for connection in self.connections:
            try:
                connection.types  # noqa: B018
            except ValueError as error:
                self.notes.append(f"left out: {connection.topic}, as {first_line(error)}")
                continue
            if connection.msgcount:
                topics.setdefault(connection.topic.lstrip("/"), []).append(connection)
        return topics

    def _compare(self, metadata: Metadata | None) -> None:
        """What metadata.yaml counts with what the files hold."""
        if metadata is None or metadata.note:
            return
        held: Counter[str] = Counter()
        for file in self._files:
            for number, topic in _names(file).items():
                held[topic] += file.counts[number]
        for topic, count in (metadata.counts or {}).items():
            if held[topic] > count:
                self.notes.append(f"{topic}: {held[topic]} messages are there, {NAME} counts {count}")
            self._count(topic, held[topic], count, f"{NAME} counts")
        if metadata.counts is None and metadata.total is not None:
            self._count("in all", sum(held.values()), metadata.total, f"{NAME} counts")

    def _count(self, topic: str, read: int, count: int, who: str) -> None:
        """State once that fewer messages were read than were counted."""
        if read < count and topic not in self._short:
            self._short.add(topic)
            self.damage.append(f"{topic}: {read} messages were read, {who} {count}")

    def _of_file(
        self, index: int, connections: Sequence[Connection], start_ns: int | None, stop_ns: int | None
    ) -> Iterator[tuple[int, Connection, bytes]]:
        by_id = {number: connection for connection in connections for number in connection.ids[index]}
        if by_id:
            for number, at_ns, data in self._files[index].messages(by_id, start_ns, stop_ns):
                yield at_ns, by_id[number], data


def storage_files(folder: Path) -> list[Path]:
    """The files in a folder that are rosbag2 storage by their names, in order of them."""
    suffixes = (*STORAGE, *(kind + packed for kind in STORAGE for packed in COMPRESSED))
    return sorted(file for file in folder.iterdir() if file.is_file() and file.name.endswith(suffixes))


def _chosen_files(path: Path, notes: list[str], damage: list[str]) -> tuple[list[Path], Metadata | None]:
    """The files to read, and the metadata that is of all of them. Raises BagError."""
    if not path.exists():
        raise BagError(f"{path} does not exist")
    if path.is_file():
        return _single(path)
    if not path.is_dir():
        raise BagError(f"{path} is no rosbag2: it is neither a folder nor a file on a disk")
    metadata, there = read_metadata(path), storage_files(path)
    if metadata is None or not metadata.files:
        there = _once(there, notes)
    if metadata is None and not there:
        raise BagError(f"{path} is no rosbag2: it has neither {NAME} nor {' nor '.join(STORAGE)} files")
    if metadata is None or not metadata.files:
        unclosed = f"{NAME} is missing: the recording may not have been closed"
        notes.append(unclosed if metadata is None else metadata.note or f"{NAME} names no files")
        if not there:
            raise BagError(f"{path} is no rosbag2: it has no {' nor '.join(STORAGE)} files; {notes[-1]}")
        return there, metadata
    listed = _once([path / name for name in metadata.files], notes)
    missing = [file for file in listed if not file.exists()]
    known = {file.resolve() for file in listed}
    others = [file for file in there if file.resolve() not in known]
    if missing and others:
        notes.append(f"{NAME} names {_names_of(missing)}, which is not there; read instead: {_names_of(others)}")
    elif others:
        notes.append(f"left out, as {NAME} does not name them: {_names_of(others)}")
        others = []
    if len(missing) > len(others):
        damage.append(f"{_names_of(missing)} is missing, which {NAME} names")
    files = [file for file in listed if file.exists()] + (others if missing else [])
    if not files:
        raise BagError(f"cannot read {path} as a rosbag2: {_names_of(missing)} is missing, which {NAME} names")
    return files, metadata


def _once(files: Sequence[Path], notes: list[str]) -> list[Path]:
    """Each file once, under the first of its names."""
    first: dict[Path, Path] = {}
    for file in files:
        if first.setdefault(file.resolve(), file) != file or files.count(file) > 1:
            note = f"{first[file.resolve()].name} is named more than once, in {NAME} or by a link: it is read once"
            notes += [note] if note not in notes else []
    return list(first.values())


def _single(path: Path) -> tuple[list[Path], Metadata | None]:
    """A file by itself; with its folder's metadata where that is of this file alone."""
    with path.open("rb") as file:
        head = file.read(16)
    if not path.name.endswith((*STORAGE, *COMPRESSED)) and not head.startswith((MAGIC, _SQLITE, _ZSTD)):
        raise BagError(f"{path} is no rosbag2: expected a folder, or a file that ends in {' or '.join(STORAGE)}")
    metadata = read_metadata(path.parent)
    return [path], metadata if metadata is not None and metadata.files == (path.name,) else None


def _names_of(files: Sequence[Path]) -> str:
    return ", ".join(file.name for file in files)


def _names(file: McapFile | SqliteFile) -> dict[int, str]:
    """Number to topic."""
    if isinstance(file, SqliteFile):
        return {number: row.name for number, row in file.topics.items()}
    return {number: channel.topic for number, channel in file.channels.items()}


def _channels(file: McapFile | SqliteFile, other: Counter[str]) -> Iterator[tuple]:
    """Number and count of each topic of a file, and Connection's fields up to `qos`; `other` takes what is not CDR."""
    if isinstance(file, SqliteFile):
        for number, row in file.topics.items():
            if row.serialization == "cdr":
                described = (row.name, row.type, row.definition, row.encoding, row.digest, row.qos)
                yield number, file.counts[number], *described
            else:
                other[f"{row.name}, {row.serialization}"] += file.counts[number]
        return
    for number, channel in file.channels.items():
        schema = file.schemas.get(channel.schema_id)
        if channel.message_encoding == "cdr" and schema is not None:
            qos, digest = (channel.metadata.get(key, "") for key in ("offered_qos_profiles", "topic_type_hash"))
            definition = schema.data.decode("utf-8", "replace")
            described = (channel.topic, schema.name, definition, schema.encoding, digest, qos)
            yield number, file.counts[number], *described
        else:
            other[f"{channel.topic}, {channel.message_encoding or 'no encoding'}"] += file.counts[number]

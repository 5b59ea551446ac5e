"""One sqlite3 file of rosbag2: its topics, its messages in order of their times, and what of it is damaged.

A file beside which a write-ahead log or a journal lies was not closed. It is read from a copy, together with these:
the recording itself stays as it is.
"""

from __future__ import annotations

import shutil
import sqlite3
import struct
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from grids_ros.data.damage import DAMAGE, LAST_NS, BagError, first_line

TIMED = "typeof(timestamp) = 'integer' AND timestamp >= 0"
BESIDE = ("-wal", "-journal")  # what SQLite keeps beside a file that was not closed


@dataclass(frozen=True)
class TopicRow:
    """A topic as the file has it. qos: its profiles as text. definition: of its type, "" where the file has none."""

    name: str
    type: str
    serialization: str
    qos: str
    definition: str = ""
    encoding: str = ""
    digest: str = ""


class SqliteFile:
    """An open sqlite3 file. `topics` by id; `counts`: messages by topic id.

    span_ns: times of the first and the last message; None without any. damage: what is lost, in words.
    """

    def __init__(self, path: Path):
        """Raises BagError for a file that is no rosbag2 storage."""
        self.path = path
        self.damage: list[str] = []
        self.counts: Counter[int] = Counter()
        self.span_ns: tuple[int, int] | None = None
        self._copy: TemporaryDirectory | None = None
        self._database: Any = None  # a sqlite3.Connection, once it is open
        try:
            self._database = self._opened()
            self.topics = self._topics()
            self._count()
        except DAMAGE as error:
            self.close()
            raise BagError(f"{path} is no rosbag2 storage, or damaged: {first_line(error)}") from error

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
        if self._copy is not None:
            self._copy.cleanup()

    def messages(
        self, topics: Collection[int], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[tuple[int, int, bytes]]:
        """Topic id, time of reception [ns] and data, in order of these times; those of one time as recorded.

        start_ns is included, stop_ns is not. Damage ends the reading and is added to `damage`.
        """
        ids = sorted(topics)
        query = f"SELECT topic_id, timestamp, data FROM messages WHERE {TIMED}"
        query += f" AND topic_id IN ({','.join('?' * len(ids))})"
        values = list(ids)
        for sign, bound in ((">=", start_ns), ("<", stop_ns)):
            if bound is not None:
                query += f" AND timestamp {sign} ?"
                values.append(min(bound, LAST_NS))
        at_ns = start_ns
        try:
            for topic, at_ns, data in self._database.execute(query + " ORDER BY timestamp, id", values):  # noqa: B007
                yield topic, at_ns, data if isinstance(data, bytes) else b""
        except DAMAGE as error:
            after_s = (at_ns - self.span_ns[0]) / 1e9 if at_ns is not None and self.span_ns else 0.0
            self.damage.append(f"damaged after {after_s:.3f} s: {first_line(error)}")

    def _opened(self) -> sqlite3.Connection:
        path = self.path
        beside = [path.with_name(path.name + suffix) for suffix in BESIDE]
        beside = [file for file in beside if file.exists() and file.stat().st_size]
        if beside:
            self._copy = TemporaryDirectory(prefix="grids_ros_")
            for file in (path, *beside):
                shutil.copy2(file, self._copy.name)
            database = sqlite3.connect(Path(self._copy.name) / path.name)
        else:
            self._check_length()
            database = sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)
        database.text_factory = lambda text: text.decode("utf-8", "replace")
        return database

    def _check_length(self) -> None:
        """State a file that is shorter than its header says (https://www.sqlite.org/fileformat.html, 1.3)."""
        with self.path.open("rb") as file:
            head = file.read(100)
        page, changes, pages, counted_at = struct.unpack(">16xH6xII60xI4x", head)
        missing = (65536 if page == 1 else page) * pages - self.path.stat().st_size
        if changes == counted_at and missing > 0:
            self.damage.append(f"cut off: {missing} bytes are missing at the end")

    def _topics(self) -> dict[int, TopicRow]:
        """By id. Raises sqlite3.Error where the tables are not those of rosbag2."""
        columns = [row[1] for row in self._database.execute("PRAGMA table_info(topics)")]
        qos = "offered_qos_profiles" if "offered_qos_profiles" in columns else "''"
        rows = self._database.execute(f"SELECT id, name, type, serialization_format, {qos} FROM topics").fetchall()
        definitions = self._definitions()
        topics = {}
        for number, *texts, profiles in rows:
            if not all(isinstance(text, str) for text in texts):
                self.damage.append(f"topic {number} has no name, type or serialization format")
                continue
            profiles = profiles if isinstance(profiles, str) else ""
            row = (*texts, profiles, *definitions.get(texts[1], ()))
            topics[number] = TopicRow(*row)
        return topics

    def _definitions(self) -> dict[str, tuple[str, str, str]]:
        """Type to its definition, the definition's encoding, and its digest; empty before Iron."""
        table = "message_definitions"
        if not self._database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
            return {}
        columns = "topic_type, encoded_message_definition, encoding, type_description_hash"
        rows = self._database.execute(f"SELECT {columns} FROM {table}")
        return {name: tuple(rest) for name, *rest in rows if all(isinstance(text, str) for text in (name, *rest))}

    def _count(self) -> None:
        """Count by the table itself: an index that lost rows is found out by what it gives."""
        counts = f"topic_id, count(*), min(timestamp), max(timestamp), {TIMED} AS timed"
        query = f"SELECT {counts} FROM messages NOT INDEXED GROUP BY topic_id, timed"
        spans = []
        for topic, count, first_ns, last_ns, timed in self._database.execute(query):
            if topic in self.topics and not timed:
                self.damage.append(f"{self.topics[topic].name}: {count} messages have no valid time of reception")
            elif topic in self.topics:
                self.counts[topic] = count
                spans.append((first_ns, last_ns))
            else:
                self.damage.append(f"{count} messages are of topic {topic}, which the file does not describe")
        if spans:
            self.span_ns = min(first for first, _ in spans), max(last for _, last in spans)

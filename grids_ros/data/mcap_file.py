"""One MCAP file: its channels, its messages in order of their log times, and what of it is damaged.

The `mcap` library parses the records (https://mcap.dev/spec). A file with a sound summary is read by its chunk index;
any other file is read record by record, up to the last whole one.
"""

from __future__ import annotations

import heapq
import struct
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.reader import FOOTER_SIZE, SeekingReader
from mcap.records import Channel, Chunk, DataEnd, Footer, McapRecord, Message, Schema, Statistics
from mcap.stream_reader import MAGIC_SIZE, breakup_chunk
from mcap.summary import Summary

from grids_ros.data.compression import LARGEST_CHUNK, unpacked_lz4, unpacked_zstd
from grids_ros.data.damage import DAMAGE, LAST_NS, BagError, first_line

MAGIC = b"\x89MCAP0\r\n"
RUN_BYTES = 1 << 20  # of messages outside of chunks that are read at once
_HEAD = struct.Struct("<BQ")  # opcode and length of a record


@dataclass
class Stretch:
    """A part of the file that is read at once: a chunk, or a run of records outside of chunks.

    at, end: where it lies [byte]. start_ns, end_ns: of its messages' log times, both included. counts: messages by
    channel; None where only reading tells.
    """

    at: int
    end: int
    start_ns: int
    end_ns: int
    counts: dict[int, int] | None = None

    def count(self, channel: int) -> None:
        """One message of this channel more."""
        self.counts = self.counts or {}
        self.counts[channel] = self.counts.get(channel, 0) + 1


class McapFile:
    """An open MCAP file. `channels` and `schemas` by id.

    counts: messages by channel; those that its statistics state, or those that are there where it was scanned.
    span_ns: log times of the first and the last message; None without any. damage: what is lost, in words.
    """

    def __init__(self, path: Path):
        """Raises BagError for a file that is no MCAP file."""
        self.path = path
        self.damage: list[str] = []
        self.span_ns: tuple[int, int] | None = None
        self.channels: dict[int, Channel] = {}
        self.schemas: dict[int, Schema] = {}
        self.counts: Counter[int] = Counter()
        self.stretches: list[Stretch] = []
        self._reported: set[int] = set()
        self._untimed: set[int] = set()  # parts of the file whose log times were stated to be invalid
        self._file = path.open("rb")
        self._size = path.stat().st_size
        if self._file.read(MAGIC_SIZE) != MAGIC:
            self._file.close()
            raise BagError(f"{path} is no MCAP file: it does not begin with {MAGIC!r}")
        summary = self._usable_summary()
        if summary is None:
            self._scan()
        else:
            self._take(summary)

    def close(self) -> None:
        self._file.close()

    def messages(
        self, channels: Collection[int], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[tuple[int, int, bytes]]:
        """Channel, log time [ns] and data, in order of log times; those of one log time in the file's order.

        start_ns is included, stop_ns is not. What is damaged is passed over and added to `damage`.
        """
        wanted = set(channels)
        waiting = sorted(
            (s for s in self.stretches if s.counts is None or wanted & s.counts.keys()),
            key=lambda s: s.start_ns,
            reverse=True,
        )
        queue: list[tuple[int, int, int, int, bytes]] = []
        while waiting or queue:
            while waiting and (not queue or waiting[-1].start_ns <= queue[0][0]):
                stretch = waiting.pop()
                if not _overlaps(stretch, start_ns, stop_ns):
                    continue
                for index, message in enumerate(self._read(stretch)):
                    if message.channel_id in wanted and _within(message.log_time, start_ns, stop_ns):
                        entry = (message.log_time, stretch.at, index, message.channel_id, message.data)
                        heapq.heappush(queue, entry)
            if queue:
                log_time, _, _, channel, data = heapq.heappop(queue)
                yield channel, log_time, data

    def _usable_summary(self) -> Summary | None:
        """The summary, where the file has a sound one that indexes every message; None otherwise."""
        try:
            footer = self._footer()
            if footer is None or footer.summary_start == 0:
                return None
            self._file.seek(footer.summary_start)
            content = self._file.read(self._size - FOOTER_SIZE - MAGIC_SIZE - footer.summary_start)
            checked = content + _FOOTER_HEAD.pack(Opcode.FOOTER, 20, footer.summary_start, footer.summary_offset_start)
            if footer.summary_crc and zlib.crc32(checked) != footer.summary_crc:
                self.damage.append("the summary is damaged (its checksum does not match)")
                return None
            self._file.seek(0)
            summary = SeekingReader(self._file, record_size_limit=self._size).get_summary()
        except DAMAGE as error:
            self.damage.append(f"the summary is damaged ({first_line(error)})")
            return None
        return summary if summary is not None and _complete(summary, self._size) else None

    def _footer(self) -> Footer | None:
        """None where the file does not end in one."""
        if self._size < FOOTER_SIZE + 2 * MAGIC_SIZE:
            return None
        self._file.seek(self._size - FOOTER_SIZE - MAGIC_SIZE)
        end = self._file.read()
        if end[-MAGIC_SIZE:] != MAGIC or _HEAD.unpack_from(end) != (Opcode.FOOTER, 20):
            return None
        return Footer(*struct.unpack_from("<QQI", end, _HEAD.size))

    def _take(self, summary: Summary) -> None:
        """Know the file by its summary."""
        self.channels, self.schemas = dict(summary.channels), dict(summary.schemas)
        stated = summary.statistics
        if stated is not None:
            self.counts.update(stated.channel_message_counts)
            if stated.message_count:
                self.span_ns = stated.message_start_time, stated.message_end_time
        for index in summary.chunk_indexes:
            counts = dict.fromkeys(index.message_index_offsets, 1) or None
            end = index.chunk_start_offset + index.chunk_length
            self.stretches.append(
                Stretch(index.chunk_start_offset, end, index.message_start_time, index.message_end_time, counts)
            )

    def _scan(self) -> None:
        """Know the file by reading it once, up to its last whole record."""
        run: Stretch | None = None
        stated: Statistics | None = None
        checksum, at = zlib.crc32(MAGIC), MAGIC_SIZE
        reason = "it ends without a footer"
        self._file.seek(at)
        while True:
            head = self._file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                break
            opcode, length = _HEAD.unpack(head)
            end = at + _HEAD.size + length
            if opcode == 0 or end > self._size:
                reason = "a record is cut off" if opcode else "it goes on without records"
                break
            content = self._file.read(length)
            try:
                record = _parsed(head + content)
            except DAMAGE as error:
                self.damage.append(f"a record at byte {at} is damaged ({first_line(error)})")
                record = None
            if isinstance(record, Footer):
                if self._file.read() != MAGIC:
                    self.damage.append("the end is damaged (no MCAP magic)")
                reason = ""
                break
            if isinstance(record, DataEnd) and record.data_section_crc not in (0, checksum):
                self.damage.append("bytes were changed (the checksum of the data does not match)")
            if isinstance(record, Statistics):
                stated = record
            run = self._keep(record, at, end, run)
            checksum, at = zlib.crc32(content, zlib.crc32(head, checksum)), end
        if reason:
            self.damage.append(f"broken off: {reason}; {self._size - at} bytes at the end hold no whole record")
        if self.stretches:
            self.span_ns = min(s.start_ns for s in self.stretches), max(s.end_ns for s in self.stretches)
        if stated is not None:
            self._compare(stated)

    def _keep(self, record: object, at: int, end: int, run: Stretch | None) -> Stretch | None:
        """Take a record of the data section into account; returns the run of messages that goes on."""
        if isinstance(record, Schema):
            self.schemas.setdefault(record.id, record)
        elif isinstance(record, Channel):
            self.channels.setdefault(record.id, record)
        elif isinstance(record, Message):
            if not self._timed([record], at if run is None else run.at):
                return run
            if run is None or end - run.at > RUN_BYTES:
                run = Stretch(at, end, record.log_time, record.log_time, {})
                self.stretches.append(run)
            run.start_ns, run.end_ns = min(run.start_ns, record.log_time), max(run.end_ns, record.log_time)
            run.end = end
            run.count(record.channel_id)
            self.counts[record.channel_id] += 1
        elif isinstance(record, Chunk):
            self._keep_chunk(record, at, end)
            return None
        return run

    def _keep_chunk(self, chunk: Chunk, at: int, end: int) -> None:
        stretch = Stretch(at, end, chunk.message_start_time, chunk.message_end_time, {})
        times = []
        records = self._records(chunk, stretch)
        for message in self._timed([record for record in records if isinstance(record, Message)], at):
            stretch.count(message.channel_id)
            times.append(message.log_time)
        for record in records:
            if not isinstance(record, Message):
                self._keep(record, at, end, None)
        self.counts.update(stretch.counts or {})
        if times:
            self.stretches.append(replace(stretch, start_ns=min(times), end_ns=max(times)))

    def _compare(self, stated: Statistics) -> None:
        """What was read with what the file's statistics count."""
        for channel, count in stated.channel_message_counts.items():
            found = self.counts[channel]
            if found != count:
                topic = self.channels[channel].topic if channel in self.channels else f"channel {channel}"
                self.damage.append(f"{topic}: {found} messages were read, the file's statistics count {count}")
        total = sum(self.counts.values())
        if total != stated.message_count and not stated.channel_message_counts:
            self.damage.append(f"{total} messages were read, the file's statistics count {stated.message_count}")

    def _read(self, stretch: Stretch) -> list[Message]:
        """The messages of a part of the file, in its order."""
        try:
            self._file.seek(stretch.at)
            content = self._file.read(stretch.end - stretch.at)
            if _HEAD.unpack_from(content)[0] != Opcode.CHUNK:
                return self._timed([record for record in _run(content) if isinstance(record, Message)], stretch.at)
            if _HEAD.unpack_from(content)[1] != len(content) - _HEAD.size:
                raise ValueError("its length is not that of the index")
            chunk: Any = _parsed(content)
        except DAMAGE as error:
            self._lose(stretch, error)
            return []
        records = self._records(chunk, stretch)
        messages = self._timed([record for record in records if isinstance(record, Message)], stretch.at)
        if chunk.uncompressed_crc:
            return messages
        inside = [m for m in messages if stretch.start_ns <= m.log_time <= stretch.end_ns]
        if len(inside) != len(messages):
            self._lose(stretch, ValueError(f"{len(messages) - len(inside)} log times lie outside of it"))
        return inside

    def _records(self, chunk: Chunk, stretch: Stretch) -> list:
        """The records in a chunk, as far as it is sound."""
        try:
            data = _decompressed(chunk)
            return breakup_chunk(replace(chunk, compression="", data=data), validate_crc=True)
        except DAMAGE as error:
            self._lose(stretch, error)
            return []

    def _timed(self, messages: list[Message], at: int) -> list[Message]:
        """Those whose log times rosbag2 can hold; the others are stated once of each part of the file."""
        timed = [message for message in messages if message.log_time <= LAST_NS]
        if len(timed) < len(messages) and at not in self._untimed:
            self._untimed.add(at)
            lost = len(messages) - len(timed)
            self.damage.append(f"{lost} messages at byte {at} have log times beyond 2^63 ns")
        return timed

    def _lose(self, stretch: Stretch, error: Exception) -> None:
        """State once that a part of the file is damaged."""
        if stretch.at not in self._reported:
            self._reported.add(stretch.at)
            self.damage.append(f"the chunk at byte {stretch.at} is damaged ({first_line(error)})")


_FOOTER_HEAD = struct.Struct("<BQQQ")  # what of the footer the checksum of the summary covers


def _complete(summary: Summary, size: int) -> bool:
    """Whether a summary indexes every message of its file."""
    stated = summary.statistics
    if stated is None or stated.chunk_count != len(summary.chunk_indexes):
        return False
    if stated.message_count and not summary.chunk_indexes:
        return False  # messages outside of chunks
    if any(channel not in summary.channels for channel, count in stated.channel_message_counts.items() if count):
        return False
    if any(channel.schema_id and channel.schema_id not in summary.schemas for channel in summary.channels.values()):
        return False
    if stated.message_count != sum(stated.channel_message_counts.values()):
        return False
    if stated.message_count and max(stated.message_start_time, stated.message_end_time) > LAST_NS:
        return False
    return all(index.chunk_start_offset + index.chunk_length <= size for index in summary.chunk_indexes)


def _parsed(record: bytes) -> McapRecord | None:
    """One record, whole, from its opcode on; None for one that no reading needs."""
    opcode, length = _HEAD.unpack_from(record)
    stream = ReadDataStream(BytesIO(record[_HEAD.size :]))
    if opcode == Opcode.MESSAGE:
        return Message.read(stream, length)
    parse = _PARSED.get(opcode)
    return parse(stream) if parse is not None else None


_PARSED = {
    Opcode.FOOTER: Footer.read,
    Opcode.SCHEMA: Schema.read,
    Opcode.CHANNEL: Channel.read,
    Opcode.CHUNK: Chunk.read,
    Opcode.STATISTICS: Statistics.read,
    Opcode.DATA_END: DataEnd.read,
}


def _run(content: bytes) -> Iterator:
    """The records of a run that lies outside of chunks."""
    at = 0
    while at < len(content):
        _, length = _HEAD.unpack_from(content, at)
        end = at + _HEAD.size + length
        yield _parsed(content[at:end])
        at = end


def _decompressed(chunk: Chunk) -> bytes:
    """Raises ValueError, or the decompressor's error, for what does not become as long as the chunk declares."""
    limit = chunk.uncompressed_size
    if limit > LARGEST_CHUNK:
        raise ValueError(f"it declares {limit} bytes, expected at most {LARGEST_CHUNK}")
    if chunk.compression == "zstd":
        data = unpacked_zstd(chunk.data, limit)
    elif chunk.compression == "lz4":
        data = unpacked_lz4(chunk.data, limit)
    elif chunk.compression == "":
        data = chunk.data
    else:
        raise ValueError(f"compression {chunk.compression!r}, expected zstd or lz4")
    if len(data) != limit:
        raise ValueError(f"it holds {len(data)} bytes, expected {limit}")
    return data


def _overlaps(stretch: Stretch, start_ns: int | None, stop_ns: int | None) -> bool:
    return not (start_ns is not None and stretch.end_ns < start_ns) and not (
        stop_ns is not None and stretch.start_ns >= stop_ns
    )


def _within(at_ns: int, start_ns: int | None, stop_ns: int | None) -> bool:
    return (start_ns is None or at_ns >= start_ns) and (stop_ns is None or at_ns < stop_ns)

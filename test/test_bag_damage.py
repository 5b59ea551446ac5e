"""Nothing of a bag is lost without a word, and an intact one is never called damaged."""

from __future__ import annotations

import shutil
import sqlite3
import struct
import sys
import tracemalloc

import lz4.frame
import numpy as np
import pytest
import yaml
from mcap.data_stream import RecordBuilder
from mcap.records import Channel, Chunk, Header, Schema
from mcap.writer import CompressionType, IndexType, Writer
from recording import PERIOD, START, recompressed, write_recording
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2.enums import CompressionMode

from grids_ros.data import reader
from grids_ros.data.compression import unpacked_lz4, unpacked_zstd
from grids_ros.data.definitions import standard_types
from grids_ros.data.mcap_file import MAGIC
from grids_ros.data.reader import BagError, BagReader
from grids_ros.data.writer import BagWriter, RawWriter
from grids_ros.datatypes import Pose
from grids_ros.files import part_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEXT = "std_msgs/msg/String"
DOWN = (1.0, 0.0, 0.0, 0.0)


def text(words: str) -> bytes:
    return bytes(standard_types().serialize_cdr(standard_types().types[TEXT](words), TEXT))


def small(path, compressed: bool = False):
    """A bag of a few kB: text and poses over two seconds, two chunks."""
    with BagWriter(path, compressed=compressed) as bag:
        for step in range(20):
            at = START + step * PERIOD
            bag.instruction(at, f"words {step}")
            bag.current_pose(at, Pose([0.1 * step, 0.0, 0.2], DOWN))
            if step == 9:
                bag._writer.flush()
    return path


def content(path) -> tuple[list, str]:
    """Topic, time and message of everything that is read, in order, and what the reader states beside it."""
    with BagReader(path) as bag:
        connections = [connection for connections in bag.topics.values() for connection in connections]
        messages = [(c.topic, at, repr(message)) for c, at, message in bag.messages(connections)]
        return messages, "; ".join(filter(None, [bag.loss, *bag.notes]))


def statement(path) -> str:
    """What the reader says of a bag that must be whole: nothing is lost."""
    with BagReader(path) as bag:
        list(bag.messages([connection for connections in bag.topics.values() for connection in connections]))
        assert bag.loss == ""
        return "; ".join(bag.notes)


def data_file(folder):
    (file,) = (path for path in folder.iterdir() if path.name != "metadata.yaml")
    return file


@pytest.fixture(scope="module", params=["plain", "lz4", "zstd", "sqlite3"])
def bag(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param in ("plain", "lz4"):
        return small(folder / "bag", compressed=request.param == "lz4")
    mode, storage = CompressionMode.STORAGE, StoragePlugin.MCAP
    if request.param == "sqlite3":
        mode, storage = CompressionMode.NONE, StoragePlugin.SQLITE3
    return recompressed(small(folder / "source"), folder / "bag", mode, storage)


def test_a_cut_at_any_length_is_stated_or_refused(tmp_path, bag):
    whole, nothing = content(bag)
    assert not nothing
    copy = tmp_path / "copy"
    shutil.copytree(bag, copy)
    file = data_file(copy)
    data = file.read_bytes()
    for length in np.unique(np.linspace(0, len(data) - 1, 400).astype(int)):
        file.write_bytes(data[:length])
        try:
            messages, stated = content(copy)
        except BagError:
            continue
        assert stated, length
        assert len(messages) <= len(whole) and set(messages) <= set(whole)


@pytest.mark.parametrize("part", range(4))
def test_a_flipped_bit_changes_nothing_or_is_stated(tmp_path, bag, part):
    """A storage without checksums cannot know that a number was changed; that a message is gone, it can."""
    whole, _ = content(bag)
    copy = tmp_path / "copy"
    shutil.copytree(bag, copy)
    file = data_file(copy)
    data = file.read_bytes()
    checked = bag.parent.name.startswith(("plain", "lz4"))
    rng = np.random.default_rng(part)
    for _ in range(300):
        at, bit = rng.integers(len(data)), rng.integers(8)
        file.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
        try:
            messages, stated = content(copy)
        except BagError:
            continue
        assert stated or (messages == whole if checked else len(messages) == len(whole)), (at, bit)


def test_flipped_bits_of_the_metadata_end_in_no_other_error(tmp_path):
    copy = small(tmp_path / "bag")
    data = (copy / "metadata.yaml").read_bytes()
    whole, _ = content(copy)
    rng = np.random.default_rng(0)
    for _ in range(200):
        at, bit = rng.integers(len(data)), rng.integers(8)
        (copy / "metadata.yaml").write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
        try:
            messages, stated = content(copy)
        except BagError:
            continue
        assert messages == whole or stated


def changed(folder, change) -> None:
    """metadata.yaml with a change to its one section."""
    content = yaml.safe_load((folder / "metadata.yaml").read_text())
    about = content["rosbag2_bagfile_information"]
    change(about)
    (folder / "metadata.yaml").write_text(yaml.safe_dump(content))


INTACT = {
    "newer": lambda folder: changed(folder, lambda about: about.update(version=99, something={"new": 1})),
    "older": lambda folder: changed(folder, lambda about: (about.pop("files"), about.update(version=1))),
    "empty": lambda folder: (folder / "metadata.yaml").write_text(""),
    "no yaml": lambda folder: (folder / "metadata.yaml").write_text("{[: :"),
    "a list": lambda folder: (folder / "metadata.yaml").write_text("- 1\n"),
    "missing": lambda folder: (folder / "metadata.yaml").unlink(),
    "renamed": lambda folder: data_file(folder).rename(folder / "another.mcap"),
    "renamed folder": lambda folder: folder.rename(folder.parent / "moved").rename(folder),
}
for key in ("relative_file_paths", "message_count", "topics_with_message_count", "storage_identifier", "duration"):
    INTACT[f"without {key}"] = lambda folder, key=key: changed(folder, lambda about: about.pop(key))


@pytest.mark.parametrize("change", INTACT)
def test_an_intact_bag_is_never_called_damaged(tmp_path, change):
    folder = small(tmp_path / "bag")
    whole, _ = content(folder)
    INTACT[change](folder)
    statement(folder)
    assert content(folder)[0] == whole


def mcap(path, times=range(20), topic_by_topic: bool = False, **options):
    """A file of text as another recorder writes it, with these log times in its order."""
    with path.open("wb") as stream:
        writer = Writer(stream, compression=CompressionType.NONE, **options)
        writer.start(profile="ros2")
        definition, _ = standard_types().generate_msgdef(TEXT, ros_version=2)
        schema = writer.register_schema(TEXT, "ros2msg", definition.encode())
        channels = [writer.register_channel(f"/{name}", "cdr", schema) for name in ("a", "b")]
        order = (
            [(c, t) for c in channels for t in times] if topic_by_topic else [(c, t) for t in times for c in channels]
        )
        for channel, at in order:
            writer.add_message(channel, at, text(str(at)), at)
        writer.finish()
    return path


@pytest.mark.parametrize(
    "options",
    [
        {"use_chunking": False},
        {"index_types": IndexType.NONE},
        {"index_types": IndexType.CHUNK},
        {"use_statistics": False},
        {"repeat_channels": False},
        {"repeat_schemas": False},
        {"use_summary_offsets": False},
        {"enable_crcs": False},
        {"enable_data_crcs": True},
        {"use_chunking": False, "use_statistics": False, "repeat_channels": False, "index_types": IndexType.NONE},
        {"chunk_size": 100},
        {"chunk_size": 100, "topic_by_topic": True},
        {"chunk_size": 100, "times": [*range(10, 20), *range(10)]},
        {"use_chunking": False, "times": [*range(10, 20), *range(10)]},
        {"times": []},
        {"times": [], "use_chunking": False},
    ],
    ids=str,
)
def test_every_form_of_mcap_is_whole_and_in_order(tmp_path, options):
    file = mcap(tmp_path / "a.mcap", **options)
    statement(file)
    messages, _ = content(file)
    times = sorted(options.get("times", range(20)))
    assert sorted(at for topic, at, _ in messages if topic == "/a") == times
    assert [at for _, at, _ in messages] == sorted(at for _, at, _ in messages)


def test_a_killed_sqlite3_recorder_leaves_its_messages_in_the_log(tmp_path):
    folder = recompressed(small(tmp_path / "source"), tmp_path / "bag", CompressionMode.NONE, StoragePlugin.SQLITE3)
    whole, _ = content(folder)
    (folder / "metadata.yaml").unlink()
    killed = tmp_path / "killed"
    killed.mkdir()
    file = data_file(folder)
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA wal_autocheckpoint=0")
    (topic,) = database.execute("SELECT id FROM topics WHERE name = '/instruction'").fetchone()
    for step in range(5):
        row = (topic, START + (100 + step) * PERIOD, text("late"))
        database.execute("INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)", row)
    database.commit()
    for part in folder.iterdir():  # as they lie while the recorder runs
        shutil.copy(part, killed)
    database.close()
    assert {path.suffix for path in killed.iterdir()} >= {".db3", ".db3-wal"}
    before = {path.name: path.read_bytes() for path in killed.iterdir()}
    statement(killed)
    messages, _ = content(killed)
    assert len(messages) == len(whole) + 5
    assert {path.name: path.read_bytes() for path in killed.iterdir()} == before


def test_topics_that_nobody_understands_are_left_out_and_named(tmp_path):
    with (tmp_path / "a.mcap").open("wb") as stream:
        writer = Writer(stream, compression=CompressionType.NONE)
        writer.start(profile="ros2")
        definition, _ = standard_types().generate_msgdef(TEXT, ros_version=2)
        good = writer.register_schema(TEXT, "ros2msg", definition.encode())
        broken = writer.register_schema("my_msgs/msg/Odd", "ros2msg", b"float64[ what is\n\xff this")
        lacking = writer.register_schema("my_msgs/msg/Half", "ros2msg", b"my_msgs/Other inner")
        unknown = writer.register_schema("my_msgs/msg/None", "ros2msg", b"")
        json = writer.register_schema("thing", "jsonschema", b"{}")
        entries = [("/odd", "cdr", broken), ("/half", "cdr", lacking), ("/none", "cdr", unknown)]
        entries += [("/json", "json", json), ("/bare", "cdr", 0), ("/proto", "protobuf", json), ("/good", "cdr", good)]
        for topic, encoding, schema in entries:
            channel = writer.register_channel(topic, encoding, schema)
            for at in range(3):
                writer.add_message(channel, at, text(str(at)), at)
        writer.finish()
    notes = statement(tmp_path / "a.mcap")
    assert [topic for topic, _, _ in content(tmp_path / "a.mcap")[0]] == ["/good"] * 3
    for topic in ("/odd", "/half", "/none", "/json", "/bare", "/proto"):
        assert topic in notes


def test_counts_are_compared_whoever_states_them(tmp_path):
    folder = small(tmp_path / "bag")

    def more(about):
        about["topics_with_message_count"][0]["message_count"] += 5

    changed(folder, more)
    with BagReader(folder) as bag:
        assert bag.loss == "/instruction: 20 messages were read, metadata.yaml counts 25"
    file = mcap(tmp_path / "a.mcap", enable_crcs=False)
    data = bytearray(file.read_bytes())
    at = data.rindex(struct.pack("<HQHQ", 1, 20, 2, 20))  # channel_message_counts of the statistics
    data[at + 2] = 21
    total = data.rindex(struct.pack("<QHI", 40, 1, 2))
    data[total] = 41
    file.write_bytes(data)
    with BagReader(file) as bag:
        list(bag.raw(bag.connections))
        assert "/a: 20 messages were read, the file's statistics count 21" in bag.loss


def test_a_missing_part_of_a_split_bag_is_stated(tmp_path):
    folder = tmp_path / "bag"
    folder.mkdir()
    mcap(folder / "bag_0.mcap")
    about = {"relative_file_paths": ["bag_0.mcap", "bag_1.mcap"], "version": 8, "message_count": 80}
    (folder / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": about}))
    with BagReader(folder) as bag:
        assert "bag_1.mcap is missing" in bag.loss and "40 messages were read, metadata.yaml counts 80" in bag.loss


def test_one_message_that_cannot_be_deserialised_is_passed_over_and_counted(tmp_path):
    with RawWriter(tmp_path / "bag") as bag:
        for at in range(5):
            bag.write_raw("/a", TEXT, at, text("good") if at != 2 else b"\x00\x01\x00\x00\xff\xff")
    with BagReader(tmp_path / "bag") as bag:
        assert len(list(bag.messages(bag.topics["a"]))) == 4 and bag.broken == ""
        assert bag.passed_over["/a"][0] == 1 and "1 messages on /a are damaged" in bag.loss


def test_a_bag_that_was_cut_off_never_looks_whole(tmp_path):
    path = tmp_path / "bag"
    with pytest.raises(RuntimeError), BagWriter(path) as bag:
        bag.instruction(1, "lift")
        raise RuntimeError
    assert not path.exists()
    assert len(content(part_of(path))[0]) == 1  # and what there is of it can be read
    small(path)
    before = content(path)
    with pytest.raises(RuntimeError), BagWriter(path, replace=True) as bag:
        raise RuntimeError
    assert content(path) == before


def test_a_recording_is_the_same_in_every_storage(tmp_path):
    source = write_recording(tmp_path / "source", seconds=0.5)
    expected = content(source)
    for index, (mode, storage) in enumerate(
        [
            (CompressionMode.FILE, StoragePlugin.MCAP),
            (CompressionMode.MESSAGE, StoragePlugin.SQLITE3),
            (CompressionMode.FILE, StoragePlugin.SQLITE3),
            (CompressionMode.MESSAGE, StoragePlugin.MCAP),
        ]
    ):
        copy = recompressed(source, tmp_path / f"copy_{index}", mode, storage)
        assert content(copy) == expected
        (copy / "metadata.yaml").unlink()
        assert content(copy)[0] == expected[0]


def test_a_file_that_the_metadata_names_twice_is_read_once(tmp_path):
    folder = small(tmp_path / "bag")
    whole, _ = content(folder)
    about = yaml.safe_load((folder / "metadata.yaml").read_text())
    files = about["rosbag2_bagfile_information"]["relative_file_paths"]
    (folder / "link.mcap").symlink_to(folder / files[0])
    files += [files[0], "link.mcap"]
    (folder / "metadata.yaml").write_text(yaml.safe_dump(about))
    messages, said = content(folder)
    assert messages == whole
    assert said == "bag_0.mcap is named more than once, in metadata.yaml or by a link: it is read once"
    (folder / "metadata.yaml").unlink()
    messages, said = content(folder)
    assert messages == whole and "bag_0.mcap is named more than once" in said


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("at_ns", [2**63, 2**64 - 1])
def test_a_log_time_beyond_what_rosbag2_holds_is_damage(tmp_path, chunked, at_ns):
    path = tmp_path / "file.mcap"
    with path.open("wb") as file:
        writer = Writer(file, use_chunking=chunked)
        writer.start(profile="ros2", library="test")
        schema = writer.register_schema(TEXT, "ros2msg", b"string data")
        channel = writer.register_channel("/a", "cdr", schema)
        for time in (START, at_ns, START + PERIOD):
            writer.add_message(channel, time, text("words"), time)
        writer.finish()
    with BagReader(path) as bag:
        assert [at for _, at, _ in bag.messages(bag.topics["a"])] == [START, START + PERIOD]
        assert "1 messages at byte" in bag.broken and "have log times beyond 2^63 ns" in bag.broken
        assert bag.end_ns <= START + PERIOD + 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE messages SET timestamp = NULL WHERE id = 10", "1 messages have no valid time of reception"),
        ("UPDATE messages SET timestamp = 'abc' WHERE id = 10", "1 messages have no valid time of reception"),
        ("UPDATE messages SET timestamp = 1.5e20 WHERE id = 10", "1 messages have no valid time of reception"),
        ("UPDATE messages SET timestamp = -5 WHERE id = 10", "1 messages have no valid time of reception"),
        ("UPDATE topics SET name = NULL WHERE id = 1", "topic 1 has no name, type or serialization format"),
        ("UPDATE topics SET type = NULL WHERE id = 1", "topic 1 has no name, type or serialization format"),
        ("UPDATE topics SET offered_qos_profiles = NULL WHERE id = 1", ""),
        ("UPDATE topics SET offered_qos_profiles = x'ff00' WHERE id = 1", ""),
    ],
)
def test_values_that_no_recorder_writes_into_sqlite3_are_damage(tmp_path, change, said):
    folder = recompressed(small(tmp_path / "source"), tmp_path / "bag", CompressionMode.NONE, StoragePlugin.SQLITE3)
    database = sqlite3.connect(data_file(folder))
    database.execute("PRAGMA writable_schema = 1")
    database.execute("UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '')")
    database.commit()
    database.close()
    database = sqlite3.connect(data_file(folder))
    database.execute(change)
    database.commit()
    database.close()
    _, told = content(folder)
    assert said in told and bool(said) == bool(told)


def chunk_of(path, compression: str, declared: int, data: bytes):
    """An MCAP file of one chunk, which declares so many bytes."""
    records = RecordBuilder()
    Header(profile="ros2", library="test").write(records)
    Schema(id=1, name=TEXT, encoding="ros2msg", data=b"string data").write(records)
    Channel(id=1, topic="/a", message_encoding="cdr", metadata={}, schema_id=1).write(records)
    chunk = {"message_start_time": 1, "message_end_time": 2, "uncompressed_crc": 0}
    Chunk(uncompressed_size=declared, compression=compression, data=data, **chunk).write(records)
    path.write_bytes(MAGIC + records.end())
    return path


@pytest.mark.parametrize("kind", ["zstd", "lz4"])
@pytest.mark.parametrize("declared", [1000, 1 << 40])
def test_a_chunk_that_becomes_longer_than_it_declares_is_not_unpacked(tmp_path, kind, declared):
    """256 MB of zeros."""
    zeros = bytes(1 << 24)
    if kind == "zstd":
        packer = zstd.ZstdCompressor()
        packed = b"".join([*(packer.compress(zeros) for _ in range(16)), packer.flush()])
    else:
        with lz4.frame.LZ4FrameCompressor() as packer:
            packed = b"".join([packer.begin(), *(packer.compress(zeros) for _ in range(16)), packer.flush()])
    path = chunk_of(tmp_path / "bomb.mcap", kind, declared, packed)
    tracemalloc.start()
    with BagReader(path) as bag:
        limit = "becomes more than 1000 bytes" if declared == 1000 else "declares 1099511627776 bytes"
        assert f"is damaged (it {limit}" in bag.loss
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_a_compressed_message_has_a_largest_length(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "LARGEST_MESSAGE", 10_000)
    with RawWriter(tmp_path / "bag") as bag:
        for at, length in enumerate((10, 5_000, 50_000)):
            bag.write_raw("/a", TEXT, at, zstd.compress(text("x" * length)))
    with BagReader(tmp_path / "bag") as bag:
        assert [len(message.data) for _, _, message in bag.messages(bag.topics["a"])] == [10, 5_000]
        assert bag.passed_over["/a"] == (1, "it becomes more than 10000 bytes")


def test_decompression_is_the_libraries_own():
    data = np.random.default_rng(0).integers(0, 4, 100_000, dtype=np.uint8).tobytes()
    for limit in (100_000, 100_001, 1 << 30):
        assert unpacked_zstd(zstd.compress(data), limit) == unpacked_lz4(lz4.frame.compress(data), limit) == data
        assert unpacked_zstd(zstd.compress(data[:10]) + zstd.compress(data[10:]), limit) == data
    assert unpacked_zstd(zstd.compress(b""), 0) == unpacked_lz4(lz4.frame.compress(b""), 0) == b""
    for unpack, pack in ((unpacked_zstd, zstd.compress), (unpacked_lz4, lz4.frame.compress)):
        with pytest.raises(ValueError, match="more than 99999 bytes"):
            unpack(pack(data), 99_999)
        with pytest.raises(ValueError, match="cut off"):
            unpack(pack(data)[:-100], 100_000)

"""How much of /tf is taken: bounded before it is decoded, and told. Needs rclpy, and no tf2_msgs."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="the ROS layer needs rclpy")

from grids_ros.datatypes import Pose
from grids_ros.observation.transforms import MAX_FRAMES, TransformBuffer, TransformError
from grids_ros.ros import tf

HERE = Pose((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))


def message(count: int, *names: str) -> bytes:
    """The begin of a TFMessage that says it holds so many transforms; then its frames."""
    return b"\0\1\0\0" + struct.pack("<I", count) + " ".join(names).encode()


def decoded(data: bytes, message_type) -> SimpleNamespace:
    """Transforms from base to each of its frames."""
    return SimpleNamespace(
        transforms=[
            SimpleNamespace(
                header=SimpleNamespace(frame_id="base", stamp=SimpleNamespace(sec=1, nanosec=0)),
                child_frame_id=name,
                transform=SimpleNamespace(
                    translation=SimpleNamespace(x=0.0, y=0.0, z=0.0),
                    rotation=SimpleNamespace(x=0.0, y=0.0, z=0.0, w=1.0),
                ),
            )
            for name in data[8:].decode().split()
        ]
    )


class Waiting:
    """In place of an Inbox."""

    def __init__(self, node, message_type, topic, qos, raw=False):
        assert raw, "a decoded message has cost its time already"
        self.topic, self.messages = topic, []

    def take(self) -> list[bytes]:
        taken, self.messages = self.messages, []
        return taken


@pytest.fixture
def listener(monkeypatch):
    monkeypatch.setattr(tf, "TFMessage", object)
    monkeypatch.setattr(tf, "Inbox", Waiting)
    monkeypatch.setattr(tf, "deserialize_message", decoded)
    return tf.TransformListener(None)


def test_a_message_of_too_many_transforms_is_not_decoded_and_told(listener, monkeypatch):
    monkeypatch.setattr(tf, "deserialize_message", None)
    for data, said in (
        (message(100_000), "TF: /tf: has 100000 transforms, at most 500 are taken"),
        (message(1) + bytes(tf.MAX_BYTES), "TF: /tf: has 256008 bytes, at most 256000 are taken"),
        (b"\0\1\0\0", "TF: /tf: has 4 bytes, expected a TFMessage"),
    ):
        listener._moving.messages = [data]
        listener.update()
        assert listener.fault == said
    monkeypatch.setattr(tf, "TOLD_S", -1.0)
    assert listener.fault == "", "after a while"


def test_of_too_many_at_once_the_newest_are_taken_and_static_ones_wait(listener):
    listener._moving.messages = [message(300, name) for name in "abc"]
    listener._static.messages = [message(300, name) for name in "xyz"]
    known = listener.update()
    assert (
        known.newest("base", "c")
        and listener.fault == "TF: /tf: more than 500 transforms at once: the oldest are dropped"
    )
    with pytest.raises(TransformError):
        known.newest("base", "b")
    assert known.lookup("base", "x", 5)
    with pytest.raises(TransformError):
        known.lookup("base", "y", 5)
    listener.update()
    assert all(listener.update().lookup("base", name, 5) for name in "xyz")


def test_bytes_that_are_no_message_are_told(listener, monkeypatch):
    def broken(data, message_type):
        raise RuntimeError("failed to deserialize")

    monkeypatch.setattr(tf, "deserialize_message", broken)
    listener._moving.messages = [message(1)]
    listener.update()
    assert listener.fault == "TF: /tf: failed to deserialize"


def test_ever_new_frames_take_the_place_of_those_that_nobody_says_any_more(listener):
    for i in range(8):
        listener._moving.messages = [message(300, "tool", *(f"{i}_{n}" for n in range(299)))]
        listener.update()
    assert listener.buffer.newest("base", "tool") and listener.fault.startswith(f"TF: more than {MAX_FRAMES} frames")
    assert len(listener.buffer._edges) == MAX_FRAMES


def test_a_buffer_full_of_static_frames_takes_no_other():
    buffer = TransformBuffer()
    for i in range(MAX_FRAMES + 5):
        buffer.add("base", f"f{i}", 0, HERE, static=True)
    assert buffer.dropped == 5 and buffer.lookup("base", "f0", 0) is not None
    with pytest.raises(TransformError, match="does not connect"):
        buffer.lookup("base", f"f{MAX_FRAMES}", 0)


def test_errors_do_not_repeat_long_names():
    name = "f" * 1_000_000
    buffer = TransformBuffer()
    buffer.add(name, name + "2", 0, HERE)
    for ask in (lambda: buffer.lookup(name, "base", 0), lambda: buffer.add(name, name, 0, HERE)):
        with pytest.raises(TransformError) as error:
            ask()
        assert len(str(error.value)) < 400

"""Chunks as the bytes that go over DDS, made in one piece.

rclpy makes half a dozen Python objects for each step of a chunk, checks every field, and takes them apart again: a
millisecond between an inference and its publication. The layout is plain CDR, little-endian (OMG Common Data
Representation, as DDS-XTypes 1.3, 7.4.3.3 frames it): what is 8 bytes wide begins at a multiple of 8, counted from
behind the encapsulation header.
"""

from __future__ import annotations

import struct

import numpy as np

from grids_ros.datatypes import NANOSECONDS, ActionChunk
from grids_ros.observation.messages import GRIPPER_JOINT, split_ns

ENCAPSULATION = b"\x00\x01\x00\x00"  # plain CDR, little-endian
_TIME = [("sec", "<i4"), ("nanosec", "<u4")]
# One point each, as it follows another one. Counts are of sequences; those that are left at 0 are empty.
_POSE = np.dtype(
    [
        ("transforms", "<u4"),
        ("gap", "<u4"),
        ("translation", "<f8", 3),
        ("rotation", "<f8", 4),
        ("empty", "<u4", 2),
        *_TIME,
    ]
)
_OPENING = np.dtype([("positions", "<u4"), ("position", "<f8"), ("empty", "<u4", 3), *_TIME])


def poses_to_bytes(chunk: ActionChunk, base: str, tool: str) -> bytes:
    """`action_chunk`, a trajectory_msgs/MultiDOFJointTrajectory: poses of `tool` in the frame `base`."""
    points = np.zeros(len(chunk), _POSE)
    points["transforms"] = 1
    points["translation"], points["rotation"] = chunk.positions, chunk.quaternions
    head = _head(chunk, base, tool)
    body = _due(points, chunk).tobytes()
    aligned = len(head) % 8 == 0
    return ENCAPSULATION + head + (body if aligned else body[:4] + body[8:])  # the first point then needs no gap


def gripper_to_bytes(chunk: ActionChunk, base: str) -> bytes:
    """`gripper_chunk`, a trajectory_msgs/JointTrajectory, with the stamp and the times of its `action_chunk`."""
    points = np.zeros(len(chunk), _OPENING)
    points["positions"], points["position"] = 1, chunk.gripper
    head = _head(chunk, base, GRIPPER_JOINT)
    body = _due(points, chunk).tobytes()
    aligned = len(head) % 8 == 4
    return ENCAPSULATION + head + (body if aligned else body[:4] + bytes(4) + body[4:])  # or the first point needs one


def _head(chunk: ActionChunk, frame: str, joint: str) -> bytes:
    """Everything before the points, their number included."""
    header = struct.pack("<iI", *split_ns(chunk.stamp_ns)) + _text(frame)
    return header + struct.pack("<I", 1) + _text(joint) + struct.pack("<I", len(chunk))


def _text(text: str) -> bytes:
    """A string with its length, its end, and what aligns the number behind it."""
    ended = text.encode() + b"\x00"
    return struct.pack("<I", len(ended)) + ended + bytes(-len(ended) % 4)


def _due(points: np.ndarray, chunk: ActionChunk) -> np.ndarray:
    """`points` with their time_from_start."""
    points["sec"], points["nanosec"] = np.divmod(np.rint(chunk.times * NANOSECONDS).astype(np.int64), NANOSECONDS)
    return points


def count_steps(data: bytes) -> int:
    """The number of points in either message, read without decoding it.

    Raises ValueError for other bytes, and for more than one joint name: a chunk has one.
    """
    if len(data) < 4 or data[0] != 0 or data[1] not in (0, 1):
        raise ValueError("cannot be decoded: no plain CDR")
    order, body = "<" if data[1] else ">", data[4:]

    def number(at: int) -> tuple[int, int]:
        at += -at % 4
        return struct.unpack_from(f"{order}I", body, at)[0], at + 4

    def skip_text(at: int) -> int:
        length, at = number(at)
        return at + length

    try:
        names, at = number(skip_text(8))  # behind the stamp and the frame
        if names > 1:
            raise ValueError(f"is for {names} joints, expected 1")
        for _ in range(names):
            at = skip_text(at)
            if at > len(body):
                raise ValueError("cannot be decoded: it ends early")
        return number(at)[0]
    except struct.error:
        raise ValueError("cannot be decoded: it ends early") from None

"""A small recording of an arm that moves on a line, for the tests of replay; as BagWriter writes it, or another's."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode
from rosbags.typesys import Stores, get_typestore

from grids_ros.data.writer import BagWriter
from grids_ros.datatypes import NANOSECONDS, Pose

START = 100 * NANOSECONDS
PERIOD = NANOSECONDS // 10
DOWN = (1.0, 0.0, 0.0, 0.0)
FINGERS = ("fr3_finger_joint1", "fr3_finger_joint2")
SPEED = 0.05  # of the recorded motion along y [m/s]
CAMERAS = ("base", "wrist")


def position(seconds: float) -> np.ndarray:
    """Where the recorded arm is [m], so long after START."""
    return np.array([0.45, SPEED * seconds, 0.30])


def picture(camera: str, step: int) -> np.ndarray:
    """A bright square that moves over a noisy gradient; uint8 RGB."""
    image = np.random.default_rng(step).integers(0, 30, (96, 128, 3), dtype=np.uint8)
    image[..., CAMERAS.index(camera)] = np.linspace(0, 200, 128).astype(np.uint8)
    image[32:56, (8 * step) % 104 : (8 * step) % 104 + 24] = 255
    return image


def write_recording(path: Path, seconds: float = 4.0, words=("lift the red cube",), pause: bool = True, **options):
    """One episode of so many seconds for each of `words`; between them the instruction is empty for half a second."""
    with BagWriter(path, **options) as bag:
        at = START
        for text in words:
            bag.instruction(at - 1000, text)
            bag.gripper_command(at - 500, 0.08)
            for step in range(round(seconds * 10)):
                write_step(bag, at, step)
                at += PERIOD
            if pause:
                bag.instruction(at - 1000, "")
                at += 5 * PERIOD
    return path


def write_step(bag: BagWriter, at: int, step: int, cameras=CAMERAS, targets: bool = True) -> None:
    """A tenth of a second of every stream from `at` on [ns], of these cameras, with or without targets."""
    for camera in cameras:
        bag.image(camera, at, picture(camera, step))
    for part in range(5):  # 50 Hz, on the images' stamps among others
        now = at + part * PERIOD // 5
        pose = Pose(position((now - START) / NANOSECONDS), DOWN)
        bag.current_pose(now, pose)
        if targets:
            bag.target_pose(now, pose)
        bag.joint_states(now, FINGERS, [0.04, 0.04], [0.0, 0.0])


def foreign(path: Path, seconds: float = 3.0) -> Path:
    """Another robot's: sqlite3, Humble's types without definitions, its own names and frame, JPEG, one finger joint."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    types = store.types
    writer = Writer(path, version=8, storage_plugin=StoragePlugin.SQLITE3)
    connections = {}

    def write(topic: str, at: int, name: str, *fields) -> None:
        if topic not in connections:
            connections[topic] = writer.add_connection(topic, name, typestore=store)
        writer.write(connections[topic], at, store.serialize_cdr(types[name](*fields), name))

    with writer:
        write("/ur/task", START, "std_msgs/msg/String", "lift the red cube")
        for step in range(round(seconds * 10)):
            at = START + step * PERIOD
            stamp = types["builtin_interfaces/msg/Time"](*divmod(at, NANOSECONDS))
            header = types["std_msgs/msg/Header"](stamp, "ur_base_link")
            for camera, topic in zip(CAMERAS, ("/zed/left/color", "/hand/color"), strict=True):
                _, jpeg = cv2.imencode(".jpg", picture(camera, step)[..., ::-1])
                write(topic, at, "sensor_msgs/msg/CompressedImage", header, "jpeg", jpeg.reshape(-1))
            point = types["geometry_msgs/msg/Point"](*map(float, position(step / 10)))
            pose = types["geometry_msgs/msg/Pose"](point, types["geometry_msgs/msg/Quaternion"](*DOWN))
            write("/ur/tcp", at, "geometry_msgs/msg/PoseStamped", header, pose)
            none = np.zeros(0)
            joints = (["elbow", "finger"], np.array([0.3, 0.04]), none, none)
            write("/ur/joints", at, "sensor_msgs/msg/JointState", header, *joints)
    return path


def recompressed(source: Path, path: Path, mode: CompressionMode, storage=StoragePlugin.MCAP) -> Path:
    """The same messages, compressed by rosbag2."""
    writer = Writer(path, version=9, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with AnyReader([source]) as reader, writer:
        copies = {
            c.id: writer.add_connection(c.topic, c.msgtype, typestore=reader.typestore) for c in reader.connections
        }
        for connection, at, data in reader.messages():
            writer.write(copies[connection.id], at, data)
    return path

"""Listens to what the follower commands and what the policy sends, as the driver's recorder."""

from __future__ import annotations

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from trajectory_msgs.msg import MultiDOFJointTrajectory

from grids_ros.datatypes import NANOSECONDS
from grids_ros.demo.recorder import TOPICS, RecordedMessage
from grids_ros.ros import conversions
from grids_ros.ros.polling import Inbox

HEARD = {"target_pose": PoseStamped, "action_chunk": MultiDOFJointTrajectory, "/diagnostics": DiagnosticArray}


class CommandTrace:
    """Keeps every command and every chunk since `restart`."""

    def __init__(self, node: Node):
        topics = [topic for topic in TOPICS if topic.name in HEARD]
        self._inboxes = {topic.name: Inbox(node, topic.type, topic.name, topic.wanted, raw=True) for topic in topics}
        self.restart()

    def restart(self) -> None:
        """Forget what was heard."""
        self.stamps: list[int] = []
        self.positions: list[tuple[float, float, float]] = []
        self.chunk_end_ns = 0  # of the newest chunk
        self.chunk_delays_ms: list[float] = []  # from each observation's stamp to the reception of its chunk

    def drain(self) -> list[RecordedMessage]:
        """What has come since the last call."""
        new = [
            RecordedMessage(name, at, data)
            for name, inbox in self._inboxes.items()
            for data, at in inbox.take_received()
        ]
        for message in new:
            if message.topic == "target_pose":
                target = deserialize_message(message.data, PoseStamped)
                self.stamps.append(conversions.to_ns(target.header.stamp))
                p = target.pose.position
                self.positions.append((p.x, p.y, p.z))
            elif message.topic == "action_chunk":
                chunk = deserialize_message(message.data, MultiDOFJointTrajectory)
                self.chunk_delays_ms.append((message.received_ns - conversions.to_ns(chunk.header.stamp)) / 1e6)
                lasts = chunk.points[-1].time_from_start
                self.chunk_end_ns = conversions.to_ns(chunk.header.stamp) + lasts.sec * NANOSECONDS + lasts.nanosec
        return new

    def commands(self) -> tuple[np.ndarray, np.ndarray]:
        """Stamps (n,) [ns] and positions (n, 3) [m]."""
        return np.array(self.stamps, np.int64), np.array(self.positions).reshape(-1, 3)

    def moving(self, ticks: int = 20) -> bool:
        """Whether the command moved in each of the last ticks."""
        recent = np.array(self.positions[-ticks:])
        return len(recent) == ticks and bool((np.abs(np.diff(recent, axis=0)).max(axis=1) > 1e-5).all())

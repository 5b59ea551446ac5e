"""action_chunk and gripper_chunk: bounded, decoded, paired by stamp, and every reason why none comes out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory, MultiDOFJointTrajectory

from grids_ros.chunk_bytes import count_steps
from grids_ros.control.follower import Refused
from grids_ros.datatypes import ActionChunk
from grids_ros.observation.messages import MAX_STEPS
from grids_ros.ros import checked_subscription, conversions, qos
from grids_ros.ros.compat import SubscriptionEventCallbacks

MAX_BYTES = 512 * MAX_STEPS  # of a message: a step with velocities and accelerations takes 200
PATIENCE_S = 0.3  # until a message without its partner is told of
POSES, GRIPPER = "action_chunk", "gripper_chunk"
_PARTNER = {POSES: GRIPPER, GRIPPER: POSES}


class ChunkReceiver:
    """Calls `accept` with each chunk whose two messages have come, and `refuse` with each reason to take none."""

    def __init__(
        self,
        node: Node,
        base: str,
        tool: str,
        accept: Callable[[ActionChunk], None],
        refuse: Callable[[str], None],
    ):
        """accept may raise ValueError, which is refused."""
        self._node, self._base, self._tool, self._accept, self._refuse = node, base, tool, accept, refuse
        self._alive = {POSES: 0, GRIPPER: 0}  # publishers
        self._waiting: dict[str, tuple[float, Any]] = {}  # topic to when its message came, and the message
        self._broken: dict[str, str] = {}  # topic to why its last message was refused undecoded
        self._subscriptions = [
            self._subscribe(MultiDOFJointTrajectory, POSES),
            self._subscribe(JointTrajectory, GRIPPER),
        ]

    @property
    def topics(self) -> dict[str, str]:
        """Topic to its name in the graph."""
        return dict(zip((POSES, GRIPPER), (s.topic_name for s in self._subscriptions), strict=True))

    def forget(self) -> None:
        """Drop what waits for its partner."""
        self._waiting.clear()
        self._broken.clear()

    def unpaired(self) -> str:
        """That a message has waited too long for its partner, in words; else empty."""
        now = time.monotonic()
        late = [topic for topic, (since, _) in self._waiting.items() if now - since > PATIENCE_S]
        reasons = [self._without_partner(topic) for topic in late]
        return next(filter(None, reasons), "")

    def destroy(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _subscribe(self, message_type, topic: str):
        def on_liveliness(event) -> None:
            self._alive[topic] = event.alive_count

        def check(data: bytes) -> None:
            if len(data) > MAX_BYTES:  # first: what follows takes time by the byte
                raise ValueError(f"has {len(data)} bytes, at most {MAX_BYTES} are taken")
            steps = count_steps(data)
            if steps > MAX_STEPS:
                raise ValueError(f"has {steps} steps, at most {MAX_STEPS} are taken")

        return checked_subscription.subscribe(
            self._node,
            message_type,
            topic,
            lambda message: self._on_message(topic, message),
            qos.CHUNK,
            lambda reason: self._refuse_bytes(topic, reason),
            check,
            event_callbacks=SubscriptionEventCallbacks(liveliness=on_liveliness),
        )

    def _on_message(self, topic: str, message) -> None:
        self._broken.pop(topic, None)
        replaced = topic in self._waiting
        reason = self._without_partner(topic) if replaced else ""
        self._waiting[topic] = time.monotonic(), message
        if len(self._waiting) == 2 and self._stamp(POSES) == self._stamp(GRIPPER):
            poses, gripper = self._waiting[POSES][1], self._waiting[GRIPPER][1]
            self._waiting.clear()
            self._pair(poses, gripper)
        elif reason:
            self._refuse(reason)

    def _refuse_bytes(self, topic: str, reason: str) -> None:
        """Both messages of a chunk may be broken: what is wrong with either is told, in one reason."""
        self._broken[topic] = reason
        self._refuse("; ".join(self._broken[topic] for topic in (POSES, GRIPPER) if topic in self._broken))

    def _pair(self, poses: MultiDOFJointTrajectory, gripper: JointTrajectory) -> None:
        try:
            rivals = max(self._alive.values())
            if rivals > 1:
                raise Refused(f"{rivals} publishers of chunks: exactly one policy may be active")
            self._accept(conversions.to_chunk(poses, gripper, self._base, self._tool))
        except ValueError as error:
            self._refuse(str(error))

    def _stamp(self, topic: str) -> int:
        return conversions.to_ns(self._waiting[topic][1].header.stamp)

    def _without_partner(self, topic: str) -> str:
        """That `topic` waits alone, in words; empty if its partner was refused: that has been told."""
        other = _PARTNER[topic]
        if other in self._broken:
            return ""
        if other not in self._waiting:
            return f"{topic} came without its {other}"
        apart = self._stamp(other) - self._stamp(topic)
        return f"the stamps of {topic} and {other} differ by {abs(apart)} ns, expected the same stamp"

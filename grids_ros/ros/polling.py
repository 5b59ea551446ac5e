"""Subscriptions that are read when their content is needed, and cost no callback when it is not.

A robot publishes its pose at up to 1 kHz, and rclpy spends 0.2 ms per callback: a fifth of a core, for messages of
which a control loop needs the newest. DDS keeps the newest `depth` of them; `Inbox` takes them out on demand, in
the thread that asks.
"""

from __future__ import annotations

from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile

from grids_ros.ros.compat import take_one


class _NeverExecuted(CallbackGroup):
    """Keeps its members out of every executor's wait set."""

    def can_execute(self, entity) -> bool:
        return False

    def beginning_execution(self, entity) -> bool:
        return False

    def ending_execution(self, entity) -> None:
        pass


class Inbox:
    """The messages of one topic since they were taken last."""

    def __init__(self, node: Node, message_type, topic: str, qos: QoSProfile, raw: bool = False):
        """raw: messages stay serialised, as bytes."""
        self._node, self._raw = node, raw
        self.message_type, self.qos = message_type, qos
        self._subscription = node.create_subscription(
            message_type, topic, lambda message: None, qos, callback_group=_NeverExecuted(), raw=raw
        )

    @property
    def topic(self) -> str:
        """Its name in the graph, remapped: what rclpy counts publishers of is not."""
        return self._subscription.topic_name

    def take(self) -> list:
        """All that is waiting, oldest first."""
        return [message for message, _ in self.take_received()]

    def take_received(self) -> list[tuple[Any, int]]:
        """The same, each with the time at which it was received [ns] by the system's clock."""
        messages: list = []
        while (taken := take_one(self._subscription, self.message_type, self._raw)) is not None:
            messages.append(taken)
        return messages

    def newest(self):
        """The last message that is waiting, or None."""
        messages = self.take()
        return messages[-1] if messages else None

    def destroy(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

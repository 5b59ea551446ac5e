"""Subscriptions that are read when their content is needed, and cost no callback when it is not.

A robot publishes its pose at up to 1 kHz, and rclpy spends 0.2 ms per callback: a fifth of a core, for messages of
which a control loop needs the newest. DDS keeps the newest `depth` of them; `Inbox` takes them out on demand, in
the thread that asks.
"""

from __future__ import annotations

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile


class _NeverExecuted(CallbackGroup):
    """Keeps its members out of every executor's wait set."""

    def can_execute(self, entity) -> bool:
        return False

    def beginning_execution(self, entity) -> bool:
        return False

    def ending_execution(self, entity) -> None:
        pass


class Inbox:
    """The messages of one topic since it was last asked."""

    def __init__(self, node: Node, message_type, topic: str, qos: QoSProfile):
        self._node = node
        self._type = message_type
        self._subscription = node.create_subscription(
            message_type, topic, lambda message: None, qos, callback_group=_NeverExecuted()
        )

    @property
    def topic(self) -> str:
        """Its name in the graph, remapped: what rclpy counts publishers of is not."""
        return self._subscription.topic_name

    def take(self) -> list:
        """All that is waiting, oldest first."""
        messages = []
        while True:
            with self._subscription.handle:
                taken = self._subscription.handle.take_message(self._type, False)
            if taken is None:
                return messages
            messages.append(taken[0])

    def newest(self):
        """The last message that is waiting, or None."""
        messages = self.take()
        return messages[-1] if messages else None

    def destroy(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

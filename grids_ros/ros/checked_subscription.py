"""A subscription whose messages are bounded before they are decoded, and whose broken messages are a reason.

rclpy decodes a message while it holds the interpreter, a second for 100,000 steps of a chunk, and raises out of the
executor what cannot be decoded.
"""

from __future__ import annotations

from collections.abc import Callable

from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message


def subscribe(
    node: Node,
    message_type,
    topic: str,
    callback: Callable[[object], None],
    profile: QoSProfile,
    refuse: Callable[[str], None],
    check: Callable[[bytes], None],
    **options,
):
    """rclpy's subscription. `callback` gets each message that passes.

    check: raises ValueError for bytes that must not be decoded. refuse: told why a message was not taken.
    """

    def on_bytes(data: bytes) -> None:
        try:
            check(data)
            message = deserialize_message(data, message_type)
        except (ValueError, RuntimeError) as error:  # RCLError is a RuntimeError
            refuse(f"{topic}: {error}")
            return
        callback(message)

    return node.create_subscription(message_type, topic, on_bytes, profile, raw=True, **options)

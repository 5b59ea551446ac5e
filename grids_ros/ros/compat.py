"""Where this package touches what rclpy does not document, or what its distributions have under different names.

Everything else is rclpy's public interface, the same from Humble to Lyrical. A new distribution that breaks something
breaks it here; test/test_ros_compat.py checks each item against the rclpy that is installed.
"""

from __future__ import annotations

import time

from lifecycle_msgs.msg import Transition
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.subscription import Subscription

try:
    from rclpy.event_handler import SubscriptionEventCallbacks  # since Iron
except ImportError:
    from rclpy.qos_event import SubscriptionEventCallbacks  # Humble

__all__ = ["GuardedLifecycleNode", "SubscriptionEventCallbacks", "take_one"]

_TRANSITIONS = {
    value: key.removeprefix("TRANSITION_").lower()
    for key, value in vars(Transition).items()
    if key.startswith("TRANSITION_") and isinstance(value, int)
}
_SHUT_DOWN_FROM = ("unconfigured", "inactive", "active")


def take_one(subscription: Subscription, message_type: type, raw: bool) -> tuple[object, int] | None:
    """The oldest waiting message, and when it was received [ns] by the system's clock; None: none is waiting.

    rclpy hands messages to callbacks only; this is what its executors call.
    """
    with subscription.handle:
        taken = subscription.handle.take_message(message_type, raw)
    if taken is None:
        return None
    message, info = taken
    return message, info["received_timestamp"] or time.time_ns()


class GuardedLifecycleNode(LifecycleNode):
    """A lifecycle node that refuses transitions that do not fit its state, where rclpy raises and ends the process."""

    def _LifecycleNodeMixin__change_state(self, transition_id: int) -> TransitionCallbackReturn:  # noqa: N802
        possible = {transition[0]: transition[1] for transition in self._state_machine.available_transitions}
        if transition_id not in possible:
            state = self._state_machine.current_state[1]
            asked = _TRANSITIONS.get(transition_id, f"transition {transition_id}")
            names = ", ".join(sorted({name.split("_")[-1] for name in possible.values()})) or "none"
            self.get_logger().warning(f"refused to {asked}: the node is {state}; possible now: {names}")
            return TransitionCallbackReturn.FAILURE
        return super()._LifecycleNodeMixin__change_state(transition_id)  # type: ignore[misc]

    def trigger_shutdown(self) -> TransitionCallbackReturn:
        """As rclpy's, but refused where rclpy raises."""
        if self._state_machine.current_state[1] not in _SHUT_DOWN_FROM:
            return TransitionCallbackReturn.FAILURE
        return super().trigger_shutdown()

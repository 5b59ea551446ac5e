"""The gripper node: openings of `gripper_command` to the goals of a gripper's action server.

Subscribes to gripper_command (std_msgs/Float64MultiArray, one opening [m]). What is sent when is decided in
control/gripper_goals.py. Everything runs in the executor's thread.
"""

from __future__ import annotations

import time

from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient, get_action_names_and_types
from std_msgs.msg import Float64MultiArray

from grids_ros.control.gripper_goals import Goal, GoalRules, GripperGoals, Outcome
from grids_ros.parameters import GripperParameters
from grids_ros.ros import qos
from grids_ros.ros.diagnostics import OK, WARN
from grids_ros.ros.gripper_actions import COMMAND, GRASP, KINDS, MOVE, PARALLEL, ActionKind
from grids_ros.ros.managed import STEADY, ManagedNode, run
from grids_ros.ros.start import leave

PERIOD_S = 0.05
CANCEL_S = 2.0  # a canceled goal that still gives no result is given up after this time


class GripperNode(ManagedNode):
    """See the module. Inactive: sends nothing, and keeps the last command for the activation."""

    def __init__(self, **options):
        self._actions: dict[bool, tuple[ActionKind, ActionClient]] = {}  # by whether the goal closes
        self._active = False
        super().__init__("grids_gripper", GripperParameters, **options)

    def configure(self) -> None:
        settings = self.settings
        self._goals = GripperGoals(GoalRules(settings.open, settings.dead_band, timeout_s=settings.goal_timeout_s))
        self._refusal, self._sent, self._failed = "", 0, 0
        self._goal_handle = None
        self._canceled_s: float | None = None
        if settings.kind == "franka":
            self._connect(True, GRASP, settings.grasp_action)
            self._connect(False, MOVE, settings.move_action)
        elif not any(self._loadable(name) for name in (PARALLEL, COMMAND)):
            KINDS[PARALLEL].load()  # raises, and names the package
        self._heard = self.create_subscription(Float64MultiArray, "gripper_command", self._on_command, qos.COMMAND)

    def _loadable(self, type_name: str) -> bool:
        try:
            KINDS[type_name].load()
        except ValueError:
            return False
        return True

    def _connect(self, closing: bool, type_name: str, name: str) -> None:
        kind = KINDS[type_name]
        self._actions[closing] = kind, ActionClient(self, kind.load(), name)

    def _disconnect(self) -> None:
        for client in {client for _, client in self._actions.values()}:
            client.destroy()
        self._actions.clear()

    def cleanup(self) -> None:
        self._disconnect()
        if "_heard" in self.__dict__:
            self.destroy_subscription(self.__dict__.pop("_heard"))

    def activate(self) -> None:
        self._active = True
        self._timer = self.create_timer(PERIOD_S, self._tick, clock=STEADY)

    def deactivate(self) -> None:
        """A goal in flight goes on: a gripper that holds something must not let go."""
        self._active = False
        self.destroy_timer(self._timer)

    def close(self) -> None:
        """Give back the action clients, for the process ends: destroying a node does not."""
        self._disconnect()

    def _on_command(self, message: Float64MultiArray) -> None:
        try:
            if len(message.data) != 1:
                raise ValueError(f"gripper_command has {len(message.data)} values, expected one opening [m]")
            self._goals.want(message.data[0])
        except ValueError as error:
            self._refusal = f"command refused: {error}"
            self.get_logger().warning(self._refusal, throttle_duration_sec=5.0)
            return
        self._refusal = ""
        if self._active:
            self._tick()

    def _tick(self) -> None:
        now_s = time.monotonic()
        self._end_if_gone(now_s)
        reason = self._goals.to_cancel(now_s)
        if reason:
            self.get_logger().info(f"canceling the goal: {reason}")
            self._canceled_s = now_s
            if self._goal_handle is not None:
                self._goal_handle.cancel_goal_async()
        waiting = self._waiting_for()
        if not waiting:
            goal = self._goals.to_send(now_s)
            if goal is not None:
                self._send(goal)
        self._report(waiting)

    def _end_if_gone(self, now_s: float) -> None:
        """A server that was killed, or that ignores a cancellation, gives no result."""
        if self._goals.in_flight is None:
            return
        _, client = self._actions[self._goals.in_flight.closing]
        if not client.server_is_ready():
            self._goal_handle = self._canceled_s = None
            self._goals.lost(now_s)
        elif self._canceled_s is not None and now_s - self._canceled_s > CANCEL_S:
            self._goal_handle = self._canceled_s = None
            self._goals.ended(Outcome.CANCELED, now_s)

    def _waiting_for(self) -> str:
        """The action that has no server yet; empty: none."""
        if not self._actions:
            self._find_server()
        if not self._actions:
            return self.settings.action
        settings = self.settings
        franka = settings.kind == "franka"
        names = {True: settings.grasp_action, False: settings.move_action} if franka else {}
        for closing, (_, client) in self._actions.items():
            if not client.server_is_ready():
                return names.get(closing, settings.action)
        return ""

    def _find_server(self) -> None:
        """Connect to the server at `action` by the type that it offers."""
        wanted = self.resolve_service_name(self.settings.action)
        offered = {name: types for name, types in get_action_names_and_types(self) if name == wanted}
        for type_name in (PARALLEL, COMMAND):
            if type_name in offered.get(wanted, []) and self._loadable(type_name):
                self._connect(True, type_name, self.settings.action)
                self._actions[False] = self._actions[True]
                return

    def _send(self, goal: Goal) -> None:
        kind, client = self._actions[goal.closing]
        self._sent += 1
        self._goal_handle = self._canceled_s = None
        verb = "closing" if goal.closing else "opening"
        self.get_logger().info(f"{verb} to {goal.opening:g} m ({kind.type_name})")
        future = client.send_goal_async(kind.goal(kind.load(), goal, self.settings))
        future.add_done_callback(lambda done: self._on_response(goal, kind, done))

    def _on_response(self, goal: Goal, kind: ActionKind, future) -> None:
        if self._goals.in_flight is not goal:
            return
        handle = future.result()
        if not handle.accepted:
            self._end(goal, Outcome.REJECTED, f"the gripper rejected the goal ({kind.type_name})")
            return
        self._goal_handle = handle
        if self._canceled_s is not None:  # canceled before the server had answered
            handle.cancel_goal_async()
        handle.get_result_async().add_done_callback(lambda done: self._on_result(goal, kind, done))

    def _on_result(self, goal: Goal, kind: ActionKind, future) -> None:
        response = future.result()
        if response.status == GoalStatus.STATUS_CANCELED:
            self._end(goal, Outcome.CANCELED)
            return
        error = kind.error(goal, response.result)
        self._end(goal, Outcome.FAILED if error else Outcome.SUCCEEDED, error)

    def _end(self, goal: Goal, outcome: Outcome, error: str = "") -> None:
        if self._goals.in_flight is not goal:  # given up before: the server was gone, or did not cancel
            return
        self._goal_handle = self._canceled_s = None
        self._goals.ended(outcome, time.monotonic(), error)
        if error:
            self._failed += 1
            self.get_logger().warning(error)

    def _report(self, waiting: str) -> None:
        goal = self._goals.in_flight
        if waiting:
            self.diagnostics.update(WARN, f"no action server at {waiting}")
        elif self._refusal or self._goals.fault:
            self.diagnostics.update(WARN, self._refusal or self._goals.fault)
        elif goal is not None:
            self.diagnostics.update(OK, "closing" if goal.closing else "opening")
        else:
            self.diagnostics.update(OK, "idle")

    def diagnostic_values(self) -> dict[str, object]:
        goals = self.__dict__.get("_goals")
        goal = goals.in_flight if goals is not None else None
        return {
            "Action type": ", ".join(sorted({kind.type_name for kind, _ in self._actions.values()})) or "none yet",
            "Goal in flight (m)": goal.opening if goal is not None else "none",
            "Goals sent": self.__dict__.get("_sent", 0),
            "Goals failed": self.__dict__.get("_failed", 0),
            "Last fault": goals.fault if goals is not None else "",
        }


def main(args=None) -> int:
    """Entry point."""
    return run(GripperNode, args)


if __name__ == "__main__":
    leave(main())

"""Drives the three nodes over ROS alone: lifecycle transitions, instructions, resets; and listens to everything."""

from __future__ import annotations

import time
from collections.abc import Callable

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray, PoseStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import MultiDOFJointTrajectory

from grids_ros.datatypes import NANOSECONDS
from grids_ros.demo.monitor import Monitor
from grids_ros.demo.processes import Processes
from grids_ros.demo.recorder import Recorded, Recorder
from grids_ros.ros import conversions, qos

COLOURS = ("red", "green", "blue")  # the first three of object_poses
TURN_S = 0.02  # how long one turn of the loop waits for an answer
CONFIGURE_S = 120.0  # loading and compiling a large policy takes long
ANSWER_S = 20.0


class DemoError(RuntimeError):
    """The demo cannot go on; the message says why."""


class Conductor:
    """A node with its own context. A context manager; `turn` must be called often."""

    def __init__(self, processes: Processes, monitor: Monitor):
        self._processes, self._monitor = processes, monitor
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("grids_demo", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._instruction = self.node.create_publisher(String, "instruction", qos.LATCHED)
        self._reset = self.node.create_client(Trigger, "reset")
        self.recorder: Recorder | None = None
        self.seen: set[str] = set()  # topics on which something came

    def __enter__(self) -> Conductor:
        return self

    def __exit__(self, *_) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    @property
    def now_ns(self) -> int:
        """The nodes' clock."""
        return self.node.get_clock().now().nanoseconds

    def turn(self) -> None:
        """Listen for a moment. Raises ProcessDied."""
        self._executor.spin_once(timeout_sec=TURN_S)
        self._processes.check()
        if self.recorder is not None:
            for message in self.recorder.drain():
                self._hear(message)

    def wait(self, condition: Callable[[], object], timeout_s: float) -> bool:
        """Turn until the condition holds; False when it did not in time."""
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                return False
            self.turn()
        return True

    def rest(self, seconds: float) -> None:
        """Only listen."""
        self.wait(lambda: False, seconds)

    def say(self, instruction: str) -> None:
        """Publish an instruction; empty means hold."""
        self._instruction.publish(String(data=instruction))

    def change_state(self, node: str, transition: int, timeout_s: float = ANSWER_S) -> None:
        """Drive a lifecycle transition. Raises DemoError with the end of the node's log when it fails."""
        label = {value: key for key, value in vars(Transition).items() if key.startswith("TRANSITION_")}.get(transition)
        request = ChangeState.Request(transition=Transition(id=transition))
        client = self.node.create_client(ChangeState, f"grids_{node}/change_state")
        response = self._call(client, request, timeout_s, f"{node} to {_words(label, transition)}")
        if not response.success:
            reason = self._processes.last_words(node)
            raise DemoError(f"{node} could not {_words(label, transition)}; {reason}")

    def wait_for_node(self, node: str) -> None:
        """Until a lifecycle node answers. Raises DemoError."""
        client = self.node.create_client(GetState, f"grids_{node}/get_state")
        self._call(client, GetState.Request(), CONFIGURE_S, f"{node} to answer")

    def reset(self) -> int:
        """A new scene in the simulation; its seed."""
        response = self._call(self._reset, Trigger.Request(), ANSWER_S, "the simulated arm to reset")
        if not response.success:
            raise DemoError(f"the simulated arm could not be reset: {response.message}")
        return int(response.message.split()[-1])

    def _call(self, client, request, timeout_s: float, what: str):
        if not self.wait(client.service_is_ready, timeout_s):
            raise DemoError(f"waited {timeout_s:g} s for {what}: its service did not appear")
        future = client.call_async(request)
        if not self.wait(future.done, timeout_s):
            raise DemoError(f"waited {timeout_s:g} s for {what}")
        return future.result()

    def _hear(self, message: Recorded) -> None:
        """Hand to the monitor what it needs; images and the like are only recorded."""
        self.seen.add(message.topic)
        if message.topic == "target_pose":
            self._monitor.target(conversions.to_ns(deserialize_message(message.data, PoseStamped).header.stamp))
        elif message.topic == "action_chunk":
            chunk = deserialize_message(message.data, MultiDOFJointTrajectory)
            start_ns, last = conversions.to_ns(chunk.header.stamp), chunk.points[-1].time_from_start
            self._monitor.chunk(start_ns, start_ns + last.sec * NANOSECONDS + last.nanosec)
        elif message.topic == "object_poses":
            poses = deserialize_message(message.data, PoseArray)
            heights = {colour: pose.position.z for colour, pose in zip(COLOURS, poses.poses, strict=False)}
            self._monitor.objects(conversions.to_ns(poses.header.stamp), heights)
        elif message.topic == "/diagnostics":
            for status in deserialize_message(message.data, DiagnosticArray).status:
                values = {pair.key: pair.value for pair in status.values}
                level = int.from_bytes(status.level, "little")
                self._monitor.diagnostics(status.name.rsplit("/", 1)[-1], level, status.message, values)


def _words(label: str | None, transition: int) -> str:
    return label.removeprefix("TRANSITION_").replace("_", " ").lower() if label else f"transition {transition}"

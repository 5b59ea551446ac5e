"""Drives the three nodes over ROS alone: lifecycle transitions, instructions, resets; and listens to everything."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray, PoseStamped
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.client import Client
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import MultiDOFJointTrajectory

from grids_ros.datatypes import NANOSECONDS
from grids_ros.demo.monitor import Monitor
from grids_ros.demo.processes import Processes
from grids_ros.demo.recorder import RecordedMessage
from grids_ros.ros import conversions, qos
from grids_ros.sim.mujoco_model import OBJECTS

TURN_S = 0.02  # how long one turn of the loop waits for an answer
START_S = 120.0  # loading and compiling a large policy takes long
ANSWER_S = 5.0
DISCOVERY_S = 4.0  # FastDDS announces a participant every 3 s
ATTEMPTS = 4
_LEADS_TO = {
    Transition.TRANSITION_ACTIVATE: State.PRIMARY_STATE_ACTIVE,
    Transition.TRANSITION_DEACTIVATE: State.PRIMARY_STATE_INACTIVE,
    Transition.TRANSITION_CLEANUP: State.PRIMARY_STATE_UNCONFIGURED,
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN: State.PRIMARY_STATE_FINALIZED,
}
_WORDS = {
    value: key.removeprefix("TRANSITION_").replace("_", " ").lower()
    for key, value in vars(Transition).items()
    if key.startswith("TRANSITION_") and value in _LEADS_TO
}


class Drained(Protocol):
    """What hands over the messages that have come: a Recorder, or a trace of the commands."""

    def drain(self) -> list[RecordedMessage]: ...


class DemoError(RuntimeError):
    """The demo cannot go on; the message says why."""


class DemoDriver:
    """A node with its own context. A context manager; `turn` must be called often."""

    def __init__(self, processes: Processes, monitor: Monitor):
        self._processes, self._monitor = processes, monitor
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node("grids_demo", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._instruction = self.node.create_publisher(String, "instruction", qos.LATCHED)
        self._reset: Client = self.node.create_client(Trigger, "reset")
        self._lateness: Client = self.node.create_client(Trigger, "grids_follower/lateness")
        self._clients: dict[str, tuple[Client, Client]] = {}
        self.recorder: Drained | None = None
        self.seen: set[str] = set()  # topics on which something came

    def __enter__(self) -> DemoDriver:
        return self

    def __exit__(self, *_) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def require_empty_domain(self) -> None:
        """Raises DemoError when an arm or a controller is in this ROS domain: our simulated one would move it."""
        domain = self._context.get_domain_id()
        print(f"Making sure that no arm is in ROS domain {domain}: {DISCOVERY_S:g} s", flush=True)
        self.spin_for(DISCOVERY_S)
        for topic in ("target_pose", "current_pose"):
            found = (*self.node.get_publishers_info_by_topic(topic), *self.node.get_subscriptions_info_by_topic(topic))
            others = sorted({f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in found})
            if others:
                raise DemoError(
                    f"{', '.join(others)} already use {topic} in ROS domain {domain}, and the simulated arm would get "
                    "between them: set ROS_DOMAIN_ID to a domain without a robot"
                )

    @property
    def now_ns(self) -> int:
        """The nodes' clock."""
        return self.node.get_clock().now().nanoseconds

    def spin_once(self) -> None:
        """Listen for a moment. Raises ProcessDied."""
        self._executor.spin_once(timeout_sec=TURN_S)
        self._processes.check()
        if self.recorder is not None:
            for message in self.recorder.drain():
                self._dispatch(message)

    def wait(self, condition: Callable[[], object], timeout_s: float) -> bool:
        """Turn until the condition holds; False when it did not in time."""
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                return False
            self.spin_once()
        return True

    def spin_for(self, seconds: float) -> None:
        """Only listen."""
        self.wait(lambda: False, seconds)

    def publish_instruction(self, instruction: str) -> None:
        """Publish an instruction; empty means hold."""
        self._instruction.publish(String(data=instruction))

    def change_state(self, node: str, transition: int) -> None:
        """Drive a lifecycle transition. Raises DemoError with the end of the node's log when it fails.

        While DDS introduces a client and a service to each other a request or its answer may be lost; a node that
        was killed a moment ago may be introduced as well, and never answers. The node's state tells what was lost.
        """
        change, ask = self._lifecycle(node)
        for _ in range(ATTEMPTS):
            answer = self._call(change, ChangeState.Request(transition=Transition(id=transition)))
            if answer is not None and answer.success:
                return
            state = self._call(ask, GetState.Request())
            if state is not None and state.current_state.id == _LEADS_TO[transition]:
                return
            if answer is not None:
                reason = self._processes.last_words(node)
                raise DemoError(f"{node} could not {_WORDS[transition]}; {reason}")
        raise DemoError(f"{node} does not answer a request to {_WORDS[transition]}")

    def _lifecycle(self, node: str) -> tuple[Client, Client]:
        """To change and to get the state of a node; kept, for a new client has to be introduced again."""
        if node not in self._clients:
            self._clients[node] = (
                self.node.create_client(ChangeState, f"grids_{node}/change_state"),
                self.node.create_client(GetState, f"grids_{node}/get_state"),
            )
        return self._clients[node]

    def reset(self) -> int:
        """A new scene in the simulation; its seed. Raises DemoError."""
        for _ in range(ATTEMPTS):
            answer = self._call(self._reset, Trigger.Request())
            if answer is not None and answer.success:
                return int(answer.message.split()[-1])
            if answer is not None:
                raise DemoError(f"the simulated arm could not be reset: {answer.message}")
        raise DemoError("the simulated arm does not answer a request to reset")

    def lateness(self) -> dict[str, Any]:
        """How late each tick of the follower was, as its own service tells it. Raises DemoError."""
        for _ in range(ATTEMPTS):
            answer = self._call(self._lateness, Trigger.Request())
            if answer is not None and answer.success:
                return json.loads(answer.message)
        raise DemoError("the follower does not answer a request for its lateness")

    def _call(self, client: Client, request):
        """The answer; None when none came in ANSWER_S."""
        if not self.wait(client.service_is_ready, ANSWER_S):
            return None
        future = client.call_async(request)
        return future.result() if self.wait(future.done, ANSWER_S) else None

    def _dispatch(self, message: RecordedMessage) -> None:
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
            centres = [np.array([p.position.x, p.position.y, p.position.z]) for p in poses.poses]
            positions = dict(zip(OBJECTS, centres, strict=True))
            self._monitor.objects(conversions.to_ns(poses.header.stamp), positions)
        elif message.topic == "/diagnostics":
            for status in deserialize_message(message.data, DiagnosticArray).status:
                values = {pair.key: pair.value for pair in status.values}
                level = int.from_bytes(status.level, "little")
                self._monitor.diagnostics(status.name.rsplit("/", 1)[-1], level, status.message, values)

"""The follower as a process of its own, and everything around it: clock, arm, policy, ears. One thread drives all.

The driver publishes /clock, so that ROS time goes on with the driver: a busy machine makes a run longer, not late.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from ros_harness import HOME, chunk_messages, private_domain
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory, MultiDOFJointTrajectory

from faults.measure import LIMITS, Target, rests_after, speed_at_end
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Pose
from grids_ros.observation.messages import to_pose
from grids_ros.ros import conversions, qos
from grids_ros.ros.polling import Inbox

ROOT = Path(__file__).resolve().parents[2]
STEP_NS = NANOSECONDS // 100  # of the clock, per turn of the driver
TURN_S = 0.01  # of the wall, at least, per turn
CHUNK_EVERY = 10  # turns
SPEED, TURNING = 0.35, 0.4  # of the chunks [m/s], [rad/s]: within the limits, so that braking shows
FAST = 0.5 * LIMITS.linear_speed  # the target moves at least so fast when a fault begins [m/s]
STEPS, STEP_S = 12, 0.1  # of a chunk
START_NS = 1000 * NANOSECONDS
MOVING_TURNS = 40  # of motion before and after a fault
STARTS_S = 180.0  # longest wait for a process
MOTION_S = 30.0  # longest wait for motion
RESTART = 1_000_000  # of message numbers, when another process publishes
LOSSLESS = QoSProfile(depth=5000, reliability=qos.COMMAND.reliability)


class Rig:
    """Call `turn` again and again. What a fault changes are the public attributes; `restore` undoes it."""

    def __init__(self, log: Path):
        os.environ["ROS_DOMAIN_ID"] = str(private_domain())
        self.context = Context()
        rclpy.init(context=self.context, domain_id=private_domain())
        self.node = Node("fault_driver", context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        make = self.node.create_publisher
        self.clock = make(Clock, "/clock", qos.CLOCK)
        self.pose = make(PoseStamped, "current_pose", qos.MEASURED)
        self.poses = make(MultiDOFJointTrajectory, "action_chunk", qos.CHUNK)
        self.gripper = make(JointTrajectory, "gripper_chunk", qos.CHUNK)
        self.instruction = make(String, "instruction", qos.LATCHED)
        self._targets = Inbox(self.node, PoseStamped, "target_pose", LOSSLESS)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_status, qos.DIAGNOSTICS)
        self.targets: list[Target] = []
        self.said: list[str] = []
        self._log = open(log, "ab")  # noqa: SIM115 - closed with the rig
        self.process: subprocess.Popen | None = None
        self._next_s = time.monotonic()
        self.now_ns, self.turns, self.direction = START_NS, 0, 1.0
        self.commanded = HOME
        self._numbers = 0
        self.restore()

    def restore(self) -> None:
        """Everything is as it should be again."""
        self.change_chunk: Callable | None = None  # of (poses, gripper)
        self.change_pose: Callable | None = None  # of PoseStamped and the number of the turn; None keeps it back
        self.change_clock: Callable[[int], Clock | None] | None = None  # of now_ns
        self.each_turn: Callable[[], None] | None = None
        self.send_poses = self.send_gripper = True
        self.chunk_every = CHUNK_EVERY
        self.stamp_offset_ns = 0

    def start(self) -> None:
        """The follower's process, until it is active."""
        self.process = self._start("follower_node", "autostart:=true", "use_sim_time:=true")
        self.count_anew()
        self.wait(lambda: self.poses.get_subscription_count() and self.gripper.get_subscription_count(), "a follower")

    def count_anew(self) -> None:
        """The numbers of a new publisher go on far from those of the last: between them nothing is compared."""
        self._numbers = self.targets[-1].number + RESTART if self.targets else 0

    def _start(self, node: str, *settings: str, remapped: Sequence[str] = ()) -> subprocess.Popen:
        command = [sys.executable, "-m", f"grids_ros.ros.{node}", "--ros-args"]
        settings += (f"parent_pid:={os.getpid()}",)  # a driver that is killed leaves nobody behind
        command += [word for setting in settings for word in ("-p", setting)]
        command += [word for rule in remapped for word in ("-r", rule)]
        return subprocess.Popen(command, cwd=ROOT, stdout=self._log, stderr=self._log)

    def running(self) -> bool:
        """Every process that should run does."""
        return self.process is not None and self.process.poll() is None

    def problems(self) -> list[str]:
        """Processes that ended."""
        code = self.process.poll()
        return [] if code is None else [f"the process ended with {code}"]

    def is_active(self, seen: int) -> bool:
        """The target moves, and the follower has said so since its `seen`-th status."""
        if len(self.targets) < MOVING_TURNS or not any(text.startswith("following") for text in self.said[seen:]):
            return False
        return rests_after(self.targets[-MOVING_TURNS:], 0) is None

    def prepare(self) -> None:
        """Full motion, and the follower says so. Raises TimeoutError."""
        seen = len(self.said)
        self.wait(lambda: self.is_active(seen) and speed_at_end(self.targets) >= FAST, "full motion", MOTION_S)

    def resume(self) -> None:
        """Motion again, and the follower says so. Raises TimeoutError."""
        seen = len(self.said)
        self.wait(lambda: self.is_active(seen), "motion", MOTION_S)

    def hears(self, name: str) -> bool:
        """Whether the status of this node counts."""
        return name.endswith("grids_follower")

    def close(self) -> None:
        """End everything."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(STARTS_S)
        self._executor.remove_node(self.node)
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)
        self._log.close()

    def wait(self, condition: Callable[[], object], what: str, timeout_s: float = STARTS_S) -> None:
        """Turn until it is so. Raises TimeoutError."""
        end_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end_s:
                raise TimeoutError(f"not within {timeout_s:g} s: {what}; diagnostics: {self.said[-1:]}")
            self.turn()

    def turn(self) -> None:
        """One step of the clock: publish what is due, hear what has come."""
        self._next_s = max(self._next_s + TURN_S, time.monotonic())
        self.turns += 1
        if self._advance():
            clock = self.change_clock(self.now_ns) if self.change_clock else Clock(clock=_time(self.now_ns))
            if clock is not None:
                self.clock.publish(clock)
        self._publish_pose()
        if self.turns % self.chunk_every == 0:
            self._publish_chunk()
        if self.each_turn is not None:
            self.each_turn()
        self.hear()
        for _ in range(4):  # on a busy machine, too
            self._executor.spin_once(timeout_sec=0.0)
        while time.monotonic() < self._next_s:
            self._executor.spin_once(timeout_sec=max(0.0, self._next_s - time.monotonic()))

    def jump(self, by_ns: int) -> None:
        """The clock of everybody jumps and goes on from there."""
        self.now_ns += by_ns

    def _advance(self) -> bool:
        """Let `now_ns` go on; whether it did."""
        self.now_ns += STEP_NS
        return True

    def hear(self) -> None:
        """Take every target that has come."""
        handle = self._targets._subscription.handle
        while True:
            with handle:
                taken = handle.take_message(PoseStamped, False)
            if taken is None:
                return
            message, info = taken
            self.commanded = to_pose(message, "base", "target_pose")
            sequence = info["publication_sequence_number"]
            if self.targets and self._numbers + sequence <= self.targets[-1].number:
                self.count_anew()  # the node was cleaned up, and publishes anew
            number = self._numbers + sequence
            self.targets.append(Target(number, self.commanded.position, self.commanded.quaternion))

    def chunk(self) -> ActionChunk:
        """From where the arm is, onward at `SPEED`; it turns round before it reaches the box."""
        y = self.commanded.position[1]
        self.direction = -1.0 if y > 0.15 else 1.0 if y < -0.15 else self.direction
        seconds = STEP_S * np.arange(1, STEPS + 1)
        positions = self.commanded.position + np.outer(seconds, (0.0, self.direction * SPEED, 0.0))
        half = 0.5 * self.direction * (0.3 * np.sin(seconds / 0.3))
        turns = np.stack([np.cos(half), np.sin(half), 0 * half, 0 * half], axis=1)  # about z, from (1, 0, 0, 0)
        return ActionChunk(self.now_ns + self.stamp_offset_ns, seconds, positions, turns, np.full(STEPS, 0.08))

    def call(self, service, name: str, request):
        """The answer of a service, or None within 20 s."""
        client = self.node.create_client(service, name)
        try:
            self.wait(client.service_is_ready, name, 20.0)
            future = client.call_async(request)
            self.wait(future.done, f"an answer from {name}", 20.0)
            return future.result()
        except TimeoutError:
            return None
        finally:
            self.node.destroy_client(client)

    def transition(self, number: int, label: str = ""):
        """Ask the follower for a lifecycle transition."""
        request = ChangeState.Request()
        request.transition.id, request.transition.label = number, label
        return self.call(ChangeState, "grids_follower/change_state", request)

    def hold(self, on: bool):
        """Call the hold service."""
        return self.call(SetBool, "hold", SetBool.Request(data=on))

    def set_parameter(self, parameter):
        """Set a parameter of the follower."""
        request = SetParametersAtomically.Request(parameters=[parameter.to_parameter_msg()])
        return self.call(SetParametersAtomically, "grids_follower/set_parameters_atomically", request)

    def measured(self, pose: Pose | None = None) -> PoseStamped:
        """current_pose as it is now."""
        return conversions.from_pose_stamped(pose or self.commanded, "base", self.now_ns)

    def _publish_pose(self) -> None:
        message = self.measured()
        if self.change_pose is not None:
            message = self.change_pose(message, self.turns)
        if message is not None:
            self.pose.publish(message)

    def _publish_chunk(self) -> None:
        poses, gripper = chunk_messages(self.chunk())
        if self.change_chunk is not None:
            self.change_chunk(poses, gripper)
        if self.send_gripper:
            self.gripper.publish(gripper)
        if self.send_poses:
            self.poses.publish(poses)

    def _on_status(self, message: DiagnosticArray) -> None:
        self.said.extend(status.message for status in message.status if self.hears(status.name))


def _time(stamp_ns: int):
    return conversions.to_stamp(stamp_ns)

"""The follower node: chunks in, target_pose out at the control rate. The only publisher to the arm.

It imports no policy and no torch, and runs as a process of its own, so that nothing that happens to the policy
disturbs its clock. Two threads: the metronome's ticks, the executor's does the rest; `_lock` guards the follower and
what was heard, and is never held for long.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
import traceback

from geometry_msgs.msg import PoseStamped
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory, MultiDOFJointTrajectory

from grids_ros.control.follower import Command, Follower, Refused
from grids_ros.datatypes import NANOSECONDS
from grids_ros.parameters import FOLLOWER, follower_config
from grids_ros.ros import conversions, qos, realtime
from grids_ros.ros.diagnostics import ERROR, OK, WARN, Window
from grids_ros.ros.managed import FAILED, ManagedNode, run
from grids_ros.ros.metronome import Metronome
from grids_ros.ros.polling import Inbox

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

WINDOW_S = 10.0  # over which rates are reported


class FollowerNode(ManagedNode):
    """See the module. Not active: silent."""

    def __init__(self, scheduling: str = "as the process", **options):
        """scheduling: what is said of it in the diagnostics."""
        self._scheduling = scheduling
        self._lock = threading.Lock()
        self._holds: dict[str, str] = {}  # who asked for a hold, and why
        self._follower: Follower | None = None
        self._metronome: Metronome | None = None
        self._start_over()
        super().__init__("grids_follower", FOLLOWER, **options)
        self.create_service(SetBool, "hold", self._on_hold)

    def _start_over(self) -> None:
        self._command: Command | None = None
        self._refusal = self._pose_fault = ""
        self._refused = self._accepted = self._missed = 0
        self._poses: MultiDOFJointTrajectory | None = None
        self._gripper: JointTrajectory | None = None
        self._last_tick: float | None = None
        self._periods, self._late, self._ages = Window(1), Window(1), Window(1)

    def configure(self) -> None:
        self._config = follower_config(self.settings)
        self._alive = {"action_chunk": 0, "gripper_chunk": 0}
        self._target_publisher = self.create_publisher(PoseStamped, "target_pose", qos.COMMAND)
        self._gripper_publisher = self.create_publisher(Float64MultiArray, "gripper_command", qos.COMMAND)
        self._pose_inbox = Inbox(self, PoseStamped, "current_pose", qos.NEWEST)
        self._heard = [
            self._subscribe_chunk(MultiDOFJointTrajectory, "action_chunk", self._on_poses),
            self._subscribe_chunk(JointTrajectory, "gripper_chunk", self._on_gripper),
            self.create_subscription(String, "instruction", self._on_instruction, qos.LATCHED),
        ]

    def _subscribe_chunk(self, message_type, topic: str, callback):
        def on_liveliness(event) -> None:
            self._alive[topic] = event.alive_count

        events = SubscriptionEventCallbacks(liveliness=on_liveliness)
        return self.create_subscription(message_type, topic, callback, qos.CHUNK, event_callbacks=events)

    def cleanup(self) -> None:
        self._holds.pop("instruction", None)
        for subscription in self.__dict__.pop("_heard", ()):
            self.destroy_subscription(subscription)
        for name in ("_target_publisher", "_gripper_publisher"):
            if name in self.__dict__:
                self.destroy_publisher(self.__dict__.pop(name))
        if "_pose_inbox" in self.__dict__:
            self.__dict__.pop("_pose_inbox").destroy()

    def activate(self) -> None:
        self._start_over()
        length = max(1, round(WINDOW_S * self.settings["rate_hz"]))
        self._periods, self._late, self._ages = Window(length), Window(length), Window(length)
        self._pose_inbox.take()
        self._follower = Follower(self._config)
        if self._holds:
            self._apply_holds()
        gc.collect()
        gc.freeze()  # what is alive now stays: later collections, in the control loop, skip it
        self._metronome = Metronome(self._config.period_s, self._prepare, self._tick, self._fail, "control")

    def deactivate(self) -> None:
        self._brake()
        self._metronome.stop()
        self._metronome = None
        if self._command is not None:  # stop: where the arm was sent last is where it stays
            self._target.header.stamp = conversions.to_stamp(self._now())
            self._target_publisher.publish(self._target)
        self._follower = None
        gc.unfreeze()

    def _brake(self) -> None:
        """Let the metronome bring the arm to rest, which takes no longer than from its full speed."""
        with self._lock:
            self._follower.hold("the node is being deactivated")
        limits, period_s = self._config.limits, self._config.period_s
        pairs = (limits.linear_speed, limits.linear_acceleration), (limits.angular_speed, limits.angular_acceleration)
        longest_s = max((speed / change for speed, change in pairs if change > 0.0), default=0.0)
        ends_s = time.monotonic() + longest_s + 10 * period_s
        while time.monotonic() < ends_s and not self._follower.at_rest:
            time.sleep(period_s)

    def close(self) -> None:
        """End the control thread, for the process ends."""
        if self._metronome is not None:
            self._metronome.stop()
            gc.unfreeze()

    def _now(self) -> int:
        return self.get_clock().now().nanoseconds

    def _prepare(self) -> None:
        """The next command, in the metronome's thread."""
        with self._lock:
            self._measure()
            now_ns = self._now()
            command, chunk = self._follower.tick(now_ns), self._follower.chunk
        if command is not None:
            self._target = conversions.from_pose_stamped(command.pose, self.settings["base_frame"], now_ns)
        self._command = command
        if command is not None and not command.holding:
            self._ages.add((now_ns - chunk.stamp_ns) / NANOSECONDS)

    def _tick(self, late_s: float, missed: int) -> None:
        """Send it, in the same thread."""
        command = self._command
        if command is not None:
            self._target.header.stamp = conversions.to_stamp(self._now())
            self._target_publisher.publish(self._target)
            if command.gripper is not None:
                self._gripper_publisher.publish(
                    Float64MultiArray(data=[command.gripper * self.settings["gripper_scale"]])
                )
        started = time.perf_counter()
        if self._last_tick is not None:
            self._periods.add(started - self._last_tick)
        self._last_tick = started
        self._late.add(late_s)
        self._missed += missed
        if command is not None and not command.holding:
            self.diagnostics.update(OK, "following")
        else:
            self.diagnostics.update(WARN, f"holding: {self._hold_reason(command)}")

    def _fail(self, error: BaseException) -> None:
        """A bug in a tick ends the process; so does, without a word, the context that was shut down meanwhile."""
        if self.context.ok():
            self.get_logger().fatal("".join(traceback.format_exception(error)))
            self.diagnostics.update(ERROR, f"control failed: {type(error).__name__}: {error}")
            self.exit_code = FAILED
            self.context.try_shutdown()

    def _hold_reason(self, command: Command | None) -> str:
        """Why it holds, with what was wrong with the messages that would have ended it."""
        asked = "; ".join(self._holds.copy().values())
        if asked:
            return asked
        reasons = [command.reason if command is not None else "no chunk yet", self._pose_fault, self._refusal]
        return "; ".join(reason for reason in reasons if reason)

    def _measure(self) -> None:
        message = self._pose_inbox.newest()
        if message is None:
            return
        try:
            pose = conversions.to_pose(message, self.settings["base_frame"], "current_pose")
        except ValueError as error:
            self._pose_fault = str(error)
            self.get_logger().warning(f"ignored: {error}", throttle_duration_sec=5.0)
            return
        self._pose_fault = ""
        self._follower.measure(conversions.to_ns(message.header.stamp), pose)

    def _on_poses(self, message: MultiDOFJointTrajectory) -> None:
        self._poses = message
        self._pair()

    def _on_gripper(self, message: JointTrajectory) -> None:
        self._gripper = message
        self._pair()

    def _pair(self) -> None:
        """Follow the chunk once both of its messages are here."""
        poses, gripper = self._poses, self._gripper
        if self._follower is None or poses is None or gripper is None or poses.header.stamp != gripper.header.stamp:
            return
        self._poses = self._gripper = None
        try:
            rivals = max(self._alive.values())
            if rivals > 1:
                raise Refused(f"{rivals} publishers of chunks: exactly one policy may be active")
            chunk = conversions.to_chunk(poses, gripper, self.settings["base_frame"], self.settings["tool_frame"])
            with self._lock:
                self._measure()
                self._follower.accept(chunk, self._now())
        except ValueError as error:
            self._refused += 1
            self._refusal = f"chunk refused: {error}"
            self.get_logger().warning(self._refusal, throttle_duration_sec=5.0)
            return
        self._accepted += 1
        self._refusal = ""

    def _on_instruction(self, message: String) -> None:
        """An empty instruction holds until there is another one."""
        if not message.data.strip():
            self._holds["instruction"] = "the instruction is empty"
        elif self._holds.pop("instruction", None) is None:
            return
        self._apply_holds()

    def _on_hold(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if request.data:
            self._holds["service"] = "the hold service was called"
        else:
            self._holds.pop("service", None)
        self._apply_holds()
        response.success = True
        response.message = f"holding: {'; '.join(self._holds.values())}" if self._holds else "not held"
        return response

    def _apply_holds(self) -> None:
        if self._follower is None:
            return
        with self._lock:
            if self._holds:
                self._follower.hold("; ".join(self._holds.values()))
            else:
                self._follower.release(self._now())

    def diagnostic_values(self) -> dict[str, object]:
        mean = self._periods.mean()
        follower = self._follower
        chunk = follower.chunk if follower is not None else None
        return {
            "rate_hz": 1.0 / mean if mean > 0.0 else 0.0,
            **self._periods.percentiles("period_ms", 1e3),
            **self._late.percentiles("late_ms", 1e3),
            "missed_ticks": self._missed,
            "scheduling": self._scheduling,
            **self._ages.percentiles("chunk_age_ms", 1e3),
            "chunk_age_now_ms": (self._now() - chunk.stamp_ns) / 1e6 if chunk is not None else "no chunk",
            "chunks_accepted": self._accepted,
            "chunks_refused": self._refused,
            "last_refusal": self._refusal,
            "hold_reason": self._hold_reason(self._command) if self._holding() else "",
        }

    def _holding(self) -> bool:
        return self._follower is not None and (self._command is None or self._command.holding)


def main(args=None) -> int:
    """Entry point."""
    scheduling = realtime.enter()

    def make() -> FollowerNode:
        node = FollowerNode(scheduling=scheduling)
        node.get_logger().info(scheduling)
        return node

    return run(make, args)


if __name__ == "__main__":
    sys.exit(main())

"""The control loop of the follower node: one target per period, whatever else happens in the process.

Its thread measures, ticks the follower and publishes. `lock` guards the follower; no one holds it for long.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from geometry_msgs.msg import PoseStamped
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from std_msgs.msg import Float64MultiArray

from grids_ros.control.config import LONGEST_BRAKING_S
from grids_ros.control.follower import Command, Follower, FollowerConfig
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Pose
from grids_ros.ros import conversions
from grids_ros.ros.diagnostics import Window
from grids_ros.ros.lateness import Lateness
from grids_ros.ros.periodic_thread import PeriodicThread
from grids_ros.ros.tf import PoseInbox

WINDOW_S = 10.0  # over which rates are reported
MAX_FAILURES = 100  # ticks in a row that may raise; the arm is at rest long before
ARRIVES_S = 0.2  # longest wait until the last target has reached the arm
BRAKING_S = LONGEST_BRAKING_S + 0.5  # in which an ending process brakes: launch kills it 10 s after Ctrl-C


@dataclass(frozen=True)
class Arm:
    """What the loop exchanges with the arm. base: frame of all poses. gripper_scale: of a command, per metre."""

    poses: PoseInbox
    target: Publisher
    gripper: Publisher
    base: str
    gripper_scale: float


class ControlLoop:
    """Runs from its making until `stop`.

    command: of the last tick. pose_fault: what was wrong with the last measured pose; empty: nothing. failure: what
    raised in the last tick that failed, with its traceback. Its thread writes no log: who polls these does.
    """

    def __init__(
        self,
        node: Node,
        arm: Arm,
        config: FollowerConfig,
        last: Pose | None,
        fault: Callable[[], str],
        ticked: Callable[[], None],
        failed: Callable[[BaseException], None],
    ):
        """last: see Follower. fault: asked at each tick why nothing may be followed. ticked: told after each tick.

        failed: told when the loop has ended because too many ticks in a row raised.
        """
        self._node, self._arm, self._fault, self._ticked, self._failed = node, arm, fault, ticked, failed
        self.lock = threading.Lock()
        self.follower = Follower(config, last)
        self.command: Command | None = None
        self.pose_fault = ""
        self._target = PoseStamped()
        self._stamp_ns = 0
        self._prepared, self._failures, self._reported, self.failure = False, 0, "", ""
        self._last_tick: float | None = None
        length = max(1, round(WINDOW_S / config.period_s))
        self.periods, self.ages = Window(length), Window(length)
        self.lateness = Lateness()
        arm.poses.take()
        self._thread = PeriodicThread(config.period_s, self._guarded_prepare, self._guarded_tick, self._end, "control")

    def accept(self, chunk: ActionChunk) -> None:
        """Follow this chunk. Raises Refused."""
        with self.lock:
            self._measure()
            self.follower.accept(chunk, self._now())

    def hold(self, reason: str) -> None:
        """Brake and hold until `release`."""
        with self.lock:
            self.follower.hold(reason)

    def release(self) -> None:
        """End a hold."""
        with self.lock:
            self.follower.release(self._now())

    def set_speed_limits(self, linear_speed: float, angular_speed: float) -> None:
        """In [m/s] and [rad/s], from the next tick on."""
        with self.lock:
            self.follower.set_speed_limits(linear_speed, angular_speed)

    def stop(self, reason: str, meanwhile: Callable[[], None]) -> Pose | None:
        """Brake, in bounded time, and end. The last target, if there was one.

        meanwhile: called again and again while the arm brakes, and at the end.
        """
        self.hold(reason)
        period_s, ends_s = self.follower.config.period_s, time.monotonic() + BRAKING_S
        while self._thread.running and time.monotonic() < ends_s and not self.follower.at_rest:
            time.sleep(period_s)
            meanwhile()
        self._thread.stop()
        meanwhile()
        if self.command is None:
            return self.follower.last_target
        if self._node.context.ok():
            self._publish_target()  # once more: where the arm was sent last is where it stays
            self._arm.target.wait_for_all_acked(Duration(seconds=ARRIVES_S))
        return self.command.pose

    def _now(self) -> int:
        return self._node.get_clock().now().nanoseconds

    def _guarded_prepare(self) -> None:
        """What raises costs a tick, not the stream: the arm brakes and holds."""
        self._prepared = False
        try:
            self._prepare()
            self._prepared = True
        except Exception as error:  # noqa: BLE001 - an arm in motion must not lose its stream
            self._brake(error)

    def _guarded_tick(self, late_s: float, missed: int) -> None:
        try:
            self._tick(late_s, missed)
            self._failures = 0 if self._prepared else self._failures
        except Exception as error:  # noqa: BLE001 - as above
            self._brake(error)

    def _prepare(self) -> None:
        """The next command."""
        with self.lock:
            self._measure()
            now_ns = self._now()
            command, chunk = self.follower.tick(now_ns, self._fault()), self.follower.chunk
            self._show(command, now_ns)
        if command is not None and chunk is not None and not command.holding:
            self.ages.add((now_ns - chunk.stamp_ns) / NANOSECONDS)

    def _brake(self, error: Exception) -> None:
        """Brake in place of a tick that raised. Raises the error after too many in a row."""
        self._failures += 1
        kind = f"{type(error).__name__}: {error}"
        if kind != self._reported:
            self._reported = kind
            self.failure = f"a tick failed, braking: {''.join(traceback.format_exception(error))}"
        if self._failures > MAX_FAILURES:
            raise error
        with self.lock:
            self._show(self.follower.fail(f"a tick failed: {kind}"), self._stamp_ns)

    def _show(self, command: Command | None, now_ns: int) -> None:
        """Take a command as that of this tick."""
        if command is not None:
            self._target = conversions.from_pose_stamped(command.pose, self._arm.base, now_ns)
        self.command = command

    def _tick(self, late_s: float, missed: int) -> None:
        """Send the command, at its deadline."""
        command = self.command
        if command is not None:
            self._publish_target()
            if command.gripper is not None:
                opening = command.gripper * self._arm.gripper_scale
                self._arm.gripper.publish(Float64MultiArray(data=[opening]))
        started = time.perf_counter()
        if self._last_tick is not None:
            self.periods.add(started - self._last_tick)
        self._last_tick = started
        self.lateness.add(late_s, missed)
        self._ticked()

    def _publish_target(self) -> None:
        self._stamp_ns = self._now()
        self._target.header.stamp = conversions.to_stamp(self._stamp_ns)
        self._arm.target.publish(self._target)

    def _end(self, error: BaseException) -> None:
        if self._node.context.ok():
            self._failed(error)

    def _measure(self) -> None:
        message = self._arm.poses.newest()
        if message is None:
            return
        try:
            pose = conversions.to_pose(message, self._arm.base, "current_pose")
        except ValueError as error:
            self.pose_fault = str(error)
            return
        self.pose_fault = ""
        self.follower.measure(conversions.to_ns(message.header.stamp), pose)

"""The follower node: chunks in, target_pose out at the control rate. The only publisher to the arm.

It imports no policy and no torch, and runs as a process of its own, so that nothing that happens to the policy
disturbs its clock. Two threads: the control loop's, and the executor's, which does the rest.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from geometry_msgs.msg import PoseStamped
from rclpy.publisher import Publisher
from rclpy.subscription import Subscription
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import SetBool, Trigger
from visualization_msgs.msg import MarkerArray

from grids_ros import diagnostic_keys as keys
from grids_ros.control.follower import FollowerConfig, HoldCause
from grids_ros.datatypes import ActionChunk, Pose
from grids_ros.parameters import FollowerParameters, follower_config
from grids_ros.ros import checked_subscription, graph, markers, qos, realtime
from grids_ros.ros.chunk_receiver import ChunkReceiver
from grids_ros.ros.control_loop import Arm, ControlLoop
from grids_ros.ros.diagnostics import ERROR, OK, WARN
from grids_ros.ros.managed import FAILED, STEADY, ManagedNode, run
from grids_ros.ros.start import leave
from grids_ros.ros.tf import PoseInbox

WATCH_S = 0.1  # between two counts of who publishes target_pose and gripper_command
# A tick hands its command to a thread of FastDDS. By default it sends in the thread that publishes, which then waits
# for locks that other threads and processes hold: for 4 to 12 ms some times a minute on a busy machine.
PUBLICATION = "RMW_FASTRTPS_PUBLICATION_MODE", "ASYNCHRONOUS"
GRAPH_S = 1.0  # between two looks at the publishers of what is heard
MAX_INSTRUCTION = 4096  # bytes
ERRORS = (HoldCause.INTERNAL_ERROR, HoldCause.FAULT)  # told as errors, not as warnings


@dataclass(frozen=True)
class Configured:
    """What the node has while it is configured."""

    config: FollowerConfig
    arm: Arm
    chunks: ChunkReceiver
    instruction: Subscription
    heard: tuple[graph.Heard, ...]
    timers: tuple
    workspace: Publisher

    @property
    def target(self) -> Publisher:
        return self.arm.target


class FollowerNode(ManagedNode):
    """See the module. Not active: silent."""

    goes_on_when_suspended = True

    def __init__(self, scheduling: str = "as the process", **options):
        """scheduling: shown in the diagnostics."""
        self._scheduling = scheduling
        self._holds: dict[str, str] = {}  # who asked for a hold, and why
        self._last: Pose | None = None  # the last target of any activation
        self._configured: Configured | None = None
        self._loop: ControlLoop | None = None
        self._rivals, self._clock_fault = "", ""
        self._graph_faults: list[str] = []
        self._instruction_fault = ""
        self._refusal, self._refused, self._accepted = "", 0, 0
        self._logged, self._failure = "", ""
        super().__init__("grids_follower", FollowerParameters, **options)
        self.create_service(SetBool, "hold", self._on_hold)
        self.create_service(Trigger, "~/lateness", self._on_lateness)

    def configure(self) -> None:
        settings = self.settings
        config = dataclasses.replace(follower_config(settings), arm_obeys=not settings.dry_run)
        suffix = "_preview" if settings.dry_run else ""
        arm = Arm(
            PoseInbox(self, settings, qos.NEWEST),
            self.create_publisher(PoseStamped, f"target_pose{suffix}", qos.COMMAND),
            self.create_publisher(Float64MultiArray, f"gripper_command{suffix}", qos.COMMAND),
            settings.base_frame,
            settings.gripper_scale,
        )
        box = self.create_publisher(MarkerArray, "workspace", qos.LATCHED)
        edges = markers.workspace(settings.workspace_min, settings.workspace_max, settings.base_frame)
        box.publish(MarkerArray(markers=[edges]))
        chunks = ChunkReceiver(self, settings.base_frame, settings.tool_frame, self._accept, self._refuse)
        instruction = checked_subscription.subscribe(
            self, String, "instruction", self._on_instruction, qos.LATCHED, self._refuse_instruction, _check_instruction
        )
        poses, gripper = chunks.topics.values()
        heard = (
            graph.Heard(poses, "trajectory_msgs/msg/MultiDOFJointTrajectory", qos.CHUNK),
            graph.Heard(gripper, "trajectory_msgs/msg/JointTrajectory", qos.CHUNK),
            graph.Heard(arm.poses.topic, arm.poses.type_name, qos.NEWEST, arm.poses.many),
            graph.Heard(instruction.topic_name, "std_msgs/msg/String", qos.LATCHED),
        )
        timers = (
            self.create_timer(WATCH_S, self._watch, clock=STEADY),
            self.create_timer(GRAPH_S, self._look_around, clock=STEADY),
        )
        self._configured = Configured(config, arm, chunks, instruction, heard, timers, box)

    def change(self, values: Mapping[str, Any]) -> None:
        """Speed limits: down at any time, up again as far as they were configured."""
        for name, value in values.items():
            highest = getattr(self.settings, name)
            if value > highest:
                raise ValueError(
                    f"parameter '{name}' is {value:g}, expected at most {highest:g}, its value when the node was "
                    "configured: deactivate and clean up the node to raise it"
                )
        configured = self._configured
        assert configured is not None  # a parameter changes only in a node that is configured
        config = configured.config
        limits = dataclasses.replace(config.limits, **values)
        config = dataclasses.replace(config, limits=limits)
        self._configured = dataclasses.replace(configured, config=config)
        if self._loop is not None:
            self._loop.set_speed_limits(limits.linear_speed, limits.angular_speed)
        self.get_logger().info(f"speed limits: {limits.linear_speed:g} m/s, {limits.angular_speed:g} rad/s")

    def cleanup(self) -> None:
        self._holds.pop("instruction", None)
        configured, self._configured = self._configured, None
        if configured is None:
            return
        for timer in configured.timers:
            self.destroy_timer(timer)
        configured.chunks.destroy()
        configured.arm.poses.destroy()
        self.destroy_subscription(configured.instruction)
        self.destroy_publisher(configured.arm.target)
        self.destroy_publisher(configured.arm.gripper)
        self.destroy_publisher(configured.workspace)

    def activate(self) -> None:
        configured = self._configured
        assert configured is not None  # the lifecycle says so
        self._refusal, self._refused, self._accepted = "", 0, 0
        configured.chunks.forget()
        self._watch_faults()
        gc.collect()
        gc.freeze()  # what is alive now stays: later collections, in the control loop, skip it
        fault, ticked = self._fault, self._ticked
        loop = ControlLoop(self, configured.arm, configured.config, self._last, fault, ticked, self._fail)
        self._loop = loop
        if self._holds:
            loop.hold("; ".join(self._holds.values()))
        self.get_logger().info("activated" + (": a dry run, the arm gets no command" if self._dry else ""))

    def deactivate(self) -> None:
        """Brake, then be silent."""
        self._stop("the node is being deactivated")

    def close(self) -> None:
        """Brake and end the control thread, for the process ends."""
        if self._loop is not None:
            self._stop("the process is ending")

    def _stop(self, reason: str) -> None:
        if self._loop is not None:
            self._last = self._loop.stop(reason, self.diagnostics.flush) or self._last
        self._loop = None
        gc.unfreeze()
        self._logged, self._failure = "", ""
        self.get_logger().info("deactivated: the arm stays at its last target")

    @property
    def _dry(self) -> bool:
        return self.settings.dry_run

    def _fault(self) -> str:
        """Why nothing may be followed at this tick, in the control loop's thread."""
        return self._clock_fault or self._rivals

    def _watch(self) -> None:
        """Look at the clock, and for others who command the arm; log when the state changes."""
        self._watch_faults()
        loop, configured = self._loop, self._configured
        if loop is None or configured is None:
            return
        unpaired = configured.chunks.unpaired()
        if unpaired:
            self._refusal = f"chunk refused: {unpaired}"
        hold = loop.follower.holding
        if loop.pose_fault:
            self.get_logger().warning(f"ignored: {loop.pose_fault}", throttle_duration_sec=5.0)
        if loop.failure and loop.failure != self._failure:
            self._failure = loop.failure
            self.get_logger().error(loop.failure)
        state = hold.cause.value if hold else "following"
        if state != self._logged:
            self._logged = state
            self.get_logger().info(f"holding: {self._hold_reason()}" if hold else "following")

    def _watch_faults(self) -> None:
        self._clock_fault = self.clock_watch.fault(self)
        configured = self._configured
        self._rivals = "" if configured is None or self._dry else self._find_rivals(configured.arm)

    def _find_rivals(self, arm: Arm) -> str:
        """Who else commands the arm or its gripper, in words; else empty."""
        commanded = {arm.target.topic_name: "the arm", arm.gripper.topic_name: "the gripper"}
        return "; ".join(filter(None, (graph.rivals(self, topic, what) for topic, what in commanded.items())))

    def _look_around(self) -> None:
        if self._configured is None:
            return
        faults = graph.faults(self, self._configured.heard)
        for fault in faults:
            if fault not in self._graph_faults:
                self.get_logger().warning(fault)
        self._graph_faults = faults

    def _ticked(self) -> None:
        """After each tick, in the control loop's thread."""
        loop = self._loop
        hold = loop.follower.holding if loop is not None else None
        if loop is None:
            return
        if hold is not None:
            self.diagnostics.post(ERROR if hold.cause in ERRORS else WARN, f"holding: {self._hold_reason()}")
        elif self._notes:
            self.diagnostics.post(WARN, f"following; {'; '.join(self._notes)}")
        else:
            self.diagnostics.post(OK, "following")

    def _fail(self, error: BaseException) -> None:
        """Ticks that keep raising end the process; the arm has come to rest long before."""
        self.get_logger().fatal("".join(traceback.format_exception(error)))
        self.diagnostics.update(ERROR, f"control failed: {type(error).__name__}: {error}")
        self.exit_code = FAILED

    def _hold_reason(self) -> str:
        """Why it holds, with what was wrong with the messages that would have ended it."""
        loop = self._loop
        hold = loop.follower.holding if loop is not None else None
        if loop is None or hold is None:
            return ""
        if hold.cause is HoldCause.REQUESTED:
            return hold.reason
        silent = hold.cause is HoldCause.NO_CHUNK and loop.command is None
        own = "no chunk yet" if silent else hold.reason
        return "; ".join(reason for reason in (own, loop.pose_fault, self._refusal, *self._notes) if reason)

    def _accept(self, chunk: ActionChunk) -> None:
        """Raises Refused."""
        if self._loop is not None:
            self._loop.accept(chunk)
            self._accepted += 1
            self._refusal = ""

    def _refuse(self, reason: str) -> None:
        if self._loop is None:
            return
        self._refused += 1
        self._refusal = f"chunk refused: {reason}"
        if not self._holds:  # else it is as the user wants
            self.get_logger().warning(self._refusal, throttle_duration_sec=5.0)

    @property
    def _notes(self) -> list[str]:
        """What is wrong with the topics that are heard, even while a chunk is followed."""
        tf = self._configured.arm.poses.fault if self._configured is not None else ""
        return [*self._graph_faults, *filter(None, (self._instruction_fault, tf))]

    def _refuse_instruction(self, reason: str) -> None:
        self._instruction_fault = reason
        self.get_logger().warning(reason, throttle_duration_sec=5.0)

    def _on_instruction(self, message: String) -> None:
        """An empty instruction holds until there is another one."""
        self._instruction_fault = ""
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

    def suspend(self, suspended: bool) -> None:
        """Ctrl-Z, and later `fg`: the arm holds meanwhile, and its stream goes on."""
        if suspended:
            self._holds["suspended"] = "suspended by Ctrl-Z; fg goes on"
        else:
            self._holds.pop("suspended", None)
        self._apply_holds()

    def _apply_holds(self) -> None:
        reasons = "; ".join(self._holds.values())
        if self._loop is not None and reasons:
            self._loop.hold(reasons)
        elif self._loop is not None:
            self._loop.release()
        self.get_logger().info(f"held: {reasons}" if reasons else "released")

    def _on_lateness(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """The lateness of each tick since the activation, as JSON."""
        response.success = self._loop is not None
        response.message = self._loop.lateness.to_json() if self._loop is not None else "the node is not active"
        return response

    def diagnostic_values(self) -> dict[str, object]:
        counted = {
            keys.TARGET_HZ: self.settings.rate_hz if self.settings else "not configured",
            keys.SCHEDULING: self._scheduling,
            "Chunks accepted": self._accepted,
            "Chunks refused": self._refused,
            keys.LAST_REFUSAL: self._refusal,
            "Hold reason": self._hold_reason(),
            "Topics": "; ".join(self._notes),
        }
        loop = self._loop
        if loop is None:
            return {keys.ACTUAL_HZ: 0.0, "Missed ticks": 0, "Chunk age (ms)": "no chunk", **counted}
        mean, chunk = loop.periods.mean(), loop.follower.chunk
        age = (self.get_clock().now().nanoseconds - chunk.stamp_ns) / 1e6 if chunk is not None else "no chunk"
        return {
            keys.ACTUAL_HZ: 1.0 / mean if mean > 0.0 else 0.0,
            **loop.periods.percentiles_ms(keys.PERIOD),
            keys.percentile(keys.LATENESS, 50): loop.lateness.percentile_ms(0.5),
            keys.percentile(keys.LATENESS, 99): loop.lateness.percentile_ms(0.99),
            "Lateness histogram": loop.lateness.text(),
            "Missed ticks": loop.lateness.missed,
            **loop.ages.percentiles_ms(keys.CHUNK_AGE),
            "Chunk age (ms)": age,
            **counted,
        }


def _check_instruction(data: bytes) -> None:
    if len(data) > MAX_INSTRUCTION:
        raise ValueError(f"has {len(data)} bytes, at most {MAX_INSTRUCTION} are taken")


def main(args=None) -> int:
    """Entry point."""
    scheduling = realtime.enter()
    os.environ.setdefault(*PUBLICATION)

    def make() -> FollowerNode:
        node = FollowerNode(scheduling=scheduling)
        node.get_logger().info(scheduling)
        return node

    return run(make, args)


if __name__ == "__main__":
    leave(main())

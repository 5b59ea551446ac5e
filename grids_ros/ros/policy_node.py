"""The policy node: images and an instruction in, action chunks out at a fixed rate.

A PolicySession decides when to infer and on what; see `grids_ros.control.session`. Two threads drive it:
- the executor's: parameters, transitions, the instruction, the inputs, and the beginning of each inference;
- the worker's, one inference at a time: the policy, and the publication of what comes of it.
`_lock` guards what both use: the session, and whether the node is active.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from rclpy.publisher import Publisher
from rclpy.timer import Timer
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, MultiDOFJointTrajectory

from grids_ros import diagnostic_keys as keys
from grids_ros.chunk_bytes import gripper_to_bytes, poses_to_bytes
from grids_ros.control.session import Inference, PolicySession, Skip
from grids_ros.control.token_budget import TokenBudget
from grids_ros.datatypes import PolicyOutput
from grids_ros.observation.buffer import NotReady
from grids_ros.observation.messages import SHOWN
from grids_ros.observation.topics import check_names
from grids_ros.parameters import AUTO, ParameterError, PolicyParameters
from grids_ros.policy.errors import InputError
from grids_ros.policy.runtime import Policy
from grids_ros.ros import qos
from grids_ros.ros.diagnostics import ERROR, OK, WARN
from grids_ros.ros.display import PolicyDisplay
from grids_ros.ros.inference import InferenceThread
from grids_ros.ros.inputs import PolicyInputs
from grids_ros.ros.managed import FAILED, STEADY, ManagedNode, run
from grids_ros.ros.policy_statistics import PolicyStatistics
from grids_ros.ros.realtime import SWITCH_S
from grids_ros.ros.robot_model import robot_model
from grids_ros.ros.start import leave

DRAIN_S = 0.02  # between two looks at what the robot has sent
CHECK_S = 1.0  # between two looks at who publishes the inputs
STALLED = 3  # periods after which an inference that has not ended is told of
PATIENCE_S = 3.0  # for the inference under way to end, when the node is deactivated or its process ends
MAX_FAILURES = 20  # inferences in a row that fail, after which the process ends


@dataclass(frozen=True, eq=False)
class _Configured:
    """What the node has between configure and clean-up."""

    policy: Policy
    budget: TokenBudget
    inputs: PolicyInputs
    display: PolicyDisplay
    contract: Publisher


@dataclass(frozen=True, eq=False)
class _Active:
    """What it has while it is active, and once more each time."""

    session: PolicySession
    statistics: PolicyStatistics
    worker: InferenceThread[Inference]
    chunks: Publisher
    grippers: Publisher
    timers: tuple[Timer, ...]


class PolicyNode(ManagedNode):
    """See the module."""

    def __init__(self, **options):
        self._lock = threading.Lock()
        self._instruction = ""
        self._configured: _Configured | None = None
        self._active: _Active | None = None
        self._last_statistics = PolicyStatistics()
        self._lingering: InferenceThread[Inference] | None = None  # an earlier one, whose inference did not end
        self._own_threads = torch.get_num_threads()
        super().__init__("grids_policy", PolicyParameters, **options)

    def configure(self) -> None:
        self._require_no_inference()
        settings = self.settings
        if not settings.checkpoint:
            raise ParameterError("parameter 'checkpoint' is empty, expected the folder of a checkpoint")
        check_names(settings.camera_topics)
        torch.set_num_threads(settings.threads or self._own_threads)
        policy = self._load()
        inputs = PolicyInputs(self, policy.cameras, settings, self._on_instruction, policy.joints)
        display = PolicyDisplay(self, inputs, settings)
        contract = self.create_publisher(String, "policy_contract", qos.LATCHED)
        contract.publish(String(data=policy.contract))
        budget = _token_budget(policy, settings, settings.tokens)
        self._configured = _Configured(policy, budget, inputs, display, contract)
        policy.use_tokens(self._configured.budget.tokens)

    def _load(self) -> Policy:
        """The policy of the checkpoint, warm. Raises CheckpointError."""
        settings, started = self.settings, time.perf_counter()
        self.get_logger().info(f"loading checkpoint {settings.checkpoint} on {settings.device}")
        policy = Policy.load(
            settings.checkpoint,
            device=settings.device,
            denoising_steps=settings.denoising_steps or None,
            robot=lambda: robot_model(self, settings),
            precision=settings.precision,
        )
        self.get_logger().info(f"contract of the policy:\n{policy.contract}")
        for tower, reason in policy.products.items():
            self.get_logger().info(f"{tower}: {reason}")
        tokens = _token_budget(policy, settings, settings.tokens).tokens
        for count in policy.budgets:  # a change later on finds everything ready
            self.get_logger().info(f"warming up with {count} tokens per camera")
            policy.use_tokens(count)
            policy.warm_up()
        for problem in policy.refused_backends:
            self.get_logger().error(problem)
        self.get_logger().info(
            f"{settings.checkpoint} is ready on {settings.device} after {time.perf_counter() - started:.1f} s: "
            f"cameras {', '.join(policy.cameras)}, tokens per camera {tokens}"
        )
        return policy

    def change(self, values: Mapping[str, Any]) -> None:
        """`tokens`: the inference that is under way ends as it began."""
        configured = self._configured
        assert configured is not None  # a parameter changes only in a node that is configured
        budget = _token_budget(configured.policy, self.settings, values["tokens"])
        with self._lock:
            self._configured = replace(configured, budget=budget)
            if self._active is not None:
                self._active.session.budget = budget

    def cleanup(self) -> None:
        configured, self._configured = self._configured, None
        if configured is not None:
            configured.display.destroy()
            configured.inputs.destroy()
            self.destroy_publisher(configured.contract)
        del configured
        gc.collect()  # CUDA graphs and their engine hold each other: the next model would be loaded beside this one
        self._instruction = ""

    def activate(self) -> None:
        self._require_no_inference()
        configured = self._configured
        assert configured is not None  # the lifecycle says so
        session = PolicySession(self.settings.join, configured.budget)
        gc.collect()
        # Not before: the follower refuses the chunks of two policies, and takes whoever may publish them for one.
        chunks = self.create_publisher(MultiDOFJointTrajectory, "action_chunk", qos.CHUNK)
        grippers = self.create_publisher(JointTrajectory, "gripper_chunk", qos.CHUNK)
        gc.freeze()  # the model and the libraries stay: no later collection looks through them during an inference
        timers = (
            self.create_timer(1.0 / self.settings.rate_hz, self._tick, clock=STEADY),
            self.create_timer(DRAIN_S, self._drain, clock=STEADY),
            self.create_timer(CHECK_S, configured.inputs.check_publishers, clock=STEADY),
        )
        self._last_statistics = PolicyStatistics()
        worker = InferenceThread(self._infer, "inference")
        with self._lock:  # words that arrive meanwhile are heard before or after, and never lost
            session.instruct(self._instruction)
            self._active = _Active(session, self._last_statistics, worker, chunks, grippers, timers)

    def deactivate(self) -> None:
        """Publish no more. An inference that never ends cannot be taken back, so nothing waits for it for long."""
        with self._lock:
            active, self._active = self._active, None  # from here on nothing is published
        assert active is not None  # the lifecycle says so
        for timer in active.timers:
            self.destroy_timer(timer)
        if not active.worker.stop(PATIENCE_S):
            self.get_logger().error(f"the inference under way has not ended within {PATIENCE_S:g} s")
            self._lingering = active.worker
        failure = active.worker.failure()
        if failure is not None:
            self._tell(active, *failure)
        for publisher in (active.chunks, active.grippers):
            self.destroy_publisher(publisher)
        gc.unfreeze()

    def close(self) -> None:
        """End the inference thread, for the process ends."""
        if self._active is not None:
            self.deactivate()
        self.stuck = self._lingers()

    def _lingers(self) -> bool:
        return self._lingering is not None and self._lingering.alive

    def _require_no_inference(self) -> None:
        if self._lingers():
            raise OSError("the inference from before still has not ended: end this process")

    def _on_instruction(self, words: str) -> None:
        """The very next chunk obeys it: a chunk being computed for the last instruction is dropped."""
        with self._lock:
            self._instruction = words.strip()
            if self._active is not None:
                self._active.session.instruct(words)

    def _drain(self) -> None:
        """Take in what the robot and the follower have sent."""
        configured, active = self._configured, self._active
        if configured is None or active is None:
            return
        for message in configured.inputs.drain():
            p, q = message.pose.position, message.pose.orientation
            active.session.command((p.x, p.y, p.z), (q.x, q.y, q.z, q.w))

    def _tick(self) -> None:
        """Begin the next inference, or say why there is none."""
        configured, active = self._configured, self._active
        if configured is None or active is None:  # a timer may fire while the node changes its state
            return
        inputs = configured.inputs
        failure = active.worker.failure()
        if failure is not None:
            self._tell(active, *failure)
        if active.session.failures >= MAX_FAILURES:
            self._give_up()
            return
        self._drain()
        began_s, now_ns = time.perf_counter(), self.get_clock().now().nanoseconds
        try:
            with self._lock:
                step: Inference | Skip = Skip.BUSY
                if active.worker.idle:  # also of what follows a chunk: its markers, its overlays
                    step = active.session.begin(now_ns, inputs.observe, inputs.followed())
        except NotReady as error:
            self.diagnostics.update(WARN, f"no chunk: {error}")
            return
        if step is Skip.BUSY:
            active.statistics.deadline_misses += 1
            self._warn_if_stalled(active.statistics.began_s, "the inference has not ended for {:.1f} s")
        elif step is Skip.USED_UP:  # a camera is slower than the policy: no fault, unless it lasts
            since_s = active.statistics.last_chunk_s or active.statistics.began_s
            self._warn_if_stalled(since_s, "for {:.1f} s no newer image of every camera")
        elif isinstance(step, Inference):
            active.statistics.began_s = began_s
            active.worker.offer(step)

    def _warn_if_stalled(self, since_s: float, message: str) -> None:
        waited_s = time.perf_counter() - since_s
        if waited_s * self.settings.rate_hz > STALLED:
            self.diagnostics.update(WARN, f"no chunk: {message.format(waited_s)}")

    def _tell(self, active: _Active, inference: Inference, error: BaseException) -> None:
        """An error that nobody expected costs its observation. Too many in a row end the process."""
        with self._lock:
            active.session.fail(inference)
        message = f"inference failed: {type(error).__name__}: {error}"
        if active.statistics.failure(message):
            self.get_logger().error("".join([f"{message}\n", *traceback.format_exception(error)]))
        self._report(active, inference, ERROR, message)

    def _give_up(self) -> None:
        """What fails again and again is no accident: a new process may do better."""
        self.get_logger().fatal(f"{MAX_FAILURES} inferences in a row have failed: the process ends")
        self.exit_code = FAILED

    def _infer(self, inference: Inference) -> None:
        """One inference, in the worker's thread."""
        active, configured = self._active, self._configured
        if active is None or configured is None:  # deactivated meanwhile
            return
        session, statistics = active.session, active.statistics
        try:
            self._run(inference, configured, active)
        except InputError as error:
            with self._lock:
                session.refuse(inference)
            self._report(active, inference, WARN, f"no chunk: {error}")
        else:
            with self._lock:
                reason = session.account(inference, time.perf_counter() - statistics.began_s)
            if reason and inference.budget is not None:
                self.get_logger().info(f"tokens per camera {inference.budget.tokens}: {reason}")

    def _run(self, inference: Inference, configured: _Configured, active: _Active) -> None:
        """Infer, publish, and show what came of it."""
        policy, started_s = configured.policy, time.perf_counter()
        if inference.tokens is not None and inference.tokens != policy.tokens_per_camera:
            policy.use_tokens(inference.tokens)
        output = policy.infer(inference.observation, continuation=inference.continuation)
        active.statistics.inferred(inference, time.perf_counter() - started_s)
        if self._publish_chunk(inference, output, active):
            active.statistics.sent(output, started_s)
            self._report(active, inference, OK, "publishing chunks")
            configured.display.show(inference.observation, output)

    def _publish_chunk(self, inference: Inference, output: PolicyOutput, active: _Active) -> bool:
        """False when the chunk was dropped: the instruction changed, or the node was deactivated, meanwhile."""
        base, tool = self.settings.base_frame, self.settings.tool_frame
        poses, gripper = poses_to_bytes(output.chunk, base, tool), gripper_to_bytes(output.chunk, base)
        with self._lock:
            if self._active is not active:
                return False
            if not active.session.finish(inference, output.chunk, self.get_clock().now().nanoseconds):
                active.statistics.dropped += 1
                return False
            active.grippers.publish(gripper)
            active.chunks.publish(poses)
        return True

    def _report(self, active: _Active, inference: Inference, level: bytes, message: str) -> None:
        """Say it, unless the node has been deactivated or told otherwise since the inference began."""
        with self._lock:
            current = self._active is active and active.session.holds(inference)
        if current:
            self.diagnostics.update(level, message)

    def diagnostic_values(self) -> dict[str, object]:
        configured, active = self._configured, self._active
        policy = configured.policy if configured is not None else None
        delay_s = active.session.delay_s if active is not None else None
        return {
            "Instruction": self._instruction[:SHOWN],
            keys.TOKENS: configured.policy.tokens_per_camera if configured is not None else "not loaded",
            keys.TOKENS_REASON: configured.budget.reason if configured is not None else "not loaded",
            keys.TARGET_HZ: self.settings.rate_hz if self.settings else "not configured",
            "Backend": "; ".join([policy.backend, *policy.refused_backends]) if policy else "not loaded",
            **(configured.inputs.transport.percentiles_ms(keys.TRANSPORT) if configured is not None else {}),
            **self._last_statistics.values(),
            "Observation to chunk (ms)": 1e3 * delay_s if delay_s is not None else "not measured",
        }


def _token_budget(policy: Policy, settings: PolicyParameters, tokens: int | str) -> TokenBudget:
    """Of the parameter: a number alone, 0 for the largest, or AUTO. Raises CheckpointError for an untrained one."""
    budgets = policy.budgets
    if tokens != AUTO:
        budgets = (int(tokens) or budgets[-1],)
        policy.check_tokens(*budgets)
    return TokenBudget(budgets, 1.0 / settings.rate_hz)


def main(args=None) -> int:
    """Entry point."""
    sys.setswitchinterval(SWITCH_S)  # inference never waits long for the executor's callbacks
    return run(PolicyNode, args)


if __name__ == "__main__":
    leave(main())

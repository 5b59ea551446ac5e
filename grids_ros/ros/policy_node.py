"""The policy node: images and an instruction in, action chunks out at a fixed rate.

Three threads of control, and what each may touch:
- the executor's: parameters, transitions, the timers, the instruction, keeping up with the streams;
- the worker's (one inference at a time): observing, the policy, and publishing its results;
- `_lock` guards the little that both use: the instruction, the token budget, and whether the node is active.
"""

from __future__ import annotations

import gc
import sys
import threading
import time

import torch
from sensor_msgs.msg import Image
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, MultiDOFJointTrajectory
from visualization_msgs.msg import MarkerArray

from grids_ros import overlay
from grids_ros.control.budget import TokenBudget
from grids_ros.control.continuity import Continuity
from grids_ros.datatypes import NANOSECONDS, Observation, PolicyOutput
from grids_ros.observation import NotReady
from grids_ros.parameters import AUTO, POLICY, ParameterError
from grids_ros.policy.errors import InputError
from grids_ros.policy.runtime import Policy
from grids_ros.ros import conversions, markers, qos
from grids_ros.ros.chunk_bytes import gripper_to_bytes, poses_to_bytes
from grids_ros.ros.diagnostics import ERROR, OK, WARN, Window
from grids_ros.ros.inference import Worker
from grids_ros.ros.managed import STEADY, ManagedNode, run
from grids_ros.ros.realtime import SWITCH_S
from grids_ros.ros.streams import Streams

KEEP_UP_S = 0.02  # between two looks at what the robot has sent
STALLED = 3  # periods after which an inference that has not ended is told of
PATIENCE_S = 3.0  # for the inference under way to end, when the node is deactivated or its process ends
WINDOW = 100  # inferences over which rates and latencies are reported


class PolicyNode(ManagedNode):
    """See the module."""

    def __init__(self, **options):
        self._lock = threading.Lock()
        self._instruction, self._generation, self._active = "", 0, False
        self._worker: Worker | None = None
        self._lingering: Worker | None = None  # an earlier one, whose inference did not end
        self._ticking: list = []
        self._own_threads = torch.get_num_threads()
        self._start_over()
        super().__init__("grids_policy", POLICY, **options)

    def _start_over(self) -> None:
        self._deadline_misses = self._published = self._dropped = 0
        self._last_chunk: float | None = None
        self._last_stamp_ns = -1  # of an observation that a chunk was published for
        self._begun_s = 0.0  # when the inference that is under way began
        self._continuity, self._planned_generation = Continuity(), self._generation
        self._latencies, self._overheads = Window(WINDOW), Window(WINDOW)
        self._ages, self._periods = Window(WINDOW), Window(WINDOW)

    def configure(self) -> None:
        settings = self.settings
        if not settings["checkpoint"]:
            raise ParameterError("parameter 'checkpoint' is empty, expected the folder of a checkpoint")
        torch.set_num_threads(settings["threads"] or self._own_threads)
        started = time.perf_counter()
        self._policy = Policy.load(
            settings["checkpoint"],
            device=settings["device"],
            denoising_steps=settings["denoising_steps"] or None,
            merge=settings["merge"],
        )
        self._budget = self._token_budget(settings["tokens"])
        for tokens in (*self._policy.budgets, self._budget.tokens):  # a change later on finds everything ready
            self._policy.use_tokens(tokens)
            self._policy.warm_up()
        self.get_logger().info(
            f"{settings['checkpoint']} is ready on {settings['device']} after {time.perf_counter() - started:.1f} s: "
            f"cameras {', '.join(self._policy.cameras)}, tokens per camera {self._budget.tokens}"
        )
        self._streams = Streams(self, self._policy.cameras, settings)
        self._points_publisher = self.create_publisher(MarkerArray, "sampled_points", qos.COMMAND)
        self._overlay_publishers = {
            name: self.create_publisher(Image, f"overlay/{name}/image_raw", qos.NEWEST) for name in self._policy.cameras
        }
        self._heard = self.create_subscription(String, "instruction", self._on_instruction, qos.LATCHED)

    def change(self, name: str, value: object) -> None:
        """`tokens`: the inference that is under way ends as it began."""
        budget = self._token_budget(value)
        with self._lock:
            self._budget = budget

    def _token_budget(self, tokens: int | str) -> TokenBudget:
        """Of the parameter: a number alone, 0 for the largest, or AUTO. Raises CheckpointError for an untrained one."""
        budgets = self._policy.budgets
        if tokens != AUTO:
            budgets = (tokens or budgets[-1],)
            self._policy.check_tokens(*budgets)
        return TokenBudget(budgets, 1.0 / self.settings["rate_hz"])

    def cleanup(self) -> None:
        kept = self.__dict__
        for publisher in (kept.pop("_points_publisher", None), *kept.pop("_overlay_publishers", {}).values()):
            if publisher is not None:
                self.destroy_publisher(publisher)
        if "_heard" in kept:
            self.destroy_subscription(kept.pop("_heard"))
        if "_streams" in kept:
            kept.pop("_streams").destroy()
        kept.pop("_policy", None)
        kept.pop("_budget", None)
        gc.collect()  # CUDA graphs and their engine hold each other: the next model would be loaded beside this one
        self._instruction = ""

    def activate(self) -> None:
        if self._lingers():
            raise OSError("the inference from before still has not ended: end this process")
        self._start_over()
        gc.collect()
        # Not before: the follower refuses the chunks of two policies, and takes whoever may publish them for one.
        self._chunk_publisher = self.create_publisher(MultiDOFJointTrajectory, "action_chunk", qos.CHUNK)
        self._gripper_publisher = self.create_publisher(JointTrajectory, "gripper_chunk", qos.CHUNK)
        gc.freeze()  # the model and the libraries stay: no later collection looks through them during an inference
        self._worker = Worker(self._infer, "inference")
        self._active = True
        self._ticking = [
            self.create_timer(1.0 / self.settings["rate_hz"], self._tick, clock=STEADY),
            self.create_timer(KEEP_UP_S, self._streams.keep_up, clock=STEADY),
        ]

    def deactivate(self) -> None:
        """Publish no more. An inference that never ends cannot be taken back, so nothing waits for it for long."""
        for timer in self._ticking:
            self.destroy_timer(timer)
        with self._lock:
            self._active = False  # from here on nothing is published, whatever is still being computed
        if not self._worker.stop(PATIENCE_S):
            self.get_logger().error(f"the inference under way has not ended within {PATIENCE_S:g} s")
            self._lingering = self._worker
        self._worker, self._ticking = None, []
        for publisher in (self._chunk_publisher, self._gripper_publisher):
            self.destroy_publisher(publisher)
        gc.unfreeze()

    def close(self) -> None:
        """End the inference thread, for the process ends."""
        if self._worker is not None:
            self.deactivate()
        self.stuck = self._lingers()

    def _lingers(self) -> bool:
        return self._lingering is not None and self._lingering.alive

    def _on_instruction(self, message: String) -> None:
        """The very next chunk obeys it: a chunk being computed for the last instruction is dropped."""
        with self._lock:
            if message.data.strip() != self._instruction:
                self._instruction = message.data.strip()
                self._generation += 1

    def _tick(self) -> None:
        try:
            free = self._worker.offer()
        except Exception as error:  # a bug, not bad input: the process ends with its traceback
            self.diagnostics.update(ERROR, f"inference failed: {type(error).__name__}: {error}")
            raise
        if not free:
            self._deadline_misses += 1
            busy_s = time.perf_counter() - self._begun_s
            if busy_s * self.settings["rate_hz"] > STALLED:
                self._report(self._generation, WARN, f"no chunk: the inference has not ended for {busy_s:.1f} s")

    def _infer(self) -> None:
        """One inference, in the worker's thread."""
        begun = self._begun_s = time.perf_counter()
        with self._lock:
            instruction, generation, budget = self._instruction, self._generation, self._budget
        if budget.tokens != self._policy.tokens_per_camera:
            self._policy.use_tokens(budget.tokens)
        if generation != self._planned_generation:  # what was planned for another instruction does not go on
            self._continuity.forget()
            self._planned_generation = generation
        now_ns = self.get_clock().now().nanoseconds
        try:
            observation = self._streams.observe(instruction, now_ns)
            if observation.stamp_ns == self._last_stamp_ns:  # the follower would refuse the chunk
                self._wait_for_images(generation, begun)
                return
            started = time.perf_counter()
            continuation = None
            if self.settings["join"] == "rtc":
                continuation = self._continuity.at(observation, self._streams.held())
            output = self._policy.infer(observation, continuation=continuation)
            latency_s = time.perf_counter() - started
        except (NotReady, InputError) as error:
            self._report(generation, WARN, f"no chunk: {error}")
            return
        self._latencies.add(latency_s)
        self._ages.add((now_ns - observation.stamp_ns) / NANOSECONDS)
        if self._publish_chunk(output, generation):
            self._overheads.add(time.perf_counter() - begun - output.latency_s.get("model", latency_s))
            self._report(generation, OK, "publishing chunks")
            self._show(observation, output)
        self._account(budget, time.perf_counter() - begun)

    def _wait_for_images(self, generation: int, now: float) -> None:
        """A camera is slower than the policy, or the clock stands still: no fault, unless it lasts."""
        waited_s = now - self._last_chunk
        if waited_s * self.settings["rate_hz"] > STALLED:
            self._report(generation, WARN, f"no chunk: for {waited_s:.1f} s no newer image of every camera")

    def _account(self, budget: TokenBudget, busy_s: float) -> None:
        """What the inference took in all, for the number of tokens of the next."""
        before = budget.tokens
        budget.add(busy_s)
        if budget.tokens != before:
            self.get_logger().info(f"tokens per camera {budget.tokens}: {budget.reason}")

    def _report(self, generation: int, level: bytes, message: str) -> None:
        with self._lock:
            current = self._active and generation == self._generation
        if current:
            self.diagnostics.update(level, message)

    def _publish_chunk(self, output: PolicyOutput, generation: int) -> bool:
        """False when the chunk was dropped: the instruction changed, or the node was deactivated, meanwhile."""
        base, tool = self.settings["base_frame"], self.settings["tool_frame"]
        poses, gripper = poses_to_bytes(output.chunk, base, tool), gripper_to_bytes(output.chunk, base)
        with self._lock:
            if not self._active:
                return False
            if generation != self._generation:
                self._dropped += 1
                return False
            self._gripper_publisher.publish(gripper)
            self._chunk_publisher.publish(poses)
        self._continuity.arrived(output.chunk, self.get_clock().now().nanoseconds)
        now = time.perf_counter()
        if self._last_chunk is not None:
            self._periods.add(now - self._last_chunk)
        self._last_chunk, self._last_stamp_ns = now, output.chunk.stamp_ns
        self._published += 1
        return True

    def _show(self, observation: Observation, output: PolicyOutput) -> None:
        """What RViz and the overlay's viewers see."""
        streams, stamp_ns = self._streams, observation.stamp_ns
        shown = [markers.chunk_path(output.chunk, self.settings["base_frame"])]
        for index, (name, coordinates) in enumerate(output.coordinates.items()):
            frame, info = streams.frames[name], streams.info(name)
            shown.append(markers.sampled_points(index, name, coordinates, frame, stamp_ns, info))
        self._points_publisher.publish(MarkerArray(markers=shown))
        for name, publisher in self._overlay_publishers.items():
            if publisher.get_subscription_count() > 0 and name in output.coordinates:
                image = observation.images[name]
                drawn = overlay.draw(image, output.coordinates[name], caption=observation.instruction)
                publisher.publish(conversions.from_rgb(drawn, streams.frames[name], stamp_ns))

    def diagnostic_values(self) -> dict[str, object]:
        period, delay_s = self._periods.mean(), self._continuity.delay_s
        policy, budget = self.__dict__.get("_policy"), self.__dict__.get("_budget")
        return {
            "instruction": self._instruction,
            "tokens_per_camera": policy.tokens_per_camera if policy is not None else "not loaded",
            "tokens_reason": budget.reason if budget is not None else "not loaded",
            "rate_hz": 1.0 / period if period > 0.0 else 0.0,
            **self._latencies.percentiles("inference_ms", 1e3),
            **self._overheads.percentiles("overhead_ms", 1e3),
            **self._ages.percentiles("observation_age_ms", 1e3),
            "observation_to_chunk_ms": 1e3 * delay_s if delay_s is not None else "not measured",
            "deadline_misses": self._deadline_misses,
            "chunks_published": self._published,
            "chunks_dropped": self._dropped,
        }


def main(args=None) -> int:
    """Entry point."""
    sys.setswitchinterval(SWITCH_S)  # inference never waits long for the executor's callbacks
    return run(PolicyNode, args)


if __name__ == "__main__":
    sys.exit(main())

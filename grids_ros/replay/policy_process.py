"""The policies of a replay, in a process of their own: whatever else there is to do is done while they infer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection
from typing import NoReturn

from grids_ros.control.continuity import Continuation
from grids_ros.datatypes import Observation, PolicyOutput
from grids_ros.interruption import shielded
from grids_ros.parameters import PolicyParameters
from grids_ros.policy.errors import CheckpointError, InputError
from grids_ros.policy.joints import RobotModel
from grids_ros.replay.variants import DENSE, Variant


@dataclass(frozen=True, eq=False)
class InferenceRequest:
    """What one policy is asked about an observation.

    other: another instruction to try on the same frame, or "". continuation: what the chunk goes on from.
    """

    other: str = ""
    continuation: Continuation | None = None


@dataclass(frozen=True, eq=False)
class InferenceReply:
    """What one policy inferred from an observation.

    output: None where `refused` says why there is none. other: for the same frame under another instruction, if that
    was asked for and the policy takes it.
    """

    output: PolicyOutput | None
    refused: str = ""
    other: PolicyOutput | None = None

    @property
    def seconds(self) -> float:
        """What the model took, by its own clock [s]."""
        return sum(output.latency_s["total"] for output in (self.output, self.other) if output is not None)


class PolicyProcess:
    """Policies by label, asked about one observation at a time. A context manager.

    cameras: of all of them. instructions: label to those that it was trained with. joints: label to those that it
    speaks, none for tool poses.
    """

    def __init__(
        self,
        variants: Sequence[Variant],
        settings: PolicyParameters,
        threads: int,
        robot: RobotModel | None = None,
    ):
        """settings: the policy node's parameters. threads: of torch, 0 for its own choice. robot: for policies of
        joints; None where it is not known.

        Raises CheckpointError for a policy that cannot be loaded.
        """
        self._labels = [variant.label for variant in variants]
        context = get_context("forkserver")  # not "fork", which copies a process in the middle of its threads' work
        context.set_forkserver_preload(["grids_ros.policy.runtime"])  # once, for any number of bags in this process
        self._connection, remote = context.Pipe()
        arguments = (remote, tuple(variants), settings, threads, robot)
        self._process = context.Process(target=_serve, args=arguments, name="policies", daemon=True)
        with shielded():  # this process gets the interruption, once the other has what it begins with
            forkserver.ensure_running()
            self._process.start()
        remote.close()  # so that the end of the process is the end of the connection
        first = self._receive()
        if isinstance(first, CheckpointError):
            self.__exit__()
            raise first
        self.cameras, self.instructions, self.joints = first
        self._pending = False

    def __enter__(self) -> PolicyProcess:
        return self

    def __exit__(self, *_) -> None:
        self._connection.close()
        self._process.join()

    def submit(self, observation: Observation, requests: Mapping[str, InferenceRequest]) -> None:
        """Begin to infer. requests: by label of each policy to ask.

        Raises CheckpointError when the process has ended.
        """
        try:
            self._connection.send((observation, dict(requests)))
        except ConnectionError:
            self._ended()
        self._pending = True

    def replies(self) -> dict[str, InferenceReply]:
        """The replies to the last requests, by label, once; waits for them. Empty where nothing was requested.

        Raises CheckpointError when the process has ended.
        """
        asked, self._pending = self._pending, False
        return self._receive() if asked else {}

    def _receive(self):
        try:
            return self._connection.recv()
        except (EOFError, ConnectionError):
            self._ended()

    def _ended(self) -> NoReturn:
        self._process.join()
        how = f"ended with {self._process.exitcode}, which is -9 when memory has run out"
        raise CheckpointError(f"the process of {', '.join(self._labels)} {how}") from None


def _serve(
    connection: Connection,
    variants: Sequence[Variant],
    settings: PolicyParameters,
    threads: int,
    robot: RobotModel | None,
) -> None:
    import torch

    if threads:
        torch.set_num_threads(threads)
    try:
        loaded = {variant.label: load(variant, settings, robot) for variant in variants}
        for policy, _ in loaded.values():
            policy.warm_up()
    except CheckpointError as error:
        connection.send(error)
        return
    cameras = tuple(dict.fromkeys(name for policy, _ in loaded.values() for name in policy.cameras))
    joints = {label: policy.joints for label, (policy, _) in loaded.items()}
    with suppress(EOFError, ConnectionError):  # until the other process closes the connection
        connection.send((cameras, {label: words for label, (_, words) in loaded.items()}, joints))
        while True:
            observation, asked = connection.recv()
            connection.send({label: _infer(loaded[label][0], observation, request) for label, request in asked.items()})


def load(variant: Variant, settings: PolicyParameters, robot: RobotModel | None = None):
    """The Policy, and the instructions that it was trained with. Raises CheckpointError.

    A number of tokens must be one that the checkpoint was trained with; "dense" takes the sampler off.
    """
    from grids_ros.policy.runtime import Policy

    tokens = int(variant.tokens) if variant.tokens not in ("", DENSE) else None
    steps = variant.steps or settings.denoising_steps or None
    dense, precision = variant.tokens == DENSE, variant.precision or settings.precision
    policy = Policy.load(variant.folder, settings.device, tokens, steps, dense, robot, precision)
    return policy, policy.instructions


def _infer(policy, observation: Observation, request: InferenceRequest) -> InferenceReply:
    try:
        output = policy.infer(observation, continuation=request.continuation)
    except InputError as error:
        return InferenceReply(None, str(error))
    if not request.other:
        return InferenceReply(output)
    try:
        return InferenceReply(output, other=policy.infer(replace(observation, instruction=request.other)))
    except InputError:
        return InferenceReply(output)

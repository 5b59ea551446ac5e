"""The policies of a replay, in a process of their own: whatever else there is to do is done while they infer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import NoReturn

from grids_ros.datatypes import Observation, PolicyOutput
from grids_ros.policy.errors import CheckpointError, InputError
from grids_ros.replay.variants import DENSE, Variant


@dataclass(frozen=True, eq=False)
class Answer:
    """What one policy said to an observation.

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


class Policies:
    """Policies by label, asked about one observation at a time. A context manager.

    cameras: of all of them. instructions: label to those that it was trained with.
    """

    def __init__(self, variants: Sequence[Variant], settings: Mapping[str, object], threads: int):
        """settings: the policy node's parameters. threads: of torch, 0 for its own choice.

        Raises CheckpointError for a policy that cannot be loaded.
        """
        self._labels = [variant.label for variant in variants]
        context = get_context("forkserver")  # not "fork", which copies a process in the middle of its threads' work
        context.set_forkserver_preload(["grids_ros.policy.runtime"])  # once, for any number of bags in this process
        self._line, theirs = context.Pipe()
        arguments = (theirs, tuple(variants), dict(settings), threads)
        self._process = context.Process(target=_serve, args=arguments, name="policies", daemon=True)
        self._process.start()
        theirs.close()  # so that the end of the process is the end of the line
        said = self._hear()
        if isinstance(said, CheckpointError):
            self.__exit__()
            raise said
        self.cameras, self.instructions = said
        self._asked = False

    def __enter__(self) -> Policies:
        return self

    def __exit__(self, *_) -> None:
        self._line.close()
        self._process.join()

    def ask(self, observation: Observation, words: Mapping[str, str]) -> None:
        """Begin to infer. words: label of each policy to ask, to another instruction to try, or "".

        Raises CheckpointError when the process has ended.
        """
        try:
            self._line.send((observation, dict(words)))
        except ConnectionError:
            self._ended()
        self._asked = True

    def answers(self) -> dict[str, Answer]:
        """What came of the last question, by label, once; waits for it. Empty where nothing was asked.

        Raises CheckpointError when the process has ended.
        """
        asked, self._asked = self._asked, False
        return self._hear() if asked else {}

    def _hear(self):
        try:
            return self._line.recv()
        except (EOFError, ConnectionError):
            self._ended()

    def _ended(self) -> NoReturn:
        self._process.join()
        how = f"ended with {self._process.exitcode}, which is -9 when memory has run out"
        raise CheckpointError(f"the process of {', '.join(self._labels)} {how}") from None


def _serve(line: Connection, variants: Sequence[Variant], settings: Mapping[str, object], threads: int) -> None:
    import signal

    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process hears it too, and hangs up
    if threads:
        torch.set_num_threads(threads)
    try:
        loaded = {variant.label: load(variant, settings) for variant in variants}
        for policy, _ in loaded.values():
            policy.warm_up()
    except CheckpointError as error:
        line.send(error)
        return
    cameras = tuple(dict.fromkeys(name for policy, _ in loaded.values() for name in policy.cameras))
    line.send((cameras, {label: words for label, (_, words) in loaded.items()}))
    with suppress(EOFError, ConnectionError):  # until the other process hangs up
        while True:
            observation, words = line.recv()
            line.send({label: _answer(loaded[label][0], observation, other) for label, other in words.items()})


def load(variant: Variant, settings: Mapping[str, object]):
    """The Policy, and the instructions that it was trained with. Raises CheckpointError.

    A number of tokens must be one that the checkpoint was trained with; "dense" takes the sampler off.
    """
    from grids_ros.policy.runtime import Policy

    tokens = int(variant.tokens) if variant.tokens not in ("", DENSE) else None
    steps = variant.steps or settings["denoising_steps"] or None
    policy = Policy.load(variant.folder, settings["device"], tokens, steps, settings["merge"], variant.tokens == DENSE)
    return policy, policy.instructions


def _answer(policy, observation: Observation, other: str) -> Answer:
    try:
        output = policy.infer(observation)
    except InputError as error:
        return Answer(None, str(error))
    if not other:
        return Answer(output)
    try:
        return Answer(output, other=policy.infer(replace(observation, instruction=other)))
    except InputError:
        return Answer(output)

"""Many independent pieces of work: in processes of this machine, or on a Ray cluster.

Bags to score, episodes to evaluate, cells of a study: each piece is a function call whose arguments and result travel
between processes. Results come as they are ready. A piece whose worker is lost is done again by another one.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from typing import Any, Generic, TypeVar

from grids_ros.interruption import shielded

Piece = TypeVar("Piece")
Result = TypeVar("Result")


class ClusterError(Exception):
    """The cluster cannot be used; the message is for the user."""


class WorkerLost(RuntimeError):
    """A piece whose workers died as often as it was tried: it may be what kills them."""


@dataclass(frozen=True)
class Workers:
    """Who does the work.

    count: processes at most. cluster: address of a Ray cluster, "auto" for the one that this machine belongs to, or ""
    for processes of this machine. prepare, arguments: called once in each process before its first piece. attempts:
    how often a piece is begun before its loss is an error.
    """

    count: int
    cluster: str = ""
    prepare: Callable[..., None] | None = None
    arguments: tuple = ()
    attempts: int = 3


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What came of the piece with this index: a result, or the exception that it raised."""

    index: int
    result: Result | None
    error: BaseException | None = None

    def value(self) -> Result:
        """The result. Raises what the piece raised."""
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]


def outcomes(work: Callable[[Piece], Result], pieces: Sequence[Piece], workers: Workers) -> Iterator[Outcome[Result]]:
    """Every piece's outcome, in the order in which they are ready. work: a function of a module.

    Leaving the loop early, an interruption included, ends the workers. Raises ClusterError before the work.
    """
    if not pieces:
        return iter(())
    return _on_cluster(work, pieces, workers) if workers.cluster else _on_this_machine(work, pieces, workers)


class _Attempts:
    """Which pieces are still to be begun, and how often each was."""

    def __init__(self, count: int, most: int):
        self._most = most
        self.waiting = deque(range(count))
        self._begun = [0] * count

    def begin(self) -> int:
        index = self.waiting.popleft()
        self._begun[index] += 1
        return index

    def put_back(self, index: int) -> None:
        """The piece that was begun last has not been."""
        self._begun[index] -= 1
        self.waiting.appendleft(index)

    def lost(self, index: int) -> Outcome | None:
        """The piece waits again, or this is its outcome."""
        if self._begun[index] < self._most:
            self.waiting.append(index)
            return None
        return Outcome(index, None, WorkerLost(f"piece {index}: its worker ended {self._begun[index]} times"))


# Processes of this machine


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, killed for example, whatever it works on."""

    def follow() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _begin(prepare: Callable[..., None] | None, arguments: tuple) -> None:
    end_with_parent()
    if prepare:
        prepare(*arguments)


def _on_this_machine(work: Callable, pieces: Sequence, workers: Workers) -> Iterator[Outcome]:
    """A broken pool is replaced; of the pieces that were in it, none counts as done."""
    attempts = _Attempts(len(pieces), workers.attempts)
    count = min(workers.count, len(pieces))
    executor = _pool(count, workers)
    running: dict = {}
    try:
        while attempts.waiting or running:
            broken = False
            while attempts.waiting and len(running) < count and not broken:  # what waits was never begun
                index = attempts.begin()
                try:
                    with shielded():
                        running[executor.submit(work, pieces[index])] = index
                except BrokenProcessPool:  # since the last outcome
                    attempts.put_back(index)
                    broken = True
            done = () if broken else wait(running, return_when=FIRST_COMPLETED).done
            for future in done:
                index = running.pop(future)
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    broken = True
                    outcome = attempts.lost(index)
                else:
                    outcome = Outcome(index, None, error) if error else Outcome(index, future.result())
                if outcome:
                    yield outcome
            if broken:
                yield from filter(None, [attempts.lost(index) for index in running.values()])
                running = {}
                executor.shutdown(wait=False, cancel_futures=True)
                executor = _pool(count, workers)
    finally:
        _end(executor, running)


def _pool(count: int, workers: Workers) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(count, get_context("spawn"), _begin, (workers.prepare, workers.arguments))


def _end(executor: ProcessPoolExecutor, running: dict[Future, int]) -> None:
    """At once where something still runs: nobody waits for its result."""
    if running:
        for process in list((executor._processes or {}).values()):
            process.kill()  # before the shutdown takes away what one that still starts looks for
    executor.shutdown(wait=not running, cancel_futures=True)


# A Ray cluster


def _on_cluster(work: Callable, pieces: Sequence, workers: Workers) -> Iterator[Outcome]:
    """One actor for each worker; Ray puts them where processors are free.

    Every node needs this package, and the files of the pieces under the same paths.
    """
    try:
        import ray
        from ray.exceptions import RayActorError, RayError
    except ImportError as error:
        raise ClusterError("a cluster needs Ray: pip install 'grids_ros[cluster]'") from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "ignore_reinit_error": True}
    if workers.cluster != "auto":
        host = _reachable(workers.cluster)
        if host in ("127.0.0.1", "localhost"):  # or Ray would look for this machine at its outer address
            options["_node_ip_address"] = "127.0.0.1"
    try:
        ray.init(address=workers.cluster, **options)
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        raise ClusterError(f"no Ray cluster at {workers.cluster!r}: {str(error).splitlines()[0]}") from error
    return _run_on_ray(ray, RayActorError, work, pieces, workers)


def _reachable(address: str) -> str:
    """The host of an address. Raises ClusterError at once where nothing listens: Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except (OSError, ValueError) as error:
        raise ClusterError(f"no Ray cluster at {address!r}, expected HOST:PORT: {error}") from error
    return host


def _run_on_ray(
    ray: Any, lost: type[Exception], work: Callable, pieces: Sequence, workers: Workers
) -> Iterator[Outcome]:
    @ray.remote(num_cpus=1, max_restarts=0)
    class Actor:
        def __init__(self, prepare: Callable[..., None] | None, arguments: tuple):
            if prepare:
                prepare(*arguments)

        def run(self, work: Callable, piece: object) -> object:
            try:
                return True, work(piece)
            except Exception as error:  # noqa: BLE001 - travels to the caller, which raises it
                return False, error

    attempts = _Attempts(len(pieces), workers.attempts)
    running: dict = {}
    actors: Any = Actor  # decorated by Ray
    idle = [actors.remote(workers.prepare, workers.arguments) for _ in range(min(workers.count, len(pieces)))]
    try:
        while attempts.waiting or running:
            while attempts.waiting and idle:
                index, actor = attempts.begin(), idle.pop()
                running[actor.run.remote(work, pieces[index])] = index, actor
            (ready, *_), _ = ray.wait(list(running), num_returns=1)
            index, actor = running.pop(ready)
            try:
                succeeded, value = ray.get(ready)
                outcome: Outcome | None = Outcome(index, value) if succeeded else Outcome(index, None, value)
            except lost:
                outcome = attempts.lost(index)
                actor = actors.remote(workers.prepare, workers.arguments)
            idle.append(actor)
            if outcome:
                yield outcome
    finally:
        for actor in [*idle, *(actor for _, actor in running.values())]:
            ray.kill(actor)
        ray.shutdown()

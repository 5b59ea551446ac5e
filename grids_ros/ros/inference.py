"""One thread that does one job at a time; no queue, so that nothing ever runs late."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Task = TypeVar("Task")


class InferenceThread(Generic[Task]):
    """Runs `job` in its own thread, once for each task that `offer` accepts.

    What the job raises waits for `failure`, in the caller's thread; the next task is run all the same.
    """

    def __init__(self, job: Callable[[Task], None], name: str):
        self._job = job
        self._wake = threading.Condition()
        self._tasks: list[Task] = []  # none or one
        self._stopping = self._busy = False
        self._failure: tuple[Task, BaseException] | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """Whether the next `offer` will be accepted, if nobody else offers anything."""
        with self._wake:
            return not (self._tasks or self._busy)

    def offer(self, task: Task) -> bool:
        """Run the job for `task`; False when the last one has not ended."""
        with self._wake:
            if self._tasks or self._busy:
                return False
            self._tasks.append(task)
            self._wake.notify()
            return True

    def failure(self) -> tuple[Task, BaseException] | None:
        """The task whose job raised last, and what it raised; once."""
        with self._wake:
            failure, self._failure = self._failure, None
        return failure

    def stop(self, timeout_s: float) -> bool:
        """End the thread after the run that is under way; False when that has not ended within `timeout_s`."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout_s)
        return not self.alive

    @property
    def alive(self) -> bool:
        """Whether the thread has not ended."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._busy = False
                self._wake.wait_for(lambda: self._tasks or self._stopping)
                if self._stopping:
                    return
                task, self._busy = self._tasks.pop(), True
            try:
                self._job(task)
            except BaseException as error:  # noqa: BLE001 - handed over
                with self._wake:
                    self._failure = task, error

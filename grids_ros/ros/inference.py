"""One thread that does one job at a time, when asked; no queue, so that nothing ever runs late."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Worker:
    """Runs `job` in its own thread each time that `offer` is accepted.

    An exception from the job ends the thread and is raised again by the next `offer`, in the caller's thread.
    """

    def __init__(self, job: Callable[[], None], name: str):
        self._job = job
        self._wake = threading.Condition()
        self._wanted = self._stopping = self._busy = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def offer(self) -> bool:
        """Ask for one run of the job; False when the last one has not ended. Raises what the job raised."""
        with self._wake:
            if self._error is not None:
                raise self._error
            if self._wanted or self._busy:
                return False
            self._wanted = True
            self._wake.notify()
            return True

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
                self._wake.wait_for(lambda: self._wanted or self._stopping)
                if self._stopping:
                    return
                self._wanted, self._busy = False, True
            try:
                self._job()
            except BaseException as error:  # noqa: BLE001 - handed over to `offer`, which raises it
                with self._wake:
                    self._error = error
                return

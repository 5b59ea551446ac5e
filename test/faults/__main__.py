"""Inject every fault of the table and print what the stream of targets did: `make faults`.

    python -m faults                 all of them; writes docs/faults.md
    python -m faults --quick         those of `make test`
    python -m faults pose clock      of these kinds
    python -m faults "chunk: NaN"    whose name begins so

Exit code 1 if a row is beyond a limit, does not hold, does not go on, or keeps its reason to itself.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults.injections import Fault
from faults.measure import extremes
from faults.page import HEAD, page, row
from faults.processes import PROCESSES
from faults.rig import ROOT, Rig
from faults.run import Outcome, run
from faults.system import System
from faults.table import FAULTS
from grids_ros.ros.shutdown import SIGNALS

EVERY = (*FAULTS, *PROCESSES)
PAGE = ROOT / "docs" / "faults.md"


def chosen(words: list[str]) -> list[Fault]:
    """The faults that the command line names. Raises SystemExit for a word that names none."""
    quick, words = "--quick" in words, [word for word in words if word != "--quick"]
    faults = [fault for fault in EVERY if not quick or fault.quick]
    unknown = [word for word in words if not any(_matches(fault, word) for fault in EVERY)]
    if unknown:
        kinds = ", ".join(sorted({fault.kind for fault in EVERY}))
        raise SystemExit(f"no fault is called {', '.join(unknown)}; kinds: {kinds}")
    return [fault for fault in faults if not words or any(_matches(fault, word) for word in words)]


def _matches(fault: Fault, word: str) -> bool:
    return fault.kind == word or f"{fault.kind}: {fault.name}".startswith(word)


def drive(make: Callable[[Path], Rig], faults: list[Fault], log: Path) -> list[Outcome]:
    """Every fault in turn; one bring-up serves until a process ends."""
    if not faults:
        return []
    rig, outcomes = make(log), []
    try:
        for fault in faults:
            outcomes.append(_outcome(rig, fault))
            print(row(outcomes[-1]), flush=True)
    finally:
        rig.close()
    return outcomes


def _outcome(rig: Rig, fault: Fault) -> Outcome:
    """A process that does not start, or a driver that waits in vain, is a problem of the row."""
    try:
        return run(rig, fault)
    except TimeoutError as error:
        return Outcome(fault, 0.0, extremes([]), None, None, "", (str(error),))


def main(words: list[str]) -> int:
    faults = chosen(words)
    for number in SIGNALS:  # a background job and what it starts may ignore them
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    log = Path(tempfile.gettempdir()) / f"faults-{os.getpid()}.log"
    print(f"{len(faults)} faults; the follower's log: {log}\n{HEAD}", flush=True)
    outcomes = drive(Rig, [fault for fault in faults if fault not in PROCESSES], log)
    outcomes += drive(System, [fault for fault in faults if fault in PROCESSES], log)
    failed = [outcome for outcome in outcomes if outcome.problems]
    print(f"{len(outcomes)} faults, {len(failed)} with a problem")
    if len(faults) == len(EVERY):
        PAGE.write_text(page(outcomes))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

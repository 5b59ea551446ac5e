"""The work of the table: `train` and `evaluate` as processes, and a JSON file for each that is done.

DIR/table.json                        the settings and the plan
DIR/VARIANT-SEED/                     a checkpoint; training.json once it is complete
DIR/cells/VARIANT-SEED-TASK-KIND.json
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tqdm import tqdm

from grids_ros.files import write_whole
from grids_ros.pieces import Workers, outcomes
from grids_ros.train.__main__ import LOG
from grids_ros.train.options import STATE, restore_state
from research.comparison.plan import VARIANTS, Cell, Plan, Settings, Training
from research.comparison.scenes import SCENES


class TableError(Exception):
    """The table cannot be made, or gone on with; says why."""


@dataclass(frozen=True)
class Machine:
    """How much of it is used: workers of an evaluation, threads of a training."""

    workers: int
    threads: int

    def facts(self) -> dict:
        return {**asdict(self), "cores": os.cpu_count()}


def training_file(folder: Path, training: Training) -> Path:
    return folder / training.name / "training.json"


def cell_file(folder: Path, cell: Cell) -> Path:
    return folder / "cells" / f"{cell.name}.json"


def read_plan(folder: Path) -> tuple[Settings, Plan]:
    """What table.json says. Raises TableError when there is none."""
    path = folder / "table.json"
    if not path.exists():
        raise TableError(f"there is no {path}: no table was begun in {folder}")
    values = json.loads(path.read_text())
    settings, plan = values["settings"], values["plan"]
    settings["data"] = tuple(settings["data"])
    return Settings(**settings), Plan(**{k: tuple(v) if isinstance(v, list) else v for k, v in plan.items()})


def begin(folder: Path, settings: Settings, plan: Plan) -> None:
    """Write table.json; a plan that is there already grows, and the number of episodes where scenes allow it.

    Raises TableError when its settings are others.
    """
    if (folder / "table.json").exists():
        earlier, known = read_plan(folder)
        if SCENES[settings.scenes].grows:
            most = max(settings.episodes, earlier.episodes)
            settings, earlier = replace(settings, episodes=most), replace(earlier, episodes=most)
        for name, value in asdict(settings).items():
            if value != asdict(earlier)[name]:
                raise TableError(
                    f"{folder} was begun with {name} {asdict(earlier)[name]}, not {value}: take another --out"
                )
        plan = known.with_all_of(plan, max(plan.seeds, known.seeds))
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    values = {"settings": asdict(settings), "plan": asdict(plan)}
    write_whole(folder / "table.json", json.dumps(values, indent=2) + "\n")


@contextmanager
def alone(folder: Path) -> Iterator[int]:
    """A lock on the folder, as a file descriptor; who inherits it holds it too, after this process was killed as well.

    Raises TableError when it is held already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TableError(f"another process still works on {folder}") from error
        yield file.fileno()


class Work:
    """All of a plan that is not done yet, to be cut off at any time and begun again.

    One job after the other, or on a Ray cluster many at once: first the trainings, then the cells.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        bags: Sequence[Path],
        start: Path | None,
        machine: Machine,
        cluster: str = "",
    ):
        """cluster: its address; its nodes have folder, bags and start under the same paths."""
        self._folder, self._settings, self._machine = folder, settings, machine
        self._bags, self._start, self._cluster = bags, start, cluster

    def run(self, plan: Plan) -> None:
        """Raises TableError when another process is at it, or a job fails."""
        with alone(self._folder) as lock:
            begin(self._folder, self._settings, plan)
            jobs = list(plan.jobs())
            todo = [job for job in jobs if not self._done(job)]
            with tqdm(total=len(jobs), initial=len(jobs) - len(todo), desc="table", unit="job") as bar:
                for job, facts in self._together(todo) if self._cluster else self._in_turn(todo, lock, bar):
                    write_whole(self._file(job), json.dumps(facts, indent=2) + "\n")
                    bar.update()

    def _in_turn(self, todo: Sequence[Training | Cell], lock: int, bar: tqdm) -> Iterator[tuple[Training | Cell, dict]]:
        for job in todo:
            bar.set_postfix_str(job.name)
            yield job, self.do(job, (lock,))

    def _together(self, todo: Sequence[Training | Cell]) -> Iterator[tuple[Training | Cell, dict]]:
        """A job that fails ends the others of its kind. Raises TableError."""
        for kind in (Training, Cell):
            jobs = [job for job in todo if isinstance(job, kind)]
            workers = Workers(len(jobs), self._cluster)
            for outcome in outcomes(_do, [(self, job) for job in jobs], workers):
                yield jobs[outcome.index], outcome.value()

    def do(self, job: Training | Cell, inherited: tuple[int, ...] = ()) -> dict:
        """What there is to know of a job once it is done. inherited: file descriptors. Raises TableError."""
        return self._train(job, inherited) if isinstance(job, Training) else self._evaluate(job, inherited)

    def _done(self, job: Training | Cell) -> bool:
        """Whether all of it is there: of a cell, as many episodes as are asked for."""
        if not self._file(job).exists():
            return False
        return isinstance(job, Training) or self._episodes(job) >= self._settings.episodes

    def _episodes(self, cell: Cell) -> int:
        return SCENES[self._settings.scenes].episodes_of(json.loads(self._file(cell).read_text()))

    def _file(self, job: Training | Cell) -> Path:
        return (training_file if isinstance(job, Training) else cell_file)(self._folder, job)

    def _train(self, training: Training, inherited: tuple[int, ...]) -> dict:
        out, settings = self._folder / training.name, self._settings
        out.mkdir(exist_ok=True)
        restore_state(out)
        command = ["train", *map(str, self._bags), "--out", str(out), *VARIANTS[training.variant]]
        command += ["--seed", str(training.seed), "--steps", str(settings.steps), "--batch", str(settings.batch)]
        command += ["--threads", str(self._machine.threads)]
        command += ["--start", str(self._start)] if self._start else []
        if (out / STATE).exists():
            command.append("--resume")
        else:
            (out / LOG).unlink(missing_ok=True)  # of a run that was killed before it saved anything
        call(command, out / "train.log", inherited)
        facts = json.loads((out / "provenance.json").read_text())
        kept = {name: facts[name] for name in ("data", "stages", "steps", "parameters", "diagnosis", "versions")}
        took = {"wall_clock_s": seconds_of(out / LOG), **self._machine.facts()}
        return {**asdict(training), "batch": settings.batch, "start": facts.get("start"), **took, **kept}

    def _evaluate(self, cell: Cell, inherited: tuple[int, ...]) -> dict:
        folder, settings = self._folder / cell.training.name, self._settings
        scenes, started = SCENES[settings.scenes], time.monotonic()
        known = self._file(cell)
        before = json.loads(known.read_text())["wall_clock_s"] if known.exists() else 0.0  # of fewer episodes
        command = scenes.command(settings, cell, folder, self._machine.workers)
        summary = scenes.facts(json.loads(call(command, folder / "evaluate.log", inherited).splitlines()[-1]))
        trained = json.loads(training_file(self._folder, cell.training).read_text())
        names = ("variant", "seed", "steps", "batch", "wall_clock_s", "threads", "cores")
        took = {"wall_clock_s": round(before + time.monotonic() - started, 1), **self._machine.facts()}
        return {"training": {name: trained[name] for name in names}, **took, **summary}


def _do(piece: tuple[Work, Training | Cell]) -> dict:
    work, job = piece
    return work.do(job)


def _end_with_the_parent() -> None:
    """Of a process that was just forked: it is killed when its parent dies, as a lost worker does. Linux alone."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def call(arguments: Sequence[str], log: Path, inherited: tuple[int, ...] = ()) -> str:
    """What `python -m research ...` printed; its errors and progress go to `log`. It ends when this process does.

    Raises TableError with the end of the log when it fails.
    """
    command = [sys.executable, "-m", "research", *arguments]
    with open(log, "a") as errors:
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
            pass_fds=inherited,
            preexec_fn=_end_with_the_parent,
        )
        try:
            printed, _ = child.communicate()
        finally:
            if child.returncode is None:
                os.killpg(child.pid, signal.SIGKILL)  # with the processes that it started
                child.wait()
    if child.returncode:
        said = "\n".join(log.read_text().splitlines()[-5:])
        raise TableError(f"{' '.join(command)}\nended with {child.returncode}, {log}:\n{said}")
    return printed


def seconds_of(log: Path) -> float:
    """Wall-clock of a training's steps [s], over all its runs: the log counts from 0 in each of them."""
    total = before = 0.0
    for line in log.read_text().splitlines():
        seconds = json.loads(line)["seconds"]
        total += seconds - before if seconds >= before else seconds
        before = seconds
    return round(total, 1)

"""Pieces of work: every outcome once, losses made good, errors passed on; on this machine and on a Ray cluster."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from ray_cluster import running, wait_until

from grids_ros.pieces import ClusterError, WorkerLost, Workers, outcomes


def square(number):
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number * number, os.getpid()


def die_once(path_and_number):
    """Kills its own process the first time, as a worker that is out of memory dies."""
    path, number = path_and_number
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def always_die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def slow(number):
    time.sleep(0.2 * number)
    return number


def remember(path):
    """A worker's preparation: one line for each process."""
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")


def test_every_piece_has_one_outcome_and_the_index_says_whose_it_is():
    found = list(outcomes(square, list(range(7)), Workers(3)))
    assert sorted(o.index for o in found) == list(range(7))
    assert all(o.value()[0] == o.index**2 and o.value()[1] != os.getpid() for o in found)
    assert list(outcomes(square, [], Workers(2))) == []


def test_results_come_as_they_are_ready():
    assert [o.value() for o in outcomes(slow, [10, 0], Workers(2))] == [0, 10]


def test_what_a_piece_raises_is_its_outcome_and_the_rest_goes_on():
    found = {o.index: o for o in outcomes(square, [2, -1, 3], Workers(1))}
    with pytest.raises(ValueError, match="-1 is negative"):
        found[1].value()
    assert found[0].value()[0] == 4 and found[2].value()[0] == 9


def test_a_piece_whose_worker_dies_is_done_again(tmp_path):
    pieces = [(tmp_path / f"{n}" if n == 2 else tmp_path, n) for n in range(5)]
    assert sorted(o.value() for o in outcomes(die_once, pieces, Workers(2))) == list(range(5))


def test_a_piece_that_kills_every_worker_is_an_error_at_last():
    (found,) = outcomes(always_die, ["x"], Workers(1, attempts=2))
    with pytest.raises(WorkerLost, match="ended 2 times"):
        found.value()


def test_each_worker_is_prepared_once(tmp_path):
    log = tmp_path / "log"
    pids = {o.value()[1] for o in outcomes(square, list(range(8)), Workers(2, prepare=remember, arguments=(log,)))}
    prepared = log.read_text().split()
    assert len(prepared) == len(set(prepared)) == 2 and pids <= set(map(int, prepared))


def test_leaving_early_ends_the_workers():
    running = outcomes(slow, [0, 3000, 3000], Workers(3))
    assert next(running).value() == 0
    started = time.monotonic()
    running.close()
    assert time.monotonic() - started < 100.0


KILLED = """
import sys
sys.path[:0] = sys.argv[2:]
from grids_ros.pieces import Workers, outcomes
from test_pieces import remember_and_wait
if __name__ == "__main__":
    list(outcomes(remember_and_wait, [sys.argv[1]] * 2, Workers(2)))
"""


def remember_and_wait(folder):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600.0)


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script, folder = tmp_path / "killed.py", tmp_path / "workers"
    script.write_text(KILLED)
    folder.mkdir()
    parent = subprocess.Popen([sys.executable, str(script), str(folder), *map(str, Path(__file__).parents[:2])])
    wait_until(lambda: len(list(folder.iterdir())) == 2)
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(running(worker.name) for worker in folder.iterdir()))


def test_a_cluster_that_is_not_there_is_named():
    pytest.importorskip("ray")
    with pytest.raises(ClusterError, match="no Ray cluster at '127.0.0.1:1'"):
        list(outcomes(square, [1], Workers(1, cluster="127.0.0.1:1")))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_cluster_of_two_nodes_gives_what_this_machine_gives_though_a_worker_is_killed(cluster, tmp_path):
    pieces = [(tmp_path / "died" if n == 1 else tmp_path, n) for n in range(4)]
    found = {o.index: o.value() for o in outcomes(die_once, pieces, Workers(2, cluster=cluster.address))}
    assert found == {n: n for n in range(4)} and (tmp_path / "died").exists()


def test_a_pool_that_breaks_before_the_next_piece_is_given_is_replaced(monkeypatch):
    submit, broken = ProcessPoolExecutor.submit, []

    def once(pool, *arguments):
        if not broken:
            broken.append(pool)
            raise BrokenProcessPool("a worker has died")
        return submit(pool, *arguments)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", once)
    assert sorted(o.value()[0] for o in outcomes(square, [1, 2, 3], Workers(2, attempts=1))) == [1, 4, 9]

"""A real Ray cluster gives what this process gives, whatever becomes of its workers."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulator.errors import UserError
from simulator.planner.constraints import Constraint
from simulator.planner.jobs.backends.local import LocalBackend
from simulator.planner.jobs.backends.ray import RayBackend
from simulator.planner.jobs.doing import do_task
from simulator.planner.jobs.store import Store
from simulator.planner.jobs.tasks import Outcome, Task
from simulator.planner.jobs.work import Work
from tests.work_support import task, too_big

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")


@pytest.fixture(scope="module")
def backend() -> Iterator[RayBackend]:
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    try:
        with RayBackend(workers=2) as backend:
            yield backend
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


def long(number: int) -> Task:
    """About a third of a second."""
    lengths = {
        "kind": "independent",
        "input": {"kind": "lognormal", "mean": 400, "cv": 0.8},
        "output": {"kind": "lognormal", "mean": 100, "cv": 0.8},
    }
    arrivals = {"kind": "poisson", "rate_per_s": 15.0}
    return task(number, workload={
        "kind": "synthetic", "arrivals": arrivals, "lengths": lengths, "requests": 4000,
    })  # fmt: skip


def simulating() -> list[int]:
    """The processes of the cluster that simulate just now."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if file.read_bytes().startswith(b"ray::simulate_task"):
                found.append(int(file.parent.name))
        except OSError:  # it has ended
            continue
    return [pid for pid in found if below_us(pid)]


def below_us(pid: int) -> bool:
    """Whether this process started another one, or one that did."""
    while pid > 1:
        if pid == os.getpid():
            return True
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        pid = int(stat.rpartition(")")[2].split()[1])
    return False


def kill_one(within_s: float = 30.0) -> None:
    """Kills a process that simulates."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        pids = simulating()
        if pids:
            os.kill(pids[0], signal.SIGKILL)
            return
        time.sleep(0.005)
    raise AssertionError("nothing simulates")


def by_key(outcomes: list[Outcome]) -> dict[str, Outcome]:
    return {each.key: each for each in outcomes}


@needs_ray
def test_no_cluster_there_is_told() -> None:
    with pytest.raises(UserError, match="there is no Ray cluster to work on") as caught:
        RayBackend("127.0.0.1:1")
    assert "127.0.0.1:1" in str(caught.value)


@needs_ray
def test_the_cluster_gives_what_processes_give_and_what_this_one_gives(backend: RayBackend) -> None:
    limit = Constraint(metric="e2e_ms.p50", max=10.0)
    tasks = [*(task(n) for n in range(6)), too_big(), task(1, limits=(limit,))]
    here = by_key([do_task(each) for each in tasks])
    assert backend.workers == 2
    there = by_key(list(backend.run(tasks)))
    with LocalBackend(2) as local:
        assert there == here == by_key(list(local.run(tasks)))
    assert here[tasks[-1].key].hopeless
    for key, outcome in there.items():
        assert json.dumps(outcome.summary) == json.dumps(here[key].summary)


@needs_ray
def test_a_worker_killed_in_the_middle_changes_nothing(backend: RayBackend) -> None:
    tasks = [long(n) for n in range(6)]
    outcomes = []
    for outcome in backend.run(tasks):
        outcomes.append(outcome)
        if len(outcomes) in (1, 3):
            kill_one()
    assert not any(each.lost for each in outcomes)
    assert by_key(outcomes) == by_key([do_task(each) for each in tasks])


@needs_ray
def test_a_task_whose_workers_all_die_is_given_up(backend: RayBackend, tmp_path: Path) -> None:
    over = threading.Event()

    def kill_all() -> None:
        while not over.is_set():
            for pid in simulating():
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)

    killer = threading.Thread(target=kill_all)
    killer.start()
    work = Work(backend, Store(tmp_path))
    try:
        (outcome,) = work.run([long(1)])
    finally:
        over.set()
        killer.join()
    assert outcome.lost
    assert "the process that simulated it died, 3 times" in outcome.problem
    with Store(tmp_path) as store:
        assert not len(store)


@needs_ray
def test_whoever_wants_no_more_outcomes_stops_the_rest(backend: RayBackend) -> None:
    some = backend.run([long(n) for n in range(8)])
    next(some)
    some.close()
    assert by_key(list(backend.run([task(1)]))) == by_key([do_task(task(1))])


@needs_ray
def test_a_machine_with_other_files_is_told(
    backend: RayBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "mine.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,10,10\n1,10,10\n")
    wanted = task(workload={"kind": "trace", "file": str(trace)})
    assert wanted.key  # as this machine sees the file
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,10,10\n1,10,11\n")
    with pytest.raises(UserError, match=r"has other files than this one: .*mine\.csv"):
        list(backend.run([wanted]))
    monkeypatch.setattr("simulator.planner.jobs.backends.ray.program", lambda: "0.0.0+other")
    with pytest.raises(UserError, match=r"has servecast .*, this one 0\.0\.0\+other"):
        list(backend.run([task(1)]))


def test_without_ray_the_way_to_get_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'servecast\[ray\]'"):
        RayBackend()

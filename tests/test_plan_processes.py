"""Processes of this machine do tasks: with the same outcomes as one, whatever becomes of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from simulator.errors import UserError
from simulator.planner.jobs.backends import make_backend
from simulator.planner.jobs.backends.local import ATTEMPTS, LocalBackend, cores
from simulator.planner.jobs.doing import do_task
from simulator.planner.jobs.store import FILE, Store
from simulator.planner.jobs.work import Work
from tests.work_support import rows, task, too_big


def test_processes_give_what_this_one_gives():
    tasks = [task(n) for n in range(7)] + [too_big()]
    here = {each.key: do_task(each) for each in tasks}
    with LocalBackend(2) as backend:
        there = {each.key: each for each in backend.run(tasks)}
        assert there == here
        crew = {worker.pid for worker in backend._crew}
        assert {each.key: each for each in backend.run(tasks)} == here
        assert {worker.pid for worker in backend._crew} == crew
    assert json.dumps([there[key].summary for key in here]) == json.dumps(
        [each.summary for each in here.values()]
    )
    for pid in crew:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_cores_are_at_least_one():
    assert 1 <= cores() <= (os.cpu_count() or 1)
    assert LocalBackend().workers == cores()
    with pytest.raises(UserError, match="at least 1"):
        LocalBackend(0)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids: Iterable[int], within_s: float = 5.0) -> bool:
    """Whether processes end soon."""
    until = time.monotonic() + within_s
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.01)
    return not any(map(alive, pids))


def test_a_killed_worker_is_replaced_and_its_task_done_again():
    tasks = [task(n) for n in range(12)]
    here = [do_task(each) for each in tasks]
    with LocalBackend(2) as backend:
        there = []
        for outcome in backend.run(tasks):
            there.append(outcome)
            if len(there) in (3, 6):
                os.kill(backend._crew[0].pid, signal.SIGKILL)
    assert sorted(there, key=lambda each: each.key) == sorted(here, key=lambda each: each.key)


DEADLY = """
import os, signal
import simulator.simulation as simulation

real = simulation.simulate

def simulate(scenario, **options):
    if scenario.name == "deadly":
        with open({log!r}, "a") as log:
            log.write("x")
        if os.path.getsize({log!r}) <= {times}:
            os.kill(os.getpid(), signal.SIGKILL)
    return real(scenario, **options)

simulation.simulate = simulate
"""
"""Makes Python processes that find it at their start die of a certain task, so many times."""


def test_a_task_may_kill_its_worker_twice(tmp_path, monkeypatch):
    log = tmp_path / "log"
    (tmp_path / "sitecustomize.py").write_text(DEADLY.format(log=str(log), times=2))
    monkeypatch.syspath_prepend(str(tmp_path))
    tasks = [task(1), task(name="deadly"), task(2), task(3)]
    with LocalBackend(2) as backend:
        there = {each.key: each for each in backend.run(tasks)}
    assert there == {each.key: do_task(each) for each in tasks}
    assert log.read_text() == "xxx"


def test_a_task_that_always_kills_its_worker_is_given_up_and_not_kept(tmp_path, monkeypatch):
    log = tmp_path / "log"
    (tmp_path / "sitecustomize.py").write_text(DEADLY.format(log=str(log), times=99))
    monkeypatch.syspath_prepend(str(tmp_path))
    tasks = [task(1), task(name="deadly"), task(2)]
    with Work(LocalBackend(2), Store(tmp_path)) as work:
        first, lost, second = work.run(tasks)
        assert lost.lost
        assert lost.problem == (
            "deadly: the process that simulated it was killed, as happens when memory runs out, "
            "3 times; give fewer workers if memory ran out"
        )
        assert [first, second] == [do_task(task(1)), do_task(task(2))]
        assert work.run([task(name="deadly")]) == [lost]  # asked again, not tried again
        assert work.standing.done == 3
    assert log.read_text() == "x" * ATTEMPTS
    with Store(tmp_path) as store:
        assert len(store) == 2


def test_workers_that_do_not_even_begin_are_told(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(7)")
    monkeypatch.syspath_prepend(str(tmp_path))
    with (
        LocalBackend(2) as backend,
        pytest.raises(UserError, match=r"end before they begin \(ended with exit status 7\)"),
    ):
        list(backend.run([task(1), task(2)]))


def test_an_error_of_ours_comes_from_a_worker_with_its_traceback(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import simulator.simulation as s\n"
        "def simulate(*a, **k): raise ZeroDivisionError('ours')\n"
        "s.simulate = simulate\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with LocalBackend(2) as backend:
        with pytest.raises(ZeroDivisionError, match="ours") as caught:
            list(backend.run([task(1), task(2), task(3)]))
        told = "\n".join(caught.value.__notes__)
        assert "while simulating task" in told
        assert "sitecustomize.py" in told
        assert not backend._crew


def test_whoever_wants_no_more_outcomes_gets_none_of_them_later():
    with LocalBackend(2) as backend:
        some = backend.run([task(n) for n in range(20)])
        next(some)
        some.close()
        others = [task(n) for n in range(30, 34)]
        assert {each.key for each in backend.run(others)} == {each.key for each in others}


SCRIPT = """
import sys
from simulator.planner.jobs.backends import make_backend
from simulator.planner.jobs.backends.local import LocalBackend
from simulator.planner.jobs.store import FILE, Store
from simulator.planner.jobs.work import Work
from tests.work_support import task

def told(standing):
    pids = [worker.pid for worker in backend._crew]
    print(standing.done, standing.from_store, *pids, flush=True)

backend = LocalBackend(2)
try:
    with Work(backend, Store(sys.argv[1]), told) as work:
        work.run([task(n) for n in range(int(sys.argv[2]))])
        print("end", work.standing.from_store, work.standing.simulated, flush=True)
except KeyboardInterrupt:
    sys.exit(130)
"""


def start(folder: Path, count: int) -> subprocess.Popen[str]:
    """A process that has a batch done, in a session of its own as a terminal would have it."""
    root = str(Path(__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(count)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": root}, cwd=root,
    )  # fmt: skip


def read_until(process: subprocess.Popen[str], done: int) -> list[int]:
    """Reads what a process tells until so many tasks are done; the numbers of its workers."""
    assert process.stdout is not None
    for line in process.stdout:
        numbers = [int(word) for word in line.split()]
        if numbers[0] >= done:
            return numbers[2:]
    raise AssertionError(process.stderr.read() if process.stderr else "")


def test_a_batch_that_was_killed_goes_on_where_it_was(tmp_path):
    count = 40
    wanted = {task(n).key for n in range(count)}
    with start(tmp_path, count) as process:
        pids = read_until(process, 10)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert gone(pids)
    before = rows(tmp_path)
    assert 10 <= len(set(before)) == len(before) < count
    assert set(before) < wanted
    with start(tmp_path, count) as process:
        out, err = process.communicate()
    assert err == ""
    assert out.splitlines()[-1] == f"end {len(before)} {count - len(before)}"
    assert sorted(rows(tmp_path)) == sorted(wanted)
    with Store(tmp_path) as store:
        assert store.get([task(5).key]) == {task(5).key: do_task(task(5))}


def test_ctrl_c_ends_at_once_and_leaves_nobody(tmp_path):
    with start(tmp_path, 2000) as process:
        pids = read_until(process, 5)
        assert len(pids) == 2
        os.killpg(process.pid, signal.SIGINT)
        began = time.monotonic()
        out, err = process.communicate(timeout=20)
        assert time.monotonic() - began < 5.0
    assert process.returncode == 130
    assert err == ""
    assert gone(pids, within_s=1.0)
    reported = max(int(line.split()[0]) for line in ["5", *out.splitlines()])
    assert len(rows(tmp_path)) >= reported


def test_a_backend_is_known_by_its_name():
    backend = make_backend("local", 2)
    with closing(backend):
        assert isinstance(backend, LocalBackend)
        assert backend.workers == 2
    with pytest.raises(UserError, match="there is no backend 'locale'; did you mean 'local'"):
        make_backend("locale")
    with pytest.raises(UserError, match="--address belongs to --backend ray"):
        make_backend("local", address="head:6379")


def test_a_command_that_is_interrupted_says_what_it_kept_and_goes_on(tmp_path):
    command = [
        sys.executable, "-m", "simulator", "sweep", "chat-8b-h100", "--no-files", "--workers", "2",
        "--vary", "workload.rate_scale=0.5,1,1.5,2", "--vary", "engine.max_num_seqs=32,64,128",
        "--store", str(tmp_path),
    ]  # fmt: skip
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=environment,
    ) as process:  # fmt: skip
        until = time.monotonic() + 60
        while not (tmp_path / FILE).exists() or len(rows(tmp_path)) < 2:
            assert time.monotonic() < until
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert out == ""
    kept = len(rows(tmp_path))
    assert err == (
        f"Interrupted: {kept} simulations are kept in {tmp_path}; the same command goes on from "
        "there.\n"
    )
    assert 2 <= kept < 12
    again = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert again.stderr == ""
    assert len(rows(tmp_path)) == 12


def test_one_worker_is_this_very_process():
    tasks = [task(1), task(2)]
    with LocalBackend(1) as backend:
        assert list(backend.run(tasks)) == [do_task(each) for each in tasks]
        assert not backend._crew
    with LocalBackend(2) as backend:  # nor is one started for a single task
        assert list(backend.run(tasks[:1])) == [do_task(tasks[0])]
        assert not backend._crew

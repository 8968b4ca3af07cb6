"""Tasks are done once each and kept."""

from __future__ import annotations

import io
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections import OrderedDict
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from simulator import simulate
from simulator.cli.working import WorkBar
from simulator.errors import UserError
from simulator.planner.jobs import doing
from simulator.planner.jobs.doing import do_task
from simulator.planner.jobs.estimate import estimate, mean_seconds
from simulator.planner.jobs.store import FILE, Store
from simulator.planner.jobs.tasks import Outcome, Task
from simulator.planner.jobs.work import Standing, Work
from tests.work_support import Counting, rows, task, too_big

# --- one task ------------------------------------------------------------------------------------


def test_an_outcome_is_the_summary_without_its_scenario():
    outcome = do_task(task())
    summary = simulate(task().scenario, intervals=False).summary()
    del summary["scenario"]
    assert outcome.summary == summary
    assert (outcome.problem, outcome.hopeless, outcome.lost) == ("", "", False)
    assert outcome.wall_s > 0


def test_what_cannot_be_simulated_has_a_problem():
    outcome = do_task(too_big())
    assert outcome.summary == {}
    assert "llama-3.1-405b" in outcome.problem


def test_an_error_of_ours_names_the_task(monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("no")

    monkeypatch.setattr("simulator.planner.jobs.doing.simulate", broken)
    with pytest.raises(ZeroDivisionError) as caught:
        do_task(task())
    assert task().key in caught.value.__notes__[0]


def test_keys_tell_tasks_apart_and_see_into_files(tmp_path):
    trace = tmp_path / "mine.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,10,10\n1,10,10\n")

    def own() -> Task:
        return task(workload={"kind": "trace", "file": str(trace)})

    first = own().key
    assert first == own().key != task().key
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,10,10\n1,10,12\n")
    assert own().key != first


def test_tasks_share_their_traffic_and_leave_it_as_it_is(tmp_path, monkeypatch):
    built = []
    real = doing.build_requests

    def counted(workload, rng):
        built.append(workload)
        return real(workload, rng)

    monkeypatch.setattr(doing, "build_requests", counted)
    monkeypatch.setattr(doing, "_built", OrderedDict())
    trace = tmp_path / "mine.csv"
    trace.write_text(
        "arrival_s,input_tokens,output_tokens\n" + "".join(f"{n},{99 + n},9\n" for n in range(50))
    )
    workload = {"kind": "trace", "file": str(trace)}
    for hardware in ("h100-sxm", "a100-sxm-80gb", "h100-sxm"):
        mine = task(hardware=hardware, workload=workload)
        fresh = simulate(mine.scenario, intervals=False).summary()
        del fresh["scenario"]
        assert do_task(mine).summary == fresh
    assert len(built) == 1
    do_task(task(1, workload=workload))  # another seed
    assert len(built) == 2
    trace.write_text(trace.read_text() + "60,10,10\n")
    changed = do_task(task(workload=workload))
    assert len(built) == 3
    assert changed.summary["requests"]["sent"] == 51


# --- the workplace -------------------------------------------------------------------------------


def test_equal_tasks_are_done_once_and_come_in_order():
    backend, seen = Counting(), []
    with Work(backend, told=seen.append) as work:
        wanted = [task(1), task(2), task(1), task(3)]
        outcomes = work.run(wanted)
        assert [each.key for each in outcomes] == [each.key for each in wanted]
        assert len(backend.done) == 3
        work.run([task(2), task(4)])
        assert len(backend.done) == 4
        standing = work.standing
    assert (standing.done, standing.total, standing.simulated, standing.from_store) == (4, 4, 4, 0)
    assert [each.done for each in seen] == [1, 2, 3, 4]
    assert seen[0].total == 3
    assert seen[0].left_s == pytest.approx(2 / seen[0].per_s)


def test_a_store_spares_what_was_done_before(tmp_path):
    with Work(Counting(), Store(tmp_path)) as work:
        first = work.run([task(1), too_big()])
    backend = Counting()
    with Work(backend, Store(tmp_path)) as work:
        again = work.run([too_big(), task(1), task(2)])
        assert work.standing.from_store == 2
    assert backend.done == [task(2).key]
    assert [again[1], again[0]] == first
    assert json.dumps(again[1].summary) == json.dumps(first[0].summary)


# --- the store -----------------------------------------------------------------------------------


def test_the_first_of_equal_outcomes_stays(tmp_path):
    with Store(tmp_path) as one, Store(tmp_path) as other:
        one.put(task(), Outcome(task().key, problem="one", wall_s=1.0))
        other.put(task(), Outcome(task().key, problem="other"))
        assert len(one) == len(other) == 1
        assert other.get([task().key, "none"])[task().key].problem == "one"


def test_many_keys_are_found():
    keys = [f"{n:064x}" for n in range(2500)]
    with Store(None) as store:
        for key in keys:
            store.put(task(), Outcome(key))
        assert list(store.get(keys)) == keys


def test_processes_that_open_a_new_store_at_once_all_succeed(tmp_path):
    code = (
        "import sys; from simulator.planner.jobs.store import Store\n"
        "from tests.work_support import task; from simulator.planner.jobs.tasks import Outcome\n"
        "sys.stdin.readline()\n"
        "store = Store(sys.argv[1])\n"
        "for n in range(50): store.put(task(), Outcome(f'{sys.argv[2]}-{n}'))\n"
    )
    root = str(Path(__file__).parents[1])
    crowd = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(n)],
            stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root,
            env=os.environ | {"PYTHONPATH": root},
        )
        for n in range(4)
    ]  # fmt: skip
    for each in crowd:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    assert [each.communicate()[1] for each in crowd] == [""] * 4
    assert len(rows(tmp_path)) == 200


def test_what_is_no_store_is_refused_in_one_sentence(tmp_path):
    file = tmp_path / FILE
    file.write_text("arrival_s,input_tokens\n" * 100)
    with pytest.raises(UserError, match="is no store of outcomes") as caught:
        Store(tmp_path)
    assert str(file) in str(caught.value)
    file.unlink()
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("CREATE TABLE other (x)")
    with pytest.raises(UserError, match="is a database of another program"):
        Store(tmp_path)
    file.unlink()
    Store(tmp_path).close()
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="holds outcomes of version 99, this program keeps 1"):
        Store(tmp_path)


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="the folder cannot be made"):
        Store(tmp_path / "file" / "below")


# --- how long it takes ---------------------------------------------------------------------------


def longer(number: int, requests: int, output: int = 40) -> Task:
    workload = dict(task().scenario.workload.model_dump(mode="json"))
    workload["lengths"]["output"]["tokens"] = output
    return task(number, workload=workload | {"requests": requests})


def test_a_sample_tells_how_long_all_will_take():
    tasks = [longer(n, requests) for n, requests in enumerate((300, 3000, 600, 1200))]
    expected = estimate(tasks, workers=1)
    taken = sum(do_task(each).wall_s for each in tasks)
    assert 0.3 < expected / taken < 3.0  # other processes may run beside this one
    # By its requests a run of 3,000 costs what five of 600 do.
    sizes = [mean_seconds([longer(1, 600)]), mean_seconds([longer(1, 3000)])]
    assert 2.0 < sizes[1] / sizes[0] < 12.0


def test_an_estimate_counts_workers_and_intervals(monkeypatch):
    monkeypatch.setattr("simulator.planner.jobs.estimate._tried", lambda _: (2.0, 100))
    tasks = [longer(n, 100) for n in range(6)]
    assert estimate(tasks, workers=1) == pytest.approx(12.0)
    assert estimate(tasks, workers=4) == pytest.approx(3.0)
    assert estimate(tasks, workers=64) == pytest.approx(2.0)
    assert mean_seconds([replace(tasks[0], intervals=True)]) == pytest.approx(6.0)
    assert estimate([], workers=2) is None


def test_what_cannot_be_simulated_has_no_estimate():
    assert estimate([too_big(), too_big()], workers=2) is None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_the_bar_tells_rate_time_left_and_what_was_kept(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    with WorkBar() as bar:
        monkeypatch.setattr(bar, "_patience_s", 0.0)
        bar.stage("searching")
        bar(Standing(done=40, total=100, from_store=15, simulated=25, per_s=8.25, left_s=95.2))
    said = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", sys.stderr.getvalue())
    wanted = "40/100 simulations · 15 kept · 8.2/s · 0:01:35"
    assert (wanted in said) is (stream is Terminal)
    assert ("Searching" in said) is (stream is Terminal)

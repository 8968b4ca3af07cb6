"""Tasks are done once each, by any backend with the same outcomes, and kept."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Sequence
from typing import Any

import pytest

from simulator.errors import UserError
from simulator.planner.backends.local import LocalBackend, cores
from simulator.planner.constraints import Constraint
from simulator.planner.doing import do_task
from simulator.planner.store import Store
from simulator.planner.tasks import Outcome, Task
from simulator.planner.work import Work
from simulator.scenario import load_scenario


def task(number: int = 0, *, limits: tuple[Constraint, ...] = (), **changed: Any) -> Task:
    """A short chat; every number has its own traffic."""
    document: dict[str, Any] = {
        "name": f"short-{number}",
        "model": "llama-3.1-8b",
        "hardware": "h100-sxm",
        "workload": {
            "kind": "synthetic",
            "arrivals": {"kind": "poisson", "rate_per_s": 5.0},
            "lengths": {
                "kind": "independent",
                "input": {"kind": "lognormal", "mean": 400, "cv": 0.8},
                "output": {"kind": "fixed", "tokens": 40},
            },
            "requests": 60,
        },
        "measurement": {"seed": number},
    }
    return Task(load_scenario(document | changed), limits=limits)


def too_big() -> Task:
    return task(0, model="llama-3.1-405b")


class Counting:
    """A backend that does tasks here and counts them."""

    workers = 1

    def __init__(self) -> None:
        self.done: list[str] = []

    def run(self, tasks: Sequence[Task]) -> Generator[Outcome, None, None]:
        for each in reversed(tasks):  # any order is allowed
            self.done.append(each.key)
            yield do_task(each)

    def close(self) -> None:
        pass


# --- one task ------------------------------------------------------------------------------------


def test_an_outcome_is_the_summary_without_its_scenario():
    from simulator import simulate

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

    monkeypatch.setattr("simulator.planner.doing.simulate", broken)
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


# --- processes -----------------------------------------------------------------------------------


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

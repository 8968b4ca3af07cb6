"""Short tasks for tests of what does them."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from simulator.planner.constraints import Constraint
from simulator.planner.jobs.doing import do_task
from simulator.planner.jobs.store import FILE
from simulator.planner.jobs.tasks import Outcome, Task
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


def rows(folder: Path) -> list[str]:
    """The keys in a store, as SQLite itself finds them."""
    with closing(sqlite3.connect(folder / FILE)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return []  # it has just been made
        return [row[0] for row in db.execute("SELECT key FROM outcomes")]

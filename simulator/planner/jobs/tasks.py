"""One simulation that a search asks for, and what comes of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from simulator.planner.constraints import Constraint
from simulator.planner.jobs.origin import files_behind, program
from simulator.scenario import Scenario

Summary = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A scenario to simulate. The same task has the same outcome, bit for bit, wherever it is done.

    Args:
        scenario: all of it, with absolute paths, so that any process can do it.
        intervals: whether the summary says how far off its figures may be (two further runs).
        limits: the run may end as soon as one of these can no longer be met; see ``hopeless``.
    """

    scenario: Scenario
    intervals: bool = False
    limits: tuple[Constraint, ...] = ()

    @property
    def document(self) -> dict[str, Any]:
        """All that the outcome depends on, as JSON has it: the program's code and data and what the
        user's files hold are in it as digests."""
        scenario = self.scenario.model_dump(mode="json")
        return {
            "program": program(),
            "scenario": scenario,
            "files": files_behind(scenario),
            "intervals": self.intervals,
            "limits": [limit.model_dump(mode="json") for limit in self.limits],
        }

    @cached_property
    def key(self) -> str:
        """Hash of the document, hexadecimal."""
        text = json.dumps(self.document, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a task.

    Args:
        key: the task's.
        summary: of the run, as ``Result.summary`` gives it, without its ``scenario``; empty where
            the deployment cannot be simulated.
        problem: why it cannot, one sentence; empty where it can.
        hopeless: the limit for which the run was ended early, one sentence; the summary then
            describes the part before. Empty: it ran to its end.
        lost: the processes that did it died, so that nothing is known; ``problem`` says so. It is
            not kept in a store, so that a later run tries again.
        wall_s: how long it took; no part of what must be equal.
    """

    key: str
    summary: Summary = field(default_factory=dict)
    problem: str = ""
    hopeless: str = ""
    lost: bool = False
    wall_s: float = field(default=0.0, compare=False)

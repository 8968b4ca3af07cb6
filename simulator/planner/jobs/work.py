"""Has tasks done: each once, through a store that keeps what was done before."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from simulator.planner.jobs.backends import Backend
from simulator.planner.jobs.store import Store
from simulator.planner.jobs.tasks import Outcome, Task

__all__ = ["Standing", "Told", "Work", "Workplace"]


class Workplace(Protocol):
    """Where searches have their simulations done.

    What a search decides may depend on outcomes but never on the order in which they came, so that
    every backend leads to the same result.
    """

    def run(self, tasks: Sequence[Task]) -> list[Outcome]:
        """The outcomes, in the order of the tasks; equal tasks are done once, and those that the
        store has, not at all.

        Raises:
            KeyboardInterrupt: Ctrl-C; all that was done is in the store.
        """
        ...


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the work is.

    Args:
        done: distinct tasks that have an outcome.
        total: distinct tasks that were asked for so far; a search may ask for more.
        from_store: how many were in the store.
        simulated: how many were done now.
        hopeless: how many of ``done`` were ended early.
        per_s: simulations a second while there was something to simulate; None before the first.
        left_s: how long the rest takes at that rate.
    """

    done: int = 0
    total: int = 0
    from_store: int = 0
    simulated: int = 0
    hopeless: int = 0
    per_s: float | None = None
    left_s: float | None = None


Told = Callable[[Standing], None]
"""Called after every outcome, when it is in the store."""


class Work:
    """A workplace: a backend that does tasks and a store that keeps what came of them.

    Args:
        backend: does them; closed with the work.
        store: keeps them; closed with the work. Default: in memory.
        told: see ``Told``.
    """

    def __init__(
        self, backend: Backend, store: Store | None = None, told: Told | None = None
    ) -> None:
        self._backend = backend
        self._store = store if store is not None else Store(None)
        self._told = told
        self._asked: set[str] = set()
        self._lost: dict[str, Outcome] = {}
        self._done = self._from_store = self._simulated = self._hopeless = 0
        self._busy_s = 0.0
        self._began: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def standing(self) -> Standing:
        """How far the work is."""
        busy_s = self._busy_s
        if self._began is not None:
            busy_s += time.monotonic() - self._began
        per_s = self._simulated / busy_s if self._simulated and busy_s > 0 else None
        left = len(self._asked) - self._done
        return Standing(
            self._done, len(self._asked), self._from_store, self._simulated, self._hopeless,
            per_s, None if per_s is None else left / per_s,
        )  # fmt: skip

    def run(self, tasks: Sequence[Task]) -> list[Outcome]:
        """See ``Workplace``."""
        wanted = {task.key: task for task in tasks}
        fresh = wanted.keys() - self._asked
        self._asked |= wanted.keys()
        found = self._store.get(list(wanted))
        found |= {key: self._lost[key] for key in wanted if key in self._lost}
        for key in found:
            if key in fresh:
                self._from_store += 1
                self._count(found[key])
        missing = [task for key, task in wanted.items() if key not in found]
        if missing:
            self._simulate(missing, found)
        return [found[task.key] for task in tasks]

    def _simulate(self, tasks: Sequence[Task], found: dict[str, Outcome]) -> None:
        by_key = {task.key: task for task in tasks}
        self._began = time.monotonic()
        try:
            with closing(self._backend.run(tasks)) as outcomes:
                for outcome in outcomes:
                    found[outcome.key] = outcome
                    if outcome.lost:
                        self._lost[outcome.key] = outcome
                    else:
                        self._store.put(by_key[outcome.key], outcome)
                    self._simulated += 1
                    self._count(outcome)
        finally:
            self._busy_s += time.monotonic() - self._began
            self._began = None

    def _count(self, outcome: Outcome) -> None:
        self._done += 1
        self._hopeless += bool(outcome.hopeless)
        if self._told is not None:
            self._told(self.standing)

    def close(self) -> None:
        """Lets the workers and the store go."""
        self._backend.close()
        self._store.close()

"""Processes of this machine."""

from __future__ import annotations

import math
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from simulator.errors import UserError
from simulator.planner.jobs.backends.process import READY, Worker
from simulator.planner.jobs.doing import do_task
from simulator.planner.jobs.tasks import Outcome, Task

ATTEMPTS = 3
"""How often a task is begun before its workers' deaths count as its own fault."""

AHEAD_S = 0.1
"""Work that waits in a worker's own queue, so that it never waits for the next task."""

PULSE_S = 0.2
"""How often somebody who may lose interest is asked."""


def cores() -> int:
    """How many cores this process may use, by its affinity and its control group's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(allowed or 1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or no quota ("max")
        return allowed or 1


class LocalBackend:
    """Does tasks in processes of this machine; one worker is this very process.

    Args:
        workers: how many tasks are done at once; default: one a core.
        pulse: called every ``PULSE_S`` while tasks are done, which may raise to end them at once.
            All of them are then done in processes of their own: this one can neither be stopped
            in the middle of a task, nor do anything else meanwhile.

    Raises:
        UserError: there is no worker.
    """

    def __init__(
        self, workers: int | None = None, *, pulse: Callable[[], object] | None = None
    ) -> None:
        if workers is not None and workers < 1:
            raise UserError("must be at least 1", where=f"workers {workers}")
        self.workers = cores() if workers is None else workers
        self._pulse = pulse
        self._crew: list[Worker] = []
        self._answers: SimpleQueue[tuple[Worker, object]] = SimpleQueue()
        self._pace_s = 0.0
        self._failed_starts = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run(self, tasks: Sequence[Task]) -> Generator[Outcome, None, None]:
        """Outcomes as they come; see ``Backend``. A task whose workers died ``ATTEMPTS`` times is
        given up, and its outcome says so.

        Raises:
            UserError: worker processes do not even begin.
        """
        alone = self.workers == 1 or (len(tasks) == 1 and not self._crew)
        if alone and self._pulse is None:
            return self._here(tasks)
        return self._there(tasks)

    def _here(self, tasks: Sequence[Task]) -> Generator[Outcome, None, None]:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            for task in tasks:
                yield do_task(task)

    def _there(self, tasks: Sequence[Task]) -> Generator[Outcome, None, None]:
        waiting = deque(tasks)
        left = len(tasks)
        deaths: Counter[str] = Counter()
        try:
            while left:
                self._hand_out(waiting)
                worker, answer = self._next()
                if worker not in self._crew:  # let go meanwhile
                    continue
                outcome = self._outcome(worker, answer, waiting, deaths)
                if outcome is not None:
                    left -= 1
                    yield outcome
        finally:
            # An error, Ctrl-C, or nobody wants the rest: its answers would come in the next run.
            for worker in [worker for worker in self._crew if worker.tasks]:
                self._crew.remove(worker)
                worker.end()

    def _next(self) -> tuple[Worker, object]:
        """The next message of a worker."""
        while self._pulse is not None:
            self._pulse()
            with suppress(Empty):
                return self._answers.get(timeout=PULSE_S)
        return self._answers.get()

    def _outcome(
        self, worker: Worker, answer: object, waiting: deque[Task], deaths: Counter[str]
    ) -> Outcome | None:
        """What a worker's message brings, if it does."""
        if answer == READY:
            worker.ready = True
            self._failed_starts = 0
            return None
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Outcome):
            worker.tasks.popleft()
            self._pace_s += 0.2 * (answer.wall_s - self._pace_s) if self._pace_s else answer.wall_s
            return answer
        self._crew.remove(worker)
        ended = worker.end(gone=True)
        given_up = self._blame(worker, ended, deaths)
        waiting.extendleft(reversed(worker.tasks))
        return given_up

    def _blame(self, worker: Worker, ended: str, deaths: Counter[str]) -> Outcome | None:
        """A worker has died: whose fault is it? That of the first of its tasks, which it was at."""
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts == ATTEMPTS:
                raise UserError(
                    f"worker processes end before they begin ({ended})",
                    hint="with one worker the program does without them",
                )
        elif worker.tasks:
            key = worker.tasks[0].key
            deaths[key] += 1
            if deaths[key] == ATTEMPTS:
                task = worker.tasks.popleft()
                return Outcome(
                    task.key,
                    problem=f"{task.scenario.name}: the process that simulated it {ended}, "
                    f"{ATTEMPTS} times; give fewer workers if memory ran out",
                    lost=True,
                )
        return None

    def _hand_out(self, waiting: deque[Task]) -> None:
        """Gives every worker enough for a while, and leaves enough for the others at the end."""
        wanted = min(self.workers, len(waiting) + sum(bool(w.tasks) for w in self._crew))
        while len(self._crew) < wanted:
            self._crew.append(Worker(self._answers))
        ahead = 1 + int(AHEAD_S / self._pace_s) if 0 < self._pace_s < AHEAD_S else 1
        while waiting:
            worker = min(self._crew, key=lambda each: len(each.tasks))
            share = max(1, math.ceil(len(waiting) / (2 * len(self._crew))))
            if len(worker.tasks) >= min(ahead, share):
                return
            worker.give(waiting.popleft())

    def close(self) -> None:
        """Ends the workers."""
        while self._crew:
            self._crew.pop().end()

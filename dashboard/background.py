"""Work that outlives a run of the page: simulations, searches. Shared by all users of the server,
keyed by what is asked for, so that equal questions are worked on once and answers are kept."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Condition, Lock
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from simulator import UserError

T = TypeVar("T")

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"

MOST_KEPT = 128
"""Answers; the ones that were looked at longest ago go first."""

QUICK_AT_ONCE = 4
"""Single simulations: more than there are cores, so that a short one never waits for long ones."""

LONG_AT_ONCE = 1
"""Searches, which have a process on every core: the others wait for their turn."""


GRACE_S = 120.0
"""So long a browser may be away, for a break of the network, before it counts as gone. Streamlit
lets it come back to its session for as long."""

LOOK_EVERY_S = 1.0
"""So often running work looks whether the browsers of those who wait are still there."""


class Viewer:
    """Somebody who waits for work: lives as long as the browser's session. Work that nobody waits
    for any more ends.

    Args:
        there: whether the browser is connected. A session outlives a tab that was closed, as the
            tab may come back.
    """

    def __init__(self, there: Callable[[], bool] = lambda: True) -> None:
        self._there = there
        self._away_s: float | None = None

    def gone(self) -> bool:
        """Whether the browser has been away for longer than a while, as far as this was asked."""
        if self._there():
            self._away_s = None
            return False
        now = time.monotonic()
        if self._away_s is None:
            self._away_s = now
        return now - self._away_s > GRACE_S


class CancelledError(Exception):
    """Nobody wants this work any more."""


class Job(Generic[T]):
    """A piece of work, as those who wait for it see it.

    Attributes:
        latest: the newest answer, which may be a first, coarse one; None: there is none yet.
        state: ``waiting``, ``running``, ``done``, ``failed`` or ``cancelled``.
        stage: what is being done, in words.
        progress: share of the stage that is done, 0 to 1; None: unknown.
        error: why it failed, if the question was wrong.
        fault: the exception, if the program is.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.latest: T | None = None
        self.state = WAITING
        self.stage = ""
        self.progress: float | None = None
        self.error: UserError | None = None
        self.fault: Exception | None = None
        self.began_s = time.monotonic()
        self.took_s: float | None = None
        self.viewers: WeakSet[Viewer] = WeakSet()
        self._changed = Condition()

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state in (DONE, FAILED, CANCELLED)

    def wait(self, seconds: float) -> bool:
        """Until it has ended, but no longer than that; whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: self.ended, seconds)

    def wait_for_some(self, seconds: float) -> bool:
        """Until there is a first answer or it has ended, but no longer than that; whether so."""
        with self._changed:
            return self._changed.wait_for(lambda: self.ended or self.latest is not None, seconds)

    def leave(self, viewer: Viewer) -> None:
        """This viewer waits for it no longer; the last one who leaves cancels it."""
        self.viewers.discard(viewer)

    def _give(self, answer: T) -> None:
        with self._changed:
            self.latest = answer
            self._changed.notify_all()

    def _end(self, state: str) -> None:
        with self._changed:
            self.took_s = time.monotonic() - self.began_s
            self.state = state
            self._changed.notify_all()


class Report(Generic[T]):
    """How work tells what it has. Every call ends work that nobody waits for any more."""

    def __init__(self, job: Job[T]) -> None:
        self._job = job
        self._looked_s = time.monotonic()

    def alive(self) -> None:
        """Raises CancelledError if nobody waits for the work."""
        if not len(self._job.viewers):
            raise CancelledError
        now = time.monotonic()
        if now - self._looked_s > LOOK_EVERY_S:
            self._looked_s = now
            if self._all_gone():
                raise CancelledError

    def _all_gone(self) -> bool:
        try:
            waiting = list(self._job.viewers)
        except RuntimeError:  # somebody came meanwhile
            return False
        return all(viewer.gone() for viewer in waiting)

    def stage(self, words: str) -> None:
        """What is being done now."""
        self.alive()
        self._job.stage, self._job.progress = words, None

    def progress(self, done: float, total: float) -> None:
        """How much of the stage is done."""
        self.alive()
        self._job.progress = min(1.0, done / total) if total > 0 else None

    def give(self, answer: T) -> None:
        """An answer that a better one will follow."""
        self.alive()
        self._job._give(answer)


Work = Callable[[Report[T]], T]
"""Gives the final answer; may raise UserError."""


class Jobs:
    """All work of this server."""

    def __init__(
        self,
        quick_at_once: int = QUICK_AT_ONCE,
        long_at_once: int = LONG_AT_ONCE,
        most_kept: int = MOST_KEPT,
    ) -> None:
        self._quick = ThreadPoolExecutor(quick_at_once, thread_name_prefix="quick")
        self._long = ThreadPoolExecutor(long_at_once, thread_name_prefix="long")
        self._jobs: OrderedDict[str, Job[Any]] = OrderedDict()
        self._most = most_kept
        self._lock = Lock()

    def ask(self, key: str, work: Work[T], viewer: Viewer, *, long: bool = False) -> Job[T]:
        """The job for this question: the one that is there, or a new one.

        Args:
            key: equal for equal questions, and for no others.
            work: gives the answer.
            viewer: who waits for it.
            long: many simulations on all cores, for which others wait.
        """
        with self._lock:
            job: Job[T] | None = self._jobs.get(key)
            if job is not None and job.state != CANCELLED and (job.viewers or job.ended):
                job.viewers.add(viewer)
                self._jobs.move_to_end(key)
                return job
            job = self._jobs[key] = Job(key)
            self._jobs.move_to_end(key)
            job.viewers.add(viewer)
            self._forget()
        (self._long if long else self._quick).submit(_do, job, work)
        return job

    def again(self, key: str) -> None:
        """Forgets a job that was cancelled or failed, so that it may be asked for once more."""
        with self._lock:
            if key in self._jobs and self._jobs[key].ended:
                del self._jobs[key]

    def end(self) -> None:
        """Cancels all work, for good: the server ends."""
        with self._lock:
            for job in self._jobs.values():
                job.viewers.clear()
        for pool in (self._quick, self._long):
            pool.shutdown(wait=False, cancel_futures=True)

    def _forget(self) -> None:
        ended = [key for key, job in self._jobs.items() if job.ended]
        for key in ended[: max(0, len(self._jobs) - self._most)]:
            del self._jobs[key]


def _do(job: Job[T], work: Work[T]) -> None:
    report = Report(job)
    try:
        report.alive()
        job.state = RUNNING
        job.latest = work(report)
    except CancelledError:
        job._end(CANCELLED)
    except UserError as error:
        job.error = error
        job._end(FAILED)
    except Exception as fault:
        job.fault = fault
        job._end(FAILED)
    else:
        job._end(DONE)


JOBS = Jobs()

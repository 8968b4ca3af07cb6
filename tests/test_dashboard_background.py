"""Work that outlives a run of the page: asked once, kept, cancelled when nobody waits."""

from __future__ import annotations

import gc
import time
from threading import Event

import pytest

from dashboard import background
from dashboard.background import (
    CANCELLED,
    DONE,
    FAILED,
    RUNNING,
    WAITING,
    Job,
    Jobs,
    Report,
    Viewer,
)
from simulator import UserError

PATIENCE_S = 20.0


@pytest.fixture
def jobs() -> Jobs:
    return Jobs(quick_at_once=2, long_at_once=1, most_kept=3)


class Slow:
    """Work that goes on until it is let go, and counts how often it was begun."""

    def __init__(self) -> None:
        self.begun = 0
        self.at_it, self.let_go = Event(), Event()

    def __call__(self, report: Report[str]) -> str:
        self.begun += 1
        report.stage("waiting")
        report.give("first")
        self.at_it.set()
        until = time.monotonic() + PATIENCE_S
        while not self.let_go.wait(0.005):
            assert time.monotonic() < until
            report.progress(1, 4)
        return "last"


def ended(job: Job[str]) -> Job[str]:
    assert job.wait(PATIENCE_S)
    return job


def test_equal_questions_are_worked_on_once(jobs: Jobs) -> None:
    work, first, second = Slow(), Viewer(), Viewer()
    job = jobs.ask("same", work, first)
    assert work.at_it.wait(PATIENCE_S)
    assert jobs.ask("same", work, second) is job
    assert (job.state, job.latest, job.stage) == (RUNNING, "first", "waiting")
    work.let_go.set()
    assert ended(job).latest == "last"
    assert job.state == DONE
    assert jobs.ask("same", work, Viewer()) is job
    assert work.begun == 1


def test_work_ends_when_the_last_who_waits_has_left(jobs: Jobs) -> None:
    work, first, second = Slow(), Viewer(), Viewer()
    job = jobs.ask("left", work, first)
    jobs.ask("left", work, second)
    assert work.at_it.wait(PATIENCE_S)
    job.leave(first)
    assert not job.wait(0.1)
    job.leave(second)
    assert ended(job).state == CANCELLED
    assert job.latest == "first"  # what was found is kept

    again = jobs.ask("left", work, first)
    assert again is not job
    work.let_go.set()
    assert ended(again).latest == "last"


def test_work_ends_with_the_session_that_waits_for_it(jobs: Jobs) -> None:
    work, viewer = Slow(), Viewer()
    job = jobs.ask("gone", work, viewer)
    assert work.at_it.wait(PATIENCE_S)
    del viewer
    gc.collect()
    assert ended(job).state == CANCELLED


def test_work_ends_when_all_browsers_that_wait_for_it_are_gone(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "GRACE_S", 0.2)
    monkeypatch.setattr(background, "LOOK_EVERY_S", 0.01)
    there = {"first": True, "second": True}
    viewers = [Viewer(lambda name=name: there[name]) for name in there]  # type: ignore[misc]
    work = Slow()
    job, same = (jobs.ask("tab", work, viewer) for viewer in viewers)
    assert job is same
    assert work.at_it.wait(PATIENCE_S)
    there["first"] = False
    assert not job.wait(0.5), "the other one is there"
    there["second"] = False
    assert not job.wait(0.1), "it may come back"
    there["second"] = True
    assert not job.wait(0.5), "it did"
    there["second"] = False
    assert ended(job).state == CANCELLED
    assert job.latest == "first"


def test_work_that_nobody_waits_for_any_more_is_not_begun(jobs: Jobs) -> None:
    busy, never = Slow(), Slow()
    viewer = Viewer()
    ahead = jobs.ask("busy", busy, viewer, long=True)
    waiting = jobs.ask("never", never, viewer, long=True)
    assert busy.at_it.wait(PATIENCE_S)
    assert waiting.state == WAITING
    waiting.leave(viewer)
    busy.let_go.set()
    assert ended(ahead).state == DONE
    assert ended(waiting).state == CANCELLED
    assert never.begun == 0


def test_quick_work_does_not_wait_for_long_work(jobs: Jobs) -> None:
    long, viewer = Slow(), Viewer()
    jobs.ask("long", long, viewer, long=True)
    assert long.at_it.wait(PATIENCE_S)
    assert ended(jobs.ask("quick", lambda _: "answer", viewer)).latest == "answer"
    long.let_go.set()


def test_mistakes_and_faults_are_told_apart(jobs: Jobs) -> None:
    def mistaken(_: Report[str]) -> str:
        raise UserError("is wrong", where="model")

    def faulty(_: Report[str]) -> str:
        return str(1 // 0)

    viewer = Viewer()
    mistake = ended(jobs.ask("mistake", mistaken, viewer))
    assert mistake.state == FAILED
    assert str(mistake.error) == "model: is wrong"
    assert mistake.fault is None
    fault = ended(jobs.ask("fault", faulty, viewer))
    assert fault.state == FAILED
    assert fault.error is None
    assert isinstance(fault.fault, ZeroDivisionError)
    jobs.again("fault")
    assert ended(jobs.ask("fault", lambda _: "mended", viewer)).latest == "mended"


def test_answers_looked_at_longest_ago_are_forgotten_first(jobs: Jobs) -> None:
    viewer = Viewer()
    for name in "abc":
        ended(jobs.ask(name, lambda _, name=name: name, viewer))
    first = jobs.ask("a", lambda _: "new", viewer)
    assert first.latest == "a"
    ended(jobs.ask("d", lambda _: "d", viewer))
    assert ended(jobs.ask("b", lambda _: "new", viewer)).latest == "new"
    assert ended(jobs.ask("a", lambda _: "new", viewer)).latest == "a"

"""Batch jobs and asynchronous queues: requests that wait outside the server for a worker.

Worked out by hand where a step with prompts takes two seconds and a decode step one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from simulator.cluster import FrontEndTimes
from simulator.errors import ScenarioError
from simulator.results.phrases import job_lines
from simulator.results.record import COMPLETED, REJECTED, RunRecord
from simulator.scenario.scenario import Scenario
from simulator.simulation import simulate
from simulator.workload import build_requests
from simulator.workload.mix import merge
from simulator.workload.requests import Requests
from tests.metronome import run, same
from tests.rig import requests


def worked(asked: Requests, most: int) -> Requests:
    """All of these wait for one of so many workers."""
    n = len(asked)
    made = replace(asked, workers=np.zeros(n, dtype=np.int64), worker_limits=(most,))
    made.check_integrity()
    return made


def at_once(record: RunRecord, rows: slice = slice(None)) -> int:
    """Most requests between reaching a queue and their last token."""
    begin, end = record.queued_s[rows], record.finish_s[rows]
    return max(int(((begin <= t) & (end > t)).sum()) for t in begin)


# --- the clock -----------------------------------------------------------------------------------


def test_one_worker_takes_one_request_after_the_other() -> None:
    """Each takes a prompt and two tokens more: four seconds. Their time runs from submission."""
    record = run(worked(requests(*[(5.0, 4, 3)] * 3), 1))
    same(record.sent_s, [5.0, 5.0, 5.0])
    same(record.queued_s, [5.0, 9.0, 13.0])
    same(record.finish_s, [9.0, 13.0, 17.0])


def test_two_workers_share_the_batch() -> None:
    """The first two run together; the third joins when one of them ends."""
    record = run(worked(requests((0.0, 4, 3), (0.0, 4, 5), (0.0, 4, 2)), 2))
    same(record.queued_s, [0.0, 0.0, 4.0])
    assert at_once(record) == 2


def test_a_worker_asks_again_when_the_answer_has_reached_it() -> None:
    ends = FrontEndTimes(response_s=0.25)
    record = run(worked(requests((0.0, 4, 1), (0.0, 4, 1)), 1), network_s=0.5, front_end=ends)
    # Half a second there, two for the step, a quarter and a half back, half there again.
    same(record.finish_s, [3.25, 6.5])
    same(record.queued_s, [0.5, 3.75])


def test_with_a_worker_for_everybody_nothing_waits_outside() -> None:
    asked = requests(*[(float(i), 4, 3 + i % 5) for i in range(20)])
    plain, fed = run(asked), run(worked(asked, 20))
    for column in ("queued_s", "start_s", "first_token_s", "finish_s"):
        same(getattr(fed, column), getattr(plain, column).tolist())


def test_other_classes_do_not_wait_for_workers() -> None:
    batch = worked(requests(*[(0.0, 4, 9)] * 4), 1)
    chat = requests((1.0, 4, 2), (2.0, 4, 2))
    both = merge([batch, chat], ["batch", "chat"])
    both.check_integrity()
    assert both.workers is not None
    assert both.workers[both.class_id == 1].tolist() == [-1, -1]
    record = run(both)
    same(record.queued_s[both.class_id == 1], [1.0, 2.0])
    assert at_once(record, slice(0, 4)) == 1
    assert (record.outcome == COMPLETED).all()


def test_two_sets_of_workers_do_not_mix() -> None:
    one = worked(requests(*[(0.0, 4, 3)] * 4), 1)
    two = worked(requests(*[(0.0, 4, 3)] * 4), 2)
    both = merge([one, two], ["a", "b"])
    record = run(both)
    for number, most in ((0, 1), (1, 2)):
        own = both.class_id == number
        begin, end = record.queued_s[own], record.finish_s[own]
        assert max(int(((begin <= t) & (end > t)).sum()) for t in begin) == most


def test_a_request_that_can_never_fit_frees_its_worker() -> None:
    asked = worked(requests((0.0, 4, 2), (0.0, 4, 5000), (0.0, 4, 2)), 1)
    record = run(asked, oversized="reject")
    same(record.outcome, [COMPLETED, REJECTED, COMPLETED])
    assert np.isfinite(record.finish_s[2])


@pytest.mark.parametrize("load", [0.3, 0.6, 0.85])
def test_one_worker_is_an_m_d_1_queue(load: float) -> None:
    """A request takes 2 s alone, so the wait outside is ρ S / (2 (1 − ρ)) (Pollaczek-Khinchine)."""
    n, service = 40_000, 2.0
    rng = np.random.default_rng(5)
    arrivals = np.cumsum(rng.exponential(service / load, n))
    ones = np.ones(n, dtype=np.int64)
    asked = Requests(
        arrival_s=arrivals, input_tokens=4 * ones, output_tokens=ones, class_id=0 * ones,
        parent=-ones, pool=-ones, session=-ones, workers=0 * ones, worker_limits=(1,),
    )  # fmt: skip
    record = run(asked, check=False)
    waited = (record.queued_s - record.sent_s).mean()
    assert waited == pytest.approx(load * service / (2 * (1 - load)), rel=0.08)


# --- scenarios and results -----------------------------------------------------------------------

LENGTHS = {
    "kind": "independent",
    "input": {"kind": "fixed", "tokens": 200}, "output": {"kind": "fixed", "tokens": 50},
}  # fmt: skip
BATCH = {
    "kind": "batch",
    "requests": 60,
    "submit_at_s": 1.0,
    "max_in_flight": 4,
    "lengths": LENGTHS,
}
QUEUE = {
    "kind": "queue", "requests": 60, "arrivals": {"kind": "poisson", "rate_per_s": 20.0},
    "max_in_flight": 2, "lengths": LENGTHS,
}  # fmt: skip


def summary(*workloads: dict[str, Any], **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = workloads[0]
    if len(workloads) > 1:
        classes = [{"name": f"class {i}", "workload": each} for i, each in enumerate(workloads)]
        made = {"kind": "mix", "classes": classes}
    scenario = {"model": "llama-3.2-1b", "hardware": "h100-sxm", "workload": made, **more}
    return simulate(Scenario.model_validate(scenario), intervals=False).summary()


def test_a_job_says_when_it_was_done_and_what_it_cost() -> None:
    found = summary(BATCH | {"deadline_s": 1000.0})
    job = found["jobs"]["default"]
    assert (job["requests"], job["completed"]) == (60, 60)
    assert job["completion_s"] == pytest.approx(found["run"]["simulated_s"] - 1.0)
    assert (job["met"], job["met_share"]) == (True, 1.0)
    # It is the only traffic, so it bears the whole cost.
    assert job["usd"] == pytest.approx(found["cost"]["whole_run_usd"])
    assert job["usd_per_request"] == pytest.approx(job["usd"] / 60)
    hurried = summary(BATCH | {"deadline_s": job["completion_s"] / 2})["jobs"]["default"]
    assert hurried["met"] is False
    assert 0.3 < hurried["met_share"] < 0.7
    assert summary(BATCH)["jobs"]["default"]["met"] is None


def test_more_at_once_is_done_sooner() -> None:
    took = [
        summary(BATCH | {"max_in_flight": most})["jobs"]["default"]["completion_s"]
        for most in (1, 4, 16)
    ]
    assert took[0] > 2 * took[1] > 4 * took[2] / 2


def test_classes_share_the_cost_by_tokens() -> None:
    found = summary(BATCH, QUEUE | {"deadline_s": 0.5})
    jobs = found["jobs"]
    assert jobs["class 0"]["usd"] == pytest.approx(jobs["class 1"]["usd"])
    both = jobs["class 0"]["usd"] + jobs["class 1"]["usd"]
    assert both == pytest.approx(found["cost"]["whole_run_usd"])
    queue = jobs["class 1"]
    assert queue["completion_s"]["n"] == 60
    assert 0.0 < queue["met_share"] < 1.0
    assert queue["met"] is False
    assert queue["outside_s"]["max"] > 0.0
    assert not found["checks"]["violations"]


def test_of_a_job_beyond_a_first_look_nothing_is_known() -> None:
    chat = QUEUE | {"requests": 10}
    late = BATCH | {"submit_at_s": 1e6, "deadline_s": 1000.0}
    classes = [{"name": "chat", "workload": chat}, {"name": "night", "workload": late}]
    scenario = Scenario.model_validate({
        "model": "llama-3.2-1b", "hardware": "h100-sxm",
        "workload": {"kind": "mix", "classes": classes},
    })  # fmt: skip
    found = simulate(scenario, intervals=False, at_most=10).summary()
    night = found["jobs"]["night"]
    assert (night["requests"], night["completed"]) == (0, 0)
    unknown = ("met", "met_share", "completion_s", "usd_per_request")
    assert [night[key] for key in unknown] == [None] * 4
    said = dict(job_lines(found))["night"]
    assert said.startswith("0 of 0 requests")
    assert "deadline" not in said


def test_traffic_without_jobs_has_none() -> None:
    plain = {
        "kind": "synthetic", "requests": 5, "arrivals": {"kind": "burst"}, "lengths": LENGTHS,
    }  # fmt: skip
    assert summary(plain)["jobs"] == {}


def test_a_job_draws_what_other_traffic_draws() -> None:
    lengths = LENGTHS | {"output": {"kind": "uniform", "low": 1, "high": 99}}
    plain = {"kind": "synthetic", "requests": 60, "arrivals": {"kind": "burst"}, "lengths": lengths}
    made = [
        build_requests(
            Scenario.model_validate(
                {"model": "llama-3.2-1b", "hardware": "h100-sxm", "workload": each}
            ).workload,
            np.random.default_rng(2),
        )
        for each in (plain, BATCH | {"lengths": lengths})
    ]
    same(made[1].output_tokens, made[0].output_tokens.tolist())
    same(made[1].arrival_s, [1.0] * 60)
    assert made[1].source == "batch job: 60 requests, at most 4 at once"


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ScenarioError, match="do not give up"):
        summary(BATCH, deployment={"timeout_s": 3.0})
    users = {"kind": "closed_loop", "concurrency": 3}
    with pytest.raises(ValueError, match="nobody waits for asynchronous answers"):
        summary(QUEUE | {"arrivals": users})
    with pytest.raises(ValueError, match="burst arrivals need requests"):
        summary(QUEUE | {"arrivals": {"kind": "burst"}, "requests": None, "duration_s": 3.0})

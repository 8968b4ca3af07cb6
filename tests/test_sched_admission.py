"""Admission control: who is refused, what the others gain, and that leaps change nothing of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from simulator.errors import ScenarioError
from simulator.resolution.terms import ClassTerms
from simulator.results.record import COMPLETED, REJECTED, RunRecord
from simulator.scenario.admission import (
    Admission,
    KvUseRule,
    PredictedTtftRule,
    QueueLengthRule,
    RateLimitRule,
    Rule,
)
from simulator.scenario.queue import (
    FCFS,
    DeadlineQueue,
    FairQueue,
    PriorityQueue,
    Queue,
    ShortestFirstQueue,
)
from simulator.workload.requests import Requests
from tests.dyadic import DyadicCost
from tests.sched_support import CONSTANT, STEP_S, requests, serve, steps


def gate(*rules: Rule, **more: Any) -> Admission:
    return Admission(rules=rules, **more)


def crowd(n: int, load: float, mean: float = 40.0, seed: int = 1, longest: int = 10**6) -> Requests:
    """Poisson arrivals of geometric outputs in two classes, ``load`` times what one seat can do."""
    rng = np.random.default_rng(seed)
    outputs = np.minimum(rng.geometric(1 / mean, n), longest)
    at = np.cumsum(rng.exponential(mean * STEP_S / load, n))
    return requests(at, outputs, rng.integers(0, 2, n))


def refused(record: RunRecord) -> float:
    return float((record.outcome == REJECTED).mean())


# --- closed forms --------------------------------------------------------------------------------


@pytest.mark.parametrize(("load", "waiting"), [(0.7, 1), (1.0, 3), (1.6, 5)])
def test_a_short_queue_refuses_as_mm1k_does(load: float, waiting: int) -> None:
    """M/M/1/K with K = seats + places to wait: P(full) = (1 - ρ) ρ^K / (1 - ρ^(K + 1))."""
    n = 40_000
    record = serve(crowd(n, load), FCFS, admission=gate(QueueLengthRule(max_waiting=waiting)))
    k = waiting + 1
    theory = 1 / (k + 1) if load == 1 else (1 - load) * load**k / (1 - load ** (k + 1))
    means = np.array([part.mean() for part in np.array_split(record.outcome == REJECTED, 25)])
    error = float(means.std(ddof=1)) / 5
    assert error < 0.06 * theory
    # Services last whole steps, which moves little where they last 40 on average.
    assert refused(record) == pytest.approx(theory, abs=4 * error + 0.02 * theory)
    assert (record.steps.waiting <= waiting).all()


def test_a_bucket_lets_its_rate_through_and_no_more() -> None:
    """In every span of time at most burst + rate · span, and over a long one not much less."""
    rate, burst = 0.5 / (40 * STEP_S), 4
    traffic = crowd(4000, 2.0)
    record = serve(
        traffic, FCFS,
        admission=gate(RateLimitRule(requests_per_s=rate, burst=burst, classes=("class 1",))),
    )  # fmt: skip
    second = traffic.class_id == 1
    assert not (record.outcome[~second] == REJECTED).any()
    let_in = np.sort(record.sent_s[second & (record.outcome == COMPLETED)])
    for k in (1, 5, 50, 400):
        spans = let_in[k:] - let_in[:-k]
        assert (k + 1 <= burst + rate * spans + 1e-6).all()
    span = record.sent_s.max() - record.sent_s.min()
    assert len(let_in) == pytest.approx(rate * span, rel=0.05)


def test_kv_use_is_that_of_the_step_under_way() -> None:
    """One sequence takes a block a step of ten; half are in use from its fifth token on."""
    traffic = requests([0.0, 3.5 * STEP_S, 5.5 * STEP_S], [10, 1, 1])
    record = serve(
        traffic, FCFS, seqs=4, blocks=10, block_size=1,
        admission=gate(KvUseRule(max_use=0.5)),
    )  # fmt: skip
    assert record.outcome.tolist() == [COMPLETED, COMPLETED, REJECTED]


def test_the_predicted_wait_is_about_right() -> None:
    """Ten times the limit of the service time in an overloaded queue: everybody who is let in waits
    about that long at most, and those refused would have waited longer."""
    limit = 400 * STEP_S
    terms = (ClassTerms(ttft_s=limit), ClassTerms(ttft_s=limit))
    traffic = crowd(6000, 1.5)
    record = serve(traffic, FCFS, terms, admission=gate(PredictedTtftRule()))
    done = record.outcome == COMPLETED
    ttft = (record.first_token_s - record.sent_s)[done][500:]
    assert float((ttft <= 1.5 * limit).mean()) > 0.9
    assert float(np.median(ttft)) > 0.5 * limit
    # What the server can do is still done: it is never idle.
    busy = record.steps.duration_s.sum() / (record.end_s - record.steps.start_s[0])
    assert busy > 0.99


def test_goodput_survives_overload() -> None:
    """Beyond saturation a queue without a gate grows until every first token is late; with one,
    goodput stays near capacity."""
    limit = 300 * STEP_S
    terms = (ClassTerms(ttft_s=limit), ClassTerms(ttft_s=limit))

    def goodput(load: float, admission: Admission | None) -> float:
        traffic = crowd(6000, load)
        record = serve(traffic, FCFS, terms, admission=admission)
        good = record.first_token_s - record.sent_s <= limit
        return float(good.sum()) / float(record.sent_s.max())

    capacity = 1 / (40 * STEP_S)
    assert goodput(1.5, None) < 0.2 * capacity
    assert goodput(1.5, gate(PredictedTtftRule(factor=0.6))) > 0.8 * capacity
    # Where nothing queues, nobody is refused for nothing.
    assert goodput(0.4, gate(PredictedTtftRule(factor=0.6))) > 0.97 * goodput(0.4, None)


# --- retries -------------------------------------------------------------------------------------


def test_refused_clients_come_again() -> None:
    """The third request finds the queue full at 1 and at 1 + 10, and gets in at 1 + 10 + 20; each
    way takes half a step, and the time of sending stays the first one."""
    step = STEP_S
    traffic = requests([0.0, 0.5 * step, step], [20, 20, 1])
    record = serve(
        traffic, FCFS, network_s=step / 2,
        admission=gate(
            QueueLengthRule(max_waiting=1), retries=2, backoff_s=10 * step, jitter=0.0
        ),
    )  # fmt: skip
    assert record.refusals == 2
    assert record.outcome.tolist() == [COMPLETED] * 3
    assert steps(record.sent_s) == [0, 0.5, 1]
    # 1 + way there and back + 10 + way there and back + 20 + way there
    assert steps(record.queued_s)[2] == pytest.approx(1 + 1 + 10 + 1 + 20 + 0.5)


def test_clients_give_up_after_their_retries_or_when_time_is_up() -> None:
    traffic = requests([0.0, 1.0 * STEP_S, 2.0 * STEP_S], [200, 200, 1])
    rules = QueueLengthRule(max_waiting=1)
    record = serve(traffic, FCFS, admission=gate(rules, retries=3, backoff_s=STEP_S, jitter=0.0))
    assert record.outcome.tolist() == [COMPLETED, COMPLETED, REJECTED]
    assert record.refusals == 4
    hasty = serve(
        traffic, FCFS, timeout_s=500 * STEP_S,
        admission=gate(rules, retries=9, backoff_s=300 * STEP_S, jitter=0.0),
    )  # fmt: skip
    assert hasty.outcome.tolist() == [COMPLETED, COMPLETED, COMPLETED]
    hasty = serve(
        traffic, FCFS, timeout_s=450 * STEP_S,
        admission=gate(rules, retries=9, backoff_s=460 * STEP_S, jitter=0.0),
    )  # fmt: skip
    assert hasty.outcome.tolist() == [COMPLETED, COMPLETED, REJECTED]


def test_pauses_are_drawn_from_the_seed() -> None:
    rule = gate(QueueLengthRule(max_waiting=2), retries=3, backoff_s=STEP_S * 50)
    runs = [serve(crowd(300, 1.5), FCFS, admission=rule, seed=seed) for seed in (1, 1, 2)]
    assert np.array_equal(runs[0].queued_s, runs[1].queued_s, equal_nan=True)
    assert not np.array_equal(runs[0].queued_s, runs[2].queued_s, equal_nan=True)
    still = rule.model_copy(update={"jitter": 0.0})
    a, b = (serve(crowd(300, 1.5), FCFS, admission=still, seed=seed) for seed in (1, 2))
    assert np.array_equal(a.queued_s, b.queued_s, equal_nan=True)


# --- exactness -----------------------------------------------------------------------------------


@dataclass(unsafe_hash=True)
class StepByStep(DyadicCost):
    """The same durations, but every step is asked for on its own."""

    def bend(self, sequences: int, context: int) -> tuple[int, int, int]:
        return 0, 0, 1


TERMS = (ClassTerms(1, 1.0, 60 * STEP_S, None), ClassTerms(0, 2.0, 300 * STEP_S, None))


@pytest.mark.parametrize(
    "rule",
    [
        QueueLengthRule(max_waiting=3),
        KvUseRule(max_use=0.8),
        PredictedTtftRule(factor=0.7),
        RateLimitRule(requests_per_s=1 / (30 * STEP_S), burst=3),
    ],
    ids=lambda rule: rule.kind,
)
@pytest.mark.parametrize(
    "queue",
    [FCFS, PriorityQueue(), ShortestFirstQueue(), DeadlineQueue(defer_hopeless=True), FairQueue()],
    ids=lambda queue: queue.kind,
)
def test_leaps_change_nothing(rule: Rule, queue: Queue) -> None:
    """What a rule sees in the middle of a run of equal steps is what it would see step by step."""
    traffic = crowd(400, 4.0, mean=20.0, longest=60)
    fields = {name: getattr(CONSTANT, name) for name in DyadicCost.__dataclass_fields__}
    runs = [
        serve(
            traffic, queue, TERMS, seqs=3, blocks=40, block_size=2, cost=cost,
            admission=gate(rule, retries=1, backoff_s=8 * STEP_S),
        )
        for cost in (CONSTANT, StepByStep(**fields))
    ]  # fmt: skip
    fast, slow = runs
    assert len(fast.steps) < 0.9 * len(slow.steps)
    assert 0.005 < refused(fast) < 0.98
    for name in ("outcome", "queued_s", "start_s", "first_token_s", "finish_s"):
        assert np.allclose(
            getattr(fast, name), getattr(slow, name), rtol=1e-12, atol=0, equal_nan=True
        ), name
    assert fast.refusals == slow.refusals


# --- mistakes ------------------------------------------------------------------------------------


def test_rules_that_mean_nothing_are_refused() -> None:
    traffic = requests([0.0], [1])
    with pytest.raises(ScenarioError, match=r"no class of traffic has a limit ttft_ms"):
        serve(traffic, FCFS, admission=gate(PredictedTtftRule()))
    rule = RateLimitRule(requests_per_s=1.0, classes=("chat",))
    with pytest.raises(ScenarioError, match=r"no traffic class 'chat'; classes are class 0"):
        serve(traffic, FCFS, admission=gate(rule))

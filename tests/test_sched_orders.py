"""Orders of the queue against what theory says of them."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise, permutations

import numpy as np
import pytest

from simulator.errors import ScenarioError
from simulator.resolution.terms import ClassTerms
from simulator.scenario.policies import ContinuousPolicy, StaticPolicy
from simulator.scenario.queue import (
    FCFS,
    DeadlineQueue,
    FairQueue,
    PriorityQueue,
    Queue,
    ShortestFirstQueue,
)
from tests.agreement import run_fast
from tests.dyadic import TICK_S
from tests.sched_support import CONSTANT, STEP_S, Floats, requests, serve, steps
from tests.strategies import Case, Req, make_limits
from tests.test_queueing import assert_mean

BY_OUTPUT = ShortestFirstQueue(input_weight=0.0)
ORDERS: list[Queue] = [
    FCFS, PriorityQueue(), BY_OUTPUT, ShortestFirstQueue(aging_tokens_per_s=1e4),
    DeadlineQueue(limit="e2e"), DeadlineQueue(limit="e2e", defer_hopeless=True), FairQueue(),
]  # fmt: skip


# --- shortest first ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_shortest_first_has_the_least_mean_wait(seed: int) -> None:
    """Smith's rule (1956): of all orders of jobs that are there, on one server."""
    outputs = np.random.default_rng(seed).integers(1, 40, 6)
    record = serve(requests([0.0] * 6, outputs), BY_OUTPUT)
    waits = steps(record.start_s)
    assert sum(waits) == min(
        sum(sum(order[:i]) for i in range(6)) for order in permutations(outputs.tolist())
    )
    assert sorted(waits) == np.cumsum([0, *np.sort(outputs)[:-1]]).tolist()


def test_shortest_first_with_poisson_arrivals() -> None:
    """M/G/1 with sizes as priorities (Phipps 1956)."""
    sizes, shares = np.array([2, 10, 40]), np.array([0.7, 0.2, 0.1])
    rng = np.random.default_rng(11)
    outputs = rng.choice(sizes, 60_000, p=shares)
    rate = 0.75 / (float(sizes @ shares) * STEP_S)
    record = serve(requests(np.cumsum(rng.exponential(1 / rate, 60_000)), outputs), BY_OUTPUT)
    wait = record.start_s - record.queued_s
    for i, theory in enumerate(_cobham(rate * shares, sizes * STEP_S, (sizes * STEP_S) ** 2.0)):
        assert_mean(wait[outputs == sizes[i]], theory, precision=0.08)


def test_predictions_that_are_off_help_less() -> None:
    rng = np.random.default_rng(3)
    outputs = rng.geometric(0.05, 4000)
    arrivals = np.cumsum(rng.exponential(20 * STEP_S / 0.9, 4000))

    def mean_wait(queue: Queue) -> float:
        record = serve(requests(arrivals, outputs), queue)
        return float((record.start_s - record.queued_s).mean())

    errors = (0.0, 0.5, 3.0)
    waits = [mean_wait(BY_OUTPUT.model_copy(update={"prediction_error": e})) for e in errors]
    assert waits[0] < 0.97 * waits[1]
    assert waits[1] < 0.9 * waits[2]
    assert waits[2] < 0.97 * mean_wait(FCFS)


def test_nobody_starves_with_aging() -> None:
    """A long request in a stream of short ones that fills the server: last without aging; with it,
    before everything that was sent later than its work takes to age."""
    n = 400
    at = [0.0, 0.0, *(i * 2 * STEP_S for i in range(1, n))]
    outputs = [2, 100, *[2] * (n - 1)]
    starved = serve(requests(at, outputs), BY_OUTPUT)
    assert starved.start_s[1] == starved.start_s.max()
    aging = 0.5 / STEP_S
    aged = serve(requests(at, outputs), BY_OUTPUT.model_copy(update={"aging_tokens_per_s": aging}))
    later = aged.sent_s > (100 - 2) / aging
    assert later.any()
    assert aged.start_s[1] < aged.start_s[later].min()
    assert aged.start_s[1] <= (100 - 2) / aging + 2 * STEP_S


# --- priority ------------------------------------------------------------------------------------


def _cobham(rates: Floats, means: Floats, seconds: Floats) -> list[float]:
    """Mean waits in M/G/1 with priorities, without preemption (Cobham 1954)."""
    residual = float(rates @ seconds) / 2
    loads = np.concatenate([[0.0], np.cumsum(rates * means)])
    return [residual / ((1 - a) * (1 - b)) for a, b in pairwise(loads)]


def test_priorities_wait_as_cobham_says() -> None:
    rng = np.random.default_rng(5)
    n = 60_000
    classes = rng.choice(3, n, p=[0.2, 0.5, 0.3])
    mean = np.array([20.0, 5.0, 10.0])
    outputs = rng.geometric(1 / mean[classes])
    rate = 0.8 / (float(mean @ [0.2, 0.5, 0.3]) * STEP_S)
    # The numbers of the classes are not their order: the second one goes first.
    terms = (ClassTerms(priority=1), ClassTerms(priority=-3), ClassTerms(priority=7))
    traffic = requests(np.cumsum(rng.exponential(1 / rate, n)), outputs, classes)
    record = serve(traffic, PriorityQueue(), terms)
    order = [1, 0, 2]
    second = (2 - 1 / mean) * mean**2 * STEP_S**2
    rates = rate * np.array([0.2, 0.5, 0.3])
    theory = _cobham(rates[order], mean[order] * STEP_S, second[order])
    wait = record.start_s - record.queued_s
    for number, expected in zip(order, theory, strict=True):
        assert_mean(wait[classes == number], expected, precision=0.08)


def test_the_lowest_priority_loses_its_blocks() -> None:
    """Six blocks of one token; both want a fourth. The last one in goes, unless it matters more."""
    traffic = requests([0.0, 0.0], [4, 4], [0, 1], prompts=[2, 2])
    terms = (ClassTerms(priority=5), ClassTerms(priority=1))
    plain = serve(traffic, FCFS, terms, seqs=2, blocks=6, block_size=1)
    assert plain.preemptions.tolist() == [0, 1]
    ranked = serve(traffic, PriorityQueue(), terms, seqs=2, blocks=6, block_size=1)
    assert ranked.preemptions.tolist() == [1, 0]
    assert ranked.finish_s[1] < ranked.finish_s[0]


# --- deadlines -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_deadlines_are_met_if_any_order_meets_them(seed: int) -> None:
    """Jackson's rule (1955): of jobs that are there, earliest deadline first has the least maximum
    lateness; so it meets all deadlines if some order does."""
    rng = np.random.default_rng(seed)
    n = 5
    outputs = rng.integers(1, 12, n).tolist()
    due = rng.integers(5, 45, n).tolist()
    terms = tuple(ClassTerms(e2e_s=d * STEP_S) for d in due)
    record = serve(requests([0.0] * n, outputs, range(n)), DeadlineQueue(limit="e2e"), terms)
    lateness = max(f - d for f, d in zip(steps(record.finish_s), due, strict=True))
    best = min(
        max(sum(outputs[j] for j in order[: i + 1]) - due[job] for i, job in enumerate(order))
        for order in permutations(range(n))
    )
    assert lateness == best


def test_the_hopeless_do_not_drag_others_along() -> None:
    """The second one cannot be done in three steps, however early: tried in vain, it makes the third
    one late; deferred, only itself."""
    due = [2, 3, 6]
    terms = tuple(ClassTerms(e2e_s=d * STEP_S) for d in due)
    traffic = requests([0.0] * 3, [2, 4, 4], range(3))
    tried = serve(traffic, DeadlineQueue(limit="e2e"), terms)
    assert steps(tried.finish_s) == [2, 6, 10]
    deferred = serve(traffic, DeadlineQueue(limit="e2e", defer_hopeless=True), terms)
    assert steps(deferred.finish_s) == [2, 10, 6]


def test_deadlines_need_a_limit() -> None:
    with pytest.raises(ScenarioError, match=r"engine.queue: no class .* set slo.ttft_ms"):
        serve(requests([0.0], [1]), DeadlineQueue(), (ClassTerms(e2e_s=1.0),))


def test_who_has_no_deadline_goes_last() -> None:
    traffic = requests([0.0] * 3, [2, 2, 2], [0, 1, 1])
    record = serve(traffic, DeadlineQueue(), (ClassTerms(), ClassTerms(ttft_s=1.0)))
    assert steps(record.start_s) == [4, 0, 2]


# --- fair ----------------------------------------------------------------------------------------


def _service(case: Case, queue: FairQueue) -> tuple[Floats, Floats]:
    """Times, and by then the weighted tokens of each class over its weight. Shapes (events,) and
    (classes, events)."""
    run = case.oracle()
    events = []
    for i, req in enumerate(case.reqs):
        weight = case.terms[req.kind].weight
        events.append((run.start_s[i], req.kind, queue.input_weight * req.prompt / weight))
        events += [(at, req.kind, queue.output_weight / weight) for at in run.token_s[i]]
    events.sort()
    at = np.array([event[0] for event in events])
    got = np.zeros((len(case.terms), len(events)))
    for i, (_, kind, tokens) in enumerate(events):
        got[kind, i] = tokens
    return at, got.cumsum(axis=1)


@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_backlogged_classes_are_served_within_the_bound(weight: float) -> None:
    """While two classes wait, what they got differs by at most 2 max(w_in · longest prompt, w_out ·
    tokens that fit), however unequal their demand (Sheng et al., theorem 4.4). The first class sends
    four times as much, at once and in front."""
    rng = np.random.default_rng(8)
    reqs = [
        Req(0.0, int(rng.integers(5, 40)), int(rng.integers(5, 60)), kind=kind)
        for kind in [0] * 160 + [1] * 40
    ]
    queue = FairQueue()
    terms = (ClassTerms(), ClassTerms(weight=weight))
    limits = replace(make_limits(ContinuousPolicy(), seqs=6, budget=256), queue=queue)
    case = Case(tuple(reqs), limits, 100, CONSTANT, terms=terms)
    fits = 100 * limits.block_size
    bound = 2 * max(queue.input_weight * 40, queue.output_weight * fits)
    differences = {}
    for order in (queue, FCFS):
        run = replace(case, limits=replace(limits, queue=order))
        at, got = _service(run, queue)
        # Both wait until the last one of either class has started.
        record = run_fast(run)
        kinds = np.array([req.kind for req in reqs])
        until = min(record.start_s[kinds == kind].max() for kind in (0, 1))
        differences[order.kind] = float(np.abs(got[0] - got[1])[at <= until].max())
    assert differences["fair"] <= bound
    assert differences["fcfs"] > 2 * bound


def test_service_follows_the_weights() -> None:
    """Two classes that always wait, one with three times the weight: three times the tokens."""
    n = 600
    traffic = requests([0.0] * n, [10] * n, [i % 2 for i in range(n)])
    terms = (ClassTerms(), ClassTerms(weight=3.0))
    record = serve(traffic, FairQueue(), terms, seqs=4)
    half = record.finish_s < np.median(record.finish_s)
    share = float((traffic.class_id[half] == 1).mean())
    assert share == pytest.approx(0.75, abs=0.02)


def test_idle_time_is_not_saved_up() -> None:
    """A class that comes late is lifted to the others' counter: it shares from then on, instead of
    keeping the server until it has caught up."""
    n = 60
    late = 30 * 10 * STEP_S
    traffic = requests([0.0] * n + [late] * n, [10] * (2 * n), [0] * n + [1] * n)
    record = serve(traffic, FairQueue(), (ClassTerms(), ClassTerms()))
    order = np.argsort(record.start_s)
    after = traffic.class_id[order][record.start_s[order] >= late][:40]
    assert 18 <= int(after.sum()) <= 22


# --- all of them ---------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", ORDERS, ids=str)
def test_everybody_ends_once_and_work_is_conserved(queue: Queue) -> None:
    """Whoever goes first, one server works as long and is done with everything at the same time."""
    rng = np.random.default_rng(2)
    n = 500
    arrivals = np.cumsum(rng.exponential(12 * STEP_S, n)).round(3)
    traffic = requests(arrivals, rng.integers(1, 20, n), rng.integers(0, 2, n))
    terms = (ClassTerms(2, 1.0, None, 50 * STEP_S), ClassTerms(1, 2.0, None, 900 * STEP_S))
    record, fcfs = serve(traffic, queue, terms), serve(traffic, FCFS, terms)
    assert (record.generated == traffic.output_tokens).all()
    assert math.isclose(record.finish_s.max(), fcfs.finish_s.max(), rel_tol=1e-9)
    busy = [float(r.steps.duration_s.sum()) for r in (record, fcfs)]
    assert math.isclose(*busy, rel_tol=1e-9)


@pytest.mark.parametrize("queue", ORDERS[1:], ids=str)
def test_orders_fill_static_batches_too(queue: Queue) -> None:
    """Two seats, six requests: the order decides who sits with whom."""
    reqs = tuple(
        Req(0.0, 1, output, kind=kind)
        for output, kind in [(9, 0), (1, 1), (5, 0), (2, 1), (7, 0), (3, 1)]
    )
    limits = replace(make_limits(StaticPolicy(batch_size=2)), queue=queue)
    terms = (ClassTerms(3, 1.0, None, 9000 * TICK_S), ClassTerms(1, 1.0, None, 50 * TICK_S))
    record = run_fast(Case(reqs, limits, 1000, CONSTANT, terms=terms))
    first = set(np.flatnonzero(record.start_s == 0.0).tolist())
    if isinstance(queue, FairQueue):
        assert first == {0, 1}
    elif isinstance(queue, ShortestFirstQueue):
        assert first == {1, 3}
    elif isinstance(queue, DeadlineQueue) and queue.defer_hopeless:
        assert first == {0, 2}
    else:
        assert first == {1, 3}

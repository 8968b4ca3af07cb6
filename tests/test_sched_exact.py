"""Every order of the queue gives what simulating every step gives, to the last bit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.resolution.terms import ClassTerms
from simulator.scenario.policies import ContinuousPolicy, Policy, PrefillFirstPolicy
from simulator.scenario.queue import (
    DeadlineQueue,
    FairQueue,
    FcfsQueue,
    PriorityQueue,
    Queue,
    ShortestFirstQueue,
)
from tests.agreement import assert_agree, run_fast
from tests.dyadic import TICK_S
from tests.strategies import CONTINUOUS, Case, batch_policies, cases, examples, random_case

ANY = st.one_of(st.sampled_from(CONTINUOUS), batch_policies())

# Binary fractions, so that keys are exact whatever the order of additions.
SHORTEST = st.builds(
    ShortestFirstQueue,
    input_weight=st.sampled_from([1.0, 0.5, 2.0]),
    output_weight=st.sampled_from([0.25, 1.0, 4.0]),
    prediction_error=st.sampled_from([0.0, 0.5]),
    aging_tokens_per_s=st.sampled_from([0.0, 2.0**8, 2.0**16]),
)
DEADLINE = st.builds(
    DeadlineQueue, limit=st.sampled_from(["ttft", "e2e"]), defer_hopeless=st.booleans()
)
FAIR = st.builds(
    FairQueue,
    input_weight=st.sampled_from([0.0, 1.0, 0.5]),
    output_weight=st.sampled_from([1.0, 2.0, 8.0]),
)


@st.composite
def in_classes(
    draw: st.DrawFn, base: st.SearchStrategy[Case], orders: st.SearchStrategy[Queue]
) -> Case:
    """The case with its requests in up to three classes, under an order."""
    case = draw(base)
    n = draw(st.integers(1, 3))
    limit = st.sampled_from([None, 50, 400, 3000, 20_000])
    terms = tuple(
        ClassTerms(
            priority=draw(st.integers(-1, 2)),
            weight=draw(st.sampled_from([0.25, 1.0, 1.0, 2.0])),
            ttft_s=draw(limit),
            e2e_s=draw(limit),
        )
        for _ in range(n)
    )
    terms = tuple(
        replace(
            t,
            ttft_s=_ticks(t.ttft_s or (i == 0 and 500) or None),
            e2e_s=_ticks(t.e2e_s or (i == 0 and 5000) or None),
        )
        for i, t in enumerate(terms)
    )
    reqs = tuple(replace(req, kind=draw(st.integers(0, n - 1))) for req in case.reqs)
    limits = replace(case.limits, queue=draw(orders))
    return replace(case, reqs=reqs, limits=limits, terms=terms)


def _ticks(count: float | None) -> float | None:
    return None if count is None else count * TICK_S


@examples(250)
@given(in_classes(cases(ANY), st.just(PriorityQueue())))
def test_priority(case: Case) -> None:
    assert_agree(case)


@examples(200)
@given(in_classes(cases(ANY), SHORTEST))
def test_shortest_first(case: Case) -> None:
    assert_agree(case)


@examples(250)
@given(in_classes(cases(ANY), DEADLINE))
def test_deadline(case: Case) -> None:
    assert_agree(case)


@examples(250)
@given(in_classes(cases(ANY), FAIR))
def test_fair(case: Case) -> None:
    assert_agree(case)


ORDERS = st.one_of(st.just(PriorityQueue()), SHORTEST, DEADLINE, FAIR)


@examples(200)
@given(in_classes(cases(st.sampled_from(CONTINUOUS), prefix_caching=True, dependent=True), ORDERS))
def test_sessions_and_closed_loops_with_prefixes(case: Case) -> None:
    assert_agree(case)


@examples(100)
@given(in_classes(cases(ANY, replicas=3), ORDERS))
def test_replicas(case: Case) -> None:
    assert_agree(case)


@examples(150)
@given(in_classes(cases(st.sampled_from(CONTINUOUS)), ORDERS), st.integers(1, 3000))
def test_time_outs(case: Case, patience: int) -> None:
    assert_agree(replace(case, timeout_s=patience * TICK_S))


TERMS = (
    ClassTerms(1, 0.5, 400 * TICK_S, 9000 * TICK_S),
    ClassTerms(0, 1.0, 2500 * TICK_S, 20_000 * TICK_S),
    ClassTerms(2, 2.0, None, 4000 * TICK_S),
)


@pytest.mark.parametrize("policy", [ContinuousPolicy(), PrefillFirstPolicy()], ids=lambda p: p.kind)
@pytest.mark.parametrize(
    "queue",
    [
        PriorityQueue(),
        ShortestFirstQueue(),
        ShortestFirstQueue(prediction_error=1.0, aging_tokens_per_s=2.0**14),
        DeadlineQueue(),
        DeadlineQueue(limit="e2e", defer_hopeless=True),
        FairQueue(),
    ],
    ids=str,
)
def test_longer_runs(policy: Policy, queue: Queue) -> None:
    """Fifty requests a run under pressure; and what the test is about really happens in them."""
    seen: Counter[str] = Counter()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        case = random_case(rng, policy, prefix_caching=seed % 2 == 1)
        reqs = tuple(replace(req, kind=int(rng.integers(3))) for req in case.reqs)
        case = replace(
            case,
            reqs=reqs,
            terms=TERMS,
            limits=replace(case.limits, queue=queue, async_scheduling=seed % 4 > 1),
        )
        fast, slow = assert_agree(case)
        fcfs = run_fast(replace(case, limits=replace(case.limits, queue=FcfsQueue())))
        seen["changed"] += not np.array_equal(fast.finish_s, fcfs.finish_s)
        seen["preemptions"] += sum(slow.preemptions)
        seen["rows"] += len(fast.steps)
        seen["steps"] += len(slow.steps)
    assert seen["changed"] == 8
    assert seen["preemptions"] > 50
    assert seen["rows"] < 0.75 * seen["steps"]

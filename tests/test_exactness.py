"""The fast path gives what simulating every step gives: to the last bit, under every policy."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.scenario.policies import (
    ContinuousPolicy,
    FullReservationPolicy,
    Policy,
    PrefillFirstPolicy,
    StaticPolicy,
)
from tests.agreement import assert_agree
from tests.dyadic import TICK_S
from tests.strategies import CONTINUOUS, Case, batch_policies, cases, examples, random_case


@examples(300)
@given(cases(st.just(ContinuousPolicy())))
def test_continuous(case: Case) -> None:
    assert_agree(case)


@examples(200)
@given(cases(st.just(ContinuousPolicy(chunked_prefill=False))))
def test_continuous_with_whole_prompts(case: Case) -> None:
    assert_agree(case)


@examples(150)
@given(
    cases(
        st.builds(
            FullReservationPolicy,
            chunked_prefill=st.booleans(),
            wait_steps=st.sampled_from([0, 1, 2, 5, 40]),
            wait_fill=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
        )
    )
)
def test_full_reservation(case: Case) -> None:
    assert_agree(case)


@examples(250)
@given(cases(st.just(PrefillFirstPolicy())))
def test_prefill_first(case: Case) -> None:
    assert_agree(case)


@examples(200)
@given(cases(batch_policies()))
def test_static_and_dynamic_batches(case: Case) -> None:
    assert_agree(case)


@examples(300)
@given(cases(st.sampled_from(CONTINUOUS), prefix_caching=True))
def test_shared_prefixes(case: Case) -> None:
    assert_agree(case)


@examples(200)
@given(cases(st.sampled_from(CONTINUOUS), prefix_caching=True, dependent=True))
def test_sessions_and_closed_loops_with_prefixes(case: Case) -> None:
    assert_agree(case)


@examples(200)
@given(cases(st.one_of(st.sampled_from(CONTINUOUS), batch_policies()), dependent=True))
def test_sessions_and_closed_loops(case: Case) -> None:
    assert_agree(case)


@examples(150)
@given(cases(st.one_of(st.sampled_from(CONTINUOUS), batch_policies()), replicas=3))
def test_replicas_in_turn(case: Case) -> None:
    assert_agree(case)


@examples(100)
@given(cases(st.sampled_from(CONTINUOUS), dependent=True, prefix_caching=True, replicas=2))
def test_dependent_requests_on_two_replicas(case: Case) -> None:
    assert_agree(case)


@examples(200)
@given(cases(st.sampled_from(CONTINUOUS)), st.integers(1, 3000))
def test_time_outs(case: Case, patience: int) -> None:
    assert_agree(replace(case, timeout_s=patience * TICK_S))


@pytest.mark.parametrize(
    ("policy", "prefix_caching"),
    [(policy, cached) for policy in CONTINUOUS for cached in (False, True)]
    + [(StaticPolicy(batch_size=6), False)],  # static batches do not share blocks
    ids=str,
)
def test_longer_runs(policy: Policy, prefix_caching: bool) -> None:
    """Fifty requests a run under pressure; and what the tests are about really happens in them."""
    seen: Counter[str] = Counter()
    for seed in range(12):
        case = random_case(np.random.default_rng(seed), policy, prefix_caching=prefix_caching)
        fast, slow = assert_agree(case)
        seen["preemptions"] += sum(slow.preemptions)
        seen["hits"] += sum(cached > 0 for cached in slow.cached_tokens)
        seen["partial prefills"] += sum(new.past > 0 for step in slow.steps for new in step.chunks)
        seen["steps"] += len(slow.steps)
        seen["rows"] += len(fast.steps)
        seen["long leaps"] += int((fast.steps.steps > 5).sum())
        seen["other gaps"] += int(fast.gaps.count.sum())
    assert seen["rows"] < 0.7 * seen["steps"]
    assert seen["long leaps"] > 50
    if policy.kind in ("continuous", "prefill_first"):
        assert seen["preemptions"] > 100
        assert seen["other gaps"] > 50
    if prefix_caching:
        assert seen["hits"] > 100
    if getattr(policy, "chunked_prefill", policy.kind != "static") or prefix_caching:
        assert seen["partial prefills"] > 50

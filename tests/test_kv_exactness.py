"""With tiers, swapping and a watermark the fast path gives what stepping gives, to the last bit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.scenario.policies import ContinuousPolicy, Policy, PrefillFirstPolicy
from simulator.scenario.queue import PriorityQueue
from simulator.serving.below import Below, TierSpec
from tests.agreement import assert_agree
from tests.dyadic import TICK_S
from tests.strategies import (
    CONTINUOUS,
    Case,
    cases,
    cellars,
    examples,
    random_case,
    swap_spaces,
)
from tests.test_sched_exact import DEADLINE, FAIR, SHORTEST, in_classes
from tests.test_spec_exactness import with_drafts

PREEMPTING: list[Policy] = [
    ContinuousPolicy(),
    ContinuousPolicy(chunked_prefill=False),
    PrefillFirstPolicy(),
]


@examples(200)
@given(cases(st.sampled_from(CONTINUOUS)), st.integers(1, 12))
def test_watermark(case: Case, watermark: int) -> None:
    assert_agree(replace(case, watermark=watermark))


@examples(300)
@given(cases(st.sampled_from(CONTINUOUS), prefix_caching=True), cellars())
def test_tiers(case: Case, below: Below) -> None:
    assert_agree(replace(case, below=below))


@examples(250)
@given(cases(st.sampled_from(CONTINUOUS), prefix_caching=True, dependent=True), cellars())
def test_tiers_under_sessions(case: Case, below: Below) -> None:
    assert_agree(replace(case, below=below))


@examples(100)
@given(cases(st.sampled_from(CONTINUOUS), prefix_caching=True, replicas=3), cellars())
def test_tiers_of_replicas_that_share_drives(case: Case, below: Below) -> None:
    assert_agree(replace(case, below=below))


@examples(150)
@given(
    in_classes(
        cases(st.sampled_from(CONTINUOUS), prefix_caching=True),
        st.one_of(st.just(PriorityQueue()), SHORTEST, DEADLINE, FAIR),
    ),
    cellars(),
)
def test_tiers_under_other_orders(case: Case, below: Below) -> None:
    assert_agree(replace(case, below=below))


@examples(150)
@given(with_drafts(cases(st.sampled_from(CONTINUOUS), prefix_caching=True)), cellars())
def test_tiers_with_drafts(case: Case, below: Below) -> None:
    assert_agree(replace(case, below=below))


@examples(400)
@given(cases(st.sampled_from(PREEMPTING)), swap_spaces())
def test_swapping(case: Case, below: Below) -> None:
    assert_agree(replace(case, below=below))


@examples(250)
@given(
    cases(st.sampled_from(PREEMPTING), prefix_caching=True, dependent=True),
    swap_spaces(),
    st.sampled_from([0, 0, 3]),
)
def test_swapping_with_a_prefix_cache(case: Case, below: Below, watermark: int) -> None:
    assert_agree(replace(case, below=below, watermark=watermark))


@examples(150)
@given(cases(st.sampled_from(PREEMPTING)), swap_spaces(), st.integers(1, 3000))
def test_time_outs_of_those_who_are_away(case: Case, below: Below, patience: int) -> None:
    assert_agree(replace(case, below=below, timeout_s=patience * TICK_S))


@pytest.mark.parametrize("policy", PREEMPTING, ids=str)
def test_longer_runs_that_swap(policy: Policy) -> None:
    seen: Counter[str] = Counter()
    for seed in range(12):
        case = random_case(np.random.default_rng(seed), policy)
        below = Below(1.0, 1, 1 / (8 * TICK_S), swap_blocks=30 if seed % 2 else 1000)
        fast, slow = assert_agree(replace(case, below=below))
        assert fast.moved is not None
        assert fast.moved.up_bytes == fast.moved.down_bytes
        seen["preemptions"] += sum(slow.preemptions)
        seen["swapped blocks"] += int(fast.moved.up_bytes["swap"])
        seen["recomputed"] += int(fast.steps.wasted_tokens.sum())
        seen["long leaps"] += int((fast.steps.steps > 5).sum())
        if below.swap_blocks == 1000:
            assert not fast.steps.wasted_tokens.any()
    assert seen["preemptions"] > 100
    assert seen["swapped blocks"] > 100
    assert seen["recomputed"] > 0
    assert seen["long leaps"] > 50


@pytest.mark.parametrize("policy", CONTINUOUS, ids=str)
def test_longer_runs_with_tiers(policy: Policy) -> None:
    seen: Counter[str] = Counter()
    for seed in range(12):
        case = random_case(np.random.default_rng(seed), policy, prefix_caching=True)
        below = Below(
            1.0, 1, 1 / (4 * TICK_S),
            tiers=(TierSpec("host", 12), TierSpec("ssd", 40, 1 / (16 * TICK_S), 1 / (32 * TICK_S))),
            overlap=bool(seed % 3),
        )  # fmt: skip
        fast, _ = assert_agree(replace(case, below=below))
        assert fast.moved is not None
        for name in ("host", "ssd"):
            seen[name] += int(fast.moved.up_bytes[name])
            seen[f"{name} hits"] += int(fast.moved.tokens(name).sum())
        seen["stalled"] += int((fast.steps.stall_s > 0).sum())
        seen["hidden"] += int((fast.steps.stall_s == 0).sum())
        seen["long leaps"] += int((fast.steps.steps > 5).sum())
    assert min(seen.values()) > 20, seen

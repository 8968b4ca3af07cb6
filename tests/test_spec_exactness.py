"""Speculative decoding on the fast path gives what simulating every step gives, to the last bit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.deployment import Speculation
from simulator.scenario.policies import Policy
from tests.agreement import assert_agree
from tests.dyadic import TICK_S
from tests.strategies import CONTINUOUS, Case, cases, examples, on_boundaries, random_case


def speculating(case: Case, speculation: Speculation) -> Case:
    """The case with drafts, and a budget that holds them."""
    limits = replace(case.limits, speculation=speculation)
    budget = max(limits.max_num_batched_tokens, limits.decode_tokens)
    return replace(case, limits=replace(limits, max_num_batched_tokens=budget))


@st.composite
def with_drafts(draw: st.DrawFn, kinds: st.SearchStrategy[Case]) -> Case:
    case = draw(kinds)
    tokens = draw(st.integers(1, 6))
    probability = st.sampled_from([0.0, 0.2, 0.5, 0.7, 0.95, 1.0])
    if draw(st.booleans()):
        acceptance = [draw(probability)] * tokens
    else:
        acceptance = draw(st.lists(probability, min_size=tokens, max_size=tokens))
    most = draw(st.sampled_from([1, 2, 3, 5, 1000]))
    case = speculating(case, Speculation(tokens, tuple(acceptance), most, draw(st.integers(0, 9))))
    independent = case.requests.open_loop and not case.delays
    return draw(on_boundaries(case)) if independent else case


@examples(300)
@given(with_drafts(cases(st.sampled_from(CONTINUOUS))))
def test_open_loop(case: Case) -> None:
    assert_agree(case)


@examples(250)
@given(with_drafts(cases(st.sampled_from(CONTINUOUS), prefix_caching=True)))
def test_shared_prefixes(case: Case) -> None:
    assert_agree(case)


@examples(150)
@given(with_drafts(cases(st.sampled_from(CONTINUOUS), prefix_caching=True, dependent=True)))
def test_sessions_and_closed_loops(case: Case) -> None:
    assert_agree(case)


@examples(100)
@given(with_drafts(cases(st.sampled_from(CONTINUOUS), replicas=2)))
def test_replicas(case: Case) -> None:
    assert_agree(case)


@examples(200)
@given(with_drafts(cases(st.sampled_from(CONTINUOUS))), st.integers(1, 3000))
def test_time_outs(case: Case, patience: int) -> None:
    assert_agree(replace(case, timeout_s=patience * TICK_S))


@pytest.mark.parametrize("policy", CONTINUOUS, ids=str)
@pytest.mark.parametrize("prefix_caching", [False, True])
def test_longer_runs(policy: Policy, prefix_caching: bool) -> None:
    """Fifty requests a run under pressure; and what the tests are about really happens in them."""
    seen: Counter[str] = Counter()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        case = random_case(rng, policy, prefix_caching=prefix_caching)
        tokens = int(rng.integers(1, 5))
        chances = tuple(rng.uniform(0.3, 1.0, tokens).tolist())
        most = int(rng.choice([3, 1000]))
        fast, slow = assert_agree(speculating(case, Speculation(tokens, chances, most, seed)))
        seen["preemptions"] += sum(slow.preemptions)
        seen["hits"] += sum(cached > 0 for cached in slow.cached_tokens)
        seen["accepted"] += int(fast.steps.accepted_tokens.sum())
        width = np.where(fast.steps.decode <= most, tokens, 0) * fast.steps.decode
        seen["rejected"] += int((width - fast.steps.accepted_tokens).sum())
        seen["other gaps"] += int(fast.gaps.count.sum())
        assert (fast.steps.steps == 1).all()
    assert seen["accepted"] > 1000
    assert seen["rejected"] > 500
    if policy.kind in ("continuous", "prefill_first"):
        assert seen["preemptions"] > 30
        assert seen["other gaps"] > 20
    if prefix_caching:
        assert seen["hits"] > 60

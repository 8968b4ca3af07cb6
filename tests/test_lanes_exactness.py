"""Replicas with several lanes against steppers that simulate every step, to the last bit."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.cluster import run_cluster
from simulator.results.integrity import check_integrity
from simulator.results.record import RunRecord
from simulator.scenario.policies import Policy, PrefillFirstPolicy
from tests.agreement import differences
from tests.dyadic import TICK_S, DyadicCost
from tests.dyadic_lanes import DyadicLockstep, DyadicPipeline
from tests.oracle_lanes import run_lockstep_oracle, run_pipeline_oracle
from tests.strategies import CONTINUOUS, Case, Delays, batch_policies, cases, examples, random_case
from tests.test_sched_exact import ORDERS, in_classes


def by_lane(record: RunRecord) -> RunRecord:
    """With lanes in the place of replicas, as the steppers count them."""
    assert not record.steps.replica.any()
    steps = replace(record.steps, replica=record.steps.lane)
    lane = np.zeros_like(record.replica) if record.lane is None else record.lane
    return replace(record, replica=lane, steps=steps)


def run_fast(case: Case, lanes: int, cost: DyadicPipeline | DyadicLockstep) -> RunRecord:
    record = run_cluster(
        case.requests,
        case.limits,
        case.kv_blocks * lanes,
        cost,
        terms=case.terms,
        timeout_s=case.timeout_s,
        **case.delays,
    )
    check_integrity(record)
    return record


def assert_pipeline_agrees(case: Case, cost: DyadicPipeline) -> RunRecord:
    slow, machines = run_pipeline_oracle(
        case.requests,
        case.limits,
        case.kv_blocks * cost.stages,
        cost,
        terms=case.terms,
        timeout_s=case.timeout_s or math.inf,
        **case.delays,
    )
    fast = run_fast(case, cost.stages, cost)
    alone = replace(case, cost=cost.parts[0])
    found = differences(alone, by_lane(fast), slow)
    assert not found, "\n".join(["pipeline and stepper disagree", *found, repr(cost), repr(case)])
    assert not any(slow.held_blocks)
    for log in machines.visits:
        for (_, left), (enter, _) in pairwise(log):
            assert enter >= left
    return fast


def assert_lockstep_agrees(case: Case, cost: DyadicLockstep) -> RunRecord:
    slow = run_lockstep_oracle(
        case.requests,
        case.limits,
        case.kv_blocks * cost.ranks,
        cost,
        terms=case.terms,
        timeout_s=case.timeout_s or math.inf,
        **case.delays,
    )
    fast = run_fast(case, cost.ranks, cost)
    alone = replace(case, cost=cost.part)
    found = differences(alone, by_lane(fast), slow)
    assert not found, "\n".join(["lockstep and stepper disagree", *found, repr(cost), repr(case)])
    assert not any(slow.held_blocks)
    return fast


@st.composite
def pipelines(draw: st.DrawFn, first: DyadicCost) -> DyadicPipeline:
    """Stages around the case's cost: slower and faster ones, links that are free or a bottleneck."""
    count = draw(st.integers(2, 4))
    parts = [first]
    for _ in range(count - 1):
        base = draw(st.sampled_from([1, 20, first.base, first.base + 50, 400]))
        parts.append(replace(first, base=base, mixed_base=draw(st.integers(1, 200))))
    order = draw(st.permutations(parts))
    link, lag = draw(st.sampled_from([(0, 0), (1, 0), (0, 7), (3, 40), (90, 2)]))
    return DyadicPipeline(tuple(order), link, lag)


@st.composite
def piped(
    draw: st.DrawFn, policies: st.SearchStrategy[Policy], **more: bool
) -> tuple[Case, DyadicPipeline]:
    case = draw(cases(policies, replicas=2, **more))
    return case, draw(pipelines(case.cost))


@examples(150)
@given(piped(st.sampled_from(CONTINUOUS)))
def test_pipeline_open_loop(drawn: tuple[Case, DyadicPipeline]) -> None:
    assert_pipeline_agrees(*drawn)


@examples(80)
@given(piped(st.sampled_from(CONTINUOUS), dependent=True))
def test_pipeline_where_clients_wait_for_answers(drawn: tuple[Case, DyadicPipeline]) -> None:
    assert_pipeline_agrees(*drawn)


@examples(60)
@given(piped(batch_policies()))
def test_pipeline_of_whole_batches(drawn: tuple[Case, DyadicPipeline]) -> None:
    assert_pipeline_agrees(*drawn)


@examples(60)
@given(piped(st.sampled_from(CONTINUOUS), prefix_caching=True))
def test_pipeline_with_prefix_caching(drawn: tuple[Case, DyadicPipeline]) -> None:
    assert_pipeline_agrees(*drawn)


ORDERLY = in_classes(cases(st.sampled_from(CONTINUOUS), replicas=2), ORDERS)


@examples(60)
@given(ORDERLY, st.data())
def test_orders_of_the_queue(case: Case, data: st.DataObject) -> None:
    assert_pipeline_agrees(case, data.draw(pipelines(case.cost)))
    assert_lockstep_agrees(case, DyadicLockstep(case.cost, data.draw(st.integers(2, 3))))


@examples(80)
@given(piped(st.sampled_from(CONTINUOUS)), st.integers(1, 3000))
def test_clients_of_a_pipeline_give_up(drawn: tuple[Case, DyadicPipeline], patience: int) -> None:
    case, cost = drawn
    assert_pipeline_agrees(replace(case, timeout_s=patience * TICK_S), cost)


@st.composite
def ranked(
    draw: st.DrawFn, policies: st.SearchStrategy[Policy], **more: bool
) -> tuple[Case, DyadicLockstep]:
    case = draw(cases(policies, replicas=2, **more))
    cost = DyadicLockstep(
        case.cost, draw(st.integers(2, 4)), draw(st.integers(1, 300)), draw(st.integers(0, 5))
    )
    return case, cost


@examples(150)
@given(ranked(st.sampled_from(CONTINUOUS)))
def test_lockstep_open_loop(drawn: tuple[Case, DyadicLockstep]) -> None:
    assert_lockstep_agrees(*drawn)


@examples(80)
@given(ranked(st.sampled_from(CONTINUOUS), dependent=True))
def test_lockstep_where_clients_wait_for_answers(drawn: tuple[Case, DyadicLockstep]) -> None:
    assert_lockstep_agrees(*drawn)


@examples(60)
@given(ranked(st.sampled_from(CONTINUOUS), prefix_caching=True))
def test_lockstep_with_prefix_caching(drawn: tuple[Case, DyadicLockstep]) -> None:
    assert_lockstep_agrees(*drawn)


@examples(80)
@given(ranked(st.sampled_from(CONTINUOUS)), st.integers(1, 3000))
def test_clients_of_ranks_give_up(drawn: tuple[Case, DyadicLockstep], patience: int) -> None:
    case, cost = drawn
    case = replace(case, timeout_s=patience * TICK_S, delays=Delays())
    assert_lockstep_agrees(case, cost)


@pytest.mark.parametrize("lanes", [2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_longer_runs(seed: int, lanes: int) -> None:
    rng = np.random.default_rng([seed, lanes])
    policy = CONTINUOUS[seed % len(CONTINUOUS)]
    case = random_case(rng, policy, prefix_caching=seed % 2 == 1)
    parts = tuple(replace(case.cost, base=int(rng.integers(20, 90))) for _ in range(lanes))
    assert_pipeline_agrees(case, DyadicPipeline(parts, link=1, lag=3))
    assert_lockstep_agrees(case, DyadicLockstep(case.cost, lanes))


def test_prefill_first_pauses_in_every_lane() -> None:
    rng = np.random.default_rng(5)
    case = random_case(rng, PrefillFirstPolicy())
    assert_pipeline_agrees(case, DyadicPipeline((case.cost, case.cost)))

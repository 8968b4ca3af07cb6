"""Laws that every run obeys: nothing is lost, nothing leaks, nothing is faster than its floor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.cluster import FrontEndTimes, run_cluster
from simulator.results.record import COMPLETED, REJECTED, TIMED_OUT, RunRecord
from simulator.scenario.policies import ContinuousPolicy, StaticPolicy
from simulator.scenario.routers import (
    LeastOutstandingRouter,
    PowerOfTwoRouter,
    PrefixAwareRouter,
    RandomRouter,
    RoundRobinRouter,
    Router,
)
from tests.agreement import gaps_of, run_fast
from tests.dyadic import TICK_S, DyadicCost
from tests.strategies import (
    CONTINUOUS,
    Case,
    Req,
    batch_policies,
    cases,
    examples,
    make_limits,
    make_requests,
    random_case,
)

ANY_POLICY = st.one_of(st.sampled_from(CONTINUOUS), batch_policies())
ROUTERS: list[Router] = [
    RoundRobinRouter(),
    RandomRouter(),
    LeastOutstandingRouter(),
    PowerOfTwoRouter(),
    PrefixAwareRouter(max_imbalance=2),
]


def check_requests(case: Case, record: RunRecord) -> None:
    """Every request ends once, with all its tokens, and its times are in order."""
    outputs = np.array([req.output for req in case.reqs])
    assert (record.outcome == COMPLETED).all()
    assert (record.generated == outputs).all()
    for earlier, later in [
        (record.sent_s, record.queued_s),
        (record.queued_s, record.start_s),
        (record.start_s, record.first_token_s),
        (record.first_token_s, record.finish_s),
    ]:
        assert (earlier <= later).all()
    assert (record.start_s < record.first_token_s).all()
    assert ((record.first_token_s == record.finish_s) == (outputs == 1)).all()
    assert record.end_s >= record.finish_s.max()
    assert ((record.replica >= 0) & (record.replica < record.replicas)).all()
    assert not record.interrupted


def check_tokens(case: Case, record: RunRecord) -> None:
    """Tokens out are gaps and first tokens; tokens in are computed, or found in the cache."""
    steps = record.steps
    outputs = sum(req.output for req in case.reqs)
    assert steps.first_tokens.sum() == len(case.reqs)
    assert sum(gaps_of(record).values()) == outputs - len(case.reqs)
    prompts = sum(req.prompt for req in case.reqs)
    useful = int((steps.prefill_tokens - steps.wasted_tokens).sum())
    if case.limits.policy.kind in ("static", "dynamic"):
        assert useful == prompts
        return
    useful += int((steps.decode * steps.steps).sum()) + int(record.cached_tokens.sum())
    final = prompts + outputs - len(case.reqs)
    if record.preemptions.sum() and case.limits.prefix_caching:
        # What a request finds when it comes back may be more than it had computed before.
        assert useful <= final
    else:
        assert useful == final


def check_steps(case: Case, record: RunRecord) -> None:
    """Steps of a replica do not overlap, respect the limits, and hold no more than the memory."""
    steps, limits = record.steps, case.limits
    assert (steps.steps >= 1).all()
    assert (steps.steps[steps.prefill > 0] == 1).all()
    assert (steps.first_s > 0).all()
    assert (steps.duration_s > 0).all()
    assert ((steps.kv_blocks > 0) & (steps.kv_blocks <= case.kv_blocks)).all()
    assert ((steps.running > 0) & (steps.running <= limits.max_num_seqs)).all()
    assert (steps.kv_tokens <= steps.kv_blocks * limits.block_size).all() or limits.prefix_caching
    assert ((steps.wasted_tokens >= 0) & (steps.wasted_tokens <= steps.prefill_tokens)).all()
    assert (steps.waiting >= 0).all()
    if limits.policy.kind not in ("static", "dynamic"):
        assert (steps.decode + steps.prefill_tokens <= limits.max_num_batched_tokens).all()
    for replica in range(record.replicas):
        mine = steps.replica == replica
        ends = steps.start_s[mine] + steps.duration_s[mine]
        assert (steps.start_s[mine][1:] >= ends[:-1]).all()


def check_little(case: Case, record: RunRecord) -> None:
    """Little's law as an identity of the sample path: the time integral of how many run, from the
    step table, is the time spent running, from the request table."""
    if record.preemptions.any() or case.limits.policy.kind in ("static", "dynamic"):
        return
    steps, delays = record.steps, case.delays
    front_end = delays.get("front_end", FrontEndTimes())
    back = front_end.response_s + delays.get("network_s", 0.0)
    running = float((steps.running * steps.duration_s).sum())
    spent = float((record.finish_s - back - record.start_s).sum())
    assert running == spent or (front_end.token_s and running < spent)
    # In these policies every admitted sequence is in every step unless prompts go alone.
    if case.limits.policy.kind != "prefill_first":
        assert ((steps.decode + steps.prefill) == steps.running).all()


def check_queues(case: Case, record: RunRecord) -> None:
    """The same for the queue, at every instant that the step table shows: who is queued at the end
    of a row has come by then and starts no sooner."""
    if record.preemptions.any() or not case.requests.open_loop:
        return
    steps, ends = record.steps, record.steps.start_s + record.steps.duration_s
    for replica in range(record.replicas):
        came = record.queued_s[record.replica == replica]
        began = record.start_s[record.replica == replica]
        mine = steps.replica == replica
        at = ends[mine][:, None]
        assert (((came <= at) & (began >= at)).sum(axis=1) == steps.waiting[mine]).all()


def check_floors(case: Case, record: RunRecord) -> None:
    """No request is faster than it would be if it never waited and never shared a step."""
    cost = case.cost
    for i, req in enumerate(case.reqs):
        least = (cost.base + cost.sequence) * TICK_S
        first = (
            cost.mixed_base + cost.token * (req.prompt - int(record.cached_tokens[i]))
        ) * TICK_S
        assert record.first_token_s[i] - record.start_s[i] >= first
        assert record.finish_s[i] - record.start_s[i] >= first + (req.output - 1) * least


def check_all(case: Case) -> RunRecord:
    record = run_fast(case)
    check_requests(case, record)
    check_tokens(case, record)
    check_steps(case, record)
    check_little(case, record)
    check_queues(case, record)
    check_floors(case, record)
    return record


@examples(150)
@given(cases(ANY_POLICY, replicas=2))
def test_laws(case: Case) -> None:
    check_all(case)


@examples(150)
@given(cases(st.sampled_from(CONTINUOUS), prefix_caching=True, dependent=True))
def test_laws_with_prefixes_and_dependent_requests(case: Case) -> None:
    check_all(case)


@pytest.mark.parametrize("router", ROUTERS, ids=lambda router: router.kind)
@pytest.mark.parametrize("prefix_caching", [False, True])
def test_laws_hold_with_every_router(router: Router, prefix_caching: bool) -> None:
    for seed in range(4):
        rng = np.random.default_rng(100 + seed)
        case = random_case(rng, ContinuousPolicy(), prefix_caching=prefix_caching, n=80)
        record = run_cluster(
            case.requests,
            case.limits,
            case.kv_blocks,
            case.cost,
            replicas=3,
            router=router,
            seed=seed,
        )
        check_requests(case, record)
        check_tokens(case, record)
        check_steps(case, record)
        assert set(record.replica.tolist()) == {0, 1, 2}


def test_blocks_are_all_free_when_calm_returns() -> None:
    """A second crowd, long after the first one, finds the memory it found: the same requests at
    the same distance take exactly as long, preemptions and all."""
    for policy in [*CONTINUOUS, StaticPolicy(batch_size=4)]:
        rng = np.random.default_rng(5)
        crowd = random_case(rng, policy, n=30)
        later = tuple(Req(req.at + 2.0**24, req.prompt, req.output) for req in crowd.reqs)
        both = Case(crowd.reqs + later, crowd.limits, crowd.kv_blocks, crowd.cost)
        record = run_fast(both)
        n = len(crowd.reqs)
        assert (record.finish_s[n:] - record.finish_s[:n] == 2.0**24 * TICK_S).all()
        assert (record.preemptions[n:] == record.preemptions[:n]).all()


@examples(150)
@given(cases(ANY_POLICY), st.integers(1, 3000))
def test_time_outs_account_for_everyone(case: Case, patience: int) -> None:
    """Each request is answered or given up; who gave up has waited as long as it would, and the
    rest of the memory and of the seats is there for the others."""
    timeout_s = patience * TICK_S
    record = run_fast(replace(case, timeout_s=timeout_s))
    outputs = np.array([req.output for req in case.reqs])
    done = record.outcome == COMPLETED
    gone = record.outcome == TIMED_OUT
    assert (done | gone).all()
    assert (record.generated[done] == outputs[done]).all()
    assert (record.finish_s[done] - record.sent_s[done] <= timeout_s).all()
    assert (record.generated[gone] <= outputs[gone]).all()
    assert record.steps.first_tokens.sum() == int((record.generated > 0).sum())
    assert sum(gaps_of(record).values()) == int(np.maximum(record.generated - 1, 0).sum())
    check_steps(case, record)


def test_a_patient_client_sees_no_time_out() -> None:
    for policy in CONTINUOUS:
        case = random_case(np.random.default_rng(3), policy)
        plain = run_fast(case)
        patient = run_cluster(case.requests, case.limits, case.kv_blocks, case.cost, timeout_s=1e6)
        assert (plain.finish_s == patient.finish_s).all()


def test_rejected_requests_end_at_once_and_disturb_nobody() -> None:
    """The two that can never fit are refused; the users behind them go on."""
    limits = make_limits(ContinuousPolicy(), block_size=1)
    cost = DyadicCost()
    fitting = (Req(0, 5, 3), Req(9, 4, 4))
    alone = run_cluster(make_requests(fitting), limits, 20, cost)
    mixed = (fitting[0], Req(1, 30, 1), Req(2, 10, 30), fitting[1])
    record = run_cluster(make_requests(mixed), limits, 20, cost, oversized="reject")
    assert record.outcome.tolist() == [COMPLETED, REJECTED, REJECTED, COMPLETED]
    assert record.finish_s[[0, 3]].tolist() == alone.finish_s.tolist()
    assert record.generated.tolist() == [3, 0, 0, 4]
    assert np.isnan(record.finish_s[[1, 2]]).all()
    loop = (
        Req(0, 30, 1, pool=0),
        Req(0, 5, 3, pool=0),
        Req(0, 30, 1, pool=0),
        Req(0, 2, 2, pool=0),
    )
    record = run_cluster(make_requests(loop, (1,)), limits, 20, cost, oversized="reject")
    assert record.outcome.tolist() == [REJECTED, COMPLETED, REJECTED, COMPLETED]

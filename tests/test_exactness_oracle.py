"""The oracle itself, on runs small enough to work out by hand (durations in ticks)."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from simulator.cluster import FrontEndTimes
from simulator.costs.protocol import Chunk
from simulator.results.record import COMPLETED, TIMED_OUT
from simulator.scenario.policies import (
    ContinuousPolicy,
    DynamicPolicy,
    FullReservationPolicy,
    Policy,
    PrefillFirstPolicy,
    StaticPolicy,
)
from tests.dyadic import TICK_S, BucketCost, DyadicCost, KneeCost, StairCost
from tests.oracle import OracleRun, run_oracle
from tests.strategies import (
    CONTINUOUS,
    Case,
    Req,
    batch_policies,
    blocks_needed,
    cases,
    examples,
    make_limits,
    make_requests,
)

UNIT = DyadicCost(
    base=10, sequence=0, context=0, mixed_base=10, token=0, pair=0, chunk=0, sampled=0
)
"""Every step takes ten ticks."""


def run(
    *reqs: Req,
    policy: Policy,
    kv_blocks: int = 100,
    cost: DyadicCost = UNIT,
    users: tuple[int, ...] = (),
    seqs: int = 8,
    budget: int = 64,
    block_size: int = 1,
    prefix_caching: bool = False,
    **more: float,
) -> OracleRun:
    limits = make_limits(
        policy, seqs=seqs, budget=budget, block_size=block_size, prefix_caching=prefix_caching
    )
    return run_oracle(make_requests(reqs, users), limits, kv_blocks, cost, **more)  # type: ignore[arg-type]


def ticks(seconds: list[float]) -> list[float]:
    return [s / TICK_S for s in seconds]


def work(run: OracleRun) -> list[tuple[int, int, list[tuple[int, ...]]]]:
    """(decoding sequences, context, chunks) of each step."""
    return [(s.decode, s.context, [tuple(c) for c in s.chunks]) for s in run.steps]


def test_one_request() -> None:
    """A prompt of 3 in one step gives the first token; two decodes attend to 4 and 5 tokens."""
    r = run(Req(7, prompt=3, output=3), policy=ContinuousPolicy())
    assert work(r) == [(0, 0, [(3, 0)]), (1, 4, []), (1, 5, [])]
    assert ticks(r.token_s[0]) == [17, 27, 37]
    assert [s.used_blocks for s in r.steps] == [3, 4, 5]
    assert r.held_blocks == [0]
    assert r.outcome == [COMPLETED]


def test_delays_between_client_and_engine() -> None:
    r = run(
        Req(7, prompt=3, output=2),
        policy=ContinuousPolicy(),
        network_s=TICK_S,
        front_end=FrontEndTimes(
            request_s=2 * TICK_S,
            busy_s=TICK_S,
            busy_s_per_token=4 * TICK_S,
            token_s=3 * TICK_S,
            response_s=100 * TICK_S,
        ),
    )
    assert ticks(r.queued_s) == [7 + 1 + 1 + 3 * 4 + 2]
    assert ticks(r.start_s) == [23]
    assert ticks(r.token_s[0]) == [23 + 10 + 3 + 101, 23 + 20 + 3 + 101]


def test_chunks_share_the_budget_with_decodes() -> None:
    """Budget 4: the second prompt gets what the first one's decode leaves."""
    r = run(Req(0, 3, 3), Req(5, 7, 1), policy=ContinuousPolicy(), budget=4)
    assert work(r) == [
        (0, 0, [(3, 0)]),
        (1, 4, [(3, 0)]),
        (1, 5, [(3, 3)]),
        (0, 0, [(1, 6)]),
    ]
    assert ticks(r.finish_s) == [30, 40]
    assert ticks(r.start_s) == [0, 10]


def test_whole_prompts_wait_for_the_budget() -> None:
    r = run(Req(0, 3, 3), Req(5, 4, 1), policy=ContinuousPolicy(chunked_prefill=False), budget=4)
    assert work(r) == [(0, 0, [(3, 0)]), (1, 4, []), (1, 5, []), (0, 0, [(4, 0)])]


def test_arrival_on_a_boundary_is_scheduled_at_it() -> None:
    r = run(Req(0, 1, 4), Req(20, 1, 1), Req(20 + 2.0**-10, 1, 1), policy=ContinuousPolicy())
    assert ticks(r.start_s) == [0, 20, 30]


def test_preemption_takes_the_last_in_and_admits_nothing() -> None:
    """Six blocks of one token. Both sequences hold 3 when each wants a fourth: the first gets the
    block of the second, which comes back to the front and recomputes its prompt and its token."""
    r = run(
        Req(0, 2, 4),
        Req(0, 2, 4),
        Req(0, 1, 1),
        policy=ContinuousPolicy(),
        kv_blocks=6,
        seqs=2,
    )
    assert work(r) == [
        (0, 0, [(2, 0), (2, 0)]),
        (2, 6, []),
        (1, 4, []),  # no seventh block: the second one is preempted
        (1, 5, []),  # one block is free, the second one would need four
        (0, 0, [(4, 0), (1, 0)]),
        (1, 5, []),
    ]
    assert r.preemptions == [0, 1, 0]
    assert ticks(r.finish_s) == [40, 60, 50]
    assert [s.wasted for s in r.steps] == [0, 0, 0, 0, 3, 0]
    assert [s.preempted for s in r.steps] == [0, 0, 1, 0, 0, 0]
    assert ticks(list(r.gaps())) == [10, 10, 10, 10, 30, 10]


def test_full_reservation_never_preempts() -> None:
    r = run(Req(0, 2, 4), Req(0, 2, 4), Req(0, 1, 1), policy=FullReservationPolicy(), kv_blocks=6)
    assert r.preemptions == [0, 0, 0]
    assert [s.used_blocks for s in r.steps] == [5, 5, 5, 5, 6, 5, 5, 5]
    # First come, first served: the third fits beside the first, but waits for the second.
    assert ticks(r.start_s) == [0, 40, 40]


def test_prefill_first_pauses_decoding() -> None:
    """Budget 4: the second prompt takes two steps of its own while the first one waits."""
    r = run(Req(0, 3, 3), Req(5, 7, 2), policy=PrefillFirstPolicy(), budget=4)
    assert work(r) == [
        (0, 0, [(3, 0)]),
        (0, 0, [(4, 0)]),
        (0, 0, [(3, 4)]),
        (2, 12, []),
        (1, 5, []),
    ]


def test_prefill_first_leaves_a_block_for_each_running_one() -> None:
    """Seven blocks: admitting the second one (3) beside the first (3) leaves 1 = len(running); with
    six blocks it has to wait."""
    reqs = Req(0, 3, 3), Req(5, 3, 1)
    assert ticks(run(*reqs, policy=PrefillFirstPolicy(), kv_blocks=7).start_s) == [0, 10]
    assert ticks(run(*reqs, policy=PrefillFirstPolicy(), kv_blocks=6).start_s) == [0, 30]


def test_static_batch_pads_and_keeps_its_slots() -> None:
    r = run(
        Req(0, 2, 3),
        Req(0, 5, 1),
        Req(0, 1, 1),
        Req(3, 1, 1),
        policy=StaticPolicy(batch_size=2),
    )
    assert work(r) == [
        (0, 0, [(5, 0), (5, 0)]),
        (2, 12, []),
        (2, 14, []),
        (0, 0, [(1, 0), (1, 0)]),
    ]
    assert ticks(r.finish_s) == [30, 10, 40, 40]
    assert [s.wasted for s in r.steps] == [3, 0, 0, 0]
    assert [s.used_blocks for s in r.steps] == [14, 14, 14, 2]


def test_static_batch_is_limited_by_blocks() -> None:
    """2 · (5 + 3 - 1) = 14 blocks for the pair."""
    reqs = Req(0, 2, 3), Req(0, 5, 1)
    assert ticks(run(*reqs, policy=StaticPolicy(batch_size=2), kv_blocks=14).start_s) == [0, 0]
    assert ticks(run(*reqs, policy=StaticPolicy(batch_size=2), kv_blocks=13).start_s) == [0, 30]


def test_dynamic_batch_starts_when_full_or_when_the_window_ends() -> None:
    policy = DynamicPolicy(batch_size=2, window_ms=100 * TICK_S * 1e3)
    r = run(Req(0, 1, 1), Req(40, 1, 1), Req(60, 1, 1), Req(160, 1, 1), policy=policy)
    # The pair is full at 40; the third one's window ends at 160, just as the fourth arrives.
    assert ticks(r.start_s) == [40, 40, 160, 160]
    r = run(Req(60, 1, 1), Req(161, 1, 1), policy=policy)
    assert ticks(r.start_s) == [160, 261]


def test_prefix_hit_in_the_same_schedule() -> None:
    """Blocks of two: the second prompt shares five tokens (two full blocks) with the first one and
    is admitted in the same step; the shared blocks count once."""
    r = run(
        Req(0, 6, 1, text=((0, 5), (1, 6))),
        Req(0, 7, 1, text=((0, 5),)),
        policy=ContinuousPolicy(),
        block_size=2,
        prefix_caching=True,
    )
    assert work(r) == [(0, 0, [(6, 0), (3, 4)])]
    assert r.cached_tokens == [0, 4]
    assert r.steps[0].used_blocks == 3 + 2


def test_full_hit_computes_one_block_again() -> None:
    """The last token is always computed, so at most (4 - 1) // 2 blocks are taken from the cache;
    with 5 tokens both are, and the chunk has one token."""
    whole = ((0, 10),)
    r = run(
        Req(0, 4, 1, text=whole),
        Req(50, 4, 1, text=whole),
        Req(100, 5, 2, text=whole),
        policy=ContinuousPolicy(),
        block_size=2,
        prefix_caching=True,
    )
    assert r.cached_tokens == [0, 2, 4]
    assert work(r) == [(0, 0, [(4, 0)]), (0, 0, [(2, 2)]), (0, 0, [(1, 4)]), (1, 6, [])]


def test_next_turn_finds_prompt_and_output() -> None:
    """Turn one leaves 3 + 4 - 1 = 6 tokens in the cache; turn two has them and 4 more."""
    r = run(
        Req(0, 3, 4, text=((7, 3),), continues=True),
        Req(5, 10, 1, parent=0, text=((7, 10),), continues=True),
        policy=ContinuousPolicy(),
        prefix_caching=True,
        block_size=2,
    )
    assert r.cached_tokens == [0, 6]
    assert ticks(r.sent_s) == [0, 45]


def test_lru_forgets_the_end_of_the_oldest_text_first() -> None:
    """Four blocks of one token. Text 0 fills three, text 1 takes the anonymous one and the last
    block of text 0."""
    r = run(
        Req(0, 3, 1, text=((0, 3),)),
        Req(50, 2, 1, text=((1, 2),)),
        Req(100, 4, 1, text=((0, 4),)),
        policy=ContinuousPolicy(),
        prefix_caching=True,
        kv_blocks=4,
    )
    assert r.cached_tokens == [0, 0, 2]


def test_preempted_request_finds_its_own_blocks_again() -> None:
    """As above, but the blocks of the victim that nobody took are still there on its return."""
    reqs = Req(0, 2, 4), Req(0, 2, 4)
    bare = run(*reqs, policy=ContinuousPolicy(), kv_blocks=6)
    kept = run(
        *(Req(r.at, r.prompt, r.output, text=((5, 0),)) for r in reqs),
        policy=ContinuousPolicy(),
        kv_blocks=6,
        prefix_caching=True,
    )
    assert bare.preemptions == kept.preemptions == [0, 1]
    back = [step.chunks for step in bare.steps if step.chunks][1:]
    assert back == [[Chunk(4, 0)]]
    back = [step.chunks for step in kept.steps if step.chunks][1:]
    # Three blocks were freed, the last one first: the first sequence took two of them.
    assert back == [[Chunk(3, 1)]]


def test_closed_loop_and_parents() -> None:
    r = run(
        Req(2, 1, 1, pool=0),
        Req(4, 1, 2, pool=0),
        Req(6, 1, 1, pool=0),
        Req(8, 1, 1, pool=0),
        Req(3, 1, 1, parent=0),
        policy=ContinuousPolicy(),
        users=(2,),
    )
    # The first ends at 12: its user sends the third at 18, its follower comes at 15. The second
    # ends at 32 and releases the fourth.
    assert ticks(r.sent_s) == [2, 4, 18, 40, 15]


def test_requests_go_to_the_replicas_in_turn() -> None:
    r = run(*(Req(0, 1, 1) for _ in range(5)), policy=ContinuousPolicy(), seqs=1, replicas=2)
    assert r.replica == [0, 1, 0, 1, 0]
    assert ticks(r.finish_s) == [10, 10, 20, 20, 30]


def test_timed_out_requests_leave_at_the_next_boundary() -> None:
    """The first is cut in the middle, the second before it started; the third takes the seat
    and ends just in time."""
    r = run(
        Req(0, 1, 9),
        Req(1, 1, 1),
        Req(15, 1, 1),
        policy=ContinuousPolicy(),
        seqs=1,
        timeout_s=15 * TICK_S,
    )
    assert r.outcome == [TIMED_OUT, TIMED_OUT, COMPLETED]
    assert r.generated == [2, 0, 1]
    assert ticks(r.start_s)[2] == 20


def test_costs_see_local_spans() -> None:
    cost = DyadicCost(base=10, sequence=0, context=0, local=1, local_span=4)
    r = run(Req(0, 2, 5), policy=ContinuousPolicy(), cost=cost)
    assert [step.local_context for step in r.steps] == [0, 3, 4, 4, 4]
    assert ticks([step.duration_s for step in r.steps[1:]]) == [13, 14, 14, 14]
    chunked = DyadicCost(
        base=10, sequence=0, context=0, local=1, local_span=4, local_is_chunked=True
    )
    r = run(Req(0, 2, 5), policy=ContinuousPolicy(), cost=chunked)
    assert [step.local_context for step in r.steps] == [0, 3, 4, 1, 2]


@pytest.mark.parametrize(
    "cost", [DyadicCost(local=2), KneeCost(every=13), StairCost(every=13), BucketCost()]
)
def test_dyadic_costs_keep_their_promise(cost: DyadicCost) -> None:
    """The straight line holds for as many steps as the cost says, and no more."""
    for sequences in range(1, 9):
        for context in range(sequences, 80):
            first, slope, valid = cost.decode(sequences, context, 0, 0)
            for i in range(min(valid, 40)):
                now, _, _ = cost.decode(sequences, context + i * sequences, 0, 0)
                assert now == first + i * slope
            if valid < 40:
                bent, _, _ = cost.decode(sequences, context + valid * sequences, 0, 0)
                assert bent != first + valid * slope


ANY_POLICY = st.one_of(st.sampled_from(CONTINUOUS), batch_policies())


def check_oracle(case: Case) -> OracleRun:
    """Nothing is lost, no block leaks, memory is never overdrawn, steps do not overlap."""
    r = case.oracle()
    assert r.outcome == [COMPLETED] * len(case.reqs)
    assert r.generated == [req.output for req in case.reqs]
    assert r.held_blocks == [0] * case.replicas
    assert all(0 < step.used_blocks <= case.kv_blocks for step in r.steps)
    ends = Counter[int]()
    for step in r.steps:
        assert ends[step.replica] <= step.start_s
        ends[step.replica] = step.start_s + step.duration_s  # type: ignore[assignment]
    assert all(gap > 0 for gap in r.gaps())
    event(f"preemptions: {sum(r.preemptions) > 0}")
    return r


@examples(100)
@given(cases(ANY_POLICY, replicas=2))
def test_oracle_conserves(case: Case) -> None:
    r = check_oracle(case)
    if case.limits.policy.kind in ("static", "dynamic"):
        return
    computed = sum(chunk.new for step in r.steps for chunk in step.chunks)
    computed += sum(step.decode - step.wasted for step in r.steps)
    assert computed == sum(req.prompt + req.output - 1 for req in case.reqs)


@examples(60)
@given(cases(st.sampled_from(CONTINUOUS), prefix_caching=True, dependent=True))
def test_oracle_conserves_with_prefixes(case: Case) -> None:
    r = check_oracle(case)
    event(f"cached: {sum(r.cached_tokens) > 0}")
    for req, cached in zip(case.reqs, r.cached_tokens, strict=True):
        assert cached < req.prompt
        assert blocks_needed(req, case.limits.block_size) <= case.kv_blocks

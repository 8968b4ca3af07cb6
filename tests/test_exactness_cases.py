"""Corner cases in which a fast path and a step-by-step one have disagreed, each named for its trap."""

from __future__ import annotations

import pytest

from simulator.scenario.policies import (
    ContinuousPolicy,
    DynamicPolicy,
    FullReservationPolicy,
    Policy,
    PrefillFirstPolicy,
)
from tests.agreement import assert_agree, gaps_of
from tests.dyadic import TICK_S, DyadicCost, KneeCost
from tests.strategies import Case, Req, make_limits

UNIT = DyadicCost(
    base=10, sequence=0, context=0, mixed_base=10, token=0, pair=0, chunk=0, sampled=0
)
"""Every step takes ten ticks."""
SHORT = ((0, 1),)


def case(
    *reqs: Req,
    kv: int,
    policy: Policy | None = None,
    block_size: int = 1,
    seqs: int = 11,
    budget: int = 1000,
    caching: bool = False,
    cost: DyadicCost = UNIT,
) -> Case:
    limits = make_limits(
        policy or ContinuousPolicy(),
        seqs=seqs,
        budget=budget,
        block_size=block_size,
        prefix_caching=caching,
    )
    return Case(reqs, limits, kv, cost)


@pytest.mark.parametrize("policy", [ContinuousPolicy(), PrefillFirstPolicy()], ids=str)
def test_a_recomputed_prompt_stays_a_prompt_to_its_last_token(policy: Policy) -> None:
    """33 tokens under a budget of 32: the one that is left over is a chunk, not a decode."""
    fast, _ = assert_agree(
        case(Req(0, 1, 34), Req(0, 1, 34), kv=64, policy=policy, seqs=2, budget=32)
    )
    chunks = fast.steps.prefill_tokens[fast.steps.prefill > 0]
    assert fast.preemptions.sum() == 1
    assert 1 in chunks[1:]


def test_recomputed_output_is_shared_at_once() -> None:
    """The output of the second request continues a text: recomputed as part of its prompt, it can
    be hit in the same step by the third."""
    fast, _ = assert_agree(
        case(
            Req(0, 1, 2),
            Req(0, 1, 2, text=((2, 1),), continues=True),
            Req(0, 2, 2, text=((2, 2),)),
            kv=3,
            caching=True,
        )
    )
    assert fast.preemptions.tolist() == [0, 1, 1]
    assert int(fast.steps.steps.sum()) == 3


def test_no_leap_over_the_admission_after_a_preemption() -> None:
    assert_agree(
        case(
            Req(0, 1, 33),
            Req(0, 18, 32),
            Req(0, 1, 1),
            kv=5,
            policy=PrefillFirstPolicy(),
            block_size=16,
            seqs=8,
            budget=32,
        )
    )


def test_a_batch_is_full_when_its_seats_are() -> None:
    """Three wait, three seats, a batch size of four: no reason to wait for the window."""
    policy = DynamicPolicy(batch_size=4, window_ms=1000 * TICK_S * 1e3)
    fast, _ = assert_agree(case(*[Req(0, 1, 1)] * 3, kv=100, policy=policy, seqs=3))
    assert (fast.start_s == 0).all()


def test_an_answer_that_is_followed_up_at_once_makes_the_next_step() -> None:
    fast, _ = assert_agree(
        case(Req(0, 1, 1), Req(0, 3, 1, parent=0), Req(0, 1, 1), Req(0, 1, 1), kv=2, block_size=3)
    )
    assert fast.start_s.tolist() == [0, 10 * TICK_S, 0, 10 * TICK_S]


def test_preempted_again_in_the_middle_of_recomputing() -> None:
    """What the second computation left behind is found by the third."""
    assert_agree(
        case(
            Req(0, 1, 1, text=SHORT),
            Req(0, 1, 16),
            Req(0, 1, 16),
            Req(0, 1, 14, text=SHORT),
            kv=41,
            budget=11,
            caching=True,
        )
    )


def test_growth_takes_all_its_blocks_or_none() -> None:
    """The last one wants four blocks, two are free: it leaves without touching those."""
    assert_agree(
        case(
            Req(0, 1, 1, text=SHORT),
            Req(11, 1, 18),
            Req(11, 1, 15, text=SHORT),
            kv=29,
            budget=11,
            caching=True,
        )
    )


def test_paused_sequences_that_give_up_leave_no_pause_behind() -> None:
    late = [Req(280, 1, 8), Req(280, 1, 8), Req(280, 2, 8), Req(280, 10, 8), Req(360, 1, 8)]
    cost = DyadicCost(local=1, local_span=1)
    paused = case(
        *[Req(0, 1, 8)] * 5, *late, kv=17, policy=PrefillFirstPolicy(), budget=11, cost=cost
    )
    fast, _ = assert_agree(Case(paused.reqs, paused.limits, 17, cost, timeout_s=257 * TICK_S))
    assert fast.generated[-1] == 2
    assert gaps_of(fast)[56 * TICK_S] == 1


@pytest.mark.parametrize("policy", [ContinuousPolicy(), PrefillFirstPolicy()], ids=str)
@pytest.mark.parametrize("kv", range(57, 63))
def test_a_request_that_loses_its_cached_prefix_may_fit(policy: Policy, kv: int) -> None:
    """It hits 13 blocks and cannot get two more. When its text is evicted it hits none, the budget
    cuts its first chunk to 11 blocks, and they are there."""
    assert_agree(
        case(
            Req(3000, 1, 41, text=((2, 1),), continues=True),
            Req(3000, 42, 45),
            Req(3000, 47, 1),
            Req(3000, 18, 14),
            Req(9842, 32, 16),
            Req(9842, 43, 1, text=((2, 43),)),
            kv=kv,
            policy=policy,
            block_size=3,
            seqs=4,
            budget=32,
            caching=True,
            cost=KneeCost(every=150),
        )
    )


def test_full_reservation_counts_shared_blocks_once() -> None:
    """Ten blocks each, nine of them the same: eleven are enough for both at once."""
    text = ((0, 9),)
    fast, _ = assert_agree(
        case(
            Req(0, 10, 1, text=text),
            Req(0, 10, 1, text=text),
            kv=11,
            policy=FullReservationPolicy(),
            caching=True,
        )
    )
    assert fast.cached_tokens.tolist() == [0, 9]
    assert (fast.start_s == 0).all()

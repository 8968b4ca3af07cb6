"""Every policy on schedules small enough to be written down step by step."""

from __future__ import annotations

from simulator.scenario.policies import (
    ContinuousPolicy,
    DynamicPolicy,
    FullReservationPolicy,
    PrefillFirstPolicy,
    StaticPolicy,
)
from simulator.serving.scheduler import Plan
from simulator.serving.sequence import Sequence
from tests.stepping import Step, one_step, run, scheduler

# --- continuous ----------------------------------------------------------------------------------


def test_continuous_shares_one_budget() -> None:
    """Budget 8. Step 1: all 6 of request 0, 2 of request 1. Step 2: a token of 0, the other 3 of
    1, all 4 of 2, which wanted one token and is done. Step 3: the last tokens of 0 and 1."""
    assert run(scheduler(ContinuousPolicy(), budget=8), (6, 3), (5, 2), (4, 1)) == [
        Step([(0, 6, 0), (1, 2, 0)], 0, 0, 2 + 1, []),
        Step([(1, 3, 2), (2, 4, 0)], 1, 7, 2 + 2 + 1, [2]),
        Step([], 2, 8 + 6, 2 + 2, [0, 1]),
    ]


def test_continuous_preempts_the_last_one_in() -> None:
    """Four blocks, two requests of seven prompt tokens. In step 3 both need a third block: request
    1 goes and comes back when 0 is done, recomputing its eight tokens and the one it had last."""
    engine = scheduler(ContinuousPolicy(), blocks=4)
    steps = run(engine, (7, 4), (7, 4))
    assert steps == [
        Step([(0, 7, 0), (1, 7, 0)], 0, 0, 4, []),
        Step([], 2, 8 + 8, 4, []),
        Step([], 1, 9, 3, [], [1]),
        Step([], 1, 10, 3, [0]),
        Step([(1, 9, 0)], 0, 0, 3, []),
        Step([], 1, 10, 3, [1]),
    ]


def test_recomputation_counts_as_waste() -> None:
    engine = scheduler(ContinuousPolicy(), blocks=4)
    for index in range(2):
        engine.add(Sequence(index, 7, 4))
    wasted = []
    while (plan := engine.schedule()) is not None:
        wasted.append(plan.wasted)
        engine.complete(plan)
    assert wasted == [0, 0, 0, 0, 8, 0]


def test_a_preempted_request_comes_before_those_who_waited() -> None:
    """Request 2 arrives while 1 is out, and stays behind it."""
    engine = scheduler(ContinuousPolicy(), blocks=4)
    steps = run(engine, (7, 4), (7, 4), later={4: (1, 1)})
    assert [step.ended for step in steps] == [[], [], [], [0], [2], [1]]
    assert steps[4].chunks == [(1, 9, 0), (2, 1, 0)]


def test_nothing_is_admitted_in_a_step_that_preempted() -> None:
    """After request 1 gave back two blocks there is room for request 2, but not in that step."""
    engine = scheduler(ContinuousPolicy(), blocks=4)
    steps = run(engine, (7, 9), (7, 4), later={3: (1, 1)})
    assert steps[2] == Step([], 1, 9, 3, [], [1])
    assert steps[3].chunks == []  # request 1 is first in line and does not fit


def test_whole_prompts_wait_for_a_budget_that_holds_them() -> None:
    """Budget 8: request 1 (5 tokens) does not fit beside 6, but beside a decode token."""
    assert run(
        scheduler(ContinuousPolicy(chunked_prefill=False), budget=8), (6, 3), (5, 2), (4, 1)
    ) == [
        Step([(0, 6, 0)], 0, 0, 2, []),
        Step([(1, 5, 0)], 1, 7, 2 + 2, []),
        Step([(2, 4, 0)], 2, 8 + 6, 2 + 2 + 1, [0, 1, 2]),
    ]


def test_no_more_sequences_than_allowed() -> None:
    engine = scheduler(ContinuousPolicy(), seqs=2)
    steps = run(engine, (2, 3), (2, 1), (2, 1))
    assert [step.chunks for step in steps] == [[(0, 2, 0), (1, 2, 0)], [(2, 2, 0)], []]


def test_a_partial_prompt_that_lacks_blocks_gives_its_own_back() -> None:
    """Budget 8, six blocks. Request 0 has grown into a third block when the second chunk of request
    1 needs two more than are left: it starts anew once there is room for its beginning."""
    engine = scheduler(ContinuousPolicy(), blocks=5, budget=9)
    steps = run(engine, (8, 3), (16, 1))
    assert steps == [
        Step([(0, 8, 0), (1, 1, 0)], 0, 0, 2 + 1, []),
        Step([], 1, 9, 3, [], [1]),
        Step([(1, 8, 0)], 1, 10, 3 + 2, [0]),
        Step([(1, 8, 8)], 0, 0, 4, [1]),
    ]


# --- full reservation ----------------------------------------------------------------------------


def test_full_reservation_never_preempts() -> None:
    """Five blocks: 12 tokens of request 0 and 8 of request 1 take all; request 2 waits for 1."""
    steps = run(scheduler(FullReservationPolicy(), blocks=5), (5, 8), (5, 4), (3, 2))
    both = [Step([], 2, 6 + 6, 5, []), Step([], 2, 7 + 7, 5, []), Step([], 2, 8 + 8, 5, [1])]
    assert steps == [
        Step([(0, 5, 0), (1, 5, 0)], 0, 0, 5, []),
        *both,
        Step([(2, 3, 0)], 1, 9, 3 + 1, []),
        Step([], 2, 10 + 4, 4, [2]),
        Step([], 1, 11, 3, []),
        Step([], 1, 12, 3, [0]),
    ]


# --- prefill first -------------------------------------------------------------------------------


def test_prompts_go_first_and_decoding_waits() -> None:
    """Request 1 comes after step 1; its two chunks stop request 0 for two steps."""
    steps = run(scheduler(PrefillFirstPolicy(), budget=8), (6, 4), later={2: (10, 2)})
    assert steps == [
        Step([(0, 6, 0)], 0, 0, 2, []),
        Step([(1, 8, 0)], 0, 0, 2 + 2, []),
        Step([(1, 2, 8)], 0, 0, 2 + 3, []),
        Step([], 2, 7 + 11, 2 + 3, [1]),
        Step([], 1, 8, 2, []),
        Step([], 1, 9, 3, [0]),
    ]


def test_prefill_first_leaves_a_block_for_each_running_sequence() -> None:
    """Request 1 needs three blocks and three are free, but request 0 may need one."""
    steps = run(scheduler(PrefillFirstPolicy(), blocks=5), (6, 2), (9, 1))
    assert [step.chunks for step in steps] == [[(0, 6, 0)], [], [(1, 9, 0)]]
    steps = run(scheduler(PrefillFirstPolicy(), blocks=6), (6, 2), (9, 1))
    assert steps[0].chunks == [(0, 6, 0), (1, 9, 0)]


# --- batches -------------------------------------------------------------------------------------


def test_a_static_batch_pads_prompts_and_keeps_its_slots() -> None:
    """Requests 0 and 1: prompts padded to 5, blocks for 5 + 4 − 1 = 8 tokens each; both slots cost
    until request 0 has its fourth token."""
    engine = scheduler(StaticPolicy(batch_size=2))
    assert run(engine, (3, 4), (5, 2), (1, 1)) == [
        Step([(0, 5, 0), (1, 5, 0)], 0, 0, 4, []),
        Step([], 2, 2 * 6, 4, [1]),
        Step([], 2, 2 * 7, 4, []),
        Step([], 2, 2 * 8, 4, [0]),
        Step([(2, 1, 0)], 0, 0, 1, [2]),
    ]


def test_padding_is_waste_and_empty_slots_emit_nothing() -> None:
    engine = scheduler(StaticPolicy(batch_size=2))
    for index, size in enumerate(((3, 4), (5, 2))):
        engine.add(Sequence(index, *size))
    plans: list[Plan] = []
    while (plan := engine.schedule()) is not None:
        plans.append(plan)
        engine.complete(plan)
    assert [plan.wasted for plan in plans] == [2, 0, 0, 0]
    assert [plan.emitting for plan in plans] == [0, 2, 1, 1]
    assert [plan.ending for plan in plans] == [2, 0, 0, 0]


def test_a_static_batch_is_cut_to_the_memory() -> None:
    """Five blocks: two slots of 8 tokens, a third would need six."""
    steps = run(scheduler(StaticPolicy(batch_size=4), blocks=5), (5, 4), (5, 4), (5, 4))
    assert [len(step.chunks) for step in steps] == [2, 0, 0, 0, 1, 0, 0, 0]


def test_a_static_batch_is_cut_to_the_most_sequences() -> None:
    steps = run(scheduler(StaticPolicy(batch_size=4), seqs=3), *[(2, 1)] * 4)
    assert [len(step.chunks) for step in steps] == [3, 1]


def test_a_dynamic_batch_waits_until_full_or_the_window_is_over() -> None:
    engine = scheduler(DynamicPolicy(batch_size=2, window_ms=10.0))
    engine.add(Sequence(0, 2, 1))
    assert one_step(engine, window_over=False) is None
    assert one_step(engine, window_over=True) == Step([(0, 2, 0)], 0, 0, 1, [0])
    engine.add(Sequence(1, 2, 1))
    engine.add(Sequence(2, 2, 1))
    step = one_step(engine, window_over=False)
    assert step is not None
    assert step.ended == [1, 2]

"""Many equal steps at once, shared prefixes and departures, worked out by hand."""

from __future__ import annotations

import pytest

from simulator.scenario.policies import (
    ContinuousPolicy,
    DynamicPolicy,
    FullReservationPolicy,
    Policy,
    PrefillFirstPolicy,
    StaticPolicy,
)
from simulator.serving.policies import POLICIES
from simulator.serving.scheduler import Plan, Scheduler
from simulator.serving.sequence import Sequence
from tests.stepping import Step, one_step, run, scheduler

# --- leaps ---------------------------------------------------------------------------------------


def after_prefill(engine: Scheduler, *sizes: tuple[int, int]) -> Plan:
    """The plan that follows the step in which all prompts are computed."""
    for index, (prompt, output) in enumerate(sizes):
        engine.add(Sequence(index, prompt, output))
    first = engine.schedule()
    assert first is not None
    engine.complete(first)
    plan = engine.schedule()
    assert plan is not None
    return plan


@pytest.mark.parametrize(
    "policy", [ContinuousPolicy(), FullReservationPolicy(), PrefillFirstPolicy()]
)
def test_a_leap_ends_with_the_first_sequence(policy: Policy) -> None:
    engine = scheduler(policy)
    plan = after_prefill(engine, (6, 10), (3, 5))
    assert (plan.steps, plan.decode, plan.context) == (4, 2, 7 + 4)
    assert [sequence.index for sequence in engine.complete(plan, 4)] == [1]
    plan = engine.schedule()
    assert plan is not None
    assert (plan.steps, plan.decode, plan.context) == (5, 1, 11)
    assert [sequence.index for sequence in engine.complete(plan, 5)] == [0]
    assert engine.kv.used == 0


def test_a_leap_ends_before_blocks_run_out() -> None:
    """Two sequences at 7 and 6 tokens in six blocks: they need one each at 9 tokens, in steps 2
    and 3, and again four steps later, when none is left."""
    engine = scheduler(ContinuousPolicy(), blocks=6)
    plan = after_prefill(engine, (7, 30), (6, 30))
    assert plan.steps == 5
    engine.complete(plan, 5)
    assert engine.kv.free == 0
    plan = engine.schedule()
    assert plan is not None
    assert [sequence.index for sequence in plan.preempted] == [1]


def test_a_leap_may_be_booked_in_part() -> None:
    whole, parts = scheduler(ContinuousPolicy()), scheduler(ContinuousPolicy())
    plan = after_prefill(whole, (6, 10))
    whole.complete(plan, plan.steps)
    plan = after_prefill(parts, (6, 10))
    for steps in (2, 1, 6):
        parts.complete(plan, steps)
        parts.check_integrity()
        following = parts.schedule()
        if following is not None:
            plan = following
    assert following is None
    assert (whole.kv.used, parts.kv.used) == (0, 0)


def test_local_context_stops_growing_at_the_window() -> None:
    """Window 8 after a prompt of 6: attends to 7, then 8, then stays."""
    engine = scheduler(ContinuousPolicy(), span=8)
    plan = after_prefill(engine, (6, 12))
    assert (plan.context, plan.local_context, plan.local_growth, plan.steps) == (7, 7, 1, 1)
    engine.complete(plan)
    plan = engine.schedule()
    assert plan is not None
    assert (plan.context, plan.local_context, plan.local_growth, plan.steps) == (8, 8, 0, 10)


def test_local_context_starts_anew_with_each_chunk() -> None:
    """Chunks of 8 after a prompt of 6: attends to 7, 8, then 1 of the next chunk."""
    engine = scheduler(ContinuousPolicy(), span=8, chunked=True)
    plan = after_prefill(engine, (6, 12))
    assert (plan.local_context, plan.local_growth, plan.steps) == (7, 1, 2)
    engine.complete(plan, 2)
    plan = engine.schedule()
    assert plan is not None
    assert (plan.context, plan.local_context, plan.local_growth, plan.steps) == (9, 1, 1, 8)
    engine.complete(plan, 8)
    plan = engine.schedule()
    assert plan is not None
    assert (plan.context, plan.local_context, plan.steps) == (17, 1, 1)


@pytest.mark.parametrize("chunked", [False, True])
def test_whoever_ends_takes_its_local_context_along(chunked: bool) -> None:
    """Span 8. Request 1 ends after attending to 4 and 5 tokens; request 0 has grown from 3 to 4
    then and goes on with 5."""
    engine = scheduler(ContinuousPolicy(), span=8, chunked=chunked)
    plan = after_prefill(engine, (2, 12), (3, 3))
    assert (plan.local_context, plan.local_growth, plan.steps) == (3 + 4, 2, 2)
    assert [sequence.index for sequence in engine.complete(plan, 2)] == [1]
    plan = engine.schedule()
    assert plan is not None
    assert (plan.decode, plan.context, plan.local_context, plan.local_growth) == (1, 5, 5, 1)


def test_whoever_ends_beyond_the_window_takes_the_window_along() -> None:
    engine = scheduler(ContinuousPolicy(), span=8)
    plan = after_prefill(engine, (2, 12), (20, 3))
    assert (plan.local_context, plan.local_growth, plan.steps) == (3 + 8, 1, 2)
    engine.complete(plan, 2)
    plan = engine.schedule()
    assert plan is not None
    assert (plan.local_context, plan.local_growth) == (5, 1)


# --- shared prefixes -----------------------------------------------------------------------------


def test_a_later_prompt_starts_behind_what_is_cached() -> None:
    """Block 0 and 1 of the text are there: 8 of 11 tokens."""
    engine = scheduler(ContinuousPolicy(), prefix_caching=True)
    engine.add(Sequence(0, 10, 1, ((1, 10),)))
    engine.add(Sequence(1, 11, 1, ((1, 11),)))  # in the same step already
    assert one_step(engine) == Step([(0, 10, 0), (1, 3, 8)], 0, 0, 3 + 1, [0, 1])
    engine.add(Sequence(2, 12, 1, ((1, 12),)))
    assert one_step(engine) == Step([(2, 4, 8)], 0, 0, 3, [2])


def test_a_preempted_request_continues_behind_its_own_blocks() -> None:
    """As without caching, but request 1 finds the block that nobody took meanwhile."""
    engine = scheduler(ContinuousPolicy(), blocks=4, prefix_caching=True)
    steps = run(engine, (7, 4), (7, 4))
    assert steps[4] == Step([(1, 5, 4)], 0, 0, 3, [])


# --- departures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy", [ContinuousPolicy(), PrefillFirstPolicy(), FullReservationPolicy()]
)
def test_whoever_leaves_gives_everything_back(policy: Policy) -> None:
    """Request 0 decodes, 1 has a part of its prompt, 2 waits; they leave in any order."""
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        engine = scheduler(policy, budget=10)
        sequences = [Sequence(0, 6, 9), Sequence(1, 30, 9), Sequence(2, 5, 9)]
        engine.add(sequences[0])
        one_step(engine)
        engine.add(sequences[1])
        engine.add(sequences[2])
        one_step(engine)
        used = engine.kv.used
        assert used > 0
        for index in order:
            engine.drop(sequences[index])
            engine.check_integrity()
        assert engine.kv.used == 0
        assert engine.schedule() is None
        assert sequences[0].generated == (1 if policy.kind == "prefill_first" else 2)


def test_a_slot_stays_when_its_client_leaves_a_batch() -> None:
    engine = scheduler(StaticPolicy(batch_size=2))
    sequences = [Sequence(0, 4, 9), Sequence(1, 4, 3), Sequence(2, 4, 3)]
    for sequence in sequences:
        engine.add(sequence)
    one_step(engine)
    one_step(engine)
    engine.drop(sequences[2])  # waits
    engine.drop(sequences[0])  # runs
    assert sequences[0].generated == 2
    step = one_step(engine)
    assert step is not None
    assert (step.decode, step.ended) == (2, [1])
    assert engine.kv.used == 0
    assert engine.schedule() is None


def test_a_leak_is_noticed() -> None:
    for policy in (ContinuousPolicy(), StaticPolicy(batch_size=2)):
        engine = scheduler(policy)
        run(engine, (6, 3))
        engine.check_integrity()
        engine.kv.take(1)
        with pytest.raises(AssertionError, match="1 blocks"):
            engine.check_integrity()


def test_every_policy_of_a_scenario_has_a_scheduler() -> None:
    kinds = {
        "continuous": ContinuousPolicy(),
        "prefill_first": PrefillFirstPolicy(),
        "full_reservation": FullReservationPolicy(),
        "static": StaticPolicy(batch_size=2),
        "dynamic": DynamicPolicy(batch_size=2, window_ms=1.0),
    }
    assert set(POLICIES) == set(kinds)
    for policy in kinds.values():
        steps = run(scheduler(policy), (9, 3), (2, 5))
        assert sorted(index for step in steps for index in step.ended) == [0, 1]

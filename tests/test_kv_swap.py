"""Preemption by swapping: what it costs against recomputing, worked out for one sequence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.costs.protocol import Chunk
from simulator.errors import UserError
from simulator.resolve import resolve
from simulator.results.record import RunRecord
from simulator.scenario.policies import ContinuousPolicy
from simulator.scenario.scenario import Scenario
from simulator.serving.below import Below
from tests.agreement import run_fast
from tests.dyadic import TICK_S, DyadicCost
from tests.strategies import Case, Req, make_limits
from tests.test_matrix_fields import BASE, nested

COST = DyadicCost(
    base=50, sequence=3, context=1, mixed_base=70, token=2, pair=1, chunk=5, sampled=1
)
PER_BLOCK = 40
"""Ticks that one block takes, one direction."""


def one_preemption(prompt: int, swap_blocks: int) -> RunRecord:
    """A short prompt with a long output, and a prompt that loses its blocks to it after a few tokens
    and comes back when the first has ended."""
    reqs = (Req(0.0, 1, 60), Req(0.0, prompt, 30))
    limits = make_limits(ContinuousPolicy(), block_size=1, budget=1000)
    below = Below(1.0, 1, 1 / (PER_BLOCK * TICK_S), swap_blocks=swap_blocks)
    case = Case(reqs, limits, prompt + 40, COST, below=below if swap_blocks else None)
    return run_fast(case)


@pytest.mark.parametrize("prompt", [20, 60, 100, 120, 160, 200, 400])
def test_swapping_moves_what_recomputing_computes(prompt: int) -> None:
    """With n tokens stored, swapping costs 2n blocks on the link and the decode step that gives the
    next token; recomputing costs one step with a prompt of n + 1 tokens, which gives it as well."""
    swapped, recomputed = one_preemption(prompt, 1000), one_preemption(prompt, 0)
    assert swapped.preemptions.tolist() == recomputed.preemptions.tolist() == [0, 1]
    assert swapped.moved is not None
    n = int(swapped.moved.down_bytes["swap"])
    assert n == int(swapped.moved.up_bytes["swap"]) > prompt
    back = 2 * n * PER_BLOCK * TICK_S + COST.decode(1, n + 1, 0, 0)[0]
    anew = COST.step(0, 0, 0, [Chunk(n + 1, 0)], 1)
    assert swapped.end_s - recomputed.end_s == back - anew
    assert not swapped.steps.wasted_tokens.any()
    assert recomputed.steps.wasted_tokens.sum() == n
    # 80n + 53 + n + 1 against 76 + 2(n + 1) + (n + 1)(n + 2) / 2: equal at n = 154.6.
    assert (swapped.end_s < recomputed.end_s) == (n > 154)
    assert swapped.steps.stall_s.sum() == 2 * n * PER_BLOCK * TICK_S


def test_without_room_in_the_host_it_computes_anew() -> None:
    none, little = one_preemption(60, 0), one_preemption(60, 5)
    assert little.moved is not None
    assert little.moved.down_bytes == {"swap": 0.0}
    assert little.finish_s.tolist() == none.finish_s.tolist()
    assert little.steps.wasted_tokens.sum() == none.steps.wasted_tokens.sum() > 0


def test_gaps_while_away_are_gaps_of_the_tokens() -> None:
    record = one_preemption(60, 1000)
    away = record.gaps.gap_s[record.gaps.count > 0]
    assert len(away) == 1
    assert away[0] > 10 * record.steps.first_s.min()


@pytest.mark.parametrize(
    ("fields", "where", "why"),
    [
        ({"engine.policy": {"kind": "full_reservation"}}, "engine.preemption", "never preempts"),
        ({"engine.queue": {"kind": "priority"}}, "engine.preemption", "order of their admissions"),
        (
            {"engine.kv_allocation": {"kind": "contiguous"}, "engine.prefix_caching": None},
            "engine.preemption",
            "never preempted",
        ),
        (
            {"engine.preemption": {"kind": "swap", "host_gib": 1e-6}},
            "engine.preemption.host_gib",
            "do not hold one KV block",
        ),
    ],
)
def test_what_cannot_be_is_refused(fields: dict, where: str, why: str) -> None:
    swap = {"engine.preemption": {"kind": "swap", "host_gib": 4.0}}
    with pytest.raises(UserError, match=why) as error:
        resolve(Scenario.model_validate(nested(BASE | swap | fields)))
    assert error.value.where == where


def test_room_for_none_is_recomputing() -> None:
    scenario = Scenario.model_validate(
        nested(BASE | {"engine.preemption": {"kind": "swap", "host_gib": 0.0}})
    )
    assert resolve(scenario).layout.below is None
    assert replace(resolve(scenario).layout, below=None) == resolve(scenario).layout

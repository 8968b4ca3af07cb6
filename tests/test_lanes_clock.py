"""Pipelines and lockstep ranks against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.cluster import FrontEndTimes, run_cluster
from simulator.errors import DoesNotFitError
from simulator.results.integrity import check_integrity
from simulator.results.lanes import active_s, most
from simulator.results.record import COMPLETED, TIMED_OUT, RunRecord
from simulator.scenario.policies import ContinuousPolicy
from simulator.scenario.routers import LeastOutstandingRouter, PrefixAwareRouter
from tests.dyadic import TICK_S, DyadicCost
from tests.dyadic_lanes import DyadicLockstep, DyadicPipeline
from tests.results_support import step_table
from tests.strategies import Req, make_limits, make_requests

STAGE = DyadicCost(
    base=10, sequence=0, context=0, mixed_base=10, token=0, pair=0, chunk=0, sampled=0
)
"""Ten ticks, whatever the step."""


def run(
    cost: DyadicPipeline | DyadicLockstep | DyadicCost,
    *reqs: Req,
    blocks: int = 4000,
    seqs: int = 64,
    budget: int = 64,
    users: tuple[int, ...] = (),
    prefix_caching: bool = False,
    async_scheduling: bool = False,
    **more: object,
) -> RunRecord:
    limits = make_limits(
        ContinuousPolicy(),
        seqs=seqs,
        budget=budget,
        block_size=4,
        prefix_caching=prefix_caching,
        async_scheduling=async_scheduling,
    )
    record = run_cluster(make_requests(reqs, users), limits, blocks, cost, **more)  # type: ignore[arg-type]
    check_integrity(record)
    return record


def ticks(seconds: np.ndarray) -> list[float]:
    return (np.asarray(seconds) / TICK_S).tolist()


# --- pipelines -----------------------------------------------------------------------------------


def test_alone_a_request_takes_all_stages_and_the_ways_between() -> None:
    """Stages of 10, 30 and 20 ticks, links of 2 ticks a token and 5 of latency."""
    parts = tuple(
        DyadicCost(base=base, sequence=0, context=0, mixed_base=base, token=1, pair=0, chunk=0,
                   sampled=0)
        for base in (10, 30, 20)
    )  # fmt: skip
    record = run(DyadicPipeline(parts, link=2, lag=5), Req(0.0, 7, 11))
    first, last = ticks(record.first_token_s)[0], ticks(record.finish_s)[0]
    assert first == (10 + 30 + 20) + 3 * 7 + 2 * (2 * 7 + 5)
    assert last - first == 10 * ((10 + 30 + 20) + 2 * (2 * 1 + 5))
    assert record.steps.stall_s.sum() == 0.0


def test_stages_do_not_shorten_decode() -> None:
    whole = DyadicCost(base=40, sequence=0, context=0, mixed_base=40, token=4, pair=0, chunk=0,
                       sampled=0)  # fmt: skip
    quarter = DyadicCost(base=10, sequence=0, context=0, mixed_base=10, token=1, pair=0, chunk=0,
                         sampled=0)  # fmt: skip
    plain = run(whole, Req(0.0, 9, 50))
    piped = run(DyadicPipeline((quarter,) * 4), Req(0.0, 9, 50))
    assert piped.first_token_s == plain.first_token_s
    assert piped.finish_s == plain.finish_s


@pytest.mark.parametrize("stages", [2, 3, 8])
def test_full_pipelines_end_a_micro_batch_every_stage_time(stages: int) -> None:
    """One lane has a token every ``stages`` stage times, all lanes together one every stage time."""
    cost = DyadicPipeline((STAGE,) * stages)
    alone = run(cost, Req(0.0, 1, 1001))
    assert ticks(alone.finish_s - alone.first_token_s) == [1000 * stages * 10]
    full = run(cost, *[Req(0.0, 1, 1001)] * stages)
    assert ticks(full.first_token_s) == [10 * stages + 10 * lane for lane in range(stages)]
    assert ticks(full.finish_s - full.first_token_s) == [1000 * stages * 10] * stages
    # Only the first step of each lane waited for the first stage.
    assert ticks(full.steps.stall_s.sum()) == sum(10 * lane for lane in range(stages))


def test_more_requests_than_lanes_share_them() -> None:
    record = run(DyadicPipeline((STAGE,) * 3), *[Req(0.0, 1, 101)] * 7)
    assert record.lane is not None
    assert np.bincount(record.lane).tolist() == [3, 2, 2]
    assert not record.replica.any()


def test_the_slowest_stage_sets_the_pace() -> None:
    slow = DyadicCost(base=25, sequence=0, context=0, mixed_base=25, token=0, pair=0, chunk=0,
                      sampled=0)  # fmt: skip
    record = run(DyadicPipeline((STAGE, slow, STAGE)), *[Req(0.0, 1, 1001)] * 3)
    # Three lanes each 25 ticks on the second stage: a round takes 75.
    assert ticks(record.finish_s - record.first_token_s) == [1000 * 75] * 3


def test_a_full_link_sets_the_pace() -> None:
    record = run(DyadicPipeline((STAGE, STAGE), link=40), *[Req(0.0, 1, 1001)] * 2)
    assert ticks(record.finish_s - record.first_token_s) == [1000 * 80] * 2


@pytest.mark.parametrize(("stages", "micro_batches"), [(2, 1), (4, 4), (4, 12), (8, 32)])
def test_bubbles_of_a_burst(stages: int, micro_batches: int) -> None:
    """GPipe (arXiv:1811.06965): m micro-batches through p stages leave (p−1)/(m+p−1) of the time
    empty."""
    cost = DyadicPipeline((STAGE,) * stages)
    record = run(cost, *[Req(0.0, 64, 1)] * micro_batches)
    span = micro_batches + stages - 1
    assert ticks(record.end_s) == 10 * span
    worked = micro_batches * 10 * stages
    active = ticks(active_s(record.steps, 0.0, record.end_s)) * stages
    assert 1 - worked / active == pytest.approx((stages - 1) / span)


def test_a_lane_alone_leaps() -> None:
    record = run(DyadicPipeline((DyadicCost(),) * 4), Req(0.0, 5, 20_000), blocks=40_000)
    assert len(record.steps) < 6
    assert record.steps.steps.sum() == 20_000


def test_equal_lanes_share_rows() -> None:
    """Long outputs in all lanes: a row is a stretch of steps, though lanes wait for each other."""
    record = run(DyadicPipeline((DyadicCost(),) * 3), *[Req(0.0, 5, 2000)] * 6, blocks=40_000)
    assert len(record.steps) < 100
    assert record.steps.steps.sum() == 3 * 2000


def test_blocks_are_divided_among_lanes() -> None:
    cost = DyadicPipeline((STAGE, STAGE))
    fits = run(cost, Req(0.0, 80, 1), blocks=41, budget=100)
    assert fits.kv_blocks == 40
    with pytest.raises(DoesNotFitError, match="needs 21 KV blocks"):
        run(cost, Req(0.0, 81, 1), blocks=41, budget=100)


def test_sequences_are_divided_among_lanes() -> None:
    record = run(DyadicPipeline((STAGE,) * 4), *[Req(0.0, 1, 50)] * 20, seqs=9)
    assert record.steps.running.max() == 2
    assert most(record.steps, record.steps.running, 0.0, record.end_s) == 8


def test_clients_of_a_pipeline_give_up() -> None:
    front = FrontEndTimes(busy_s=30 * TICK_S)
    record = run(
        DyadicPipeline((STAGE,) * 2),
        *[Req(5.0 * i, 3, 60) for i in range(12)],
        timeout_s=1400 * TICK_S,
        front_end=front,
        seqs=4,
    )
    outcome = np.bincount(record.outcome, minlength=4)
    assert outcome[COMPLETED] > 0
    assert outcome[TIMED_OUT] > 0
    assert outcome.sum() == 12


def test_replicas_of_pipelines_are_routed_like_others() -> None:
    record = run(
        DyadicPipeline((STAGE,) * 2),
        *[Req(float(i), 3, 200) for i in range(12)],
        replicas=3,
        router=LeastOutstandingRouter(),
    )
    assert np.bincount(record.replica).tolist() == [4, 4, 4]
    assert record.lane is not None
    pairs = np.unique(np.stack([record.replica, record.lane]), axis=1)
    assert pairs.shape[1] == 6


def test_a_prefix_is_looked_for_in_the_lane_to_come() -> None:
    """The second request of each text comes to a warm replica, though not to a warm lane at once."""
    reqs = [
        Req(10_000.0 * i, 40, 2, text=((i % 2, 40),))
        for i in range(8)
    ]  # fmt: skip
    record = run(
        DyadicPipeline((STAGE,) * 2),
        *reqs,
        replicas=2,
        prefix_caching=True,
        router=PrefixAwareRouter(),
    )
    assert record.cached_tokens[:2].tolist() == [0, 0]
    assert (record.cached_tokens[2:] == 36).all()


# --- lockstep ------------------------------------------------------------------------------------


def test_a_common_step_lasts_as_long_as_the_slowest_rank() -> None:
    """Prompts of 30 and 10 tokens on two ranks: 70 + 2·30 + 30·31/2 + … of the longer one, and the
    experts' part for the tokens of both."""
    cost = DyadicLockstep(DyadicCost(), ranks=2, common=30, token=2)
    record = run(cost, Req(0.0, 30, 1), Req(0.0, 10, 1))
    slow = 70 + 5 + 2 * 30 + 30 * 31 // 2 + 1
    fast = 70 + 5 + 2 * 10 + 10 * 11 // 2 + 1
    both = 30 + 2 * 40
    assert ticks(record.finish_s) == [slow + both] * 2
    assert ticks(record.steps.stall_s) == [0, slow - fast]


def test_idle_ranks_take_part_without_work() -> None:
    alone = run(DyadicLockstep(STAGE, ranks=4, common=7, token=1), Req(0.0, 3, 101))
    first, last = ticks(alone.first_token_s)[0], ticks(alone.finish_s)[0]
    assert first == 10 + 7 + 3
    assert last - first == 100 * (10 + 7 + 1)
    assert set(alone.steps.lane.tolist()) == {0}


def test_all_ranks_leap_together() -> None:
    cost = DyadicLockstep(DyadicCost(), ranks=4)
    record = run(cost, *[Req(0.0, 5, 5000)] * 8, blocks=40_000)
    assert len(record.steps) < 30
    assert record.steps.steps.sum() == 4 * 5000


def test_the_slowest_rank_changes_in_a_leap() -> None:
    """Two short contexts overtake a long one, because they grow twice as fast."""
    cost = DyadicLockstep(DyadicCost(sequence=0), ranks=2, token=0)
    reqs = [Req(0.0, 1, 200), Req(0.0, 60, 200), Req(0.0, 1, 200)]
    record = run(cost, *reqs, blocks=40_000)
    decode = record.steps.select(record.steps.prefill == 0)
    assert (decode.stall_s >= 0).all()
    waits = {lane: decode.stall_s[decode.lane == lane] for lane in (0, 1)}
    assert waits[0].any()
    assert waits[1].any()


def test_a_request_fits_one_rank_only() -> None:
    cost = DyadicLockstep(STAGE, ranks=4)
    run(cost, *[Req(0.0, 40, 1)] * 4, blocks=40)
    with pytest.raises(DoesNotFitError, match=r"needs 11 KV .* each of the 4 lanes of a"):
        run(cost, Req(0.0, 41, 1), blocks=40)


def test_ranks_get_the_fewest_requests() -> None:
    record = run(DyadicLockstep(STAGE, ranks=3), *[Req(float(i), 3, 500) for i in range(10)])
    assert record.lane is not None
    assert np.bincount(record.lane).tolist() == [4, 3, 3]


# --- sums over lanes -----------------------------------------------------------------------------


def test_overlapping_rows_count_once_as_active_time() -> None:
    table = step_table(
        {"start_s": 0.0, "first_s": 2.0, "lane": 0, "running": 3},
        {"start_s": 1.0, "first_s": 0.5, "lane": 1, "running": 4},
        {"start_s": 1.5, "first_s": 2.0, "lane": 1, "running": 5},
        {"start_s": 5.0, "first_s": 1.0, "lane": 0, "running": 6},
        {"start_s": 0.0, "first_s": 1.0, "replica": 1, "running": 1},
    )
    assert active_s(table, 0.0, 10.0) == pytest.approx(3.5 + 1.0 + 1.0)
    assert active_s(table, 0.5, 5.5) == pytest.approx(3.0 + 0.5 + 0.5)
    assert most(table, table.running, 0.0, 10.0) == 8
    assert most(table, table.running, 4.0, 10.0) == 6

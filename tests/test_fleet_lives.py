"""Replicas that start, crash, drain and are taken back: worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.cluster.starting import Life, Loading, Start, Weights
from simulator.results.lives import UP
from simulator.results.record import COMPLETED, FAILED, REJECTED, TIMED_OUT
from simulator.scenario.lifecycle import (
    ConcurrencyScaling,
    Failures,
    Gateway,
    Outage,
    Retry,
    ScheduledCount,
    ScheduleScaling,
    Spot,
)
from simulator.scenario.policies import StaticPolicy
from tests.fleet_rig import changes, lives_of, run
from tests.metronome import NAN, same
from tests.rig import requests

# --- starting ------------------------------------------------------------------------------------

COLD = Start(10.0, 5.0, 2.0, Weights(node_bytes=8e9, node_bytes_per_s=2e9))
ON_DEMAND = ConcurrencyScaling(min=0, max=2, target=100.0, idle_s=30.0, down_window_s=0.0)


def test_a_cold_start_is_the_sum_of_its_parts() -> None:
    """10 s of provisioning, 5 of boot, 8 GB at 2 GB/s, 2 of warm-up; the first token takes 2 more,
    and the request that comes meanwhile waits with the first one."""
    assert COLD.alone_s == 21.0
    record = run(requests((3.0, 4, 4), (20.0, 4, 1)), Life(1, COLD, ON_DEMAND))
    assert changes(record) == [
        (3.0, 0, "provisioning"), (13.0, 0, "booting"), (18.0, 0, "loading"),
        (22.0, 0, "warming"), (24.0, 0, "up"),
    ]  # fmt: skip
    same(record.first_token_s, [26.0, 26.0])
    same(lives_of(record).starts(), [[0, 3.0, 24.0]])
    same(lives_of(record).waited, [[0, 3.0, 24.0], [1, 20.0, 24.0]])
    same(record.held, [[0, 3.0, 29.0]])


def test_the_last_replica_goes_after_the_idle_time_and_comes_back() -> None:
    """Its last request ends at 6; decisions come every 15 s, the first one after 30 s is at 45."""
    record = run(requests((1.0, 4, 4), (100.0, 4, 1)), Life(1, Start(1.0), ON_DEMAND))
    assert changes(record)[2:] == [
        (45.0, 0, "draining"), (45.0, 0, "off"), (100.0, 0, "provisioning"), (101.0, 0, "up"),
    ]  # fmt: skip
    same(record.first_token_s, [4.0, 103.0])
    same(record.held, [[0, 1.0, 45.0], [0, 100.0, 103.0]])


def test_replicas_of_a_node_share_its_drive_and_all_nodes_share_the_store() -> None:
    drive = Loading(Weights(6e9, per_node=2, node_bytes_per_s=2e9))
    assert [drive.done(place, 0.0) for place in range(4)] == [3.0, 6.0, 3.0, 6.0]
    store = Loading(Weights(6e9, per_node=2, node_bytes_per_s=2e9, store_bytes_per_s=1.5e9))
    assert [store.done(place, 0.0) for place in range(3)] == [4.0, 8.0, 12.0]
    own = Loading(Weights(6e9, per_node=2, least_s=1.25))
    assert [own.done(place, 2.0) for place in range(2)] == [3.25, 3.25]
    spread = Loading(Weights(6e9, nodes=2, node_bytes_per_s=2e9))
    assert [spread.done(place, 0.0) for place in range(2)] == [3.0, 3.0]
    # Nobody gets them faster than over the links of the devices.
    assert Loading(Weights(6e9, node_bytes_per_s=6e9, least_s=4.0)).done(0, 1.0) == 5.0


def test_who_drains_takes_nothing_new_and_finishes_what_it_has() -> None:
    """Two replicas until 3.5, one from then on: the one with fewer requests goes, at the end of its
    own request at 7; what comes at 4 goes to the other."""
    table = ScheduleScaling(
        steps=(ScheduledCount(at_s=0.0, replicas=2), ScheduledCount(at_s=3.5, replicas=1)),
        period_s=100.0,
    )
    asked = requests((0.0, 4, 9), (0.0, 4, 6), (1.0, 4, 1), (4.0, 4, 1))
    record = run(asked, Life(1, scaling=table))
    same(record.replica, [0, 1, 0, 0])
    assert (record.outcome == COMPLETED).all()
    assert changes(record)[2:] == [(3.5, 1, "draining"), (7.0, 1, "off")]
    same(record.held, [[0, 0.0, record.end_s], [1, 0.0, 7.0]])


# --- crashes -------------------------------------------------------------------------------------

PAIR = requests((0.0, 4, 8), (0.0, 4, 8), (4.0, 4, 2), (5.0, 4, 2))


def crashed(*, detection_s: float = 2.0) -> Life:
    """Of two replicas the first one crashes at 3.5."""
    outage = Outage(replica=0, at_s=3.5, for_s=10.0)
    return Life(2, failures=Failures(outages=(outage,), detection_s=detection_s))


def test_exactly_the_requests_of_a_crashed_replica_fail() -> None:
    """The step under way ends at 4, with the third token. Who comes at 4 is still sent there."""
    record = run(PAIR, crashed())
    same(record.outcome, [FAILED, COMPLETED, FAILED, COMPLETED])
    same(record.generated, [3, 8, 0, 2])
    same(record.replica, [0, 1, 0, 1])
    same(record.start_s, [0.0, 0.0, NAN, 5.0])
    same(lives_of(record).gone, [[2, 4.0], [0, 4.0]])


def test_retried_requests_begin_anew_elsewhere() -> None:
    """Noticed at 5.5; the step there ends at 7, and the prompts take until 9."""
    record = run(PAIR, crashed(), retry=Retry(limit=1))
    assert (record.outcome == COMPLETED).all()
    same(record.replica, [1, 1, 1, 1])
    same(record.first_token_s, [9.0, 2.0, 9.0, 7.0])
    same(record.finish_s, [16.0, 11.0, 10.0, 9.0])
    lost = lives_of(record).lost
    same(lost.request, [2, 0])
    same(lost.tokens, [0, 3])
    same(lost.first_token_s, [NAN, 2.0])
    assert lost.first_tokens == 1
    assert not record.preemptions.any()


def test_retried_requests_go_on_where_they_were() -> None:
    """As above, but the first one keeps its three tokens: five more from 9 on."""
    record = run(PAIR, crashed(), retry=Retry(limit=1, mode="resume"))
    same(record.first_token_s, [2.0, 2.0, 9.0, 7.0])
    same(record.finish_s, [13.0, 11.0, 10.0, 9.0])
    same(lives_of(record).lost.tokens, [0, 0])
    # The gap between the tokens at 4 and 9; it waited from 5.5 on, and 4 + 2 tokens again are waste.
    assert record.gaps.gap_s.tolist() == [5.0]
    assert record.steps.wasted_tokens.sum() == 6


def test_who_is_lost_too_often_fails() -> None:
    """One replica crashes three times; the request is tried twice more and then given up."""
    outages = tuple(Outage(replica=0, at_s=at, for_s=1.0) for at in (1.0, 6.0, 11.0))
    life = Life(1, failures=Failures(outages=outages))
    record = run(requests((0.0, 4, 20)), life, retry=Retry(limit=2))
    same(record.outcome, [FAILED])
    assert len(lives_of(record).lost.request) == 2
    record = run(requests((0.0, 4, 20)), life, retry=Retry(limit=3))
    same(record.outcome, [COMPLETED])
    same(record.first_token_s, [14.0])


def test_static_batches_are_lost_as_well() -> None:
    outages = (Outage(replica=0, at_s=3.5, for_s=1.0),)
    record = run(
        requests((0.0, 4, 5), (0.0, 4, 3), (1.0, 4, 2)), Life(1, failures=Failures(outages=outages)),
        retry=Retry(), policy=StaticPolicy(batch_size=2),
    )  # fmt: skip
    # The second one ends at 4, with the step under way.
    same(record.first_token_s, [6.5, 2.0, 6.5])
    same(record.finish_s, [10.5, 4.0, 7.5])


def test_clients_give_up_while_their_replica_is_away() -> None:
    outages = (Outage(replica=0, at_s=3.5, for_s=30.0),)
    life = Life(1, failures=Failures(outages=outages, detection_s=5.0))
    record = run(
        requests((0.0, 4, 20), (4.5, 4, 1), (10.0, 4, 1)), life, retry=Retry(), timeout_s=8.0
    )
    same(record.outcome, [TIMED_OUT, TIMED_OUT, TIMED_OUT])
    same(record.generated, [3, 0, 0])
    assert record.end_s == 18.0


def test_crashes_at_random_leave_the_share_of_time_that_they_should() -> None:
    """MTBF / (MTBF + MTTR) with 100 s of each, repair and cold start together; 4 replicas for
    100,000 s see about 2,000 cycles, whose share has a standard deviation of 0.8 points."""
    life = Life(
        4, Start(1000.0, 30.0, 20.0), failures=Failures(mtbf_h=100.0 / 3600.0, repair_s=50.0)
    )
    record = run(requests((0.0, 4, 1), (100_000.0, 4, 1)), life)
    up = lives_of(record).spans((UP,), record.end_s)
    share = float((up[:, 2] - up[:, 1]).sum()) / (4 * record.end_s)
    assert share == pytest.approx(0.5, abs=0.03)
    # Provisioning is no part of a repair: the devices are there, and paid.
    same(record.held, [[number, 0.0, record.end_s] for number in range(4)])


# --- spot ----------------------------------------------------------------------------------------


def test_notice_lets_a_replica_finish() -> None:
    """With notice nothing is lost and the replacement is there earlier; without it some are."""
    asked = requests(*((float(at), 4, 4) for at in range(300)))
    sudden = Spot(interruptions_per_hour=60.0, replacement_s=3.0)
    warned = sudden.model_copy(update={"notice_s": 30.0})
    lost = {}
    for spot in (sudden, warned):
        record = run(asked, Life(2, Start(5.0), spot=spot), retry=Retry(limit=50))
        assert (record.outcome == COMPLETED).all()
        lost[spot.notice_s] = len(lives_of(record).lost.request)
        taken = [at for at, _, state in changes(record) if state == "reclaimed"]
        found = [at for at, _, state in changes(record) if state == "provisioning"]
        assert len(taken) > 4
        # Devices are found 3 s after the warning, and the replica is up 5 s later.
        np.testing.assert_allclose(found, np.array(taken[: len(found)]) + 3.0)
        assert lives_of(record).starts()[:, 2] == pytest.approx(
            lives_of(record).starts()[:, 1] + 5.0
        )
    assert lost[30.0] == 0 < lost[0.0]


def test_what_is_not_finished_when_the_notice_is_over_is_lost() -> None:
    spot = Spot(interruptions_per_hour=30.0, notice_s=2.0)
    record = run(requests((0.0, 4, 1900)), Life(1, spot=spot))
    same(record.outcome, [FAILED])
    warned = next(at for at, _, state in changes(record) if state == "reclaimed")
    # The step under way two seconds after the warning is the last one.
    assert record.end_s == np.ceil(warned + 2.0)
    # The devices go at the end of the notice, and others are held from the warning on.
    same(record.held, [[0, 0.0, warned + 2.0], [1, warned, record.end_s]])


# --- the gateway ---------------------------------------------------------------------------------


def test_a_replica_gets_no_more_than_it_may_have() -> None:
    """One at a time: each takes 2 s for its only token, in order of arrival."""
    record = run(
        requests(*((0.25 * at, 4, 1) for at in range(4))),
        Life(1),
        gateway=Gateway(max_concurrency=1),
    )
    same(record.finish_s, [2.0, 4.0, 6.0, 8.0])
    same(lives_of(record).waited, [[1, 0.25, 2.0], [2, 0.5, 4.0], [3, 0.75, 6.0]])


def test_a_full_gateway_rejects() -> None:
    gateway = Gateway(max_concurrency=1, max_queue=2)
    record = run(requests(*((0.25 * at, 4, 1) for at in range(5))), Life(1), gateway=gateway)
    same(record.outcome, [COMPLETED, COMPLETED, COMPLETED, REJECTED, REJECTED])
    record = run(
        requests((0.0, 4, 1), (0.5, 4, 1)), Life(1, COLD, ON_DEMAND), gateway=Gateway(max_queue=1)
    )
    same(record.outcome, [COMPLETED, REJECTED])


def test_what_waits_gives_up_in_time() -> None:
    record = run(requests((0.0, 4, 1), (15.0, 4, 1)), Life(1, COLD, ON_DEMAND), timeout_s=10.0)
    same(record.outcome, [TIMED_OUT, COMPLETED])
    same(record.replica, [-1, 0])
    same(record.first_token_s, [NAN, 23.0])

"""Slow replicas: their steps take longer, and the work in them is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simulator import load_scenario, simulate
from simulator.cluster import run_groups
from simulator.cluster.groups import ReplicaGroup
from simulator.errors import UserError
from simulator.live import Asked, LiveDeployment
from simulator.results import Result
from simulator.results.integrity import check_integrity
from simulator.results.record import RunRecord, StepTable
from simulator.scenario.lifecycle import Failures, Outage, Slowdown
from simulator.scenario.scenario import Scenario
from simulator.serving.kv_cache import KvLayout
from tests.metronome import Metronome, same
from tests.rig import limits, requests
from tests.test_live_deployment import Client, replay

# --- by hand: two seconds for a step with prompts, one for a decode step -------------------------


def run(asked: Any, *slowdowns: Slowdown, replicas: int = 1) -> RunRecord:
    settings = limits(seqs=8, budget=100, block_size=4, max_model_len=2000)
    group = ReplicaGroup(replicas, settings, KvLayout(1000, 4), Metronome(), slowdowns=slowdowns)
    record = run_groups(asked, (group,))
    check_integrity(record)
    return record


def slow(at_s: float, for_s: float, factor: float = 2.0, replica: int = 0) -> Slowdown:
    return Slowdown(replica=replica, at_s=at_s, for_s=for_s, factor=factor)


def test_steps_that_begin_within_it_are_slow() -> None:
    """Prompt until 2, tokens at 3 and 4; slow from 3.5 to 7.5: at 6, 8; then at 9, 10."""
    record = run(requests((0.0, 4, 7)), slow(3.5, 4.0))
    same(record.finish_s, [10.0])
    steps = record.steps
    same(steps.start_s, [0.0, 2.0, 4.0, 8.0])
    same(steps.duration_s, [2.0, 2.0, 4.0, 2.0])
    same(steps.stall_s, [0.0, 0.0, 2.0, 0.0])


def test_a_step_with_prompts_is_as_slow() -> None:
    record = run(requests((0.0, 4, 3), (0.0, 4, 3)), slow(0.0, 1.0, 3.0))
    same(record.first_token_s, [6.0, 6.0])
    same(record.finish_s, [8.0, 8.0])
    same(record.steps.stall_s, [4.0, 0.0])


def test_factors_of_several_multiply() -> None:
    """Twice as long from 2 on, six times from 5 to 7: tokens at 4, 6, 12, 14."""
    record = run(requests((0.0, 4, 5)), slow(2.0, 100.0), slow(5.0, 2.0, 3.0))
    same(record.finish_s, [14.0])
    same(record.steps.stall_s, [0.0, 2.0, 5.0, 1.0])


def test_only_that_replica_is_slow() -> None:
    record = run(requests((0.0, 4, 3), (0.0, 4, 3)), slow(0.0, 9.0, replica=1), replicas=2)
    same(record.finish_s, [4.0, 8.0])


# --- every kind of replica -----------------------------------------------------------------------

KINDS = {
    "chat-8b-h100": "continuous batching",
    "context-70b-h200": "context parallelism",
    "data-parallel-attention-deepseek-v3-h200": "ranks in lockstep",
    "disaggregated-70b-h100": "prefill and decode pools",
    "kv-offload": "KV tiers",
    "lora-adapters-8b-h100": "adapters",
    "pipeline-70b-l40s": "stages",
    "speculative-eagle-8b-h100": "drafts",
    "static-batching": "static batches",
    "two-models-one-gpu": "shared devices",
}


def slowed(name: str, failures: dict[str, Any]) -> Scenario:
    """The shipped scenario with failures, in every pool."""
    asked = load_scenario(name).model_dump(mode="json", exclude_unset=True)
    asked.setdefault("deployment", {})["failures"] = failures
    return Scenario.model_validate(asked)


def joules(result: Result) -> float:
    return float(result.summary()["energy"]["joules_per_request"])


def own_s(steps: StepTable) -> float:
    return float((steps.duration_s - steps.stall_s).sum())


@pytest.mark.parametrize("name", KINDS)
def test_the_same_work_takes_three_times_as_long(name: str) -> None:
    """One request alone has the same steps; its devices wait for two thirds of the time."""
    always = {"slowdowns": [{"replica": 0, "at_s": 0.0, "for_s": 1e6, "factor": 3.0}]}
    before = simulate(load_scenario(name), intervals=False, at_most=1)
    after = simulate(slowed(name, always), intervals=False, at_most=1)
    check_integrity(after.record)
    one, two = before.record.steps, after.record.steps
    assert int((one.tokens).sum()) == int((two.tokens).sum())
    assert own_s(two) == pytest.approx(own_s(one), rel=1e-9)
    waited = two.stall_s.sum() - one.stall_s.sum()
    assert waited == pytest.approx(2.0 * own_s(one), rel=0.01)  # latencies of links stay
    assert (two.stall_s <= two.duration_s + 1e-12).all()
    assert joules(after) > joules(before)


@pytest.mark.parametrize("name", KINDS)
def test_on_demand_it_is_what_the_simulation_has(name: str) -> None:
    """A live replica that is told to be slow gives tokens when the simulation says."""
    times = [{"replica": 0, "at_s": 2.0, "for_s": 3.0, "factor": 4.0}]
    planned, told = (
        LiveDeployment(slowed(name, {"slowdowns": times})),
        LiveDeployment(load_scenario(name)),
    )
    heard: list[list[Client]] = []
    for live in (planned, told):
        clients = [Client(live) for _ in range(12)]
        for number, client in enumerate(clients):
            live.advance(0.4 * number)
            if live is told and number == 5:
                numbers = [0] if len(live.pools) == 1 else [pool.first for pool in live.pools]
                for replica in numbers:
                    assert live.faults.slow(replica, factor=4.0, for_s=3.0)
                assert live.replicas()[0].slowness == 4.0
            live.send(Asked(300, 60), client)
        live.advance(100.0)
        live.check_integrity()
        assert live.replicas()[0].slowness == 1.0
        heard.append(clients)
    fast = LiveDeployment(load_scenario(name))
    later = Client(fast)
    fast.send(Asked(300, 60), later)
    fast.advance(100.0)
    for one, other in zip(*heard, strict=True):
        np.testing.assert_array_equal(one.times, other.times)
        assert one.counts == other.counts
    assert later.ending is not None
    slowest = max(client.ending.e2e_s for client in heard[0] if client.ending is not None)
    assert slowest > 1.5 * later.ending.e2e_s


@pytest.mark.parametrize("name", ["chat-8b-h100", "pipeline-70b-l40s", "disaggregated-70b-h100"])
def test_live_it_is_the_simulation(name: str) -> None:
    times = [{"replica": 0, "at_s": 1.0, "for_s": 3.0, "factor": 4.0}]
    scenario = slowed(name, {"slowdowns": times})
    record = simulate(scenario, intervals=False, at_most=150).record
    assert (record.steps.stall_s / record.steps.duration_s).max() > 0.74
    for index, client in replay(LiveDeployment(scenario), record).items():
        assert client.ending is not None
        assert client.ending.finish_s == pytest.approx(record.finish_s[index], abs=1e-9, rel=1e-9)


def test_a_replica_that_crashes_comes_back_fast() -> None:
    live = LiveDeployment(load_scenario("chat-8b-h100"), crashes=True)
    assert live.faults.slow(0, factor=5.0, for_s=60.0)
    assert live.faults.crash(0, for_s=2.0)
    assert not live.faults.crash(0)
    assert not live.faults.slow(0, factor=2.0, for_s=1.0)
    live.advance(3.0)
    assert [state.slowness for state in live.replicas()] == [1.0]


# --- crashes on demand ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["failover-8b-h100", "pipeline-70b-l40s", "mixed-pools-8b"])
def test_a_crash_on_demand_is_an_outage(name: str) -> None:
    outage = {"replica": 0, "at_s": 3.0, "for_s": 4.0}
    settings = {"outages": [outage], "detection_s": 0.5}
    never = {"outages": [outage | {"at_s": 1e6}], "detection_s": 0.5}
    heard = []
    for failures in (settings, never):
        live = LiveDeployment(slowed(name, failures))
        clients = [Client(live) for _ in range(20)]
        for number, client in enumerate(clients):
            live.advance(0.25 * number)
            if failures is never and number == 12:
                for pool in live.pools:
                    assert live.faults.crash(pool.first, for_s=4.0)
            live.send(Asked(200, 120), client)
        live.advance(200.0)
        live.check_integrity()
        assert live.open_requests == 0
        heard.append([(client.ending, client.counts, client.times) for client in clients])
    assert repr(heard[0]) == repr(heard[1])
    # They fail, or go on elsewhere.
    assert any(e.outcome == "failed" or e.start_s > e.first_token_s for e, _, _ in heard[0])


def test_without_settings_a_replica_is_away_for_half_a_minute() -> None:
    live = LiveDeployment(load_scenario("chat-8b-h100"), crashes=True)
    client = Client(live)
    live.send(Asked(100, 10_000), client)
    live.advance(1.0)
    live.faults.crash(0)
    live.advance(1.5)
    assert client.ending is not None
    assert client.ending.outcome == "failed"
    waiting = Client(live)
    live.send(Asked(100, 2), waiting)
    live.advance(30.9)
    assert (live.replicas(), waiting.ending) == ([], None)
    live.advance(31.5)
    assert waiting.ending is not None
    assert waiting.ending.outcome == "completed"
    assert waiting.ending.start_s > 31.0


# --- what makes no sense -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failures", "message"),
    [
        ({"slowdowns": [{"replica": 3, "at_s": 1.0, "for_s": 1.0, "factor": 2.0}]}, "no replica 3"),
        ({"slowdowns": [{"replica": 0, "at_s": 1.0, "for_s": 1.0, "factor": 1.0}]}, "greater than"),
        (
            {
                "slowdowns": [{"replica": 0, "at_s": 1.0, "for_s": 1.0, "factor": 2.0}],
                "detection_s": 1.0,
            },
            "belongs to crashes",
        ),
        ({}, "outages or slowdowns"),
    ],
)
def test_settings_without_a_meaning_are_refused(failures: dict[str, Any], message: str) -> None:
    with pytest.raises((UserError, ValueError), match=message):
        simulate(slowed("chat-8b-h100", failures), intervals=False, at_most=1)


def test_faults_that_cannot_be_are_refused() -> None:
    live = LiveDeployment(load_scenario("chat-8b-h100"))
    with pytest.raises(UserError, match="no replica 1; numbers go from 0 to 0"):
        live.faults.slow(1, factor=2.0, for_s=1.0)
    with pytest.raises(UserError, match="above 1"):
        live.faults.slow(0, factor=1.0, for_s=1.0)
    with pytest.raises(UserError, match="cannot crash"):
        live.faults.crash(0)
    for name, reason in (
        ("disaggregated-70b-h100", "roles prefill and decode cannot crash"),
        ("sharded-70b-h100", "share weights are not slow, and do not crash"),
    ):
        live = LiveDeployment(load_scenario(name), crashes=True)
        with pytest.raises(UserError, match=reason):
            live.faults.crash(0)
    with pytest.raises(UserError, match="share weights are not slow"):
        live.faults.slow(0, factor=2.0, for_s=1.0)


def test_slow_and_crashing_share_one_list_of_settings() -> None:
    failures = Failures(
        outages=(Outage(replica=0, at_s=1.0, for_s=1.0),), slowdowns=(slow(1.0, 2.0),)
    )
    assert failures.crash
    assert not Failures(slowdowns=(slow(1.0, 2.0),)).crash

"""Pools on the same devices: steps take turns, memory is divided, devices are paid once."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from simulator.cluster import run_groups
from simulator.cluster.groups import ReplicaGroup
from simulator.errors import ScenarioError
from simulator.results import Result
from simulator.results.integrity import violations
from simulator.results.record import RunRecord
from simulator.scenario import load_scenario
from simulator.scenario.policies import (
    ContinuousPolicy,
    DynamicPolicy,
    FullReservationPolicy,
    Policy,
    PrefillFirstPolicy,
    StaticPolicy,
)
from simulator.serving.kv_cache import KvLayout
from simulator.simulation import simulate
from simulator.workload.requests import Requests
from tests.metronome import Metronome, same
from tests.rig import limits, requests
from tests.sane import check_record
from tests.test_cluster_storm import COSTS, traffic

POLICIES: list[Policy] = [
    ContinuousPolicy(),
    PrefillFirstPolicy(),
    FullReservationPolicy(),
    StaticPolicy(batch_size=4),
    DynamicPolicy(batch_size=4, window_ms=200.0),
]


def classes(asked: Requests, ids: list[int]) -> Requests:
    from dataclasses import replace

    return replace(asked, classes=("a", "b"), class_id=np.array(ids, dtype=np.int64))


def run(asked: Requests, *, shared: bool = True, replicas: int = 1, **more: Any) -> RunRecord:
    """Prompts take 2 s and decode steps 1 s; class a goes to one pool, b to the other."""
    limit = limits(seqs=8, budget=100, block_size=4, max_model_len=2000)
    groups = [
        ReplicaGroup(replicas, limit, KvLayout(1000, 4), Metronome(), name=name, classes=(name,),
                     shares="a" if shared and name == "b" else "")
        for name in ("a", "b")
    ]  # fmt: skip
    record = run_groups(asked, groups, **more)
    check_record(record, limit)
    assert list(violations(record)) == []
    return record


def assert_turns(record: RunRecord, devices: int) -> None:
    """On each set of devices one step ends before the next one begins, whoever's it is."""
    steps = record.steps
    for device in range(devices):
        mine = np.flatnonzero(steps.replica % devices == device)
        start = steps.start_s[mine]
        end = start + steps.duration_s[mine]
        order = np.argsort(start, kind="stable")
        for earlier, later in pairwise(order.tolist()):
            assert start[later] >= end[earlier] - 1e-9


def test_two_who_decode_get_every_second_step() -> None:
    asked = classes(requests((0.0, 8, 5), (0.0, 8, 5)), [0, 1])
    record = run(asked)
    # a: prompt 0-2; b: prompt 2-4; then steps in turn, one second each.
    same(record.first_token_s, [2.0, 4.0])
    same(record.finish_s, [11.0, 12.0])
    assert_turns(record, 1)
    assert record.gaps.gap_s.max() == 3.0  # a waited for b's prompt once
    apart = run(asked, shared=False)
    same(apart.finish_s, [6.0, 6.0])


def test_who_is_alone_does_not_notice() -> None:
    asked = classes(requests((0.0, 8, 50), (3.3, 20, 9), (90.0, 8, 5)), [0, 0, 1])
    together, apart = run(asked), run(asked, shared=False)
    same(together.finish_s, apart.finish_s.tolist())
    # Equal steps are still one row.
    assert len(together.steps) == len(apart.steps)


def test_a_newcomer_waits_for_one_step_only() -> None:
    record = run(classes(requests((0.0, 8, 100), (10.5, 8, 1)), [0, 1]))
    same(record.start_s, [0.0, 11.0])
    same(record.finish_s, [103.0, 13.0])


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_nothing_gets_lost_and_no_two_steps_overlap(policy: Policy) -> None:
    interrupted = 0
    for seed in range(30):
        rng = np.random.default_rng([seed, 5, POLICIES.index(policy)])
        asked = traffic(rng)
        asked = classes(asked, rng.integers(0, 2, len(asked)).tolist())
        batches = policy.kind in ("static", "dynamic")
        limit = limits(
            policy, seqs=int(rng.integers(1, 12)), budget=int(rng.choice([32, 100, 600])),
            block_size=int(rng.choice([1, 4, 16])),
            prefix_caching=asked.prefixes is not None and not batches,
            async_scheduling=seed % 2 == 0,
        )  # fmt: skip
        longest = int((asked.input_tokens + asked.output_tokens).max())
        blocks = int((longest // limit.block_size + 2) * rng.uniform(0.8, 4))
        groups = [
            ReplicaGroup(2, limit, KvLayout(blocks, limit.block_size),
                         COSTS[rng.integers(len(COSTS))], name=name, classes=(name,), shares=shares)
            for name, shares in (("a", ""), ("b", "a"))
        ]  # fmt: skip
        more: dict[str, Any] = {
            "oversized": "reject", "seed": seed,
            "timeout_s": float(rng.uniform(0.05, 4.0)) if rng.random() < 0.6 else None,
        }  # fmt: skip
        record, again = (run_groups(asked, groups, **more) for _ in range(2))
        check_record(record, limit)
        assert list(violations(record)) == []
        assert_turns(record, 2)
        np.testing.assert_array_equal(record.finish_s, again.finish_s)
        interrupted += int(record.preemptions.sum())
    if policy.kind in ("continuous", "prefill_first"):
        assert interrupted > 5


# --- scenarios -----------------------------------------------------------------------------------

APART = ["deployment.pools.1.shares=null"]
FEW = ["workload.classes.0.workload.requests=80", "workload.classes.1.workload.requests=80"]


def simulated(*changes: str) -> Result:
    result = simulate(load_scenario("two-models-one-gpu", [*FEW, *changes]), intervals=False)
    result.check_integrity()
    return result


def test_devices_are_counted_and_paid_once() -> None:
    together, apart = simulated().summary(), simulated(*APART).summary()
    assert together["simulated"]["hardware"]["devices"] == 2
    assert apart["simulated"]["hardware"]["devices"] == 4
    assert 2 * together["cost"]["usd_per_hour"] == pytest.approx(apart["cost"]["usd_per_hour"])
    pools = together["pools"].values()
    assert together["cost"]["usd"] == pytest.approx(sum(p["cost"]["usd"] for p in pools))
    busy = [p["utilization"]["busy_share"] for p in pools]
    assert together["utilization"]["busy_share"] == pytest.approx(sum(busy), rel=1e-6)
    # Half of the devices draw no idle power.
    assert together["energy"]["power_w_mean"] < apart["energy"]["power_w_mean"]
    for key in ("ttft_ms", "tpot_ms"):
        assert together["latency"][key]["mean"] > apart["latency"][key]["mean"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["deployment.pools.1.engine.memory_fraction=0.6"], "take .* of 79.1 GiB"),
        (["deployment.pools.1.shares=nobody"], "no pool with devices of its own"),
        (["deployment.pools.0.shares=code"], "no pool with devices of its own"),
        (["deployment.pools.1.replicas=1"], "cannot run on the same devices"),
        (["deployment.pools.1.hardware=h200-sxm"], "cannot run on the same devices"),
        (["deployment.pools.1.engine.speculative={kind: ngram, tokens: 2, acceptance: 0.5}"],
         "drafts of speculative decoding are not simulated"),
    ],
)  # fmt: skip
def test_what_cannot_share_is_refused(changes: list[str], message: str) -> None:
    with pytest.raises(ScenarioError, match=message) as caught:
        simulated(*changes)
    assert caught.value.where

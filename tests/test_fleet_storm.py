"""Random runs in which replicas come, crash, drain and are taken back, with time-outs, sessions,
closed loops, shared text and tight memory on top. Nothing may get lost but what is said to be."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from simulator.cluster import FrontEndTimes, run_groups
from simulator.cluster.groups import ReplicaGroup, Serving
from simulator.cluster.starting import Life, Start, Weights
from simulator.results.integrity import check_integrity
from simulator.results.lives import NOT_HELD, STATES, UP
from simulator.results.record import FAILED, OUTCOMES, RunRecord
from simulator.scenario.lifecycle import (
    Autoscaling,
    ConcurrencyScaling,
    Failures,
    Gateway,
    HoltForecast,
    Outage,
    PredictiveScaling,
    QueueScaling,
    Retry,
    ScheduledCount,
    ScheduleScaling,
    SeasonalForecast,
    Spot,
    UtilizationScaling,
)
from simulator.scenario.routers import SessionAffinityRouter
from simulator.serving.kv_cache import KvLayout
from tests.metronome import Metronome
from tests.rig import limits
from tests.test_cluster_storm import POLICIES, ROUTERS, traffic


def life(rng: np.random.Generator) -> Life:
    """Something that happens within seconds."""
    most = int(rng.integers(1, 4))
    weights = Weights(
        1e9, per_node=2, node_bytes_per_s=float(rng.choice([1e9, 5e9])), store_bytes_per_s=4e9
    )
    start = Start(
        *(rng.random(3) * rng.choice([0.0, 0.3])).tolist(), weights if rng.random() < 0.5 else None
    )
    scaling = failures = spot = None
    if rng.random() < 0.6:
        scaling = scaler(rng, most)
    if rng.random() < 0.5:
        outage = Outage(replica=int(rng.integers(most)), at_s=float(rng.random() * 3), for_s=0.3)
        failures = Failures(
            mtbf_h=float(rng.choice([0.3, 3.0])) / 3600.0 if rng.random() < 0.8 else 1.0,
            repair_s=float(rng.choice([0.0, 0.2])),
            detection_s=float(rng.choice([0.0, 0.05, 0.5])),
            outages=(outage,),
        )
    if rng.random() < 0.4:
        spot = Spot(
            interruptions_per_hour=float(rng.choice([1000.0, 10_000.0])),
            notice_s=float(rng.choice([0.0, 0.1])),
            replacement_s=float(rng.choice([0.0, 0.2])),
        )
    return Life(most, start, scaling, failures, spot)


def scaler(rng: np.random.Generator, most: int) -> Autoscaling:
    common: dict[str, Any] = {
        "min": int(rng.integers(0, most + 1)), "max": most, "interval_s": 0.05,
        "down_window_s": float(rng.choice([0.0, 0.2])), "idle_s": 0.1,
        "up_window_s": float(rng.choice([0.0, 0.1])), "cooldown_s": float(rng.choice([0.0, 0.1])),
    }  # fmt: skip
    match rng.integers(5):
        case 0:
            return ConcurrencyScaling(target=3.0, **common)
        case 1:
            return QueueScaling(target=2.0, **common)
        case 2:
            return UtilizationScaling(target=0.6, **common)
        case 3:
            steps = (ScheduledCount(at_s=0.0, replicas=most), ScheduledCount(at_s=3.0, replicas=0))
            return ScheduleScaling(steps=steps, period_s=4.0)
    forecast = SeasonalForecast(period_s=0.5) if rng.random() < 0.5 else HoltForecast()
    return PredictiveScaling(requests_per_s=8.0, forecast=forecast, **common)


def check(record: RunRecord) -> None:
    """The laws of every record, and those of lives."""
    check_integrity(record)
    lives, steps = record.lives, record.steps
    assert lives is not None
    assert record.held is not None
    assert (np.diff(lives.at_s) >= 0).all()
    # Steps run only while devices are held, and but for the step that a crash cuts, while up.
    end = steps.start_s + steps.duration_s
    for number in range(record.replicas):
        mine = steps.replica == number
        held = record.held[record.held[:, 0] == number]
        starts = np.searchsorted(held[:, 1], steps.start_s[mine] + 1e-9) - 1
        assert (starts >= 0).all()
        assert (steps.start_s[mine] <= held[starts, 2] + 1e-9).all()
        assert (held[1:, 1] >= held[:-1, 2]).all()
    assert len(end) == 0 or record.end_s >= end.max() - 1e-9
    # Nobody waits at the gateway twice at a time, or for less than nothing.
    assert (lives.waited[:, 2] >= lives.waited[:, 1]).all()
    assert record.preemptions.min(initial=0) >= 0
    queued = record.start_s - record.queued_s
    assert not (queued < -1e-9).any()


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_nothing_gets_lost_but_what_is_told(policy: Any) -> None:
    seen: Counter[str] = Counter()
    for seed in range(80):
        rng = np.random.default_rng([seed, 7, POLICIES.index(policy)])
        asked = traffic(rng)
        whole = policy.kind in ("static", "dynamic")
        limit = limits(
            policy, seqs=int(rng.integers(1, 12)), budget=int(rng.choice([32, 100, 600])),
            block_size=4, prefix_caching=asked.prefixes is not None and not whole,
            async_scheduling=seed % 2 == 0,
        )  # fmt: skip
        longest = int((asked.input_tokens + asked.output_tokens).max())
        layout = KvLayout(int((longest // 4 + 2) * rng.uniform(0.9, 4)), 4)
        cost = Metronome(0.02, 0.01, 1e-6)
        front = FrontEndTimes(0.02, 1e-3, 1e-6, 1e-5, 0.005) if rng.random() < 0.5 else None
        lives = [life(rng) for _ in range(int(rng.integers(1, 3)))]
        groups = [
            ReplicaGroup(
                each.numbers, limit, layout, cost, front or FrontEndTimes(), f"g{number}",
                weight=float(number + 1), life=each if each.changes else None,
            )
            for number, each in enumerate(lives)
        ]  # fmt: skip
        if not any(group.life for group in groups):
            continue
        mode = "restart" if whole or rng.random() < 0.5 else "resume"
        serving = Serving(
            Gateway(
                max_queue=int(rng.integers(0, 6)) if rng.random() < 0.3 else None,
                max_concurrency=int(rng.integers(1, 8)) if rng.random() < 0.4 else None,
            ),
            Retry(limit=int(rng.integers(1, 4)), mode=mode) if rng.random() < 0.7 else None,
        )
        settings: dict[str, Any] = {
            "router": [*ROUTERS, SessionAffinityRouter()][rng.integers(len(ROUTERS) + 1)],
            "timeout_s": float(rng.uniform(0.05, 4.0)) if rng.random() < 0.5 else None,
            "network_s": float(rng.choice([0.0, 0.01])),
            "oversized": "reject", "serving": serving, "seed": seed,
        }  # fmt: skip
        record = run_groups(asked, groups, **settings)
        check(record)
        again = run_groups(asked, groups, **settings)
        np.testing.assert_array_equal(record.finish_s, again.finish_s)
        np.testing.assert_array_equal(record.held, again.held)
        assert record.lives is not None
        seen.update(OUTCOMES[outcome] for outcome in record.outcome.tolist())
        seen.update(f"state {STATES[state]}" for state in record.lives.state.tolist())
        seen["lost"] += len(record.lives.lost.request)
        seen["thrown away"] += int(record.lives.lost.tokens.sum())
        seen["waited"] += len(record.lives.waited)
        if serving.retry is None:
            assert not len(record.lives.lost.request)
        elif (record.outcome == FAILED).any():
            assert len(record.lives.lost.request)
    # What the test is about does happen.
    assert min(seen[name] for name in OUTCOMES) > 5, seen
    assert min(seen[f"state {name}"] for name in STATES) > 5, seen
    assert min(seen[name] for name in ("lost", "thrown away", "waited")) > 5, seen
    assert UP not in NOT_HELD

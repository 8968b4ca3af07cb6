"""A run over time adds up to the run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import simulator
from simulator import History, Result

ALL = "measurement.warmup_fraction=0.0"
CRASH = "deployment.failures={detection_s: 5, outages: [{replica: 0, at_s: 30, for_s: 40}]}"
RUNS = (
    ("autoscaling-day-8b-l4", ("workload.requests=2000", "energy.grid_gco2e_per_kwh=380")),
    ("spot-8b-l4", ("workload.requests=2000", "deployment.spot.interruptions_per_hour=5")),
    ("failover-8b-h100", ("workload.requests=3000", CRASH)),
    ("disaggregated-70b-h100", ()),
    ("two-models-one-gpu", ()),
)


@pytest.fixture(scope="module", params=RUNS, ids=lambda run: str(run[0]))
def run(request: pytest.FixtureRequest) -> tuple[Result, dict[str, Any], History]:
    name, sets = request.param
    result = simulator.simulate(simulator.load_scenario(name, [*sets, ALL]), intervals=False)
    return result, result.summary(), result.history(150)


def test_sums_over_time_are_those_of_the_run(run: tuple[Result, dict[str, Any], History]) -> None:
    _, summary, history = run
    width = history.edges_s[1] - history.edges_s[0]
    assert len(history.edges_s) == 151
    sent = sum(history.sent_per_s) * width
    assert round(sent) == summary["requests"]["total"] - summary["requests"]["not_sent"]
    done = sum(history.completed_per_s) * width
    assert round(done) == summary["requests"]["all_by_outcome"]["completed"]
    assert history.usd[-1] == pytest.approx(summary["cost"]["whole_run_usd"], rel=1e-9)
    assert sum(history.usd_per_hour) * width / 3600 == pytest.approx(history.usd[-1], rel=1e-9)
    kwh = sum(history.power_w) * width / 3.6e6
    assert kwh == pytest.approx(summary["energy"]["whole_run_kwh"], rel=1e-3)
    grams = summary["energy"]["whole_run_gco2e"]
    if grams is None:
        assert history.gco2e == ()
    else:
        assert history.gco2e[-1] == pytest.approx(grams, rel=1e-3)


def test_replicas_and_attainment_are_those_of_the_run(
    run: tuple[Result, dict[str, Any], History],
) -> None:
    result, summary, history = run
    for group in result.record.groups:
        states = history.replicas[group.name]
        assert max(np.sum(list(states.values()), axis=0)) <= group.count + 1e-9
    kinds = [event.kind for event in history.events]
    lives = result.record.lives
    if lives is not None:
        assert kinds.count("crash") == int((lives.state == simulator_state("down")).sum())
        assert kinds.count("start") == len(lives.starts())
        assert [event.at_s for event in history.events] == sorted(e.at_s for e in history.events)
    else:
        assert not kinds
        assert not any(any(states["down"]) for states in history.replicas.values())
    if summary["slo"]["limits_given"]:
        counts = np.array(history.sent_per_s) * (history.edges_s[1] - history.edges_s[0])
        shares = np.array([0.0 if share is None else share for share in history.met_share])
        good = summary["slo"]["goodput_share"] * summary["requests"]["counted"]
        assert (counts * shares).sum() == pytest.approx(good)
        assert all((n < 0.5) == (m is None) for n, m in zip(counts, history.met_share, strict=True))
    assert min(history.waiting) >= 0
    assert all(map(math.isfinite, history.waiting))


def simulator_state(name: str) -> int:
    from simulator.results.lives import STATES

    return STATES.index(name)


def test_a_crash_shows_in_the_course() -> None:
    """Replica 0 is away from 30 s for 40 s: two of three are up, and one is down."""
    scenario = simulator.load_scenario("failover-8b-h100", ["workload.requests=4000", CRASH])
    history = simulator.simulate(scenario, intervals=False).history(100)
    middle = (np.array(history.edges_s[1:]) + np.array(history.edges_s[:-1])) / 2
    (states,) = history.replicas.values()
    away = (middle > 32) & (middle < 68)
    assert np.array(states["up"])[away] == pytest.approx(2.0)
    assert np.array(states["down"])[away] == pytest.approx(1.0)
    assert np.array(states["up"])[middle < 28] == pytest.approx(3.0)
    assert np.array(history.devices) == pytest.approx(3.0)  # a crash returns no device
    (crash,) = (event for event in history.events if event.kind == "crash")
    assert (crash.at_s, crash.replica) == (30.0, 0)

"""Verdicts over seeds, limits and fronts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from simulator.planner.constraints import Constraint, metric_paths
from simulator.planner.jobs.tasks import Outcome
from simulator.planner.judge import (
    _T,
    CLOSE,
    CLOSE_SHARE,
    LEVEL,
    half_width,
    judge,
    limits_of,
    value_at_end,
)
from simulator.planner.objectives import NAMES, Objective
from simulator.planner.pareto import FRONTS, on_front
from simulator.results.definitions import value_at
from simulator.scenario import load_scenario
from simulator.simulation import simulate

TTFT = Constraint(metric="ttft_ms.p99", max=1000)
SHARE = Constraint(metric="slo.goodput_share", min=0.99)


def _outcome(ttft: float | None, **more) -> Outcome:
    summary = {
        "latency": {"ttft_ms": {"p99": ttft}},
        "requests": {"counted": 100, "counted_by_outcome": {"completed": 100}},
        **more,
    }
    return Outcome("key", summary)


def _state(*values: float, seeds: int = 5, **more) -> str:
    outcomes = [_outcome(value, **more) for value in values]
    return judge(outcomes, [TTFT], most_seeds=seeds, pessimistic=False, lost_share=0.0).state


def test_one_run_decides_unless_it_is_close():
    assert _state(1000 * (1 - CLOSE) - 1) == "holds"
    assert _state(1000 * (1 + CLOSE) + 1) == "fails"
    assert _state(1000 * (1 - CLOSE) + 1) == "open"
    assert _state(999, seeds=1) == "holds"
    assert _state(1001, seeds=1) == "fails"


def test_seeds_decide_by_their_interval():
    assert _state(950, 951) == "holds"
    assert _state(1050, 1051) == "fails"
    assert _state(950, 1010) == "open"
    assert _state(950, 1010, 960, 1020, 980, seeds=5) == "close"


def test_the_interval_is_students():
    for n in (2, 3, 8, 20):
        assert _T[n - 2] == pytest.approx(stats.t.ppf((1 + LEVEL) / 2, n - 1), abs=1e-4)
    values = [3.0, 5.0, 4.0, 9.0]
    low, high = stats.t.interval(LEVEL, 3, np.mean(values), stats.sem(values))
    assert half_width(values) == pytest.approx((high - low) / 2, rel=1e-4)
    assert math.isinf(half_width([1.0]))


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(5)
    draws = rng.normal(10.0, 2.0, size=(4000, 4))
    inside = [abs(row.mean() - 10.0) <= half_width(list(row)) for row in draws]
    assert np.mean(inside) == pytest.approx(LEVEL, abs=0.02)


def test_a_figure_that_is_undefined_does_not_hold():
    assert _state(None) == "fails"  # type: ignore[arg-type]


def test_requests_that_are_lost_count():
    summary = {"requests": {"counted": 100, "counted_by_outcome": {"completed": 98}}}
    outcomes = [_outcome(10.0, **summary)]
    strict = judge(outcomes, [TTFT], most_seeds=5, pessimistic=False, lost_share=0.0)
    assert strict.state == "fails"
    assert (
        judge(outcomes, [TTFT], most_seeds=5, pessimistic=False, lost_share=0.05).state == "holds"
    )


def test_a_growing_backlog_never_holds():
    assert _state(10.0, checks={"backlog_grows": True}) == "fails"


def test_a_run_that_was_ended_early_fails():
    outcomes = [Outcome("key", _outcome(10.0).summary, hopeless="too slow")]
    assert judge(outcomes, [TTFT], most_seeds=5, pessimistic=False, lost_share=0.0).state == "fails"


def test_pessimists_look_at_the_bad_end():
    run = _outcome(700.0, uncertainty={"intervals": {"latency.ttft_ms.p99": [600.0, 1400.0]}})
    assert value_at_end(TTFT, run.summary) == 1400.0
    assert judge([run], [TTFT], most_seeds=5, pessimistic=False, lost_share=0).state == "holds"
    assert judge([run], [TTFT], most_seeds=5, pessimistic=True, lost_share=0).state == "fails"


@given(st.floats(0.01, 1e6), st.floats(0.01, 1e6), st.floats(0.01, 2.0))
def test_what_misses_a_loosened_limit_misses_the_limit_by_more(limit, value, share):
    for constraint in (
        Constraint(metric="ttft_ms.p99", max=limit),
        Constraint(metric="throughput.requests_per_s", min=limit),
    ):
        if not constraint.loosened(share).holds(value):
            assert constraint.excess(value) > share * (1 - 1e-9)


@given(st.floats(0.5, 1.0), st.floats(0.0, 1.0))
def test_shares_are_compared_by_their_misses(wanted, reached):
    constraint = Constraint(metric="slo.goodput_share", min=wanted)
    assert constraint.holds(reached) == (reached >= wanted)
    if not constraint.loosened(CLOSE_SHARE).holds(reached):
        assert constraint.excess(reached) > CLOSE_SHARE * (1 - 1e-9)


def test_every_metric_that_may_be_named_is_a_number_of_a_run():
    summary = simulate(load_scenario("chat-8b-h100", ["workload.slice.requests=200"])).summary()
    for path in metric_paths():
        value = value_at(summary, path)
        assert value is None or isinstance(value, int | float), path
    for name in NAMES:
        Objective(metric=name)


def test_by_default_the_slo_must_hold_for_every_class():
    (one,) = limits_of((), load_scenario("chat-8b-h100"))
    assert one.path == "slo.goodput_share"
    assert one.limit == 0.99
    several = limits_of((), load_scenario("mixed-classes-8b-h100"))
    assert [limit.traffic_class for limit in several] == [
        c.name for c in load_scenario("mixed-classes-8b-h100").workload.classes
        if (c.slo or load_scenario("mixed-classes-8b-h100").slo).ttft_ms
    ]  # fmt: skip


def test_a_front_is_what_nothing_beats():
    rng = np.random.default_rng(3)
    for columns in (2, 3):
        values = rng.integers(0, 6, size=(60, columns)).astype(float)
        values[::7, 0] = np.nan
        expected = []
        for i, point in enumerate(values):
            others = np.delete(values, i, axis=0)
            others = others[np.isfinite(others).all(axis=1)]
            beaten = ((others <= point).all(axis=1) & (others < point).any(axis=1)).any()
            expected.append(bool(np.isfinite(point).all() and not beaten))
        assert on_front(values).tolist() == expected


def test_fronts_name_figures_that_exist():
    for front in FRONTS:
        assert front.x in metric_paths()
        assert front.y in metric_paths()

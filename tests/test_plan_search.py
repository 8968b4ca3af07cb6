"""The search finds what simulating everything finds, with a tenth of the simulations."""

from __future__ import annotations

from typing import Any

import pytest

from simulator.planner.document import Asked, Plan
from simulator.planner.jobs.backends.local import LocalBackend
from simulator.planner.jobs.store import Store
from simulator.planner.jobs.work import Work
from simulator.planner.outlooks import outlooks
from simulator.planner.plan import plan
from simulator.planner.search import Search, Trial
from simulator.scenario import load_scenario

CHAT: dict[str, Any] = {
    "kind": "synthetic",
    "requests": 300,
    "arrivals": {"kind": "poisson", "rate_per_s": 30},
    "lengths": {
        "kind": "independent",
        "input": {"kind": "lognormal", "mean": 700, "cv": 1.0, "high": 6000},
        "output": {"kind": "lognormal", "mean": 150, "cv": 0.8, "high": 1000},
    },
}
SMALL: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "hardware": "h100-sxm",
    "deployment": {"router": {"kind": "least_outstanding"}},
    "workload": CHAT,
}
LARGE = {
    **SMALL,
    "model": "llama-3.1-70b",
    "precision": {"weights": "fp8"},
    "workload": {**CHAT, "requests": 300, "arrivals": {"kind": "poisson", "rate_per_s": 6}},
}
LIMITS = [{"metric": "ttft_ms.p99", "max": 1500}, {"metric": "tpot_ms.p99", "max": 80}]
SPACE = {
    "hardware": ["h100-sxm", "l40s", "a100-sxm-80gb", "l4", "h200-sxm", "b200-sxm"],
    "tp": [1, 2],
    "replicas": {"max": 16},
}
LARGER = {**SPACE, "replicas": {"max": 28}}

CASES = {
    "cost": {"scenario": SMALL, "space": SPACE, "constraints": LIMITS},
    "failures": {
        "scenario": SMALL, "space": SPACE, "constraints": LIMITS, "headroom": 0.2,
        "spare_replicas": 1,
    },
    "cost per token": {
        "scenario": SMALL, "space": LARGER, "constraints": LIMITS,
        "objective": "cost_per_million_output_tokens",
    },
    "energy": {
        "scenario": SMALL, "space": LARGER, "constraints": LIMITS,
        "objective": "energy_per_output_token",
    },
    "devices": {
        "scenario": SMALL, "space": SPACE, "objective": "devices",
        "constraints": [{"metric": "e2e_ms.p99", "max": 15000}],
    },
    "wide": {
        "scenario": LARGE, "space": {**SPACE, "tp": [1, 2, 4, 8], "replicas": {"max": 8}},
        "constraints": [{"metric": "ttft_ms.p99", "max": 1000}, {"metric": "tpot_ms.p99", "max": 40}],
    },
    "apart": {
        "scenario": LARGE,
        "space": {
            "hardware": ["h100-sxm", "h200-sxm"], "tp": [2, 4], "replicas": {"max": 6},
            "layouts": ["together", "apart"], "max_devices": 32,
        },
        "constraints": [{"metric": "ttft_ms.p99", "max": 1000}, {"metric": "tpot_ms.p99", "max": 30}],
    },
}  # fmt: skip


def _asked(**keys: Any) -> Asked:
    plan = Plan.model_validate({"runners_up": 0, **keys})
    assert isinstance(plan.scenario, dict)
    return Asked(plan, load_scenario(plan.scenario), lambda error: error)


def _everything(search: Search, trials: list[Trial]) -> tuple[Trial | None, int]:
    """The best of all deployments, each simulated, and how many simulations that took."""
    simulations, left = 0, trials
    while left:
        tasks = [search._stress(trial, len(trial.stress)) for trial in left]
        simulations += len(tasks)
        for trial, outcome in zip(left, search.work.run(tasks), strict=True):
            trial.stress.append(outcome)
            trial.verdict = search._judge(trial)
        left = [t for t in left if t.verdict is not None and t.verdict.state == "open"]
    held = [t for t in trials if t.verdict is not None and t.verdict.state == "holds"]
    before = search.simulations
    search._score(held)
    simulations += search.simulations - before
    return min(held, key=lambda trial: trial.key, default=None), simulations


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A store for all cases: what several ask for is simulated once. They count what they ask for."""
    return tmp_path_factory.mktemp("store")


@pytest.mark.parametrize("name", CASES)
def test_it_finds_the_best_of_all_with_a_tenth_of_the_simulations(name, kept):
    asked = _asked(**CASES[name])
    known, limits = outlooks(asked)
    with Work(LocalBackend(1), Store(kept)) as work:
        search = Search(asked, limits, known, work)
        found = search.run()
        trials = [Trial(entry.kind, size) for entry in known for size in entry.sizes]
        best, simulations = _everything(Search(asked, limits, [], work), trials)
    assert best is not None
    (winner,) = found.best
    assert (winner.kind, winner.size.counts) == (best.kind, best.size.counts)
    assert winner.score == best.score
    assert search.simulations <= 0.1 * simulations
    _check_bounds(trials)


def _check_bounds(trials: list[Trial]) -> None:
    """No deployment that bounds rule out holds, and none is better than its bound."""
    for trial in trials:
        assert trial.verdict is not None
        assert not (trial.size.ruled_out and trial.verdict.state == "holds"), trial.size
        if trial.score is not None:
            assert trial.score >= trial.size.low - 1e-9 * abs(trial.size.low), trial.size


def test_limits_on_cost_are_those_of_the_whole_deployment_and_rule_out_no_smaller_one():
    keys = {
        "scenario": SMALL,
        "space": {"hardware": ["h100-sxm"], "tp": [1], "replicas": {"max": 12}},
        "constraints": [*LIMITS, {"metric": "cost.usd_per_hour", "max": 4.5 * 6.88}],
        "objective": "goodput",
        "spare_replicas": 1,
    }
    scenario = {**SMALL, "slo": {"ttft_ms": 200, "tpot_ms": 15}}
    asked = _asked(**{**keys, "scenario": scenario})
    known, limits = outlooks(asked)
    with Work(LocalBackend(1)) as work:
        found = Search(asked, limits, known, work).run()
    (best,) = found.best
    assert best.size.counts == (4,)  # more would cost too much, fewer meet the SLO less often


def test_nothing_holds_where_limits_are_beyond_physics_and_that_is_said_without_simulating():
    asked = _asked(scenario=SMALL, space=SPACE, constraints=[{"metric": "tpot_ms.p50", "max": 0.5}])
    known, _ = outlooks(asked)
    assert all(size.ruled_out for entry in known for size in entry.sizes)
    with Work(LocalBackend(1)) as work:
        report = plan(asked, work)
    assert report["winner"] is None
    assert report["search"]["simulations"] == 0
    none, reason = report["reasons"]
    assert none.startswith("None of")
    assert "cannot hold" in reason
    assert "TPOT p50" in reason

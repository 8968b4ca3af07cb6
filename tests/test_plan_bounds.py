"""No run beats a bound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plan_storm import random_scenario

from simulator.errors import UserError
from simulator.planner.bounds import ReplicaBounds
from simulator.planner.traffic import offered
from simulator.resolution.pools import resolve_pools
from simulator.results.definitions import value_at
from simulator.scenario import Scenario
from simulator.scenario.load import load_scenario
from simulator.simulation import simulate
from simulator.workload import build_requests

EXAMPLES = Path(__file__).parent.parent / "examples"
STORM = 320
FLOORS = [
    *(
        f"latency.{name}.{statistic}"
        for name in ("ttft_ms", "tpot_ms", "e2e_ms")
        for statistic in ("mean", "p50", "p90", "p95", "p99")
    ),
    *(
        f"cost.{name}"
        for name in (
            "usd_per_hour", "usd", "usd_per_request", "usd_per_million_output_tokens",
            "usd_per_million_total_tokens", "whole_run_usd",
        )
    ),
    *(
        f"energy.{name}"
        for name in (
            "power_w_mean", "power_w_mean_per_device", "energy_kwh", "joules_per_request",
            "joules_per_output_token", "joules_per_total_token", "whole_run_kwh", "gco2e",
            "gco2e_per_request", "gco2e_per_million_output_tokens", "whole_run_gco2e",
        )
    ),
]  # fmt: skip
CEILINGS = [
    "throughput.requests_per_s", "throughput.output_tokens_per_s",
    "throughput.total_tokens_per_s", "throughput.output_tokens_per_s_per_device",
    "throughput.total_tokens_per_s_per_device", "slo.goodput_share", "slo.goodput_requests_per_s",
]  # fmt: skip


def bounds_of(scenario: Scenario, base: Path | None = None) -> ReplicaBounds:
    (pool,) = resolve_pools(scenario, base)
    seed = scenario.measurement.seed
    requests = build_requests(scenario.workload, np.random.default_rng(seed), base)
    return ReplicaBounds(pool, offered(requests, scenario.measurement))


def beaten(scenario: Scenario, base: Path | None = None) -> list[str]:
    """Bounds that a run beats."""
    bounds = bounds_of(scenario, base)
    summary: dict[str, Any] = simulate(scenario, base=base, intervals=False).summary()
    replicas = [scenario.deployment.replicas]
    found = []
    for paths, bound, sign in ((FLOORS, bounds.floor, 1.0), (CEILINGS, bounds.ceiling, -1.0)):
        for path in paths:
            value = value_at(summary, path)
            limit = float(bound(path, replicas)[0])
            assert not np.isnan(limit), path
            if value is not None and sign * value < sign * limit * (1.0 - sign * 1e-12):
                found.append(f"{path}: {value:.9g} beats {limit:.9g}")
    return found


@pytest.mark.parametrize("block", range(8))
def test_no_random_run_beats_a_bound(block: int) -> None:
    ran, complaints = 0, []
    for seed in range(block * STORM // 8, (block + 1) * STORM // 8):
        try:
            scenario = load_scenario(random_scenario(seed))
            found = beaten(scenario)
        except UserError:
            continue
        ran += 1
        complaints += [f"seed {seed}: {each}" for each in found]
    assert not complaints
    assert ran > STORM // 16, "most random scenarios should run"

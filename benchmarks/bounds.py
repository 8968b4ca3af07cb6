"""How many deployments a second can be judged without simulation, and how near the judgement is.

python benchmarks/bounds.py                   # estimates a second, Llama-3.1-70B on all GPUs
python benchmarks/bounds.py --error           # estimates and bounds against simulations
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from simulator.errors import UserError  # noqa: E402
from simulator.hardware import load_hardware, profile_names  # noqa: E402
from simulator.planner.analytic.bounds import ReplicaBounds  # noqa: E402
from simulator.planner.traffic import offered  # noqa: E402
from simulator.resolution.pools import resolve_pools  # noqa: E402
from simulator.results.definitions import value_at  # noqa: E402
from simulator.scenario import Scenario  # noqa: E402
from simulator.simulation import simulate  # noqa: E402
from simulator.workload import build_requests  # noqa: E402

REPLICAS = np.arange(1, 17)
LATENCIES = [
    f"latency.{name}.{statistic}"
    for name in ("ttft_ms", "tpot_ms", "e2e_ms")
    for statistic in ("mean", "p50", "p99")
]
RATES = ["throughput.requests_per_s", "throughput.output_tokens_per_s"]


def chat(rate_per_s: float, requests: int, seed: int = 0, **more: Any) -> dict[str, Any]:
    """Chat traffic, to which a deployment is added."""
    return {
        "model": "llama-3.1-70b",
        "workload": {
            "kind": "synthetic",
            "requests": requests,
            "arrivals": {"kind": "poisson", "rate_per_s": rate_per_s},
            "lengths": {
                "kind": "independent",
                "input": {"kind": "lognormal", "mean": 1200.0, "cv": 1.0, "high": 8000},
                "output": {"kind": "lognormal", "mean": 250.0, "cv": 0.8, "high": 2000},
            },
        },
        "measurement": {"seed": seed},
        **more,
    }


def kinds(traffic: dict[str, Any]) -> Iterator[Scenario]:
    """Every kind of replica of the space, whether it fits or not."""
    for hardware in profile_names():
        if not load_hardware(hardware).prices:
            continue
        for tp in (1, 2, 4, 8):
            for weights in ("bf16", "fp8", "int8", "int4"):
                yield Scenario.model_validate(
                    traffic
                    | {
                        "hardware": hardware,
                        "parallelism": {"tp": tp},
                        "precision": {"weights": weights},
                    }
                )


def speed() -> None:
    """Judges every kind with 1 to 16 replicas: what it takes of one processor."""
    scenarios = list(kinds(chat(8.0, 2000)))
    rng = np.random.default_rng(0)
    traffic = offered(build_requests(scenarios[0].workload, rng), scenarios[0].measurement)
    for what, judged in (("bounds", False), ("estimates", True), ("bounds and estimates", None)):
        fit = 0
        began = process_time()
        for scenario in scenarios:
            try:
                (pool,) = resolve_pools(scenario)
            except UserError:
                continue
            fit += 1
            bounds = ReplicaBounds(pool, traffic)
            for path in ("latency.ttft_ms.p99", "latency.tpot_ms.p99"):
                if judged is not True:
                    bounds.floor(path, REPLICAS)
                if judged is not False:
                    bounds.estimate(path, REPLICAS)
            if judged is not True:
                bounds.floor("cost.usd_per_million_output_tokens", REPLICAS)
            if judged is not False:
                bounds.estimate("cost.usd_per_million_output_tokens", REPLICAS)
        took = process_time() - began
        print(
            f"{what}: {len(scenarios)} kinds, {fit} fit, {fit * len(REPLICAS)} deployments in "
            f"{took:.2f} s: {fit * len(REPLICAS) / took:,.0f} a second"
        )


def error(runs: int) -> None:
    """Draws deployments at random loads and compares with simulations of 1,500 requests."""
    rng = np.random.default_rng(1)
    every = list(kinds(chat(8.0, 1500)))
    ratios: dict[tuple[str, str], list[tuple[float, float]]] = {}
    done = 0
    while done < runs:
        scenario = every[int(rng.integers(len(every)))]
        try:
            (pool,) = resolve_pools(scenario)
        except UserError:
            continue
        requests = build_requests(scenario.workload, np.random.default_rng(0))
        first = ReplicaBounds(pool, offered(requests, scenario.measurement))
        replicas, load = int(rng.integers(1, 5)), float(rng.uniform(0.1, 0.95))
        rate = load * replicas * first.expected.curve.most_per_s
        asked = Scenario.model_validate(
            scenario.model_dump()
            | {
                "workload": chat(rate, 1500)["workload"],
                "deployment": {"replicas": replicas},
            }
        )
        requests = build_requests(asked.workload, np.random.default_rng(0))
        bounds = ReplicaBounds(pool, offered(requests, asked.measurement))
        try:
            summary = simulate(asked, intervals=False).summary()
        except UserError:  # a request that its KV cache can never hold
            continue
        group = "load to 0.7" if load < 0.7 else "load above"
        for path in (*LATENCIES, *RATES):
            value = value_at(summary, path)
            bound = bounds.ceiling if path in RATES else bounds.floor
            found = float(bounds.estimate(path, [replicas])[0]), float(bound(path, [replicas])[0])
            ratios.setdefault((group, path), []).append((found[0] / value, found[1] / value))
        done += 1
    print("figure, load: median |error| of the estimate, 90% quantile; median bound / truth")
    for (group, path), found in sorted(ratios.items()):
        estimates, limits = np.array(found).T
        off = 100 * np.abs(estimates - 1)
        print(
            f"{path:38} {group:12} {np.median(off):6.1f}% {np.quantile(off, 0.9):6.1f}%"
            f"   bias {100 * (np.median(estimates) - 1):+6.1f}%   {np.median(limits):.2f}"
        )


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--error", action="store_true")
    parser.add_argument("--runs", type=int, default=60)
    asked = parser.parse_args()
    if asked.error:
        error(asked.runs)
    else:
        speed()


if __name__ == "__main__":
    main()

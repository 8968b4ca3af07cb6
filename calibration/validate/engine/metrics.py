"""Figures of a real run beside their predictions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calibration.validate.figure import Figure, Metric, Summary, at_path
from simulator.results import Result

METRICS = (
    *(Metric(f"latency.ttft_ms.{name}", f"TTFT {name}", "ms") for name in
      ("mean", "p50", "p90", "p99")),
    *(Metric(f"latency.tpot_ms.{name}", f"TPOT {name}", "ms") for name in ("mean", "p50", "p99")),
    *(Metric(f"latency.itl_ms.{name}", f"ITL {name}", "ms") for name in ("p50", "p99")),
    Metric("latency.e2e_ms.mean", "E2E mean", "ms"),
    Metric("throughput.requests_per_s", "Requests", "1/s"),
    Metric("throughput.output_tokens_per_s", "Output tokens", "1/s"),
    Metric("scheduling.batch_size_mean", "Batch size", ""),
    Metric("utilization.busy_share", "Busy", "%"),
    Metric("kv_cache.use_mean", "KV-cache use", "%"),
    Metric("cost.usd_per_million_output_tokens", "Cost per million output tokens", "USD"),
)  # fmt: skip

SPREADS = {"ttft_ms": "TTFT", "tpot_ms": "TPOT"}
"""Latencies of requests whose whole distribution is kept."""

SHARES = np.linspace(0.0, 1.0, 101)
"""Quantiles that stand for a distribution."""


def figures_of(real: Sequence[Summary], predicted: Summary) -> list[Figure]:
    """All metrics of the summaries of some rounds and of a prediction."""
    section = predicted["uncertainty"]
    intervals = section["intervals"] if section else {}
    found = []
    for metric in METRICS:
        bounds = intervals.get(metric.path)
        found.append(
            Figure(
                metric,
                tuple(at_path(summary, metric.path) for summary in real),
                at_path(predicted, metric.path),
                (bounds[0], bounds[1]) if bounds else None,
            )
        )
    return found


def spread_of(results: Sequence[Result]) -> dict[str, list[float]]:
    """Quantiles of TTFT and TPOT of the counted requests of some runs together, ms; empty where
    undefined."""
    spread = {}
    for name in SPREADS:
        values = np.concatenate(
            [getattr(result.times, name)[result.window.counted] for result in results]
        )
        values = values[np.isfinite(values)]
        spread[name] = np.quantile(values, SHARES).tolist() if len(values) else []
    return spread

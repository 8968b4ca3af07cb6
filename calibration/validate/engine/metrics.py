"""Figures of a real run beside their predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from simulator.results import Result

Summary = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure that is compared.

    Args:
        path: in the summary of a run.
        title, unit: for tables; the unit ``%`` stands for a share.
    """

    path: str
    title: str
    unit: str


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


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Args:
        metric: which one.
        rounds: measured, by round; None where it is undefined.
        predicted: likewise.
        interval: what the simulator says it may be, where it says so.
    """

    metric: Metric
    rounds: tuple[float | None, ...]
    predicted: float | None
    interval: tuple[float, float] | None

    @property
    def real(self) -> float | None:
        """Median over rounds."""
        found = [value for value in self.rounds if value is not None]
        return median(found) if found else None

    @property
    def error_pct(self) -> float | None:
        """Signed: positive where the prediction is too high."""
        if self.predicted is None or not self.real:
            return None
        return 100.0 * (self.predicted / self.real - 1.0)

    @property
    def inside(self) -> bool | None:
        """Whether the interval holds the measurement."""
        if self.interval is None or self.real is None:
            return None
        return self.interval[0] <= self.real <= self.interval[1]

    def document(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "measured": self.real,
            "predicted": self.predicted,
            "error_pct": self.error_pct,
            "interval": list(self.interval) if self.interval else None,
            "inside": self.inside,
            "rounds": list(self.rounds),
        }


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
                tuple(_at(summary, metric.path) for summary in real),
                _at(predicted, metric.path),
                (bounds[0], bounds[1]) if bounds else None,
            )
        )
    return found


def _at(summary: Summary, path: str) -> float | None:
    value: Any = summary
    for key in path.split("."):
        value = value[key]
    return None if value is None else float(value)


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

"""How far predictions and measurements lie apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibration.validate.formats import target
from calibration.validate.measured import Skipped
from calibration.validate.point import Point
from calibration.validate.prediction import Prediction
from simulator.hardware.profile import Power

METRICS = ("ttft_ms", "tpot_ms", "e2e_ms", "output_tokens_per_s")
TITLES = {
    "ttft_ms": "TTFT",
    "tpot_ms": "TPOT",
    "e2e_ms": "E2E",
    "itl_ms": "ITL",
    "itl_ms_p90": "ITL p90",
    "itl_ms_p99": "ITL p99",
    "output_tokens_per_s": "output/s",
    "energy_j_per_output_token": "J/token",
    "power_w": "power",
    "power_w_at_measured_rate": "power at rate",
    "avg_batch_size": "batch",
}
"""Every metric, in the order of tables; those that are not in ``METRICS`` are shown where some row
has them."""
UNITS = {
    "output_tokens_per_s": "tokens/s",
    "energy_j_per_output_token": "J",
    "power_w": "W",
    "power_w_at_measured_rate": "W",
    "avg_batch_size": "sequences",
}
"""Of metrics that are not in ms."""

_LOADS = ((8, "1 to 8 users"), (32, "9 to 32 users"), (128, "33 to 128 users"))


@dataclass(frozen=True, slots=True)
class Comparison:
    """A point with its prediction.

    Args:
        point: what was measured.
        prediction: what the simulator says.
        half: ``fit`` or ``validation``, see ``splits``.
        seen: whether rows of its group belong to the fit.
    """

    point: Point
    prediction: Prediction
    half: str
    seen: bool

    def pair(self, metric: str, statistic: str | None = None) -> tuple[float, float] | None:
        """Measured and predicted; None where nothing was measured.

        E2E, where only TTFT and TPOT are measured, is TTFT + (osl − 1) × TPOT on both sides.
        """
        chosen = statistic or self.point.statistic
        measured = self.point.measured
        if metric in (
            "output_tokens_per_s",
            "energy_j_per_output_token",
            "power_w",
            "avg_batch_size",
        ):
            value, predicted = getattr(measured, metric), self.prediction[metric]
            return None if value is None or predicted is None else (value, predicted)
        if metric == "power_w_at_measured_rate":
            if measured.power_w is None:
                return None
            return power_at_measured_rate(self, target(self.point).hardware.power)
        if metric.startswith("itl_ms_"):
            return _figure(self, "itl_ms", metric.removeprefix("itl_ms_"))
        found = _figure(self, metric, chosen)
        if found is None and metric == "e2e_ms":
            first, rest = _figure(self, "ttft_ms", chosen), _figure(self, "tpot_ms", chosen)
            if first is None or rest is None:
                return None
            more = self.point.osl - 1
            return first[0] + more * rest[0], first[1] + more * rest[1]
        return found

    def error_pct(self, metric: str) -> float | None:
        """(predicted − measured) / measured, per cent."""
        pair = self.pair(metric)
        return None if pair is None else 100.0 * (pair[1] - pair[0]) / pair[0]

    def inside(self, metric: str) -> bool | None:
        """Whether the measurement lies within the prediction's interval; None without either."""
        pair, found = self.pair(metric), self._bounds(metric)
        if pair is None or found is None:
            return None
        bounds, centre = found
        # E2E that is made up of means of TTFT and TPOT is not the mean of E2E, but close to it.
        return bool(bounds[0] <= pair[0] * centre / pair[1] <= bounds[1])

    def interval(self, metric: str) -> tuple[float, float] | None:
        """The prediction's 80% interval, around the predicted figure of ``pair``; None without."""
        pair, found = self.pair(metric), self._bounds(metric)
        if pair is None or found is None:
            return None
        (low, high), centre = found
        return low * pair[1] / centre, high * pair[1] / centre

    def _bounds(self, metric: str) -> tuple[tuple[float, float], float] | None:
        """The simulated interval, and the simulated figure that it is around."""
        path = f"latency.{metric}.{self.point.statistic}"
        if metric == "output_tokens_per_s":
            path, centre = f"throughput.{metric}", self.prediction[metric]
        elif metric in self.prediction and metric.endswith("_ms"):
            centre = self.prediction[metric][self.point.statistic]
        else:
            return None
        bounds = self.prediction["intervals"].get(path)
        if bounds is None or not centre:
            return None
        return (bounds[0], bounds[1]), centre

    @property
    def load(self) -> str:
        """Which bucket of load it belongs to."""
        users = self.point.concurrency
        if users is None:
            return "open loop"
        return next((name for most, name in _LOADS if users <= most), "above 128 users")


def _figure(comparison: Comparison, metric: str, statistic: str) -> tuple[float, float] | None:
    measured = getattr(comparison.point.measured, metric).get(statistic)
    predicted = comparison.prediction[metric][statistic]
    return None if measured is None or predicted is None else (measured, predicted)


def power_at_measured_rate(comparison: Comparison, power: Power) -> tuple[float, float] | None:
    """Power of all devices, W, and what a power model says when the same work is done at the
    measured rate: the shares of peaks and of time that it depends on stretch with the steps. For
    servers that are always busy."""
    watts, rate = comparison.point.measured.power_w, comparison.pair("output_tokens_per_s")
    if watts is None or rate is None:
        return None
    phases = comparison.prediction["load"]
    faster = rate[0] / rate[1]
    columns = {name: np.array([phase[name] for phase in phases]) for name in phases[0]}
    shares = columns.pop("share")
    load = {name: np.minimum(faster * part, 1.0) for name, part in columns.items()}
    mean_w = float(shares @ power.step_w(load)) + (1.0 - float(shares.sum())) * power.idle_w.value
    return watts, mean_w * comparison.point.devices * comparison.point.replicas


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors of one metric over several points; None where there is no point.

    ``bias_ratio`` is the median of predicted / measured.
    """

    n: int
    median_ape_pct: float | None = None
    mean_ape_pct: float | None = None
    p90_ape_pct: float | None = None
    bias_ratio: float | None = None

    @classmethod
    def of(cls, pairs: Iterable[tuple[float, float]]) -> Errors:
        """From pairs of measured and predicted."""
        table = np.array(list(pairs), dtype=np.float64).reshape(-1, 2)
        if not len(table):
            return cls(0)
        ratio = table[:, 1] / table[:, 0]
        ape = 100.0 * np.abs(ratio - 1.0)
        return cls(
            n=len(table),
            median_ape_pct=float(np.median(ape)),
            mean_ape_pct=float(ape.mean()),
            p90_ape_pct=float(np.percentile(ape, 90)),
            bias_ratio=float(np.median(ratio)),
        )

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON."""
        return {
            "n": self.n,
            "median_ape_pct": self.median_ape_pct,
            "mean_ape_pct": self.mean_ape_pct,
            "p90_ape_pct": self.p90_ape_pct,
            "bias_ratio": self.bias_ratio,
        }


def errors(comparisons: Sequence[Comparison], metric: str, statistic: str | None = None) -> Errors:
    """Errors of one metric, by the statistic that each row gives unless one is named."""
    pairs = (comparison.pair(metric, statistic) for comparison in comparisons)
    return Errors.of(pair for pair in pairs if pair is not None)


def measured(comparisons: Sequence[Comparison]) -> list[str]:
    """Metrics that some row has."""
    return [name for name in TITLES if any(c.pair(name) is not None for c in comparisons)]


def coverage_pct(comparisons: Sequence[Comparison], metric: str) -> float | None:
    """Share of the measurements that lie within their interval, in percent; None without any."""
    found = [inside for c in comparisons if (inside := c.inside(metric)) is not None]
    return 100.0 * sum(found) / len(found) if found else None


def document(comparisons: Sequence[Comparison], skipped: Sequence[Skipped]) -> dict[str, Any]:
    """The document of ``--json``."""
    shown = [name for name in TITLES if name in METRICS or name in measured(comparisons)]
    return {
        "metrics": {
            metric: {
                **errors(comparisons, metric).as_dict(),
                "interval_coverage_pct": coverage_pct(comparisons, metric),
            }
            for metric in shown
        },
        "skipped": [{"id": row.id, "reason": row.reason} for row in skipped],
    }


DIMENSIONS: dict[str, Callable[[Comparison], str]] = {
    "split": lambda c: _split(c),
    "GPU": lambda c: c.point.system,
    "engine": lambda c: c.point.engine,
    "engine version": lambda c: f"{c.point.engine} {c.point.version or 'unknown'}",
    "model": lambda c: c.point.model.rpartition("/")[2],
    "load": lambda c: c.load,
    "parallelism": lambda c: c.point.ways,
    "precision": lambda c: c.point.precision or c.point.weights or "native",
    "lengths": lambda c: _lengths(c.point),
    "group": lambda c: c.point.group,
}
"""What errors are broken down by."""


def _lengths(point: Point) -> str:
    if point.trace is not None:
        return "trace"
    return f"drawn, {point.isl:g} tokens before" if point.output_cv else point.lengths


def _split(comparison: Comparison) -> str:
    if comparison.half == "fit":
        return "fit"
    return "validation, group in the fit" if comparison.seen else "validation, group never seen"


def by(comparisons: Sequence[Comparison], dimension: str) -> Iterator[tuple[str, list[Comparison]]]:
    """The points of each value of a dimension, in the order of its values."""
    key = DIMENSIONS[dimension]
    found: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        found.setdefault(key(comparison), []).append(comparison)
    order = {name: i for i, (_, name) in enumerate(_LOADS)}
    yield from sorted(found.items(), key=lambda item: (order.get(item[0], 99), item[0]))


def worst(comparisons: Sequence[Comparison], metric: str, most: int) -> list[Comparison]:
    """The points whose prediction is furthest off by factor, in either direction."""

    def factor(comparison: Comparison) -> float:
        pair = comparison.pair(metric)
        assert pair is not None, "only points with this metric are ranked"
        return max(pair[1] / pair[0], pair[0] / pair[1])

    known = [c for c in comparisons if c.pair(metric) is not None]
    return sorted(known, key=lambda c: (-factor(c), c.point.id))[:most]


def repeated(points: Sequence[Point]) -> int:
    """How many rows give the very figures of an earlier row of the same deployment and load: one
    run that stands in the file more than once."""
    seen = set()
    for point in points:
        measured = point.measured.model_dump_json()
        load = point.concurrency or point.rate_per_s
        seen.add((point.model, point.system, point.engine, point.lengths, load, measured))
    return len(points) - len(seen)

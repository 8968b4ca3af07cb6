"""What clients measured, beside ``simulate()`` of the requests that came."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from simulator import load_scenario, simulate

SHARE, FLOOR_MS = 0.05, 3.0
"""How far a figure may be from the prediction: so much of it, and so many ms."""

STATISTICS = {"p50": 50.0, "p99": 99.0}


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of a load test.

    Args:
        metric: ``ttft_ms`` or ``tpot_ms``.
        statistic: ``p50`` or ``p99``.
        measured, predicted: ms.
    """

    metric: str
    statistic: str
    measured: float
    predicted: float

    @property
    def off_ms(self) -> float:
        """Measured above predicted."""
        return self.measured - self.predicted

    @property
    def allowed_ms(self) -> float:
        """How far it may be off."""
        return SHARE * self.predicted + FLOOR_MS

    @property
    def agrees(self) -> bool:
        """Whether it is not farther off."""
        return abs(self.off_ms) <= self.allowed_ms


def predicted_times(
    scenario: str, overrides: list[str], trace: Path
) -> dict[str, npt.NDArray[np.float64]]:
    """TTFT, TPOT and E2E of each request of a trace in the simulation, ms; NaN where undefined."""
    settings = [
        *overrides,
        f"workload={{kind: trace, file: {trace}}}",
        "measurement.warmup_fraction=0",
        "measurement.include_drain=true",
    ]
    times = simulate(load_scenario(scenario, settings)).times
    return {"ttft_ms": times.ttft_ms, "tpot_ms": times.tpot_ms, "e2e_ms": times.e2e_ms}


def compared(
    measured: dict[str, npt.NDArray[np.float64]], predicted: dict[str, npt.NDArray[np.float64]]
) -> list[Line]:
    """Percentiles side by side."""
    return [
        Line(
            metric,
            name,
            float(np.nanpercentile(measured[metric], at)),
            float(np.nanpercentile(predicted[metric], at)),
        )
        for metric in ("ttft_ms", "tpot_ms")
        for name, at in STATISTICS.items()
    ]

"""What a table of rates is like: how much comes, when most, and how bursty."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simulator.errors import UserError
from simulator.workload.lines import read_blocks
from simulator.workload.rates import RateTable, read_rates
from simulator.workload.shipped import TABLES, find_table, find_trace
from simulator.workload.tables import CLOCKS

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class RatesDescription:
    """Everything that ``simulate trace`` prints of a table of rates.

    Args:
        span_s: from the first interval's start to the last one's end.
        requests: expected of the whole table.
        peak_per_s, peak_at_s: the highest rate, and when its interval starts.
        idle_share: of the time in intervals without requests.
        cv_mean: of the gaps, weighted by requests.
        by_day: expected requests of each day, the last one perhaps not whole.
    """

    name: str
    intervals: int
    span_s: float
    requests: float
    mean_per_s: float
    peak_per_s: float
    peak_at_s: float
    idle_share: float
    cv_mean: float | None
    by_day: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "by_day": list(self.by_day)}

    def rows(self) -> list[tuple[str, str]]:
        """Label and text of each line of the printed description."""
        rows = [
            ("table of rates", self.name),
            ("intervals", f"{self.intervals:,}"),
            ("span", f"{self.span_s:,.0f} s ({self.span_s / DAY_S:.3g} days)"),
            ("requests to expect", f"{self.requests:,.0f}"),
            ("mean rate", f"{self.mean_per_s:.4g} requests/s"),
            ("highest rate", f"{self.peak_per_s:.4g} requests/s from {self.peak_at_s:,.0f} s on"),
            ("time without requests", f"{self.idle_share:.1%}"),
        ]
        if self.cv_mean is not None:
            rows.append(("interarrival CV", f"{self.cv_mean:.3g} on average (Poisson: 1)"))
        if len(self.by_day) > 1:
            days = ", ".join(f"{requests:,.0f}" for requests in self.by_day)
            rows.append(("requests a day", days))
        return rows


def is_rate_table(name: str, base: Path | None = None) -> bool:
    """Whether there is a file of that name with the columns of a table of rates."""
    try:
        path = find_table(name, base) if name in TABLES else find_trace(name, base)
        blocks = read_blocks(path, name)
        first = next((block for block in blocks if block.lines), None)
    except UserError:  # whoever reads it as something else says what is wrong
        return False
    if first is None:
        return False
    columns = {column.strip() for column in first.lines[0].split(",")}
    return bool(columns & set(CLOCKS)) and bool(columns & {"rate_per_s", "requests"})


def describe_rates(name: str, base: Path | None = None) -> RatesDescription:
    """Reads a table of rates and sums it up.

    Raises:
        UnknownNameError, TraceError: see ``rates.read_rates``.
    """
    return describe_table(read_rates(name, base=base))


def describe_table(table: RateTable) -> RatesDescription:
    """The same of a table that was read."""
    amounts = table.rate_per_s * table.length_s
    total, peak = float(amounts.sum()), int(np.argmax(table.rate_per_s))
    return RatesDescription(
        name=table.name,
        intervals=len(amounts),
        span_s=table.end_s,
        requests=total,
        mean_per_s=total / table.end_s,
        peak_per_s=float(table.rate_per_s[peak]),
        peak_at_s=float(table.start_s[peak]),
        idle_share=float(table.length_s[table.rate_per_s == 0].sum()) / table.end_s,
        cv_mean=float((table.cv * amounts).sum()) / total if total else None,
        by_day=_by_day(table),
    )


def _by_day(table: RateTable) -> tuple[float, ...]:
    edges = np.append(np.arange(0.0, table.end_s, DAY_S), table.end_s)
    times = np.append(table.start_s, table.end_s)
    through = np.concatenate([[0.0], np.cumsum(table.rate_per_s * table.length_s)])
    return tuple(np.diff(np.interp(edges, times, through)).tolist())

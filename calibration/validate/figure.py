"""A measured figure beside its prediction, and both as a row of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from simulator.results.format import NOTHING, money, number, percent

Summary = Mapping[str, Any]

Rows = list[tuple[str, ...]]

HEAD = ("", "measured", "predicted", "error", "80% within", "inside")


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


def at_path(summary: Summary, path: str) -> float | None:
    """What a summary holds under a path of keys joined by dots."""
    value: Any = summary
    for key in path.split("."):
        value = value[key]
    return None if value is None else float(value)


def figure_rows(figures: Sequence[Figure]) -> Rows:
    """A row a figure that was measured or predicted; see ``HEAD``."""
    rows: Rows = []
    for figure in figures:
        if figure.real is None and figure.predicted is None:
            continue
        inside = {True: "yes", False: "no", None: ""}[figure.inside]
        bounds = ""
        if figure.interval is not None:
            bounds = "–".join(shown(figure, end, unit=False) for end in figure.interval)
        rows.append(
            (
                named(figure), shown(figure, figure.real), shown(figure, figure.predicted),
                signed(figure.error_pct), bounds, inside,
            )
        )  # fmt: skip
    return rows


def named(figure: Figure) -> str:
    """With the unit, where values do not show it."""
    unit = figure.metric.unit
    return f"{figure.metric.title}, {unit}" if unit in ("ms", "1/s") else figure.metric.title


def shown(figure: Figure, value: float | None, *, unit: bool = True) -> str:
    """A value of this figure, with % and $ unless they stand elsewhere."""
    if figure.metric.unit == "%":
        text = percent(value)
        return text if unit else text.removesuffix("%")
    if figure.metric.unit == "USD":
        text = money(value)
        return text if unit else text.removeprefix("$")
    return number(value)


def signed(value: float | None, *, short: bool = False) -> str:
    """+3.4%; large ones without decimals, and with ``short`` all above 10."""
    if value is None:
        return NOTHING
    return f"{value:+.1f}%" if abs(value) < (10 if short else 100) else f"{value:+,.0f}%"

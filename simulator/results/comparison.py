"""Runs side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from simulator.results.definitions import DEFINITIONS, Definition, value_at
from simulator.results.phrases import answers_line


class HasSummary(Protocol):
    """A result, or one loaded from files."""

    def summary(self) -> dict[str, Any]:
        """All metrics."""
        ...


_SHOWN = ("mean", "p50", "p99")
"""Statistics of a distribution that matter most."""

_SAME, _SAME_SHARE = 0.005, 0.0005
"""Values count as equal within half a percent, shares of 1 within half a tenth of a percent."""

_ANSWERS = ("answers.", "latency.ttfat_ms")


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of both runs.

    Args:
        key: where it stands in the summary, ``latency.ttft_ms.p99``.
        metric: how reports call it.
        unit: of both values; ``%`` means that they are shares of 1.
        a, b: values; None where undefined.
        difference: b − a.
        ratio: b / a; None if a is zero.
        better: ``lower``, ``higher``, or empty where neither is.
    """

    key: str
    metric: str
    unit: str
    a: float | None
    b: float | None
    difference: float | None
    ratio: float | None
    better: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Line:
    """One metric of several runs.

    Args:
        key, metric, unit, better: see ``Row``.
        values: of each run; None where undefined.
        intervals: 80% intervals of the predictions; None where there are none.
        differences: to the first run's value; None where either is undefined.
        ratios: to the first run's value; None as well if that is zero.
        best: places of the best value and of those that equal it within half a percent; empty where
            neither direction is better, or where nobody differs from the others by more.
    """

    key: str
    metric: str
    unit: str
    better: str
    values: tuple[float | None, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    differences: tuple[float | None, ...]
    ratios: tuple[float | None, ...]
    best: tuple[int, ...]

    @property
    def matters(self) -> bool:
        """See ``matters``."""
        return matters(self.key, self.better)


def matters(key: str, better: str) -> bool:
    """Whether a short table has a metric: those with a better direction, and of a distribution its
    middle and its tail."""
    statistic = key.rpartition(".")[2]
    of_distribution = key.startswith("latency.") or "per_user" in key
    return bool(better) and (not of_distribution or statistic in _SHOWN)


def compare(a: HasSummary | dict[str, Any], b: HasSummary | dict[str, Any]) -> list[Row]:
    """All metrics of two runs that at least one of them has, in the order of the definitions; those
    about answers only where some are special.

    Args:
        a, b: results, results loaded from files, or summaries.
    """
    summaries = [_summary(a), _summary(b)]
    return [
        _row(key, definition, *(value_at(summary, key) for summary in summaries))
        for key, definition in _metrics(summaries)
    ]


def compare_all(runs: Sequence[HasSummary | dict[str, Any]]) -> list[Line]:
    """All metrics that at least one of several runs has, as ``compare`` has them of two.

    Args:
        runs: results, results loaded from files, or summaries.
    """
    summaries = [_summary(run) for run in runs]
    return [_line(key, definition, summaries) for key, definition in _metrics(summaries)]


def _summary(run: HasSummary | dict[str, Any]) -> dict[str, Any]:
    return run if isinstance(run, dict) else run.summary()


def _metrics(summaries: Sequence[dict[str, Any]]) -> Iterator[tuple[str, Definition]]:
    """Keys that at least one of the runs has a number for."""
    plain = not any(answers_line(summary) for summary in summaries)
    for definition in DEFINITIONS:
        if plain and definition.key.startswith(_ANSWERS):
            continue
        for statistic in definition.statistics or ("",):
            key = f"{definition.key}.{statistic}" if statistic else definition.key
            if any(_is_number(value_at(summary, key)) for summary in summaries):
                yield key, definition


def _line(key: str, definition: Definition, summaries: Sequence[dict[str, Any]]) -> Line:
    rows = [_row(key, definition, value_at(summaries[0], key), value_at(summary, key))
            for summary in summaries]  # fmt: skip
    values = [row.b for row in rows]
    intervals = [
        ((summary.get("uncertainty") or {}).get("intervals") or {}).get(key)
        for summary in summaries
    ]
    return Line(
        key=key, metric=rows[0].metric, unit=definition.unit, better=definition.better,
        values=tuple(values),
        intervals=tuple(None if pair is None else (pair[0], pair[1]) for pair in intervals),
        differences=tuple(row.difference for row in rows),
        ratios=tuple(row.ratio for row in rows),
        best=_best(values, definition),
    )  # fmt: skip


def _best(values: Sequence[float | None], definition: Definition) -> tuple[int, ...]:
    known = [value for value in values if value is not None]
    if not definition.better or len(known) < 2:
        return ()
    best = min(known) if definition.better == "lower" else max(known)
    near = _SAME * abs(best)
    if definition.unit == "%":
        near = max(near, _SAME_SHARE)
    found = tuple(
        place
        for place, value in enumerate(values)
        if value is not None and abs(value - best) <= near
    )
    return () if len(found) == len(known) else found


def _row(key: str, definition: Definition, x: Any, y: Any) -> Row:
    both = _is_number(x) and _is_number(y)
    statistic = key.removeprefix(definition.key).removeprefix(".")
    return Row(
        key=key,
        metric=f"{definition.label} {statistic}".strip(),
        unit=definition.unit,
        a=x if _is_number(x) else None,
        b=y if _is_number(y) else None,
        difference=y - x if both else None,
        ratio=y / x if both and x else None,
        better=definition.better,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

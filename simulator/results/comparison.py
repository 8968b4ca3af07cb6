"""Two runs side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from simulator.results.definitions import DEFINITIONS, Definition, value_at
from simulator.results.phrases import answers_line


class HasSummary(Protocol):
    """A result, or one loaded from files."""

    def summary(self) -> dict[str, Any]:
        """All metrics."""
        ...


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


def compare(a: HasSummary | dict[str, Any], b: HasSummary | dict[str, Any]) -> list[Row]:
    """All metrics of two runs that at least one of them has, in the order of the definitions; those
    about answers only where some are special.

    Args:
        a, b: results, results loaded from files, or summaries.
    """
    first = a if isinstance(a, dict) else a.summary()
    second = b if isinstance(b, dict) else b.summary()
    plain = not answers_line(first) and not answers_line(second)
    return [
        row
        for definition in DEFINITIONS
        if not (plain and definition.key.startswith(_ANSWERS))
        for row in _rows(definition, first, second)
    ]


def _rows(definition: Definition, a: dict[str, Any], b: dict[str, Any]) -> Iterator[Row]:
    for statistic in definition.statistics or ("",):
        key = f"{definition.key}.{statistic}" if statistic else definition.key
        x, y = value_at(a, key), value_at(b, key)
        if _is_number(x) or _is_number(y):
            metric = f"{definition.label} {statistic}".strip()
            yield _row(key, metric, definition, x, y)


def _row(key: str, metric: str, definition: Definition, x: Any, y: Any) -> Row:
    both = _is_number(x) and _is_number(y)
    return Row(
        key=key,
        metric=metric,
        unit=definition.unit,
        a=x if _is_number(x) else None,
        b=y if _is_number(y) else None,
        difference=y - x if both else None,
        ratio=y / x if both and x else None,
        better=definition.better,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

"""Metrics as text: Prometheus 0.0.4 and OpenMetrics 1.0, with or without timestamps."""

from __future__ import annotations

from typing import cast

import numpy as np

from simulator.monitoring.families import Family
from simulator.workload.requests import Floats

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def head(family: Family, *, openmetrics: bool) -> str:
    """The lines before a metric's samples."""
    name = family.name
    if family.kind == "counter" and not openmetrics:
        name += "_total"
    return f"# HELP {name} {_help(family.help, openmetrics)}\n# TYPE {name} {family.kind}\n"


def labels_text(labels: dict[str, str]) -> str:
    """Labels in braces, in the order of their names; empty without any."""
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(labels[name])}"' for name in sorted(labels)) + "}"


def sample_format(family: Family, labels: dict[str, str], bounds: tuple[float, ...] = ()) -> str:
    """The lines of one series, or of one histogram, for the ``%`` operator.

    A histogram takes its cumulative counts, the last of them twice, and its sum; others take their
    value.
    """
    name = family.name
    text = _safe(labels_text(labels))
    if family.kind != "histogram":
        return f"{name}{'_total' if family.kind == 'counter' else ''}{text} %r\n"
    lines = [
        f"{name}_bucket{_safe(labels_text(labels | {'le': number(bound)}))} %s.0\n"
        for bound in (*bounds, float("inf"))
    ]
    return "".join(lines) + f"{name}_count{text} %s.0\n{name}_sum{text} %r\n"


def printable(family: Family, table: Floats) -> list[list[float]]:
    """Rows of a snapshot's table as ``sample_format`` takes them: counts as whole numbers, which
    print three times as fast as floats."""
    if family.kind != "histogram":
        return cast("list[list[float]]", table.tolist())
    rows: list[list[float]] = table[:, :-1].astype(np.int64).tolist()
    for row, total in zip(rows, table[:, -1].tolist(), strict=True):
        row.append(total)
    return rows


def number(value: float) -> str:
    """A number as Go, and so Prometheus, writes it."""
    if value == float("inf"):
        return "+Inf"
    text = repr(float(value))
    dot = text.find(".")
    if value > 0 and dot > 6 and "e" not in text:
        digits = f"{text[0]}.{text[1:dot]}{text[dot + 1 :]}".rstrip("0.")
        return f"{digits}e+{dot - 1:02d}"
    return text


def _safe(text: str) -> str:
    return text.replace("%", "%%")


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _help(text: str, openmetrics: bool) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if openmetrics else text

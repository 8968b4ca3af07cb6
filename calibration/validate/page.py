"""The validation as one HTML file that needs neither a network nor a server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from calibration.validate import tables
from calibration.validate.metrics import (
    DIMENSIONS,
    TITLES,
    UNITS,
    Comparison,
    measured,
    repeated,
)
from calibration.validate.runner import Validation
from simulator import __version__
from simulator.results import parts

_COLOURS = 6


def page(validation: Validation) -> str:
    """The whole page: tables, predicted against measured, and error against load."""
    from plotly.offline import get_plotlyjs

    found = validation.comparisons
    figures: dict[str, Any] = {}
    for metric in measured(found):
        figures[f"scatter-{metric}"] = _scatter(found, metric)
        figures[f"load-{metric}"] = _against_load(found, metric)
    look = files("simulator.results").joinpath("report.html").read_text(encoding="utf-8")
    template = files("calibration.validate").joinpath("page.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(f"{validation.dataset} · validation · servecast"),
        style=look.partition("<style>")[2].partition("</style>")[0],
        body=_body(validation),
        # "</" inside a script would end it; in JSON strings it may be written with a backslash.
        figures=json.dumps(figures, allow_nan=False).replace("</", "<\\/"),
        plotly=get_plotlyjs(),
    )


def _body(validation: Validation) -> str:
    found = validation.comparisons
    pieces = [_header(validation)]
    if found:
        pieces.append(_section("In all", parts.table(tables.OVERALL_HEAD, tables.overall(found))))
    for metric in measured(found):
        title = TITLES[metric]
        unit = UNITS.get(metric, "ms")
        pieces.append(
            _section(
                title,
                '<div class="two">'
                + parts.chart(f"scatter-{metric}", f"{title}, {unit}: predicted against "
                              "measured; dashed: ±10%")
                + parts.chart(f"load-{metric}", f"{title}: predicted over measured, against load")
                + "</div>",
                "<h3>Furthest off</h3>" + _worst(found, metric),
            )
        )  # fmt: skip
    if found:
        for dimension in DIMENSIONS:
            rows = tables.breakdown(found, dimension)
            pieces.append(
                _section(f"Median error by {dimension}", parts.table(tables.head(found), rows))
            )
        pieces.append(
            _section(
                "Within the interval, by split",
                parts.table(tables.COVERAGE_HEAD, tables.coverage(found)),
            )
        )
    spread = tables.distributions(found)
    if spread:
        head = ("", "measured ms", "predicted ms", "error")
        pieces.append(_section("Distributions", parts.table(head, spread)))
    left_out = [(reason, str(count)) for reason, count in tables.reasons(validation.skipped)]
    if left_out:
        pieces.append(_section("Left out", parts.table(("", "rows"), left_out)))
    pieces.append(f"<footer>servecast {escape(__version__)}</footer>")
    return "\n".join(pieces)


def _header(validation: Validation) -> str:
    found = validation.comparisons
    lines = [
        ("Dataset", validation.dataset),
        ("Points", f"{len(found):,} simulated, {len(validation.skipped):,} rows left out"),
        ("Error", "|predicted − measured| / measured; bias is the median of predicted / measured"),
    ]
    twice = repeated([c.point for c in found])
    if twice:
        lines.append(("Repeats", f"{twice:,} points repeat the figures of another one"))
    return f"<header><h1>Validation</h1>{parts.facts(lines)}</header>"


def _section(title: str, *content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(content)}</section>"


def _worst(found: Sequence[Comparison], metric: str) -> str:
    rows = [
        (w.what, f"{w.measured:,.1f}", f"{w.predicted:,.1f}", f"{w.operator} {w.share:.0%}")
        for w in tables.worst_rows(found, metric)
    ]
    return parts.table(("", "measured", "predicted", "mostly"), rows)


def _scatter(found: Sequence[Comparison], metric: str) -> dict[str, Any]:
    """Predicted against measured on logarithmic axes, one colour a GPU and engine."""
    traces = []
    values: list[float] = []
    for i, (name, members) in enumerate(_families(found, metric)):
        pairs = [c.pair(metric) or (0.0, 0.0) for c in members]
        values += [value for pair in pairs for value in pair]
        traces.append(_points(name, i, [p[0] for p in pairs], [p[1] for p in pairs], members))
    low, high = min(values) / 1.3, max(values) * 1.3
    lines = [{"x": [low, high], "y": [low * f, high * f], "dash": f != 1.0} for f in (1, 0.9, 1.1)]
    return {
        "traces": traces, "lines": lines,
        "x": {"type": "log", "title": "measured"}, "y": {"type": "log", "title": "predicted"},
    }  # fmt: skip


def _against_load(found: Sequence[Comparison], metric: str) -> dict[str, Any]:
    """Predicted over measured against the number of users; open-loop points have none."""
    traces = []
    most = max((c.point.concurrency or 1 for c in found), default=1)
    for i, (name, members) in enumerate(_families(found, metric)):
        closed = [c for c in members if c.point.concurrency is not None]
        x = [float(c.point.concurrency or 0) for c in closed]
        pairs = [c.pair(metric) or (1.0, 1.0) for c in closed]
        y = [predicted / measured for measured, predicted in pairs]
        traces.append(_points(name, i, x, y, closed))
    across = [1, 1.2 * most]
    lines = [{"x": across, "y": [f, f], "dash": f != 1.0} for f in (1, 0.9, 1.1)]
    return {
        "traces": traces, "lines": lines,
        "x": {"type": "log", "title": "concurrent users"},
        "y": {"type": "log", "title": "predicted / measured"},
    }  # fmt: skip


def _families(found: Sequence[Comparison], metric: str) -> list[tuple[str, list[Comparison]]]:
    """Points with this metric by GPU and engine."""
    families: dict[str, list[Comparison]] = {}
    for c in found:
        if c.pair(metric) is not None:
            families.setdefault(f"{c.point.system} {c.point.engine}", []).append(c)
    return sorted(families.items())


def _points(
    name: str, i: int, x: list[float], y: list[float], members: Sequence[Comparison]
) -> dict[str, Any]:
    """A trace of markers; a colour that is used again gets another symbol."""
    return {
        "name": name, "c": i % _COLOURS, "symbol": i // _COLOURS,
        "x": [float(f"{v:.6g}") for v in x], "y": [float(f"{v:.6g}") for v in y],
        "text": [tables.describe(c) for c in members],
    }  # fmt: skip

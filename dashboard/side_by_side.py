"""Table and charts of the comparison."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from dashboard import look
from simulator import Line, with_unit

_CHARTS = (
    ("TTFT", ("latency.ttft_ms.p50", "latency.ttft_ms.p99")),
    ("TPOT", ("latency.tpot_ms.p50", "latency.tpot_ms.p99")),
    ("E2E latency", ("latency.e2e_ms.p50", "latency.e2e_ms.p99")),
    ("Output throughput", ("throughput.output_tokens_per_s",)),
    ("SLO attainment", ("slo.goodput_share",)),
    ("Cost per million output tokens", ("cost.usd_per_million_output_tokens",)),
    ("Energy per output token", ("energy.joules_per_output_token",)),
    ("Request throughput", ("throughput.requests_per_s",)),
)

_INTERVAL = "#8a94a3"

_FAR = 30.0
"""Largest over smallest value from which an axis of latencies is logarithmic."""


def table(lines: Sequence[Line], names: Sequence[str], *, everything: bool) -> pd.DataFrame:
    """Metrics by scenario as Markdown: the best bold and starred, differences to the first."""
    rows = {
        look.plain(line.metric): [_cell(line, place) for place in range(len(names))]
        for line in lines
        if everything or line.matters
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=[look.plain(n) for n in names])


def _cell(line: Line, place: int) -> str:
    told = look.plain(with_unit(line.values[place], line.unit))
    if place in line.best:
        told = f"**{told}** ★"
    difference = _difference(line, place) if place else ""
    return f"{told} ({look.plain(difference)})" if difference else told


def _difference(line: Line, place: int) -> str:
    """To the first scenario: percent, or where that says nothing, in the metric's unit."""
    by, ratio = line.differences[place], line.ratios[place]
    if by is None:
        return ""
    if line.unit == "%":
        size, unit = abs(100 * by), " points"
    elif ratio is None:
        told = with_unit(abs(by), line.unit)
        return f"{_sign(by)}{told}" if by else "="
    else:
        size, unit = abs(100 * (ratio - 1)), "%"
    if size < 0.05:
        return "="
    return f"{_sign(by)}{size:,.0f}{unit}" if size >= 99.5 else f"{_sign(by)}{size:.1f}{unit}"


def _sign(by: float) -> str:
    return "−" if by < 0 else "+"


def csv(lines: Sequence[Line], names: Sequence[str]) -> str:
    """Every metric with its key and unit, and the plain value of each scenario."""
    rows = [
        [line.key, line.metric, "share of 1" if line.unit == "%" else line.unit, *line.values]
        for line in lines
    ]
    return pd.DataFrame(rows, columns=["key", "metric", "unit", *names]).to_csv(index=False)


def charts(lines: Sequence[Line], names: Sequence[str]) -> list[tuple[str, go.Figure]]:
    """Small multiples, each with its title: the metrics that somebody has."""
    known = {line.key: line for line in lines}
    names = [escape(name) for name in names]  # plotly takes some HTML, which names are not
    found = []
    for title, keys in _CHARTS:
        mine = [known[key] for key in keys if key in known]
        if mine:
            found.append((title, _chart(mine, names)))
    return found


def _chart(lines: Sequence[Line], names: Sequence[str]) -> go.Figure:
    spread = len(lines) > 1
    logarithmic = spread and _reach(lines) > _FAR
    chart = look.figure(
        lines[0].unit + (", logarithmic" if logarithmic else ""), "",
        height=90 + (26 + 20 * len(lines)) * len(names), showlegend=spread, scattermode="group",
        yaxis={"type": "category", "categoryorder": "array", "categoryarray": list(names)[::-1]},
        xaxis={"type": "log", "dtick": 1} if logarithmic else {"rangemode": "tozero"},
    )  # fmt: skip
    for at, (line, colour) in enumerate(zip(lines, look.COLOURS, strict=False)):
        chart.add_trace(_trace(line, names, colour, at, spread=spread))
    return chart


def _reach(lines: Sequence[Line]) -> float:
    """Largest over smallest of all that is drawn."""
    ends = [pair for line in lines for pair in line.intervals if pair is not None]
    drawn = [value for line in lines for value in line.values if value is not None and value > 0.0]
    drawn += [end for pair in ends for end in pair if end > 0.0]
    return max(drawn) / min(drawn) if drawn else 1.0


def _trace(
    line: Line, names: Sequence[str], colour: str, at: int, *, spread: bool
) -> go.Bar | go.Scatter:
    """Marks where there are several statistics, which may lie orders of magnitude apart; else
    bars."""
    scale = 100.0 if line.unit == "%" else 1.0
    known = [
        (name, scale * value, pair, _told(line, place))
        for place, (name, value, pair) in enumerate(
            zip(names, line.values, line.intervals, strict=True)
        )
        if value is not None
    ]
    same: dict[str, Any] = {
        "name": line.key.rpartition(".")[2], "orientation": "h",
        "y": [name for name, *_ in known], "x": [value for _, value, *_ in known],
        "offsetgroup": str(at),
        "customdata": [told for *_, told in known],
        "hovertemplate": "%{y}: %{customdata}<extra></extra>",
        "error_x": {
            "type": "data", "symmetric": False, "thickness": 1.5,
            "color": colour if spread else _INTERVAL,
            "array": [0.0 if p is None else max(0.0, scale * p[1] - x) for _, x, p, _ in known],
            "arrayminus": [
                0.0 if p is None else max(0.0, x - scale * p[0]) for _, x, p, _ in known
            ],
        },
    }  # fmt: skip
    if spread:
        return go.Scatter(mode="markers", marker={"color": colour, "size": 10}, **same)
    return go.Bar(marker_color=colour, **same)


def _told(line: Line, place: int) -> str:
    told = f"{line.metric} {with_unit(line.values[place], line.unit)}"
    pair = line.intervals[place]
    if pair is None:
        return told
    return f"{told}, 80% within {with_unit(pair[0], line.unit)} to {with_unit(pair[1], line.unit)}"


def value(found: Any) -> str:
    """A value of a scenario as YAML writes it, as Markdown."""
    if found is None:
        return "–"
    return look.plain(found if isinstance(found, str) else json.dumps(found, ensure_ascii=False))

"""Charts of predictions against measurements, and of residuals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from calibration.fit.own import Check
from calibration.validate import DIMENSIONS, TITLES, UNITS, Comparison, by, describe
from dashboard import look

BANDS_PCT = (10, 25)
"""Around the line on which predictions equal measurements."""

LINES = "Lines: no error; dashed: ±10%; dotted: ±25%."
"""What they are, in words."""

_GREY = "#7a8494"
_SYMBOLS = ("circle", "diamond", "square", "triangle-up")
_SHORT = 26


def scatter(found: Sequence[Comparison], metric: str, colour: str) -> go.Figure:
    """Predicted against measured, both logarithmic, with the 80% interval of each prediction."""
    known = [c for c in found if c.pair(metric) is not None]
    unit = UNITS.get(metric, "ms")
    title = TITLES[metric]
    values = [value for c in known for value in c.pair(metric) or ()]
    low, high = _ends(values)
    chart = look.figure(f"measured {title}, {unit}", f"predicted {title}, {unit}", height=430)
    _bands(chart, [low, high], [low, high])
    for number, (name, members) in enumerate(by(known, colour)):
        pairs = [c.pair(metric) or (1.0, 1.0) for c in members]
        ends = [c.interval(metric) or (p[1], p[1]) for c, p in zip(members, pairs, strict=True)]
        both = list(zip(pairs, ends, strict=True))
        chart.add_trace(
            go.Scatter(
                x=[pair[0] for pair in pairs], y=[pair[1] for pair in pairs],
                mode="markers", name=name, marker=_marker(number),
                error_y={
                    "type": "data", "symmetric": False, "thickness": 1, "width": 0,
                    "array": [max(0.0, end[1] - pair[1]) for pair, end in both],
                    "arrayminus": [max(0.0, pair[1] - end[0]) for pair, end in both],
                },
                customdata=[[c.point.id, describe(c), c.error_pct(metric), *end]
                            for c, end in zip(members, ends, strict=True)],
                hovertemplate="%{customdata[1]}<br>measured %{x:,.4g} " + unit
                + ", predicted %{y:,.4g} " + unit
                + " (80%: %{customdata[3]:,.4g} to %{customdata[4]:,.4g})<br>"
                "error %{customdata[2]:+.1f}%<extra></extra>",
            )
        )  # fmt: skip
    chart.update_xaxes(**look.log_axis(low, high))
    chart.update_yaxes(**look.log_axis(low, high), rangemode="normal")
    return chart


def against_load(found: Sequence[Comparison], metric: str, colour: str) -> go.Figure | None:
    """Predicted over measured against users at once, or against requests a second where no point
    has users; None where all have the same load."""
    known = [c for c in found if c.pair(metric) is not None]
    title, load = "users at once", _users
    if not any(load(c) for c in known):
        title, load = "requests sent a second", _rate
    known = [c for c in known if load(c)]
    if len({load(c) for c in known}) < 2:
        return None
    ratios = [_ratio(c, metric) for c in known]
    low, high = _ends([load(c) or 1.0 for c in known])
    bottom, top = _ends([*ratios, 0.7, 1.4])
    chart = look.figure(title, f"predicted / measured {TITLES[metric]}, ×", height=430)
    _bands(chart, [low, high], [1.0, 1.0])
    for number, (name, members) in enumerate(by(known, colour)):
        chart.add_trace(
            go.Scatter(
                x=[load(c) for c in members], y=[_ratio(c, metric) for c in members],
                mode="markers", name=name, marker=_marker(number),
                customdata=[[c.point.id, describe(c), c.error_pct(metric)] for c in members],
                hovertemplate="%{customdata[1]}<br>error %{customdata[2]:+.1f}%<extra></extra>",
            )
        )  # fmt: skip
    chart.update_xaxes(**look.log_axis(low, high))
    chart.update_yaxes(**look.log_axis(bottom, top), rangemode="normal")
    return chart


def boxes(found: Sequence[Comparison], metric: str, dimension: str) -> go.Figure:
    """The error of every point, by what the points have in common."""
    known = [c for c in found if c.pair(metric) is not None]
    groups = list(by(known, dimension))
    chart = look.figure(
        f"error of {TITLES[metric]}: (predicted − measured) / measured, %", "",
        height=90 + 44 * len(groups), showlegend=False,
    )  # fmt: skip
    for name, members in reversed(groups):
        label = name if len(name) <= _SHORT else name[: _SHORT - 1] + "…"
        chart.add_trace(
            go.Box(
                x=[c.error_pct(metric) for c in members], name=f"{label} ({len(members)})",
                orientation="h", boxpoints="all", jitter=0.4, pointpos=0,
                marker={"size": 5, "opacity": 0.6, "color": look.COLOURS[0]},
                line={"color": look.COLOURS[0], "width": 1.2}, fillcolor="rgba(47,111,222,0.12)",
                customdata=[[c.point.id, describe(c)] for c in members],
                hovertemplate=f"{name}<br>" + "%{customdata[1]}<br>error %{x:+.1f}%<extra></extra>",
                hoveron="points",
            )
        )  # fmt: skip
    chart.add_vline(x=0, line={"color": _GREY, "width": 1})
    chart.update_yaxes(rangemode="normal", title=None)
    return chart


def before_after(checks: Sequence[Check], metric: str) -> go.Figure:
    """Predicted over measured of every row, before and after a fit and with the row left out."""
    own = [check for check in checks if check.metric == metric]
    series = (("before", "circle-open"), ("left_out", "diamond-open"), ("after", "circle"))
    ratios = [getattr(c, name) / c.measured for c in own for name, _ in series]
    low, high = _ends([*ratios, 0.7, 1.4])
    chart = look.figure("row", f"predicted / measured {TITLES[metric]}, ×", height=340)
    places = list(range(1, len(own) + 1))
    _bands(chart, [0.5, len(own) + 0.5], [1.0, 1.0])
    for number, (name, symbol) in enumerate(series):
        chart.add_trace(
            go.Scatter(
                x=places, y=[getattr(c, name) / c.measured for c in own], mode="markers",
                name=name.replace("_", " "),
                marker={"size": 9, "symbol": symbol, "color": look.COLOURS[number]},
                customdata=[[c.id, c.measured, getattr(c, name)] for c in own],
                hovertemplate="%{customdata[0]}<br>measured %{customdata[1]:,.4g} ms, predicted "
                "%{customdata[2]:,.4g} ms<extra></extra>",
            )
        )  # fmt: skip
    chart.update_xaxes(tickmode="linear", dtick=max(1, len(own) // 12), range=[0.5, len(own) + 0.5])
    chart.update_yaxes(**look.log_axis(low, high), rangemode="normal")
    return chart


def residuals(families: Sequence[dict[str, Any]]) -> go.Figure | None:
    """The range in which 80% of the measured times of each kind of kernel lie, around the predicted
    one; None where nothing was measured."""
    known = [row for row in families if row["low_pct"] is not None][::-1]
    if not known:
        return None
    names = [f"{row['family']}{' *' if row['own'] else ''}" for row in known]
    chart = look.figure(
        "measured / predicted time − 1, %", "",
        height=90 + 20 * len(known), showlegend=False,
    )  # fmt: skip
    chart.add_trace(
        go.Bar(
            y=names, x=[row["high_pct"] - row["low_pct"] for row in known],
            base=[row["low_pct"] for row in known], orientation="h",
            marker={"color": look.COLOURS[0], "opacity": 0.55}, width=0.55,
            text=["" if (off := row["fitted_pct"]) is None else f"{off:.1f}%" for row in known],
            textposition="outside", cliponaxis=False, constraintext="none", textfont={"size": 11},
            customdata=[[row["low_pct"], row["high_pct"], _median(row)] for row in known],
            hovertemplate="%{y}<br>80% of measured times: %{customdata[0]:+.1f} to "
            "%{customdata[1]:+.1f}% of the predicted one<br>%{customdata[2]}<extra></extra>",
        )
    )  # fmt: skip
    chart.add_vline(x=0, line={"color": _GREY, "width": 1})
    low, high = min(row["low_pct"] for row in known), max(row["high_pct"] for row in known)
    chart.update_xaxes(range=[1.05 * low, high + 0.12 * (high - low)])  # room for the texts
    chart.update_yaxes(rangemode="normal", title=None, dtick=1)
    return chart


def _median(row: dict[str, Any]) -> str:
    if row["fitted_pct"] is None:
        return "no median error: inherited"
    held = "" if row["held_out_pct"] is None else f", held out {row['held_out_pct']:.1f}%"
    return f"median error {row['fitted_pct']:.1f}%{held}"


def colours() -> list[str]:
    """What points can be coloured by."""
    return [name for name in ("GPU", "engine", "split", "model") if name in DIMENSIONS]


def _users(c: Comparison) -> float | None:
    return c.point.concurrency


def _rate(c: Comparison) -> float | None:
    return c.point.rate_per_s


def _ratio(c: Comparison, metric: str) -> float:
    pair = c.pair(metric)
    assert pair is not None, "only points with this metric are drawn"
    return pair[1] / pair[0]


def _marker(number: int) -> dict[str, Any]:
    """A colour that is used again gets another symbol."""
    count = len(look.COLOURS)
    return {
        "size": 8, "opacity": 0.85, "color": look.COLOURS[number % count],
        "symbol": _SYMBOLS[number // count % len(_SYMBOLS)],
    }  # fmt: skip


def _bands(chart: go.Figure, x: Sequence[float], y: Sequence[float]) -> None:
    """The line of no error, and one for each of ``BANDS_PCT`` above and below it."""
    lines = [(1.0, "solid")]
    for percent, dash in zip(BANDS_PCT, ("dash", "dot"), strict=True):
        lines += [(1 + percent / 100, dash), (1 - percent / 100, dash)]
    for factor, dash in lines:
        chart.add_trace(
            go.Scatter(
                x=list(x), y=[factor * value for value in y], mode="lines", showlegend=False,
                hoverinfo="skip", line={"color": _GREY, "width": 1, "dash": dash},
            )
        )  # fmt: skip


def _ends(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=1.0), max(values, default=10.0)
    return low / 1.15, high * 1.15

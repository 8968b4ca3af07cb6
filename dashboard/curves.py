"""Charts of one run and of a load curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from dashboard import look
from simulator import definition_of, value_at, with_unit

Figure = dict[str, Any]

_LATENCIES = (("ttft", "TTFT"), ("tpot", "TPOT"), ("e2e", "E2E latency"))
_BASELINE = "#7a8494"

_OVER_TIME = (
    ("load", "Requests per replica", "running and waiting requests"),
    ("kv", "KV blocks in use (%)", "use of the KV cache"),
    ("tokens", "Tokens/s", "output tokens and computed prompt tokens a second"),
    ("requests", "Requests/s", "requests sent and completed a second"),
    ("replicas", "Replicas", "replicas held and up"),
)


def distributions(found: Figure, baseline: Figure | None) -> None:
    """Cumulative distributions of the latencies, those of the baseline dashed."""
    columns = st.columns(len(_LATENCIES))
    for column, (key, title) in zip(columns, _LATENCIES, strict=True):
        figure = found[key]
        with column:
            if not figure["traces"]:
                st.info(f"{title} is undefined: no counted request has one.")
                continue
            chart = look.figure(f"{title} (ms)", "requests (%)", height=300)
            for trace in baseline[key]["traces"] if baseline else ():
                name = " ".join(filter(None, ("baseline", trace["name"])))
                chart.add_scatter(
                    x=_array(trace["x"]), y=_array(trace["y"]), name=name, mode="lines",
                    line={"color": _BASELINE, "width": 1.6, "dash": "dash"},
                )  # fmt: skip
            named = len(figure["traces"]) > 1 or baseline is not None
            for trace in figure["traces"]:
                chart.add_scatter(
                    x=_array(trace["x"]), y=_array(trace["y"]), mode="lines",
                    name=trace["name"] or "this scenario",
                    line={"color": _colour(trace["c"]), "width": 2}, showlegend=named,
                    hovertemplate="%{y:.4~g}% within %{x:,.4~g} ms",
                )  # fmt: skip
            if figure["x"].get("type") == "log":
                chart.update_xaxes(**look.log_axis(*_reach(chart, figure["marks"])))
            for place, mark in enumerate(figure["marks"]):
                colour = look.LIMIT if mark["c"] is None else _colour(mark["c"])
                _mark(chart, mark["x"], mark["label"], colour, place)
            chart.update_yaxes(range=[0, 101])
            look.show(chart, f"distribution {key}", f"Cumulative distribution of {title}")


def _reach(chart: go.Figure, marks: list[Figure]) -> tuple[float, float]:
    """Lowest and highest place above zero that a line or a mark has."""
    places = [x for line in chart.data for x in line.x if x > 0] + [mark["x"] for mark in marks]
    return min(places), max(places)


def over_time(found: Figure) -> None:
    """What went on over the simulated time; what does not count is shaded."""
    shown = [each for each in _OVER_TIME if found.get(each[0], {}).get("traces")]
    for start in range(0, len(shown), 2):
        for column, (key, title, words) in zip(
            st.columns(2), shown[start : start + 2], strict=False
        ):
            with column:
                look.show(_over_time(found[key], title), f"over time {key}", f"{words} over time")


def _over_time(figure: Figure, title: str) -> go.Figure:
    end = figure["x"]["range"][1]
    # What does not count, before and after the window.
    shades = [
        {
            "type": "rect", "x0": low, "x1": high, "yref": "paper", "y0": 0, "y1": 1,
            "fillcolor": _BASELINE, "opacity": 0.16, "line": {"width": 0}, "layer": "below",
        }
        for low, high in ((0.0, figure["window"][0]), (figure["window"][1], end))
        if high > low
    ]  # fmt: skip
    chart = look.figure(
        "simulated time (s)", title, height=260, hovermode="x unified", shapes=shades
    )
    chart.add_traces([_line_over_time(trace) for trace in figure["traces"]])
    chart.update_xaxes(range=[0, end])
    return chart


def _line_over_time(trace: Figure) -> Figure:
    """A line, or an edge of the area in which replicas lie. As arrays: of a list, plotly looks at
    each number."""
    colour = _colour(trace["c"])
    line = {"type": "scatter", "mode": "lines", "x": _array(trace["x"]), "y": _array(trace["y"])}
    role = trace.get("role")
    if not role:
        name = {"name": trace["name"], "showlegend": True}
        return line | name | {"line": {"color": colour, "width": 1.8}}
    edge = {"line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    fill = {"fill": "tonexty", "fillcolor": _faint(colour)} if role == "upper" else {}
    return line | edge | fill


def _array(numbers: Sequence[float | None]) -> np.ndarray:
    """None becomes NaN, which draws a gap as well."""
    return np.asarray(numbers, dtype=float)


LOAD_METRICS = (
    ("latency.ttft_ms.p99", "TTFT p99", "ttft_ms"),
    ("latency.tpot_ms.p99", "TPOT p99", "tpot_ms"),
    ("latency.e2e_ms.p99", "E2E p99", "e2e_ms"),
    ("latency.e2e_ms.mean", "E2E mean", ""),
)
"""Path, title, and the SLO's limit of the same latency."""


def load(report: Figure, path: str, title: str, limit: float | None) -> None:
    """Latency over load, with the knee, the load at hand and the highest that holds.

    Args:
        report: a load report.
        path, title: of the latency.
        limit: the SLO's, ms; None: there is none.
    """
    points = report["curve"]["points"]
    closed = points[0]["users"] is not None
    axis = "users" if closed else "requests sent (1/s)"

    def at(point: Figure) -> float:
        return float(point["users"] if closed else point["rate_per_s"])

    chart = look.figure(axis, f"{title} (ms)", height=360)
    known = [point for point in points if point["figures"][path]]
    keeping = [point for point in known if point["keeps_up"]]
    chart.add_scatter(
        x=[at(p) for p in known], y=[p["figures"][path] for p in known], name=title,
        mode="lines+markers", line={"color": look.COLOURS[0], "width": 2},
        marker={"symbol": ["circle" if p["keeps_up"] else "x-thin-open" for p in known], "size": 8},
        customdata=["" if p["keeps_up"] else ", overloaded" for p in known],
        hovertemplate="%{x:,.3~g}: %{y:,.4~g} ms%{customdata}<extra></extra>", showlegend=False,
    )  # fmt: skip
    values = [p["figures"][path] for p in keeping] or [1.0]
    top = max([*values, limit or 0.0])
    if known and max(p["figures"][path] for p in known) > 8 * min(values):
        chart.update_yaxes(type="log", rangemode="normal")
    elif top:
        chart.update_yaxes(range=[0, 1.25 * top])
    if limit is not None:
        chart.add_hline(limit, line={"color": look.LIMIT, "dash": "dash", "width": 1.5},
                        annotation={"text": f"SLO {limit:,g} ms", "font": {"color": look.LIMIT}},
                        annotation_position="top left")  # fmt: skip
    own = next((p for p in points if abs(p["factor"] - 1.0) < 1e-9), None)
    marks = [(own, "now", look.COLOURS[4]), (report["curve"]["knee"], "knee", look.COLOURS[1]),
             (report["highest"], "highest that holds", look.COLOURS[2])]  # fmt: skip
    for place, (found, words, colour) in enumerate(marks):
        if found and (found["users"] if closed else found["rate_per_s"]) is not None:
            _mark(chart, at(found), words, colour, place)
    look.show(chart, f"load {path}", f"{title} over the load; {axis}")


def load_table(report: Figure) -> None:
    """The same as a table."""
    points = report["curve"]["points"]
    rows = []
    for point in points:
        row: dict[str, Any] = {} if point["users"] is None else {"users": f"{point['users']:,}"}
        row["requests/s"] = with_unit(point["rate_per_s"], "")
        for path, title, _ in LOAD_METRICS:
            row[title] = with_unit(point["figures"][path], "ms")
        for path in ("throughput.output_tokens_per_s", "slo.goodput_share",
                     "cost.usd_per_million_output_tokens"):  # fmt: skip
            definition = definition_of(path)
            row[definition.label] = with_unit(point["figures"][path], definition.unit)
        row["keeps up"] = "yes" if point["keeps_up"] else "no"
        rows.append(row)
    st.dataframe(rows, hide_index=True)


def table(summary: Figure, baseline: Figure | None) -> None:
    """Statistics of the latencies."""
    rows = []
    for key, title in _LATENCIES:
        for name, found in (("", summary), ("baseline", baseline)):
            if found is not None:
                row = {"": " ".join(filter(None, (title, name)))}
                for statistic in ("mean", "p50", "p90", "p95", "p99", "max"):
                    row[statistic] = with_unit(
                        value_at(found, f"latency.{key}_ms.{statistic}"), "ms"
                    )
                rows.append(row)
    st.dataframe(rows, hide_index=True)


def _mark(chart: go.Figure, x: float, words: str, colour: str, place: int) -> None:
    """A line across with its name, each a little above the one before."""
    chart.add_shape(type="line", x0=x, x1=x, y0=0, y1=1, yref="paper",
                    line={"color": colour, "width": 1.5, "dash": "dash"})  # fmt: skip
    # An annotation on a logarithmic axis stands at the exponent, a line at the number.
    chart.add_annotation(
        x=math.log10(x) if chart.layout.xaxis.type == "log" else x,
        y=0.05 + 0.11 * place, yref="paper", text=words, showarrow=False, xanchor="right",
        xshift=-4, font={"color": colour, "size": 11},
    )  # fmt: skip


def _colour(number: int) -> str:
    return look.COLOURS[number % len(look.COLOURS)]


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.22)"

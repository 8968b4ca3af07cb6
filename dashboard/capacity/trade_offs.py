"""Pareto plots: what the deployments cost, against what they do."""

from __future__ import annotations

from functools import partial
from textwrap import wrap
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st

import simulator
from dashboard import look

Data = dict[str, Any]

SYMBOLS = {"holds": "circle", "fails": "x", "close": "diamond-open", "open": "circle-open"}
SIGNS = {"holds": "●", "fails": "✕", "close": "◇", "open": "○"}
STATES = {
    "holds": "holds", "fails": "fails", "close": "too close to call",
    "open": "left open, as it could not be among the best",
}  # fmt: skip
"""A verdict's symbol in a plot, in text, and its words."""

WINNER = "star"

WIDTH = 460
"""Of a plot, pixels."""

LOG_FROM = 30.0
"""Highest over lowest value from which an axis is logarithmic."""


def draw(report: dict[str, Any], pick: str, key: str) -> None:
    """Draws the plots; a click on a point puts its deployment into the session's state at ``pick``.

    Args:
        report: of a plan.
        pick: key of the selectbox of deployments.
        key: names the plots on the page.
    """
    data = simulator.plan_data(report)
    if not data["points"]:
        st.caption("Nothing to draw: every run was ended early, as a limit was out of reach.")
        return
    st.caption(_legend(report, data))
    limits = {limit["path"]: limit for limit in report["asked"]["constraints"]}
    row = st.container(horizontal=True)  # as many beside each other as there is room for
    for chart in data["charts"]:
        name = f"{key} {chart['id']}"
        x, y = (data["figures"][chart[axis]] for axis in ("x", "y"))
        with row.container(width=WIDTH):
            look.show(
                _plot(data, chart, limits), name, f"{y['title']} against {x['title']}",
                on_select=partial(_picked, name, pick),
            )  # fmt: skip


def _picked(name: str, pick: str) -> None:
    points = st.session_state[name].selection.points
    if points:
        found = points[0]["customdata"]
        st.session_state[pick] = found[0] if isinstance(found, list) else found


def _legend(report: dict[str, Any], data: Data) -> str:
    states = {point["state"] for point in data["points"]}
    words = [f"{sign} {STATES[state]}" for state, sign in SIGNS.items() if state in states]
    if any(point["winner"] for point in data["points"]):
        words.append("★ the one to take")
    words.append("line: Pareto front of those that hold" if "holds" in states else "")
    text = " · ".join(filter(None, words))
    bearing = simulator.asked_words(report).bearing
    stressed = report["asked"]["headroom"] or report["asked"]["spare_replicas"]
    if stressed:
        text += f". Figures are those {bearing}, which decide; the price is that of all replicas"
    gone = sum(bool(t["ended_early"] or t["problem"]) for t in report["trials"])
    if gone:
        text += f". {gone:,} not drawn: a limit was out of reach, so that their runs ended early"
    return f"{text}. Click a point for its figures."


def _plot(data: Data, chart: Data, limits: dict[str, Data]) -> go.Figure:
    x, y = (data["figures"][chart[axis]] for axis in ("x", "y"))
    drawn = look.figure(x["title"], y["title"])
    for group, name in enumerate(data["groups"]):
        points = [p for p in data["points"] if p["group"] == group and _known(p, chart)]
        if points:
            drawn.add_trace(_points(points, chart, x, y, name, group))
    _front(drawn, data, chart)
    limit = limits.get(y["key"])
    if limit is not None:
        drawn.add_hline(
            limit["max"] if limit["max"] is not None else limit["min"],
            line={"color": look.LIMIT, "dash": "dash", "width": 1.5},
            annotation={"text": "limit", "font": {"color": look.LIMIT}},
            annotation_position="top left",
        )
    for axis, figure in (("x", x), ("y", y)):
        values = [p["values"][chart[axis]] for p in data["points"] if _known(p, chart)]
        drawn.update_layout({f"{axis}axis": _scale(values, figure)})
    return drawn


def _known(point: Data, chart: Data) -> bool:
    return None not in (point["values"][chart["x"]], point["values"][chart["y"]])


def _scale(values: list[float], figure: Data) -> dict[str, Any]:
    found: dict[str, Any] = {"tickformat": ".0%"} if figure["share"] else {}
    if values and min(values) > 0 and max(values) > LOG_FROM * min(values):
        return found | {"type": "log", "dtick": 1, "minor": {"dtick": "D2"}}
    return found | {"rangemode": "tozero"}


def _points(points: list[Data], chart: Data, x: Data, y: Data, name: str, group: int) -> go.Scatter:
    at = (chart["x"], chart["y"])
    return go.Scatter(
        x=[p["values"][at[0]] for p in points],
        y=[p["values"][at[1]] for p in points],
        mode="markers",
        name=name,
        customdata=[[p["label"]] for p in points],
        marker={
            "color": look.COLOURS[group % len(look.COLOURS)],
            "symbol": [WINNER if p["winner"] else SYMBOLS[p["state"]] for p in points],
            "size": [18 if p["winner"] else 10 for p in points],
            "line": {"width": 1.5, "color": look.COLOURS[group % len(look.COLOURS)]},
        },
        text=[
            "<br>".join(filter(None, (
                f"<b>{p['label']}</b>", f"{STATES[p['state']]}",
                f"{x['title']}: {p['shown'][at[0]]}", f"{y['title']}: {p['shown'][at[1]]}",
                "<br>".join(wrap(p["note"], 44)),
            )))
            for p in points
        ],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _front(drawn: go.Figure, data: Data, chart: Data) -> None:
    """The line through those that hold and that none beats in both figures."""
    held = [p for p in data["points"] if p["state"] == "holds" and _known(p, chart)]
    if len(held) < 2:
        return
    axes = (chart["x"], chart["y"])
    signs = [-1.0 if data["figures"][axis]["up"] else 1.0 for axis in axes]
    values = np.array([[p["values"][axis] for axis in axes] for p in held], dtype=float)
    flags = simulator.on_front(values * signs)
    best = values[flags][np.argsort(values[flags][:, 0])]
    if len(best) < 2:
        return
    drawn.add_trace(
        go.Scatter(
            x=best[:, 0],
            y=best[:, 1],
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
            line={"color": look.COLOURS[5], "width": 1.5},
        )
    )

"""How everything looks: charts of one family, figures as the command line writes them."""

from __future__ import annotations

import re
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from simulator import UserError, definition_of, value_at, with_unit

COLOURS = ("#2f6fde", "#e07b00", "#149c76", "#c8436f", "#8059c9", "#7a8494")
"""Of series, readable on light and dark; those of ``.streamlit/config.toml``."""

LIMIT = "#c23b3b"
"""Of lines that must not be crossed."""

HEIGHT = 320
"""Of a chart, pixels."""


def figure(x: str, y: str, *, height: int = HEIGHT, **layout: Any) -> go.Figure:
    """An empty chart.

    Args:
        x, y: titles of the axes, with their units.
        height: pixels.
        layout: anything else that plotly's layout takes.
    """
    chart = go.Figure()
    chart.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 34, "b": 8},
        xaxis={"title": x, "automargin": True},
        yaxis={"title": y, "automargin": True, "rangemode": "tozero"},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        hovermode="closest",
        colorway=list(COLOURS),
    )
    chart.update_layout(**layout)
    return chart


def show(chart: go.Figure, key: str, alt: str) -> None:
    """Draws a chart.

    Args:
        chart: what ``figure`` made, filled.
        key: names it on its page.
        alt: what it shows, for those who cannot see it.
    """
    st.plotly_chart(
        chart, key=key, alt=alt, theme="streamlit",
        config={"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d"]},
    )  # fmt: skip


def wrong(error: UserError) -> None:
    """A user's mistake, in one sentence."""
    st.error(str(error), icon=":material/error:")


def told(summary: dict[str, Any], key: str) -> str:
    """A metric of a summary with its unit, as the terminal writes it.

    Args:
        summary: of a run.
        key: where the metric stands, ``latency.ttft_ms.p99``.
    """
    return with_unit(value_at(summary, key), definition_of(key).unit)


def plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>$:~-])", r"\\\1", text)

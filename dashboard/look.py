"""How everything looks: charts of one family, figures as the command line writes them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

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
    base: dict[str, Any] = {
        "height": height,
        "margin": {"l": 8, "r": 8, "t": 34, "b": 8},
        "xaxis": {"title": {"text": x}, "automargin": True},
        "yaxis": {"title": {"text": y}, "automargin": True, "rangemode": "tozero"},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "hovermode": "closest",
        "colorway": list(COLOURS),
    }
    # All at once: each later change of a chart costs as much as a small one.
    plain = layout.keys().isdisjoint(base.keys() - {"hovermode"})
    chart = go.Figure(layout=base | layout if plain else base)
    return chart if plain else chart.update_layout(**layout)


def show(
    chart: go.Figure, key: str, alt: str, *, on_select: Callable[[], None] | None = None
) -> None:
    """Draws a chart.

    Args:
        chart: what ``figure`` made, filled.
        key: names it on its page.
        alt: what it shows, for those who cannot see it.
        on_select: called when a point is clicked, which is then in the session's state at ``key``.
    """
    st.plotly_chart(
        chart, key=key, alt=alt, theme="streamlit", selection_mode="points",
        on_select="ignore" if on_select is None else on_select,
        config={"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d"]},
    )  # fmt: skip


def choose(chart: go.Figure, key: str, alt: str, chosen: Callable[[list[list[Any]]], None]) -> None:
    """Draws a chart of which points can be clicked.

    Args:
        chart: see ``show``; its points have ``customdata``.
        key: names it on its page.
        alt: what it shows.
        chosen: called before the page is drawn anew with the ``customdata`` of what was clicked.
    """

    def called() -> None:
        points = st.session_state[key]["selection"]["points"]
        chosen([point["customdata"] for point in points if "customdata" in point])

    st.plotly_chart(
        chart, key=key, alt=alt, theme="streamlit", on_select=called, selection_mode="points",
        config={"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d"]},
    )  # fmt: skip


def wrong(error: UserError) -> None:
    """A user's mistake, in one sentence."""
    st.error(plain(str(error)), icon=":material/error:")


def told(summary: dict[str, Any], key: str) -> str:
    """A metric of a summary with its unit, as the terminal writes it.

    Args:
        summary: of a run.
        key: where the metric stands, ``latency.ttft_ms.p99``.
    """
    return with_unit(value_at(summary, key), definition_of(key).unit)


def plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>$:~&-])", r"\\\1", text)


def with_code(text: str) -> str:
    """As ``plain``, but for what stands between two backticks, as the terminal writes keys."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # one stands alone
        return plain(text)
    return "".join(f"`{part}`" if n % 2 else plain(part) for n, part in enumerate(parts))


def tiles(figures: Sequence[tuple[str, str, str]]) -> None:
    """Figures in a row, and in more where they do not fit.

    Args:
        figures: label, value with its unit, and what it means (may be empty).
    """
    with st.container(horizontal=True, gap="medium"):
        for label, value, meaning in figures:
            st.metric(label, value, help=meaning or None, width="content")


class Bars(Protocol):
    """Values between edges, of which there is one more."""

    @property
    def edges(self) -> tuple[float, ...]:
        """Where the intervals begin and end."""
        ...

    @property
    def values(self) -> tuple[float, ...]:
        """One for each interval."""
        ...


def time_unit(longest_s: float) -> tuple[float, str]:
    """Seconds of the unit in which so long a time is best told, and its name."""
    units = ((172_800.0, 86_400.0, "days"), (10_800.0, 3_600.0, "h"), (600.0, 60.0, "min"))
    return next(((size, name) for least, size, name in units if longest_s >= least), (1.0, "s"))


def log_axis(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis with round numbers at its ticks.

    Args:
        low, high: what it reaches from and to, both positive; a single value gets room around it.
    """
    if high < 1.2 * low:
        middle = math.sqrt(low * high)
        low, high = middle / 1.1, middle * 1.1
    margin = 0.02 * math.log10(high / low)
    ticks = _ticks(low, high)
    return {
        "type": "log", "tickvals": ticks, "ticktext": [f"{tick:,.6g}" for tick in ticks],
        "range": [math.log10(low) - margin, math.log10(high) + margin],
    }  # fmt: skip


_LEAST_TICKS = 4


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from ``low`` to ``high``: the coarsest that are enough."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = [[10.0**d for d in decades if d % every == 0] for every in range(len(decades), 0, -1)]
    for factors in ((1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        steps.append([f * 10.0**d for d in decades for f in factors])
    for ticks in steps:
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) >= _LEAST_TICKS:
            return inside
    # Within a factor of two or so: equal steps are as good.
    step = 10.0 ** math.floor(math.log10((high - low) / _LEAST_TICKS))
    step *= next(f for f in (5, 2, 1) if (high - low) / (f * step) >= _LEAST_TICKS)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]

"""Charts of a trace."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import plotly.graph_objects as go

from dashboard import look
from dashboard.replaying import Part
from simulator import TraceProfile


def rate(rates: look.Bars, part: Part) -> None:
    """Requests/s over time, the part in question marked."""
    end_s = rates.edges[-1]
    scale, unit = look.time_unit(end_s)
    chart = look.figure(f"time since the first row, {unit}", "requests/s", height=240)
    x = [edge / scale for edge in rates.edges]
    chart.add_trace(
        go.Scatter(
            x=x, y=[*rates.values, rates.values[-1]], line={"shape": "hv", "width": 1.5},
            fill="tozeroy", showlegend=False,
            hovertemplate=f"%{{x:.4g}} {unit}: %{{y:.3g}} requests/s<extra></extra>",
        )
    )  # fmt: skip
    if part.start_s or part.duration_s is not None:
        start = min(part.start_s, end_s)
        end = end_s if part.duration_s is None else min(start + part.duration_s, end_s)
        for left, right in ((0.0, start), (end, end_s)):
            if right > left:
                chart.add_vrect(
                    x0=left / scale, x1=right / scale, fillcolor=look.COLOURS[5], opacity=0.35,
                    line_width=0,
                )  # fmt: skip
    look.show(chart, "trace rate", "requests per second over time, the chosen part left clear")


def charts_of(profile: TraceProfile) -> list[Callable[[], None]]:
    """Charts of lengths and gaps, those that the file allows."""
    found: list[Callable[[], None]] = []
    if profile.input_tokens is not None and profile.output_tokens is not None:
        found.append(partial(_lengths, profile.input_tokens, profile.output_tokens))
    if profile.gap_s:
        found.append(partial(_gaps, profile))
    return found


def _lengths(inputs: look.Bars, outputs: look.Bars) -> None:
    chart = look.figure("tokens of a request", "requests")
    for name, bars, colour in (("input", inputs, 0), ("output", outputs, 1)):
        edges = bars.edges
        chart.add_trace(
            go.Scatter(
                x=edges, y=[*bars.values, bars.values[-1]], fill="tozeroy", name=name, mode="lines",
                line={"shape": "hv", "width": 1.5, "color": look.COLOURS[colour]},
                customdata=[*zip(edges, [*edges[1:], edges[-1]], strict=True)],
                hovertemplate="%{customdata[0]:,.0f} to %{customdata[1]:,.0f} tokens: %{y:,} "
                f"requests<extra>{name}</extra>",
            )
        )  # fmt: skip
    low = max(min(inputs.edges[0], outputs.edges[0]), 0.5)
    high = max(inputs.edges[-1], outputs.edges[-1])
    if high / low > 20:
        chart.update_xaxes(**look.log_axis(low, high))
    look.show(chart, "trace lengths", "histograms of input and output lengths in tokens")


def _gaps(profile: TraceProfile) -> None:
    shown = [i for i, gap in enumerate(profile.gap_s) if gap > 0]
    chart = look.figure("gap between arrivals, s", "gaps at most that long, %")
    x = [profile.gap_s[i] for i in shown]
    for name, shares, colour, dash in (
        ("this trace", profile.gap_share, 2, "solid"),
        ("Poisson", profile.poisson_share, 5, "dash"),
    ):
        chart.add_trace(
            go.Scatter(
                x=x, y=[100 * shares[i] for i in shown], name=name,
                line={"color": look.COLOURS[colour], "dash": dash},
                hovertemplate="%{y:.3g}% of gaps are at most %{x:.3g} s<extra>" + name + "</extra>",
            )
        )  # fmt: skip
    if x and x[-1] / x[0] > 20:
        chart.update_xaxes(**look.log_axis(x[0], x[-1]))
    look.show(
        chart, "trace gaps",
        "cumulative distribution of the gaps between arrivals, beside a Poisson process's",
    )  # fmt: skip

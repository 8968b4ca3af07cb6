"""The row of figures on top: values, intervals, changes against the baseline."""

from __future__ import annotations

from typing import Any, Literal

import streamlit as st

from dashboard import look
from simulator import compare, definition_of, with_unit

KPIS = (
    ("latency.ttft_ms.p50", "TTFT p50"),
    ("latency.ttft_ms.p99", "TTFT p99"),
    ("latency.tpot_ms.p50", "TPOT p50"),
    ("latency.tpot_ms.p99", "TPOT p99"),
    ("latency.e2e_ms.p50", "E2E p50"),
    ("latency.e2e_ms.p99", "E2E p99"),
    ("throughput.output_tokens_per_s", "Output throughput"),
    ("slo.goodput_share", "Within the SLO"),
    ("cost.usd_per_million_output_tokens", "Cost / M output tokens"),
    ("cost.usd_per_hour", "Cost per hour"),
    ("energy.joules_per_output_token", "Energy / output token"),
    ("utilization.busy_share", "Busy time"),
)
"""Where each stands in a summary, and its title."""

WIDTH = 200
"""Of one, pixels; as many stand in a row as there is room for."""

Summary = dict[str, Any]
Colour = Literal["normal", "inverse", "off"]


def draw(summary: Summary, baseline: Summary | None) -> None:
    """Draws them.

    Args:
        summary: of the run.
        baseline: what it is compared with.
    """
    changes = {} if baseline is None else {row.key: row for row in compare(baseline, summary)}
    section = summary.get("uncertainty") or {}
    within = section.get("intervals", {})
    with st.container(horizontal=True, gap="small"):
        for key, title in KPIS:
            with st.container(width=WIDTH, gap=None):
                definition = definition_of(key)
                delta, colour = _change(changes.get(key))
                st.metric(
                    title, look.told(summary, key), delta, delta_color=colour,
                    delta_arrow="off" if delta == "0%" else "auto", help=definition.text,
                )  # fmt: skip
                if key in within:
                    st.caption(interval(within[key], definition.unit))
    if section:
        st.caption(
            f"In grey: {100 * section['level']:.0f}% intervals, from measured errors of kernels "
            "and engines and from chance."
        )


def interval(pair: list[float], unit: str) -> str:
    """80–95 ms."""
    low, high = (with_unit(end, unit) for end in pair)
    if unit and unit not in ("%", "USD"):
        low = low.removesuffix(f" {unit}")
    return f"{low} – {high}".replace("$", "\\$")


def _change(row: Any) -> tuple[str | None, Colour]:
    """The change in words and the colour of its sign; nothing without a baseline."""
    if row is None or row.difference is None:
        return None, "off"
    colours: dict[str, Colour] = {"lower": "inverse", "higher": "normal"}
    if row.difference == 0:
        return "0%", "off"
    if row.unit == "%":
        return f"{100 * row.difference:+.1f} points", colours.get(row.better, "off")
    if row.ratio is None:
        return f"{row.difference:+.3g} {row.unit}", colours.get(row.better, "off")
    return f"{100 * (row.ratio - 1):+,.1f}%", colours.get(row.better, "off")

"""Limits on figures, one a row."""

from __future__ import annotations

from typing import Any

import streamlit as st

import simulator
from dashboard.capacity.form import Form

MOST, LEAST = "at most", "at least"
ALL = "all traffic"


def limits(form: Form, document: dict[str, Any]) -> None:
    """Draws the rows and writes the constraints of the document."""
    rows = form.key("limits")
    if rows not in st.session_state:
        given = document.get("constraints", ())
        st.session_state[rows] = {place: dict(limit) for place, limit in enumerate(given)}
    found = [
        _row(form, number, limit, _classes(document))
        for number, limit in list(st.session_state[rows].items())
    ]
    if not found:
        st.caption("No limit of its own: the scenario's SLO must hold, for every traffic class.")
    form.put(document, "constraints", found, [])
    st.button(
        "Add a limit", key=form.key("add"), icon=":material/add:", on_click=_add, args=(rows,)
    )


def _row(form: Form, number: int, limit: dict[str, Any], classes: list[str]) -> dict[str, Any]:
    name = f"limit {number}"
    metrics = list(simulator.plan_choices().metrics)
    metric = limit["metric"]
    if f"latency.{metric}" in metrics and not limit.get("traffic_class"):
        metric = f"latency.{metric}"
    widths = [5, 3, 3, *([3] if classes else []), 1]
    columns = iter(st.columns(widths, vertical_alignment="bottom"))
    chosen = next(columns).selectbox(
        "Figure", form.first(metrics, metric), key=form.key(f"{name} metric"),
        format_func=lambda path: simulator.figure_title(str(path)), persist_state="session",
        help="Any figure of a run; shares, shown as %, are limited by a number from 0 to 1",
    )  # fmt: skip
    way = next(columns).selectbox(
        "must be", [LEAST, MOST] if limit.get("min") is not None else [MOST, LEAST],
        key=form.key(f"{name} way"), persist_state="session",
    )  # fmt: skip
    with next(columns):
        value = st.number_input(
            "Limit", value=_float(limit.get("max", limit.get("min"))), format="%g",
            key=form.key(f"{name} value"), persist_state="session",
            help="In the figure's unit; a share from 0 to 1",
        )  # fmt: skip
    found: dict[str, Any] = {"metric": chosen}
    if value is not None:
        found["max" if way == MOST else "min"] = int(value) if value == int(value) else value
    if classes:
        own = limit.get("traffic_class", ALL)
        of = next(columns).selectbox(
            "of", form.first([ALL, *classes], own), key=form.key(f"{name} class"),
            persist_state="session", help="A class of the traffic, or all of it",
        )  # fmt: skip
        if of != ALL:
            found["traffic_class"] = of
    next(columns).button(
        "", icon=":material/delete:", key=form.key(f"{name} gone"), help="Take this limit away",
        on_click=_remove, args=(form.key("limits"), number),
    )  # fmt: skip
    return found


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _classes(document: dict[str, Any]) -> list[str]:
    """Names of the traffic's classes; none where there is only one."""
    found = document["scenario"].get("workload", {}).get("classes", ())
    return [item["name"] for item in found if "name" in item] if len(found) > 1 else []


def _add(rows: str) -> None:
    known: dict[int, dict[str, Any]] = st.session_state[rows]
    st.session_state[rows] = known | {max(known, default=-1) + 1: _NEW}


def _remove(rows: str, number: int) -> None:
    known: dict[int, dict[str, Any]] = st.session_state[rows]
    st.session_state[rows] = {place: limit for place, limit in known.items() if place != number}


_NEW = {"metric": "latency.ttft_ms.p99", "max": 1000.0}
"""What an added row begins with."""

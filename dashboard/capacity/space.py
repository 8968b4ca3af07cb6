"""The deployments to choose from."""

from __future__ import annotations

from typing import Any

import streamlit as st

import simulator
from dashboard.capacity.form import Form, axis_word

DEVICES = (1, 2, 4, 8, 16, 32)
STAGES = (1, 2, 4, 8)
"""What tensor and pipeline parallelism are offered with; a plan may have others."""

PRICED = "priced"

_DRAWN = {
    "hardware", "engine", "precision", "tp", "pp", "replicas", "price_plans", "max_devices",
    "max_power_kw",
}  # fmt: skip


def draw(form: Form, document: dict[str, Any]) -> None:
    """Draws the axes and writes the space of the document."""
    space: dict[str, Any] = dict(document.get("space", {}))
    choices = simulator.plan_choices()
    given = space.get("hardware", PRICED)
    found = form.several(
        "Devices", "hardware", choices.hardware, None if given == PRICED else given,
        text="Profiles of devices; none chosen: all with a price in a price plan",
        empty="All with a price",
    )  # fmt: skip
    form.put(space, "hardware", found, PRICED)
    left, right = st.columns(2)
    with left:
        _axis(form, space, "precision", "Precision of weights", choices.weights, "The scenario's")
        _axis(form, space, "tp", "Tensor parallelism, devices", DEVICES, "All that fit into a node")
    with right:
        _axis(form, space, "engine", "Engines", choices.engine, "The scenario's")
        _axis(form, space, "pp", "Pipeline stages", STAGES, "1")
    _replicas(form, space)
    left, right = st.columns(2)
    with left:
        _axis(form, space, "price_plans", "Price plans", choices.price_plans, "The scenario's")
    with right:
        power = form.number(
            "Most power, kW", "power", space.get("max_power_kw"),
            text="Of all devices at their TDP, times PUE; empty: no limit",
        )  # fmt: skip
        form.put(space, "max_power_kw", power)
    form.put(document, "space", space, {})
    kept = [name for name in space if name not in _DRAWN]
    if kept:
        st.caption(f"As the plan says, unchanged: {', '.join(kept)}.")


def _axis(
    form: Form, space: dict[str, Any], name: str, label: str, options: Any, empty: str
) -> None:
    found = form.several(
        label, name, options, space.get(name), empty=empty,
        text=f"Each is tried; none chosen: {empty[0].lower()}{empty[1:]}",
    )  # fmt: skip
    form.put(space, name, found)


def _replicas(form: Form, space: dict[str, Any]) -> None:
    most_devices = simulator.plan_choices().defaults["space.max_devices"]
    given = space.get("replicas")
    range_ = given if isinstance(given, dict) else {}
    first, second, third = st.columns(3)
    with first:
        least = form.whole(
            "Fewest replicas", "least", range_.get("min"), least=1, most=4096,
            text="Empty: as the plan says, else 1",
        )  # fmt: skip
    with second:
        most = form.whole(
            "Most replicas", "most", range_.get("max"), least=1, most=4096,
            text="Empty: as many as the devices allow",
        )  # fmt: skip
    with third:
        devices = form.whole(
            "Most devices", "devices", space.get("max_devices", most_devices), least=1, most=4096,
            text="Of a whole deployment",
        )  # fmt: skip
    form.put(space, "max_devices", devices, most_devices)
    if isinstance(given, list):
        if least is None and most is None:
            st.caption(f"Replicas: {', '.join(map(axis_word, given))}, as the plan lists them.")
            return
        space.pop("replicas")
    step = {"step": range_["step"]} if "step" in range_ else {}
    if least is None and most is None:
        space.pop("replicas", None)
    else:
        space["replicas"] = {"min": least or 1, "max": most or devices or most_devices} | step

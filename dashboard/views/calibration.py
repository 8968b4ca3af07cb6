"""Calibration: how far off predictions are, where figures come from, a fit to own measurements."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from dashboard.calibrate import fitting, provenance, validation

PARTS: dict[str, tuple[str, Callable[[], None]]] = {
    "Validation": (
        "How far predictions are off: measured servers, simulated the way they were measured.",
        validation.draw,
    ),
    "Provenance": (
        "Where the scenario's figures come from: measured, inherited or assumed.",
        provenance.draw,
    ),
    "Fit your own": (
        "An engine profile from a handful of your own measured servers.",
        fitting.draw,
    ),
}


def page() -> None:
    """Draws the page."""
    part = st.segmented_control(
        "Part of the page", list(PARTS), default="Validation", required=True,
        key="calibration part", persist_state="session", label_visibility="collapsed",
    )  # fmt: skip
    words, draw = PARTS[part or "Validation"]
    st.caption(words)
    draw()


page()

"""The scenario's knobs."""

from __future__ import annotations

import streamlit as st

from dashboard import session
from dashboard.choice import Choice
from simulator import scenario_names


def draw() -> None:
    """Draws the sidebar, and takes what is changed there."""
    choice = session.choice()
    names = scenario_names()
    with st.sidebar:
        st.selectbox(
            "Scenario",
            names if choice.name in names else [choice.name, *names],
            index=names.index(choice.name) if choice.name in names else 0,
            key="scenario name",
            on_change=_named,
        )
        st.text_area(
            "Other values", "\n".join(choice.sets), key="sets", on_change=_set,
            help="One path.to.key=value a line, as `--set` takes them",
        )  # fmt: skip


def _named() -> None:
    session.choose(Choice(st.session_state["scenario name"]))


def _set() -> None:
    lines = [line.strip() for line in st.session_state["sets"].splitlines()]
    old = session.choice()
    session.choose(Choice(old.name, old.text, tuple(line for line in lines if line)))

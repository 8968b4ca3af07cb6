"""Capacity: which deployment holds the limits for the least, and why that one."""

from __future__ import annotations

from typing import Any

import streamlit as st

import simulator
from dashboard import look, session
from dashboard.capacity import asking, result
from dashboard.capacity.searching import describing, key_of, searching
from dashboard.following import follow

_SEARCHED = "capacity searched"
_SIZE, _SEARCH = "capacity size", "capacity search"


def page() -> None:
    """Draws the page."""
    text = asking.draw()
    possible = text is not None and _size(text)
    st.button(
        "Search", type="primary", icon=":material/search:", disabled=not possible,
        on_click=_begin, args=(text,),
        help="Simulates on all cores; searches of others who use this server wait for their turn",
    )  # fmt: skip
    searched: str | None = st.session_state.get(_SEARCHED)
    if searched is None:
        return
    st.divider()
    if text is not None and searched != text:
        st.info("The plan above has changed since this search.", icon=":material/history:")

    def draw(report: dict[str, Any]) -> None:
        result.draw(report, searched)

    job = session.ask(
        _SEARCH, key_of(searched), searching(searched, session.choice().within), long=True
    )
    follow(_SEARCH, job, draw)


def _begin(text: str) -> None:
    if st.session_state.get(_SEARCHED) == text:  # once more, where it was cancelled
        session.retry(_SEARCH)
    st.session_state[_SEARCHED] = text


def _size(text: str) -> bool:
    """Draws how large the search is; whether it can be begun, as far as is known."""

    def draw(found: dict[str, Any]) -> None:
        words = simulator.asked_words(found)
        bearing = f" {words.bearing}" if words.bearing else ""
        lines = [
            f"Must hold: {' · '.join(words.limits)}{bearing}. Best: the {words.best}.",
            f"{'. '.join(words.space)}.",
            _work(found),
        ]
        st.markdown("\n".join(f"- {look.plain(line)}" for line in lines))

    job = session.ask(_SIZE, key_of(text), describing(text, session.choice().within))
    follow(_SIZE, job, draw)
    return job.error is None


def _work(found: dict[str, Any]) -> str:
    count, seconds, workers = found["simulations"], found["estimated_s"], found["workers"]
    if not count:
        return "Nothing is left to simulate."
    time = "" if seconds is None else f", about {simulator.duration(float(f'{seconds:.2g}'))}"
    processes = f"{workers} process{'es' if workers > 1 else ''}"
    return (
        f"A search takes about {count:,} simulations{time} with {processes}; those that are kept "
        "from an earlier search are not done again."
    )


page()

"""What one browser's session holds; nobody else sees it."""

from __future__ import annotations

import os
from urllib.parse import parse_qs

import streamlit as st

from dashboard.background import JOBS, Job, T, Viewer, Work
from dashboard.choice import START, Choice

_CHOICE, _VIEWER, _SLOTS = "_choice", "_viewer", "_slots"


def choice() -> Choice:
    """The scenario of this session; at first the one that the address asks for.

    Raises:
        UserError: the address is damaged.
    """
    if _CHOICE not in st.session_state:
        query = {key: st.query_params.get_all(key) for key in st.query_params}
        query = query or parse_qs(os.environ.get(START, ""))
        st.session_state[_CHOICE] = Choice.from_query(query)
    found: Choice = st.session_state[_CHOICE]
    return found


def choose(new: Choice) -> None:
    """Takes another scenario."""
    st.session_state[_CHOICE] = new


def viewer() -> Viewer:
    """This session, as those who work for it see it."""
    found: Viewer = st.session_state.setdefault(_VIEWER, Viewer())
    return found


def ask(slot: str, key: str, work: Work[T], *, long: bool = False) -> Job[T]:
    """Has work done; what this session asked for in the same slot before is dropped.

    Args:
        slot: what it is for on the page, such as ``load curve``.
        key: equal for equal questions, and for no others.
        work: gives the answer.
        long: many simulations on all cores, for which others wait.
    """
    slots: dict[str, Job[object]] = st.session_state.setdefault(_SLOTS, {})
    name = f"{slot}: {key}"
    before = slots.get(slot)
    if before is not None and before.key == name:  # perhaps cancelled, until ``again``
        return before  # type: ignore[return-value]
    if before is not None:
        before.leave(viewer())
    job = JOBS.ask(name, work, viewer(), long=long)
    slots[slot] = job  # type: ignore[assignment]
    return job


def waits_for(job: Job[T]) -> bool:
    """Whether this session has not cancelled it."""
    return viewer() in job.viewers


def cancel(slot: str) -> None:
    """Drops what this session asked for last in that slot."""
    job = st.session_state.get(_SLOTS, {}).get(slot)
    if job is not None:
        job.leave(viewer())


def again(slot: str) -> None:
    """Lets work that was cancelled or failed be asked for once more."""
    job = st.session_state.get(_SLOTS, {}).pop(slot, None)
    if job is not None:
        JOBS.again(job.key)

"""What one browser's session holds; nobody else sees it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs

import streamlit as st
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from dashboard.background import CANCELLED, FAILED, JOBS, Job, T, Viewer, Work
from dashboard.choice import SCENARIO, SET, START, YAML, Choice
from dashboard.uploads import Uploads

_CHOICE, _BASELINE, _WRITTEN = "_choice", "_baseline", "_written"
_VIEWER, _SLOTS, _UPLOADS = "_viewer", "_slots", "_uploads"

BASELINE = "baseline_"
"""Before the names of the baseline's parameters in the address."""

_OURS = tuple(prefix + name for prefix in ("", BASELINE) for name in (SCENARIO, SET, YAML))

Query = dict[str, str | list[str]]


def choice() -> Choice:
    """The scenario of this session; at first the one that the address asks for.

    Raises:
        UserError: the address is damaged.
    """
    if _CHOICE not in st.session_state:
        _take(_address() or first_query())
    found: Choice = st.session_state[_CHOICE]
    return found


def first_query() -> dict[str, list[str]]:
    """What an address without parameters stands for: what the command line says."""
    return parse_qs(os.environ.get(START, ""))


def choose(new: Choice) -> None:
    """Takes another scenario."""
    st.session_state[_CHOICE] = new


def baseline() -> Choice | None:
    """What this session compares with; None: nothing is pinned."""
    found: Choice | None = st.session_state.get(_BASELINE)
    return found


def pin(new: Choice | None) -> None:
    """Compares with this from now on; None: with nothing."""
    st.session_state[_BASELINE] = new


def uploads() -> Uploads:
    """Files that the user of this session sent; scenarios may name them by their paths."""
    if _UPLOADS not in st.session_state:
        st.session_state[_UPLOADS] = Uploads()
    found: Uploads = st.session_state[_UPLOADS]
    return found


def follow_address() -> None:
    """Takes what the address says, if somebody else changed it: the user, or the way back.

    Raises:
        UserError: the address is damaged.
    """
    there = _address()
    if _WRITTEN in st.session_state and there and there != st.session_state[_WRITTEN]:
        st.session_state[_WRITTEN] = there
        _take(there)


def start_over() -> None:
    """The default scenario and no baseline, whatever the address says."""
    st.query_params.clear()
    choose(Choice(uploads=uploads().folder))
    pin(None)


def write_address() -> None:
    """Makes the address say what this session holds."""
    query: Query = choice().to_query()
    pinned = baseline()
    if pinned is not None:
        query |= pinned.to_query(BASELINE)
    for name in _OURS:
        if name in query:
            st.query_params[name] = query[name]
        elif name in st.query_params:
            del st.query_params[name]
    st.session_state[_WRITTEN] = _address()


def _address() -> dict[str, list[str]]:
    return {name: st.query_params.get_all(name) for name in _OURS if name in st.query_params}


def _take(query: dict[str, list[str]]) -> None:
    folder: Path = uploads().folder
    choose(Choice.from_query(query, uploads=folder))
    if any(name.startswith(BASELINE) for name in query):
        pin(Choice.from_query(query, BASELINE, folder))
    else:
        pin(None)


def viewer() -> Viewer:
    """This session, as those who work for it see it."""
    if _VIEWER not in st.session_state:
        st.session_state[_VIEWER] = Viewer(_connection())
    found: Viewer = st.session_state[_VIEWER]
    return found


def _connection() -> Callable[[], bool]:
    """Tells whether this session's browser is connected; may be called by any thread."""
    context = get_script_run_ctx()
    if context is None or not runtime.exists():
        return lambda: True
    name = context.session_id  # the context itself would keep the session
    return lambda: not runtime.exists() or runtime.get_instance().is_active_session(name)


def ask(
    slot: str, key: str, work: Work[T], *, question: str | None = None, long: bool = False
) -> Job[T]:
    """Has work done; what this session asked for in the same slot before is dropped.

    Args:
        slot: what it is for on the page, such as ``load curve``.
        key: equal for equal questions, and for no others.
        work: gives the answer.
        question: of which kind it is, where several slots ask the same; default: the slot's own.
        long: many simulations on all cores, for which others wait.
    """
    slots: dict[str, Job[object]] = st.session_state.setdefault(_SLOTS, {})
    name = name_of(question or slot, key)
    before = slots.get(slot)
    if before is not None and before.key == name:  # perhaps cancelled, until ``again``
        return before  # type: ignore[return-value]
    job = JOBS.ask(name, work, viewer(), long=long)
    slots[slot] = job  # type: ignore[assignment]
    if before is not None and before not in slots.values():
        before.leave(viewer())
    return job


def name_of(question: str, key: str) -> str:
    """What ``JOBS`` calls the job of a question."""
    return f"{question}: {key}"


def waits_for(job: Job[T]) -> bool:
    """Whether this session has not cancelled it."""
    return viewer() in job.viewers


def cancel(slot: str) -> None:
    """Drops what this session asked for last in that slot."""
    job = st.session_state.get(_SLOTS, {}).get(slot)
    if job is not None:
        job.leave(viewer())


def drop(slot: str) -> None:
    """Wants nothing in that slot any more; what another one wants as well goes on."""
    slots = st.session_state.get(_SLOTS, {})
    job = slots.pop(slot, None)
    if job is not None and job not in slots.values():
        job.leave(viewer())


def retry(slot: str) -> None:
    """``again``, if what this session asked for last in that slot was cancelled or failed."""
    job = st.session_state.get(_SLOTS, {}).get(slot)
    if job is not None and (not waits_for(job) or job.state in (CANCELLED, FAILED)):
        again(slot)


def again(slot: str) -> None:
    """Lets work that was cancelled or failed be asked for once more."""
    job = st.session_state.get(_SLOTS, {}).pop(slot, None)
    if job is not None:
        JOBS.again(job.key)

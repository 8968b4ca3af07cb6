"""Draws what background work has found so far, and again when there is more."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard import look, session
from dashboard.background import CANCELLED, FAILED, Job, T

PATIENCE_S = 0.8
"""So long a page waits for a first answer before it shows a bar."""

FOR_THE_LAST_S = 0.4
"""So long it waits for the last one, so that quick answers are drawn once and not twice."""

EVERY_S = 0.5


def follow(
    slot: str,
    job: Job[T],
    draw: Callable[[T], None],
    *,
    patience_s: float = PATIENCE_S,
    further: bool = False,
) -> None:
    """Draws the job's newest answer; while it runs, a bar with a button to cancel it above.

    Args:
        slot: see ``session.ask``.
        job: the work.
        draw: draws an answer, a first one or the last.
        patience_s: how long to wait for an answer before anything is drawn.
        further: this is a further part of what is followed above already, which has the bar.
    """
    if job.latest is None and not further:
        job.wait(min(FOR_THE_LAST_S, patience_s))
        job.wait_for_some(max(0.0, patience_s - FOR_THE_LAST_S))
    running = not job.ended and session.waits_for(job)

    @st.fragment(run_every=EVERY_S if running else None)
    def part() -> None:
        if running and job.ended:
            st.rerun()
        if not further:
            _standing(slot, job)
        if job.latest is not None:
            draw(job.latest)

    part()


def _standing(slot: str, job: Job[T]) -> None:
    if job.state == FAILED:
        failed(job)
        if job.fault is not None:  # a mistake is mended by asking for something else
            _again(slot, st.container())
    elif job.state == CANCELLED or not session.waits_for(job):
        left, right = st.columns([5, 1], vertical_alignment="center")
        kept = "" if job.latest is None else " What was found until then is below."
        left.info(f"Cancelled.{kept}", icon=":material/block:")
        _again(slot, right)
    elif not job.ended:
        left, right = st.columns([5, 1], vertical_alignment="center")
        left.progress(job.progress or 0.0, text=job.stage.capitalize() or "Waiting for its turn")
        right.button("Cancel", key=f"cancel: {slot}", on_click=session.cancel, args=(slot,))


def _again(slot: str, place: DeltaGenerator) -> None:
    if place.button("Run again", key=f"again: {slot}", on_click=session.again, args=(slot,)):
        st.rerun()  # the whole page, which asks; the fragment alone would draw the old job


def failed(job: Job[T]) -> None:
    """Why it failed: one sentence if the question was wrong, a report if the program is."""
    if job.error is not None:
        look.wrong(job.error)
    elif job.fault is not None:
        st.error("This is a fault of the program, not yours. What it stumbled over is below.")
        with st.expander("For a report"):
            st.code("".join(traceback.format_exception(job.fault)), language=None)

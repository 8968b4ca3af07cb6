"""What-if: change a knob, see latency, throughput and cost move."""

from __future__ import annotations

import streamlit as st

from dashboard import answers, look, session
from dashboard.following import follow
from simulator import UserError


def draw(run: answers.Run) -> None:
    """The run's figures."""
    st.metric("TTFT p99", look.told(run.summary, "latency.ttft_ms.p99"))


def page() -> None:
    """Draws the page."""
    choice = session.choice()
    try:
        key = choice.key
    except UserError as error:
        look.wrong(error)
        return
    follow("run", session.ask("run", key, answers.run(choice)), draw)


page()

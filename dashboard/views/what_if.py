"""What-if: change a knob, see latency, throughput and cost move."""

from __future__ import annotations

from typing import Any

import streamlit as st

from dashboard import answers, curves, kpis, look, session
from dashboard.choice import Choice
from dashboard.following import follow
from simulator import UserError, load_lines, run_lines


def page() -> None:
    """Draws the page."""
    choice = session.choice()
    try:
        key = choice.key
    except UserError as error:
        look.wrong(error)
        return
    compared = _baseline()
    job = session.ask("run", key, answers.run(choice), question=answers.RUN)
    follow("run", job, lambda run: _figures(run, compared))
    _load_curve(choice, key)
    follow("run", job, _course, further=True)


def _load_curve(choice: Choice, key: str) -> None:
    st.subheader("Load–latency curve")
    wanted = st.toggle(
        "Work it out", key="load curve", persist_state="session",
        help="Simulates the scenario at loads from a tenth of what saturates it to beyond, and "
        "looks for the highest that holds the SLO: some thirty simulations on all cores",
    )  # fmt: skip
    if wanted:
        follow("load", session.ask("load", key, answers.load(choice), long=True), _load)
    else:
        session.drop("load")


def _baseline() -> answers.Run | None:
    """The run of the pinned baseline, as far as it is; a bar until it is there."""
    pinned = session.baseline()
    if pinned is None:
        return None
    try:
        job = session.ask("baseline", pinned.key, answers.run(pinned), question=answers.RUN)
    except UserError as error:
        st.error(look.plain(f"The baseline: {error}"), icon=":material/error:")
        return None
    changed = ", ".join(pinned.sets) or "as it is"
    st.caption(f"Compared with the baseline {look.plain(pinned.name)}: {look.plain(changed)}")
    follow("baseline", job, _nothing)
    return job.latest


def _nothing(_: answers.Run) -> None:
    """Only the bar of the baseline is drawn."""


def _figures(run: answers.Run, compared: answers.Run | None) -> None:
    summary = run.summary
    if run.of is not None:
        count = summary["requests"]["sent"]
        st.info(
            f"A preview: the first {count:,} of {run.of:,} requests. The rest is being simulated.",
            icon=":material/hourglass_top:",
        )
    kpis.draw(summary, compared.summary if compared else None)
    _verdict(run)
    shown = st.segmented_control(
        "Latency distributions", ("Chart", "Table"), default="Chart", key="latencies as",
        required=True, persist_state="session",
    )  # fmt: skip
    if shown == "Table":
        curves.table(summary, compared.summary if compared else None)
    else:
        curves.distributions(run.distributions, compared.distributions if compared else None)


def _course(run: answers.Run) -> None:
    st.subheader("Over the simulated time")
    curves.over_time(run.over_time)
    _provenance(run.summary)
    _downloads(run)


def _verdict(run: answers.Run) -> None:
    summary = run.summary
    left, right = st.columns(2)
    with left:
        st.subheader("SLO")
        words = {True: st.success, False: st.error, None: st.info}
        lines = [look.plain(line) for _, line in run_lines(summary)["slo"]]
        verdict = "\n\n".join(lines) or "No limit is given: set some in the sidebar."
        words[summary["slo"]["held"]](verdict)
        for warning in summary["warnings"]:
            st.warning(look.plain(warning), icon=":material/warning:")
    with right:
        st.subheader("What binds")
        st.markdown("\n\n".join(look.plain(sentence) for sentence in run.binds))


def _provenance(summary: dict[str, Any]) -> None:
    st.subheader("What was simulated")
    lines = run_lines(summary)
    for column, part in zip(st.columns(2), ("simulated", "sources"), strict=True):
        with column:
            for title, sentence in lines[part]:
                short, _, residuals = sentence.partition(". Median residuals: ")
                more = f"Median residuals: {look.plain(residuals)}" if residuals else None
                st.markdown(f"**{look.plain(title)}** {look.plain(short)}", help=more)
    for note in summary["notes"]:
        st.caption(look.plain(note))


def _downloads(run: answers.Run) -> None:
    if not run.final:
        return
    name = run.summary["name"]
    left, right, _ = st.columns([1, 1, 3])
    left.download_button(
        "Summary as JSON", run.json(), f"{name}.json", "application/json",
        icon=":material/download:", on_click="ignore", width="stretch",
        help="What `simulate run --json` prints",
    )  # fmt: skip
    right.download_button(
        "HTML report", run.report, f"{name}.html", "text/html", icon=":material/download:",
        on_click="ignore", width="stretch", help="The file that `simulate run` writes",
    )  # fmt: skip


def _load(load: answers.Load) -> None:
    report = load.report
    for title, sentence in load_lines(report):
        st.markdown(f"**{look.plain(title) or '…'}** {look.plain(sentence)}")
    if load.quick:
        st.caption("A quick look: more loads around the knee and intervals follow.")
    options = {title: (path, limit) for path, title, limit in curves.LOAD_METRICS}
    shown = st.segmented_control(
        "Latency over load", (*options, "Table"), default="TTFT p99", key="load as", required=True,
        persist_state="session",
    )  # fmt: skip
    if shown == "Table":
        curves.load_table(report)
    else:
        path, limit = options[str(shown)]
        slo = session.choice().scenario.slo
        curves.load(report, path, str(shown), getattr(slo, limit) if limit else None)


page()

"""What a search found: in words first, then in tables, plots and files."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

import simulator
from dashboard import look, session
from dashboard.capacity import files, trade_offs
from dashboard.capacity.searching import NAME, key_of
from dashboard.capacity.trade_offs import STATES
from dashboard.choice import Choice
from simulator import PlanWords, UserError

Report = dict[str, Any]

SURE = {True: "Yes", False: "No", None: "Not known"}

MOST_ROWS = 2_000
"""Of a table on the page; the files have all."""


def draw(report: Report, text: str) -> None:
    """Draws it.

    Args:
        report: what ``simulator.plan`` gave.
        text: the plan's YAML.
    """
    words, winner = simulator.plan_words(report), report["winner"]
    key = f"capacity result {key_of(text)}"
    _verdict(words, winner)
    if winner:
        _take(winner["scenario"], str(winner["label"]), f"{key} take")
    st.caption(look.plain(f"{words.search}. {' '.join(words.prices)}"))
    files.reports(report, key)
    _tables(words)
    if report["trials"]:
        st.subheader("Trade-offs")
        pick = f"{key} deployment"
        trade_offs.draw(report, pick, key)
        _deployment(report, text, pick)
    if winner:
        st.subheader("Deployment files of the one to take")
        files.deployment(winner["scenario"], key)
    _ruled_out(report, words)
    if report["trials"]:
        _all(report)


def _verdict(words: PlanWords, winner: Report | None) -> None:
    bearing = f" {words.asked.bearing}" if words.asked.bearing else ""
    asked = look.plain(f"{' · '.join(words.asked.limits)}{bearing}; the {words.asked.best} is best")
    if winner is None:
        st.error(f"**{look.plain(words.verdict)}** Asked: {asked}.", icon=":material/block:")
    else:
        st.success(
            f"**{look.plain(words.verdict)}** for {look.plain(words.costs)}",
            icon=":material/check_circle:",
        )
        _tiles(winner)
        st.caption(f"Asked: {asked}.")
    st.markdown("\n".join(f"- {look.with_code(reason)}" for reason in words.reasons))


def _tiles(winner: Report) -> None:
    def mean(path: str) -> str:
        figure = winner["figures"].get(path) or {}
        return simulator.figure_text(figure.get("mean"), path)

    price = "cost.usd_per_hour"
    usd = winner["usd_per_hour"]
    tiles = [
        ("Devices", f"{winner['devices']:,} × {winner['axes']['hardware']}"),
        ("Cost per hour", mean(price) if usd is None else simulator.figure_text(usd, price)),
        ("Cost per million output tokens", mean("cost.usd_per_million_output_tokens")),
        ("TTFT p99", mean("latency.ttft_ms.p99")),
        ("TPOT p99", mean("latency.tpot_ms.p99")),
        ("Sure", SURE[winner["sure"]]),
    ]
    helps = {
        "Sure": "Whether the limits hold at the bad end of the predictions' 80% interval too",
        "TTFT p99": "With the traffic as it is, mean over the seeds",
        "TPOT p99": "With the traffic as it is, mean over the seeds",
    }
    with st.container(horizontal=True):
        for label, value in tiles:
            st.metric(label, value, help=helps.get(label), width="content")


def _take(yaml: str, label: str, key: str) -> None:
    """A button that makes a deployment the scenario of all pages."""
    if st.button(
        "Take this as the scenario", key=key, type="primary", icon=":material/check:",
        help=f"The sidebar and all other pages show {look.plain(label)}, with the traffic as it is",
    ):  # fmt: skip
        scenario = simulator.parse_scenario(yaml, "winner.yaml")
        session.choose(Choice(scenario.name, yaml, uploads=session.uploads().folder))
        st.rerun()


def _tables(words: PlanWords) -> None:
    for title, table in (
        ("The one to take: what must hold", words.limits),
        ("The best of each kind, with the traffic as it is", words.finalists),
        ("The closest, and what they miss", words.closest),
    ):
        if table:
            st.markdown(f"**{title}**")
            st.dataframe(pd.DataFrame({name or "place": cells for name, cells in table.items()}),
                         hide_index=True)  # fmt: skip


def _deployment(report: Report, text: str, pick: str) -> None:
    trials = {trial["label"]: trial for trial in report["trials"]}
    if st.session_state.get(pick) not in trials:
        st.session_state.pop(pick, None)
    label = st.selectbox(
        "Deployment", list(trials), key=pick, persist_state="session",
        help="Its figures and its scenario are below; a click in a plot chooses as well",
    )  # fmt: skip
    trial = trials[str(label)]
    verdict = f"**{STATES[trial['state']].capitalize()}**, after {trial['seeds']} "
    verdict += "run." if trial["seeds"] == 1 else "runs, each with other traffic."
    worst = trial["problem"] or trial["ended_early"] or (trial["worst"] or {}).get("text", "")
    st.markdown(f"{verdict} {look.plain(worst)}")
    bearing = simulator.asked_words(report).bearing
    st.caption(f"Figures {bearing or 'with the traffic as it is'}; the scenario as it would run.")
    _figures(trial)
    try:
        plan = simulator.parse_plan(text, NAME, within=session.choice().within)
        scenario = simulator.deployment_scenario(plan, trial)
    except UserError as error:
        look.wrong(error)
        return
    if scenario is None:
        return
    yaml = simulator.dump_scenario(scenario)
    with st.container(horizontal=True):
        if report["winner"] is None or label != report["winner"]["label"]:
            _take(yaml, str(label), f"{pick} take")
        st.download_button(
            "Download scenario.yaml", yaml, file_name="scenario.yaml", mime="application/yaml",
            key=f"{pick} yaml", on_click="ignore", icon=":material/download:",
        )  # fmt: skip
    with st.expander("Its scenario as YAML"):
        st.code(yaml, language="yaml", height=360)


def _figures(trial: Report) -> None:
    known = {path: value for path, value in trial["figures"].items() if value is not None}
    if not known:
        st.caption("No figures: its run was ended early, or there was none.")
        return
    rows = {
        "figure": [simulator.figure_title(path).rpartition(", ")[0] or simulator.figure_title(path)
                   for path in known],
        "value": [simulator.figure_text(value, path) for path, value in known.items()],
    }  # fmt: skip
    st.dataframe(pd.DataFrame(rows), hide_index=True, height=300)


def _ruled_out(report: Report, words: PlanWords) -> None:
    space = report["space"]
    with st.expander("What was ruled out without a simulation"):
        st.markdown("\n".join(f"- {look.plain(line)}" for line in words.asked.space))
        if space["ruled_out"]:
            st.caption("Cannot hold, as no run beats these bounds; the closest of each:")
            rows = [(e["deployments"], e["closest"]) for e in space["ruled_out"][:MOST_ROWS]]
            st.dataframe(pd.DataFrame(rows, columns=["deployments", "why"]), hide_index=True)
        if space["problems"]:
            st.caption("Cannot run:")
            rows = [(e["kinds"], e["problem"]) for e in space["problems"][:MOST_ROWS]]
            st.dataframe(pd.DataFrame(rows, columns=["kinds", "why"]), hide_index=True)


def _all(report: Report) -> None:
    count = len(report["trials"])
    with st.expander(f"All {count:,} deployments that were simulated"):
        table = simulator.plan_table(report)
        if count > MOST_ROWS:
            st.caption(f"The first {MOST_ROWS:,}; deployments.csv has all.")
        st.dataframe(table.head(MOST_ROWS).dropna(axis=1, how="all"), hide_index=True)

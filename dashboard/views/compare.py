"""Compare: two to six scenarios side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import pandas as pd
import streamlit as st

from dashboard import answers, compared, look, session, side_by_side
from dashboard.choice import MOST_YAML_BYTES, Choice
from dashboard.compared import MOST, Entry
from dashboard.following import PATIENCE_S, follow
from simulator import UserError, compare_all, scenario_differences, scenario_names

_SHIPPED, _UPLOADS, _EVERYTHING = "compare shipped", "compare uploads", "compare everything"
_PROBLEM = "_compare_problem"
_IN_A_ROW = 3


def page() -> None:
    """Draws the page."""
    _adding()
    entries = compared.entries()
    if not entries:
        st.info(
            f"Add two to {MOST} scenarios: the one of the sidebar, shipped ones, or your own YAML.",
            icon=":material/compare_arrows:",
        )
        return
    done = [
        (entry, summary)
        for entry, summary in zip(entries, _columns(entries), strict=True)
        if summary is not None
    ]
    if len(entries) == 1:
        st.info("Add another scenario to compare with.", icon=":material/compare_arrows:")
    if not done:
        return
    shown = [entry for entry, _ in done]
    names = compared.titles(shown)
    lines = compare_all([summary for _, summary in done])
    st.subheader("Metrics", anchor=False)
    everything = st.toggle(
        "Every figure", key=_EVERYTHING, persist_state="session",
        help="Those without a better direction, and all percentiles, as well",
    )  # fmt: skip
    st.table(side_by_side.table(lines, names, everything=everything))
    if len(names) > 1:
        st.caption(
            f"In brackets: the difference to {look.plain(names[0])}. Bold with ★: the best, and "
            "what equals it within half a percent."
        )
    st.download_button(
        "Download CSV", lambda: side_by_side.csv(lines, names), "comparison.csv", "text/csv",
        icon=":material/download:", on_click="ignore",
    )  # fmt: skip
    _charts(lines, names)
    _configurations(shown, names)


def _adding() -> None:
    """The ways to put a scenario into the list."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.button(
            "Add the current scenario", icon=":material/add:", on_click=_add_current,
            help="The one of the sidebar, with the values that were changed there",
        )  # fmt: skip
        st.selectbox(
            "Shipped scenario", scenario_names(), index=None, key=_SHIPPED, width=280,
            on_change=_add_shipped, placeholder="Choose one to add",
        )  # fmt: skip
        number = st.session_state.setdefault(_UPLOADS, 0)
        with st.popover("Add your own YAML", icon=":material/upload:"):
            st.file_uploader(
                "Scenario (YAML)", type=["yaml", "yml"], key=f"compare upload {number}",
                on_change=_add_upload, max_upload_size=1,
                help=f"What `simulate check` accepts, of up to {MOST_YAML_BYTES // 1000} kB",
            )  # fmt: skip
    problem = st.session_state.pop(_PROBLEM, None)
    if problem is not None:
        look.wrong(problem)


def _trying(add: Callable[[], None]) -> None:
    try:
        add()
    except UserError as error:
        st.session_state[_PROBLEM] = error


def _add_current() -> None:
    choice = session.choice()
    _trying(lambda: compared.add(_title(choice), choice))


def _title(choice: Choice) -> str:
    """Its name, and what was changed."""
    split = [item.partition("=") for item in choice.sets]
    changed = [f"{path.rpartition('.')[2]}={value}" for path, _, value in split]
    return ", ".join([PurePath(choice.name).stem, *changed])


def _add_shipped() -> None:
    name = st.session_state[_SHIPPED]
    st.session_state[_SHIPPED] = None
    if name is not None:
        _trying(lambda: compared.add(name, Choice(name, uploads=session.uploads().folder)))


def _add_upload() -> None:
    number = st.session_state[_UPLOADS]
    sent = st.session_state.get(f"compare upload {number}")
    if sent is None:
        return
    st.session_state[_UPLOADS] = number + 1
    _trying(lambda: _add_file(sent.name, sent.getvalue()))


def _add_file(name: str, data: bytes) -> None:
    choice = Choice.from_file(name, data, session.uploads().folder)
    compared.add(PurePath(name).stem, choice)


def _columns(entries: tuple[Entry, ...]) -> list[dict[str, Any] | None]:
    """Names, and how far each one's simulation is; gives the summaries that are there."""
    patience = PATIENCE_S
    found = []
    columns = [
        column
        for first in range(0, len(entries), _IN_A_ROW)
        for column in st.columns(min(len(entries), _IN_A_ROW))[: len(entries) - first]
    ]
    for place, (column, entry) in enumerate(zip(columns, entries, strict=True)):
        with column.container(border=True):
            key = f"compare name {place} {entry.slot}"
            st.text_input(
                f"Name of scenario {place + 1}", entry.title, key=key, on_change=_rename,
                args=(place, key), max_chars=compared.MOST_TITLE,
            )  # fmt: skip
            st.caption(look.plain(" ".join([entry.choice.name, *entry.choice.sets])))
            st.button(
                "Remove", key=f"compare remove {entry.slot}", on_click=_remove,
                args=(place, entry.slot), icon=":material/close:", type="tertiary",
                help=f"Take {look.plain(entry.title)} out of the comparison",
            )  # fmt: skip
            found.append(_summary(entry, patience))
            patience = 0.0
    return found


def _summary(entry: Entry, patience: float) -> dict[str, Any] | None:
    """Of one scenario, once it is there."""
    try:
        key = entry.choice.key
    except UserError as error:
        look.wrong(error)
        return None
    job = session.ask(entry.slot, key, answers.run(entry.choice), question=answers.RUN)
    follow(entry.slot, job, lambda _: None, patience_s=patience)
    # The first requests of long traffic compare with nothing.
    return None if job.latest is None or job.latest.preview else job.latest.summary


def _rename(place: int, key: str) -> None:
    before = compared.entries()[place].title
    _trying(lambda: compared.rename(place, st.session_state[key]))
    if not st.session_state[key].strip():
        st.session_state[key] = before


def _remove(place: int, slot: str) -> None:
    session.drop(slot)
    compared.remove(place)


def _charts(lines: list[Any], names: list[str]) -> None:
    st.subheader("Side by side", anchor=False)
    charts = side_by_side.charts(lines, names)
    for first in range(0, len(charts), 2):
        for column, (title, chart) in zip(st.columns(2), charts[first : first + 2], strict=False):
            with column:
                st.markdown(f"**{title}**")
                look.show(chart, f"compare {title}", f"{title} of each scenario")
    st.caption("Lines at the ends: 80% intervals, kernels, engine and chance together.")


def _configurations(shown: list[Entry], names: list[str]) -> None:
    if len(shown) < 2:
        return
    st.subheader("What differs in the scenarios", anchor=False)
    found = scenario_differences([entry.choice.scenario for entry in shown])
    if not found:
        st.caption("Nothing but their names.")
        return
    rows = {f"`{each.key}`": [side_by_side.value(value) for value in each.values] for each in found}
    st.table(pd.DataFrame.from_dict(rows, orient="index", columns=[look.plain(n) for n in names]))
    st.caption("– where a scenario has no such key, or leaves it to the engine or the device.")


page()

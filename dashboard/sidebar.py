"""The scenario: which one, its knobs, and the ways in and out."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from dashboard import knobs, look, session
from dashboard.choice import MOST_YAML_BYTES, Choice
from simulator import Scenario, UserError, scenario_names

_NAME, _FILE, _SETS, _TEXT = "scenario name", "scenario file", "sets", "scenario text"
_PROBLEM = "scenario file: problem"


def draw() -> None:
    """Draws the sidebar, and takes what is changed there."""
    choice = session.choice()
    with st.sidebar:
        _which(choice)
        scenario = _scenario(choice)
        _buttons(choice)
        if scenario is not None:
            for title, found in knobs.groups(scenario):
                with st.expander(title, expanded=title in knobs.OPEN):
                    for knob in found:
                        knobs.draw(knob, choice)
        _others(choice)
        _yaml(choice)


def _scenario(choice: Choice) -> Scenario | None:
    """What the knobs show: the scenario, or its base while a value of it is wrong."""
    for each in (choice, replace(choice, sets=())):
        try:
            return each.scenario
        except UserError:
            pass
    return None


def _which(choice: Choice) -> None:
    names = scenario_names()
    own = choice.name if choice.text or choice.name not in names else None
    options = names if own is None else [f"{own} (yours)", *names]
    st.session_state[_NAME] = choice.name if own is None else options[0]
    st.selectbox(
        "Scenario", options, key=_NAME, on_change=_named,
        help="A shipped scenario; under “Scenario as YAML” you may give your own",
    )  # fmt: skip
    try:
        if choice.scenario.description:
            st.caption(look.plain(choice.scenario.description))
    except UserError:
        pass  # told on the page


def _buttons(choice: Choice) -> None:
    left, right = st.columns(2)
    left.button(
        "Reset", on_click=_reset, disabled=not choice.sets, icon=":material/restart_alt:",
        help="The scenario's own values again", width="stretch",
    )  # fmt: skip
    if session.baseline() is None:
        right.button(
            "Pin", on_click=session.pin, args=(choice,), icon=":material/keep:", width="stretch",
            help="Takes the scenario as it is now for the baseline that all pages compare with",
        )  # fmt: skip
    else:
        right.button(
            "Unpin", on_click=session.pin, args=(None,), icon=":material/keep_off:",
            help="Compares with no baseline any more", width="stretch",
        )  # fmt: skip


def _others(choice: Choice) -> None:
    st.session_state[_SETS] = "\n".join(choice.sets)
    st.text_area(
        "Other values", key=_SETS, on_change=_set, placeholder="engine.block_size=32",
        help="One path.to.key=value a line, as `--set` takes them; what the knobs replace stands "
        "here as well",
    )  # fmt: skip


def _yaml(choice: Choice) -> None:
    with st.expander("Scenario as YAML", icon=":material/description:"):
        try:
            text = choice.yaml
            st.download_button(
                "Download YAML", text, f"{choice.scenario.name}.yaml", "application/yaml",
                icon=":material/download:", on_click="ignore", width="stretch",
            )  # fmt: skip
        except UserError:
            text = choice.text
        st.caption("The same on the command line")
        st.code(f"simulate run {choice.options}", language="bash", wrap_lines=True)
        _sharing(choice)
        uploaded = st.file_uploader(
            "Your own scenario", type=["yaml", "yml"], max_upload_size=1, key=_FILE,
            on_change=_uploaded, help=f"A scenario file of up to {MOST_YAML_BYTES // 1000} kB",
        )  # fmt: skip
        if uploaded is not None and (problem := st.session_state.get(_PROBLEM)):
            st.error(look.plain(problem), icon=":material/error:")
        with st.form("edit", border=False):
            st.session_state[_TEXT] = text
            st.text_area("Edit it", key=_TEXT, height=320, max_chars=MOST_YAML_BYTES)
            st.form_submit_button("Apply", on_click=_edited, width="stretch")


def _sharing(choice: Choice) -> None:
    try:
        files = choice.uploaded
    except UserError:
        return
    if files:
        names = look.plain(", ".join(file.name for file in files))
        st.warning(
            f"The scenario uses {names}, which you uploaded: it is here for this tab only, so who "
            "opens the address or runs the YAML needs that file as well, and its own path to it."
        )
    else:
        st.caption("The address of this page restores all of it: copy it to share the scenario.")


def _named() -> None:
    name = st.session_state[_NAME]
    if name in scenario_names():
        session.choose(Choice(name, uploads=session.uploads().folder))


def _reset() -> None:
    session.choose(replace(session.choice(), sets=()))


def _set() -> None:
    lines = [line.strip() for line in st.session_state[_SETS].splitlines()]
    session.choose(replace(session.choice(), sets=tuple(line for line in lines if line)))


def _edited() -> None:
    old = session.choice()
    session.choose(replace(old, name=old.file, text=st.session_state[_TEXT] or "\n", sets=()))


def _uploaded() -> None:
    file = st.session_state[_FILE]
    if file is None:
        return
    try:
        session.choose(Choice.from_file(file.name, file.getvalue(), session.uploads().folder))
        st.session_state.pop(_PROBLEM, None)
    except UserError as error:
        st.session_state[_PROBLEM] = str(error)

"""The form that makes a plan: what to start from, what must hold, what there is to choose from."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import streamlit as st

import simulator
from dashboard import look, session
from dashboard.capacity import space
from dashboard.capacity.form import Form
from dashboard.capacity.limits import limits
from dashboard.capacity.searching import NAME, key_of
from dashboard.choice import MOST_YAML_BYTES
from simulator import UserError

SIDEBAR, OWN = "The scenario in the sidebar", "A plan of my own"
"""What to start from, beside the shipped plans."""

FIRST_DEVICES = 16
"""Most devices of a deployment, where no plan says it."""

_UPLOADED = "capacity uploaded"

JUDGES = {
    "predicted": "As predicted",
    "pessimistic": "At the bad end of the predictions' 80% interval",
}


def draw() -> str | None:
    """Draws the form.

    Returns:
        The plan's YAML; None where it is wrong, and then the reason is shown.
    """
    try:
        form = _start()
    except UserError as error:
        look.wrong(error)
        return None
    if form is None:
        return None
    left, right = st.columns(2, gap="large")
    document = deepcopy(form.document)
    with left:
        st.subheader("What must hold")
        limits(form, document)
        _bearing(form, document)
    with right:
        st.subheader("Deployments to choose from")
        space.draw(form, document)
    text = simulator.dump_plan(document)
    _as_yaml(text)
    try:
        simulator.parse_plan(text, NAME, within=session.choice().within)
    except UserError as error:
        look.wrong(error)
        return None
    return text


# --- what to start from --------------------------------------------------------------------------


def _start() -> Form | None:
    """The form, filled with what the user starts from; None where there is nothing yet.

    Raises:
        UserError: the scenario or the plan is wrong.
    """
    chosen = st.selectbox(
        "Start from", [SIDEBAR, *simulator.plan_names(), OWN], key="capacity start",
        persist_state="session",
        help="The sidebar's scenario gives traffic, model and SLO; a plan brings its own scenario, "
        "limits and deployments. All of it can be changed below.",
    )  # fmt: skip
    if chosen == SIDEBAR:
        document = simulator.plan_document(session.choice().scenario)
        document["space"] = {"max_devices": FIRST_DEVICES}
        return Form("sidebar", document)
    if chosen != OWN:
        asked = simulator.load_plan(str(chosen))
        st.caption(look.plain(asked.plan.description))
        return Form(str(chosen), simulator.plan_document(asked))
    return _own()


def _own() -> Form | None:
    given = st.file_uploader(
        "Plan, as YAML", type=["yaml", "yml"], max_upload_size=1, key="capacity upload",
        help="What `simulate plan` takes. Files that it names must lie where the server was "
        "started.",
    )  # fmt: skip
    if given is not None:
        raw = given.getvalue()
        if len(raw) > MOST_YAML_BYTES:
            raise UserError(
                f"holds more than the {MOST_YAML_BYTES // 1000} kB allowed", where=given.name
            )
        try:
            st.session_state[_UPLOADED] = (given.name, raw.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise UserError(f"is not UTF-8 text (byte {error.start})", where=given.name) from None
    if _UPLOADED not in st.session_state:
        st.info("Upload a plan, or start from something else.", icon=":material/upload_file:")
        return None
    name, text = st.session_state[_UPLOADED]
    asked = simulator.parse_plan(text, name, within=session.choice().within)
    document = simulator.plan_document(asked)
    return Form(f"{name} {key_of(text)}", document)


# --- what is best, and under what it must hold ---------------------------------------------------


def _bearing(form: Form, document: dict[str, Any]) -> None:
    choices = simulator.plan_choices()
    default = choices.defaults
    now = {**default, **document}
    given = document.get("objective", {"metric": choices.objectives[0]})
    names = [*choices.objectives, *choices.metrics]
    left, right = st.columns([2, 1])
    metric = left.selectbox(
        "Best is", form.first(names, given["metric"]), key=form.key("objective"),
        format_func=lambda name: _objective(str(name)), persist_state="session",
        help="What is compared between the deployments that hold",
    )  # fmt: skip
    ways = {"": "The better one", "lowest": "The lowest", "highest": "The highest"}
    way = right.selectbox(
        "of it", form.first(list(ways), given.get("best", "")), key=form.key("best"),
        format_func=lambda way: ways[str(way)], persist_state="session",
        help="Most figures say themselves which way is better; for others choose one",
    )  # fmt: skip
    document["objective"] = {"metric": metric} | ({"best": way} if way else {})
    first, second, third = st.columns(3)
    with first:
        headroom = form.number(
            "Headroom, %", "headroom", 100 * now["headroom"], most=1000.0, step=5.0,
            text="All must hold with so much more traffic",
        )  # fmt: skip
    with second:
        spare = form.whole(
            "Spare replicas", "spare", now["spare_replicas"], least=0, most=64,
            text="Replicas, of each pool, that may be missing while all holds",
        )  # fmt: skip
    with third:
        lost = form.number(
            "Lost requests, %", "lost", 100 * now["max_lost_share"], most=100.0,
            step=0.1, text="Share of requests that may be rejected, time out or fail",
        )  # fmt: skip
    form.put(document, "headroom", round((headroom or 0.0) / 100, 9), default["headroom"])
    form.put(document, "spare_replicas", spare, default["spare_replicas"])
    form.put(document, "max_lost_share", round((lost or 0.0) / 100, 9), default["max_lost_share"])
    first, second, third = st.columns([2, 1, 1])
    judge = first.selectbox(
        "Limits must hold", form.first(list(choices.judges), now["judge"]),
        key=form.key("judge"), format_func=lambda name: JUDGES.get(str(name), str(name)),
        persist_state="session",
        help="A prediction is off by some share; pessimistic ones still hold where it is",
    )  # fmt: skip
    with second:
        seeds = form.whole(
            "Seeds", "seeds", now["seeds"], least=1, most=20,
            text="Most runs of a deployment whose verdict is close, each with other traffic",
        )  # fmt: skip
    with third:
        others = form.whole(
            "Runners-up", "runners", now["runners_up"], least=0, most=20,
            text="Further kinds of deployment to find, after the best",
        )  # fmt: skip
    form.put(document, "judge", judge, default["judge"])
    form.put(document, "seeds", seeds, default["seeds"])
    form.put(document, "runners_up", others, default["runners_up"])


def _objective(name: str) -> str:
    if name in simulator.plan_choices().objectives:
        return name.replace("_", " ").capitalize()
    return simulator.figure_title(name)


def _as_yaml(text: str) -> None:
    with st.expander("The plan as YAML, and the same search on the command line"):
        left, right = st.columns([3, 1], vertical_alignment="center")
        left.code(f"simulate plan {NAME}", language="sh")
        right.download_button(
            f"Download {NAME}", text, file_name=NAME, mime="application/yaml",
            key="capacity plan file", on_click="ignore",
        )  # fmt: skip
        st.code(text, language="yaml", height=360)

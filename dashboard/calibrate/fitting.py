"""Fit your own: an engine profile from a handful of one's own measured servers."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from calibration.validate import TITLES, example_csv
from dashboard import look, session
from dashboard.calibrate import charts, work
from dashboard.calibrate.points import MOST_MB, Points, uploaded
from dashboard.following import follow
from simulator import UserError, engine_names, load_engine, with_unit

UPLOAD, ENGINE, ASKED = "calibration own", "calibration engine", "calibration asked"
ENOUGH_ROWS = 5
"""With fewer, most of the seven constants stay where they were."""

COLUMNS = (
    ("model", "yes", "name of a model, or its Hugging Face repository"),
    ("system", "yes", "hardware profile, such as h100-sxm"),
    ("engine", "yes", "engine profile, such as vllm; rows of other engines are left out"),
    ("isl, osl", "yes", "prompt and output tokens of a request"),
    ("concurrency or rate_per_s", "one of them", "users at once, or requests sent a second"),
    ("ttft_ms, tpot_ms", "one of them", "measured time to first token, and per output token, ms"),
    ("statistic", "no", "of both: mean (default), median, p50, p90, p95 or p99"),
    ("version", "no", "release of the engine, such as 0.19.0; default: the profile's"),
    ("precision", "no", "of the checkpoint: bf16, fp8, fp4, int4, …; default: the model's own"),
    ("tp, replicas", "no", "devices that share every layer, and copies of the model; default 1"),
    ("num_prompts", "no", "requests sent in all; default: ten a user"),
    ("random_prompts", "no", "true if the load generator sent random tokens"),
    ("prefix_caching, max_num_seqs, max_num_batched_tokens", "no", "as the server was started"),
    ("id", "no", "name of the row; default: its line"),
)


def draw() -> None:
    """Draws this part of the page."""
    st.markdown(
        "Measure a handful of servers of your own, five to ten that differ in users and prompt "
        "length, and fit an engine's host time, kernel launches and front end to them. The same "
        "as `simulate fit --served FILE --engine NAME --out own.yaml`."
    )
    with st.expander("What the CSV needs"):
        st.dataframe(
            pd.DataFrame(COLUMNS, columns=["column", "needed", "what it holds"]), hide_index=True,
            alt="Columns of a file of measured servers",
        )  # fmt: skip
        st.download_button(
            "An example", example_csv(), "example-points.csv", "text/csv", on_click="ignore",
            key="calibration example", help="Some rows of the shipped sample, in these columns",
        )  # fmt: skip
    left, right = st.columns(2)
    names = engine_names()
    engine = right.selectbox(
        "Engine profile to start from", names, key=ENGINE, persist_state="session",
        index=names.index("vllm"),
        help="Its constants are the prior: what your rows do not tell stays as it is there",
    )  # fmt: skip
    file = left.file_uploader(
        "CSV file of your servers", type=["csv"], key=UPLOAD, max_upload_size=MOST_MB,
        help="Kept for as long as this tab is open, and seen by no other session",
    )  # fmt: skip
    if file is None:
        st.session_state[ASKED] = None
        return
    try:
        points = uploaded(file.name, file.getvalue(), session.uploads())
        rows = _look(points, engine)
    except UserError as error:
        look.wrong(error)
        return
    asked = (points.key, engine)
    if not rows:
        return
    if right.button(
        "Fit", type="primary", key="calibration fit", icon=":material/tune:",
        help="Takes some seconds to minutes: every row is simulated about a hundred times",
    ):  # fmt: skip
        st.session_state[ASKED] = asked
    if st.session_state.get(ASKED) == asked:
        folder = points.file.parent / "fit"
        key = f"{points.key} {engine}"
        work_ = work.fitted(points, engine, folder)
        follow("fit", session.ask("fit", key, work_, long=True), _answer)


def _look(points: Points, engine: str) -> int:
    """Tells what the file holds; how many rows are of this engine."""
    dataset = points.read()
    title = load_engine(engine).title
    rows = sum(load_engine(p.engine).name == engine for p in dataset.points if _known(p.engine))
    text = f"{len(dataset.points) + len(dataset.skipped):,} rows, {rows:,} of {title}."
    if not rows:
        look.wrong(
            UserError(f"has no row of {title}", where=points.file.name,
                      hint="choose the engine that the column 'engine' names")
        )  # fmt: skip
    elif rows < ENOUGH_ROWS:
        st.warning(
            f"{text} So few tell little: what they do not tell stays as the profile has it. Five "
            "to ten rows that differ in users and prompt length are enough."
        )
    else:
        st.caption(text)
    return rows


def _known(engine: str) -> bool:
    try:
        load_engine(engine)
    except UserError:
        return False
    return True


def _answer(found: work.Fitting) -> None:
    fit = found.fit
    st.subheader("Errors before and after")
    st.dataframe(
        table(found), hide_index=True, key="calibration own errors",
        column_config=dict.fromkeys(
            ("before, %", "left out, %", "after, %"), st.column_config.NumberColumn(format="%.1f%%")
        )
        | dict.fromkeys(
            ("bias before, ×", "bias left out, ×", "bias after, ×"),
            st.column_config.NumberColumn(format="%.2f"),
        ),
        alt="Median errors before the fit, of rows left out, and after it",
    )  # fmt: skip
    if fit.rows < 2:
        told = "With a single row nothing can be left out: that column has the constants as before."
    elif fit.left_out_by == "group":
        told = (
            "**Left out**: each row predicted with constants fitted without all rows of its group "
            "(model, GPU, engine, version and precision). This is what to expect for others."
        )
    else:
        told = (
            "**Left out**: each row predicted with constants fitted without that row. All rows are "
            "of one group, so this tells of other loads on the same servers, and nothing of other "
            "models or GPUs."
        )
    st.caption(
        f"Medians of |predicted − measured| / measured over {fit.rows} rows. {told} **After**: the "
        "fit to all rows, which has seen every one of them."
    )
    if fit.rows < fit.given:
        st.caption(f"{fit.given - fit.rows} of {fit.given} rows are of other engines, cannot be "
                   "simulated or have neither TTFT nor TPOT.")  # fmt: skip
    left, right = st.columns(2)
    for place, metric in zip((left, right), _metrics(found), strict=False):
        with place:
            look.show(
                charts.before_after(fit.checks, metric), f"own {metric}",
                f"Predicted over measured {TITLES[metric]} of every row before and after the fit",
            )  # fmt: skip
    st.caption(charts.LINES)
    with st.expander("Every row"):
        st.dataframe(pd.DataFrame(_rows(found)), hide_index=True, alt="Every row")
    st.subheader("The engine profile")
    for line in found.said:
        st.caption(look.plain(line))
    with st.container(horizontal=True):
        st.download_button(
            "Download the profile", found.yaml, found.name, "application/yaml", on_click="ignore",
            key="calibration yaml", type="primary", icon=":material/download:",
            help="What `simulate fit --served --out` writes; name the file in a scenario as "
            "engine.profile",
        )  # fmt: skip
        if st.button(
            "Use in the scenario", key="calibration use",
            help="Sets engine.profile of the sidebar's scenario to this profile, for this session",
        ):  # fmt: skip
            _use(found)
            st.rerun()  # the sidebar, too
    if st.session_state.get("calibration used") == found.name:
        st.success(
            "The scenario in the sidebar now runs with this profile.", icon=":material/check:"
        )


def _use(found: work.Fitting) -> None:
    file = session.uploads().keep(found.name, found.yaml.encode())
    session.choose(session.choice().with_set("engine.profile", str(file)))
    st.session_state["calibration used"] = found.name


def _metrics(found: work.Fitting) -> list[str]:
    return [name for name in TITLES if any(c.metric == name for c in found.fit.checks)]


def table(found: work.Fitting) -> pd.DataFrame:
    """Median errors and biases of each metric before, left out and after."""
    rows = []
    for metric in _metrics(found):
        row: dict[str, Any] = {"metric": TITLES[metric]}
        for which in ("before", "left_out", "after"):
            own = found.fit.errors(metric, which)
            name = which.replace("_", " ")
            row |= {"n": own.n, f"{name}, %": own.median_ape_pct, f"bias {name}, ×": own.bias_ratio}
        rows.append(row)
    return pd.DataFrame(rows)


def _rows(found: work.Fitting) -> list[dict[str, str]]:
    return [
        {
            "row": check.id, "metric": TITLES[check.metric],
            **{name.replace("_", " "): with_unit(getattr(check, name), "ms")
               for name in ("measured", "before", "left_out", "after")},
        }
        for check in found.fit.checks
    ]  # fmt: skip

"""Validation: measured points simulated the way they were measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import streamlit as st

from calibration.validate import (
    DIMENSIONS,
    SAMPLES,
    TITLES,
    UNITS,
    Comparison,
    by,
    coverage_pct,
    csv_text,
    describe,
    dominant,
    errors,
    measured,
    reasons,
    repeated,
    usual_folder,
)
from dashboard import look, session
from dashboard.calibrate import charts, work
from dashboard.calibrate.points import MOST_MB, Points, shipped, uploaded
from dashboard.following import follow
from simulator import UserError, with_unit

OWN = "own"
SOURCE, UPLOAD, POINT = "calibration source", "calibration points", "calibration point"


def draw() -> None:
    """Draws this part of the page."""
    left, right = st.columns(2)
    source = left.selectbox(
        "Measured points", [*SAMPLES, OWN], key=SOURCE, persist_state="session",
        format_func=_title,
        help="Rows of measured servers. Each is simulated the way it was measured, and predicted "
        "TTFT, TPOT, E2E and throughput are held against the measured ones.",
    )  # fmt: skip
    points: Points | None = None
    folder = Path()
    if source == OWN:
        points = ask_for_file(right, UPLOAD)
        if points is not None:
            folder = points.file.parent / "validation"
    else:
        points, folder = shipped(source), usual_folder(source)
        right.caption(
            "Predictions are kept where `simulate validate` keeps them, in "
            f"`{folder}`, so that a second look is instant."
        )
    if points is None:
        return
    follow(
        "validation",
        session.ask("validation", points.key, work.validated(points, folder), long=points.own),
        _answer,
    )


def _title(name: str) -> str:
    words = SAMPLES.get(name, "a file of mine")
    return words[:1].upper() + words[1:]


def ask_for_file(place: st.delta_generator.DeltaGenerator, key: str) -> Points | None:
    """The file of measured points that the user uploads; None as long as there is none."""
    file = place.file_uploader(
        "CSV file with a row for each measured server", type=["csv"], key=key,
        max_upload_size=MOST_MB,
        help="The columns are those of `simulate validate`; the part Fit your own explains them. "
        "The file is kept for as long as this tab is open, and no other session sees it.",
    )  # fmt: skip
    if file is None:
        st.info("Upload a file to see how far predictions are off.", icon=":material/upload_file:")
        return None
    try:
        return uploaded(file.name, file.getvalue(), session.uploads())
    except UserError as error:
        look.wrong(error)
        return None


def _answer(answer: work.Validated) -> None:
    found, skipped = answer.validation.comparisons, answer.validation.skipped
    if not answer.whole:
        st.caption(f"{len(found):,} of {answer.total or 0:,} points so far.")
    if answer.note:
        st.caption(look.plain(answer.note))
    if not found:
        if answer.whole:
            st.warning("None of the rows can be simulated; the reasons are below.")
            _left_out(answer)
        return
    _standing(found)
    metrics = measured(found)
    _errors(found, metrics)
    left, right = st.columns(2)
    metric = left.segmented_control(
        "Metric", metrics, format_func=lambda name: TITLES[name], default=metrics[0],
        required=True, key="calibration metric", persist_state="session",
    )  # fmt: skip
    metric = metric if metric in metrics else metrics[0]
    colour = right.segmented_control(
        "Colour by", charts.colours(), default="GPU", required=True, key="calibration colour",
        persist_state="session",
    )  # fmt: skip
    _charts(found, metric, colour or "GPU")
    _detail(found, metrics)
    dimension = st.selectbox(
        "Error by", list(DIMENSIONS), index=list(DIMENSIONS).index("model"),
        key="calibration dimension", persist_state="session",
        help="What points of one box have in common",
    )  # fmt: skip
    look.show(
        charts.boxes(found, metric, dimension), "calibration boxes",
        f"Boxes of the error of {TITLES[metric]} in percent by {dimension}",
    )  # fmt: skip
    if skipped:
        _left_out(answer)
    if not answer.whole:
        return
    st.download_button(
        "Every point as CSV", csv_text(found), f"{answer.validation.dataset}-points.csv",
        "text/csv", on_click="ignore", key="calibration csv",
        help="What `simulate validate --csv` writes",
    )  # fmt: skip


def _standing(found: Sequence[Comparison]) -> None:
    """Which rows a fit has seen."""
    fitted = sum(c.half == "fit" for c in found)
    seen = sum(c.half != "fit" and c.seen for c in found)
    text = (
        f"Points: {len(found):,}. **Used in a fit** of the shipped profiles: {fitted:,}; held back "
        f"from the fit of their group: {seen:,}; of groups that no fit has seen: "
        f"{len(found) - fitted - seen:,}. A group is one model, GPU, engine, version and precision."
    )
    twice = repeated([c.point for c in found])
    if twice:
        text += f" Points that repeat the figures of another one: {twice:,}."
    st.markdown(text)


def table(found: Sequence[Comparison], metrics: Sequence[str]) -> pd.DataFrame:
    """Median error, bias and coverage of the interval, of all points and by split."""
    groups: list[tuple[str, Sequence[Comparison]]] = [("all", found), *by(found, "split")]
    rows = []
    for metric in metrics:
        for name, members in groups:
            own = errors(members, metric)
            if not own.n:
                continue
            rows.append(
                {
                    "metric": TITLES[metric], "points": name, "n": own.n,
                    "median error, %": own.median_ape_pct, "mean error, %": own.mean_ape_pct,
                    "p90 error, %": own.p90_ape_pct, "bias, ×": own.bias_ratio,
                    "in 80% interval, %": coverage_pct(members, metric),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def _errors(found: Sequence[Comparison], metrics: Sequence[str]) -> None:
    percent = st.column_config.NumberColumn(format="%.1f%%")
    shown = table(found, metrics)
    st.dataframe(
        shown, hide_index=True, key="calibration errors", height="content",
        column_config={
            **{name: percent for name in shown.columns if name.endswith(", %")},
            "bias, ×": st.column_config.NumberColumn(
                format="%.2f", help="Median of predicted / measured; 1 is no bias"
            ),
            "median error, %": st.column_config.NumberColumn(
                format="%.1f%%", help="Of |predicted − measured| / measured"
            ),
            "in 80% interval, %": st.column_config.NumberColumn(
                format="%.1f%%", help="How many measurements lie within the 80% interval"
            ),
        },
        alt="Median error, bias and coverage of the interval by metric and split",
    )  # fmt: skip


def _charts(found: Sequence[Comparison], metric: str, colour: str) -> None:
    left, right = st.columns(2)
    with left:
        look.choose(
            charts.scatter(found, metric, colour), "calibration scatter",
            f"Predicted against measured {TITLES[metric]} of {len(found)} points", _chosen,
        )  # fmt: skip
    with right:
        chart = charts.against_load(found, metric, colour)
        if chart is None:
            st.info("All points have the same load, so there is nothing to draw the error against.")
        else:
            look.choose(
                chart, "calibration load",
                f"Predicted over measured {TITLES[metric]} against load", _chosen,
            )  # fmt: skip
    st.caption(f"{charts.LINES} Bars: the 80% interval of the prediction.")


def _chosen(points: list[list[object]]) -> None:
    if points:
        st.session_state[POINT] = points[0][0]


def _detail(found: Sequence[Comparison], metrics: Sequence[str]) -> None:
    names = {c.point.id: c for c in found}
    if st.session_state.get(POINT) not in names:
        st.session_state[POINT] = None
    chosen = st.selectbox(
        "Point in detail", list(names), index=None, key=POINT,
        format_func=lambda name: describe(names[name]) + f" ({name})",
        placeholder="Click a point in a chart, or choose one here",
    )  # fmt: skip
    if chosen is None:
        return
    c = names[chosen]
    rows = []
    for metric in metrics:
        pair, interval = c.pair(metric), c.interval(metric)
        if pair is None:
            continue
        unit = UNITS.get(metric, "ms")
        operator, share = dominant(c.prediction, metric)
        inside = c.inside(metric)
        rows.append(
            {
                "metric": TITLES[metric],
                "measured": with_unit(pair[0], unit),
                "predicted": with_unit(pair[1], unit),
                "80% interval": "–" if interval is None
                else f"{with_unit(interval[0], unit)} to {with_unit(interval[1], unit)}",
                "measured lies inside": {True: "yes", False: "no", None: "–"}[inside],
                "error": f"{c.error_pct(metric):+.1f}%",
                "most of it is": f"{operator} {share:.0%}" if operator else "–",
            }
        )  # fmt: skip
    p = c.point
    used = "used in a fit" if c.half == "fit" else "held back from the fit of its group"
    used = used if c.seen else "of a group that no fit has seen"
    st.caption(look.plain(f"{p.group} · {p.ways} · {p.lengths} tokens · {p.statistic} · {used}"))
    st.dataframe(pd.DataFrame(rows), hide_index=True, alt=f"Figures of {p.id}")


def _left_out(answer: work.Validated) -> None:
    skipped = answer.validation.skipped
    with st.expander(
        f"{len(skipped):,} rows are left out", expanded=not answer.validation.comparisons
    ):
        st.dataframe(
            pd.DataFrame(reasons(skipped), columns=["why", "rows"]), hide_index=True,
            alt="Why rows are left out",
        )  # fmt: skip

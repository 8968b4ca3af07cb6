"""Trace: what a file of recorded requests is like, and how the deployment does under it."""

from __future__ import annotations

import streamlit as st

from dashboard import answers, look, session, trace_charts
from dashboard.background import FAILED, Job
from dashboard.bounds import MOST_MB, check_size
from dashboard.following import PATIENCE_S, follow
from dashboard.replaying import FORMATS, Part, profile
from simulator import (
    TraceProfile,
    UserError,
    definition_of,
    is_rate_table,
    table_names,
    trace_names,
    value_at,
    with_unit,
)

FILE, UPLOAD, FORMAT, START, LENGTH, MOST, SCALE, RANGE = (
    "trace file", "trace upload", "trace format", "trace start", "trace length", "trace most",
    "trace scale", "trace range",
)  # fmt: skip


def page() -> None:
    """Draws the page."""
    st.caption(
        "Recorded traffic: what it is like, and how the deployment of the sidebar does under it."
    )
    part = _choose_file()
    if part is None:
        return
    whole = _known("trace whole", part.whole)
    if whole is None:
        return
    if not whole.is_table:
        part = _choose_part(part, whole)
    shown = whole if part == part.whole else _known("trace part", part)
    if shown is None:
        return
    _describe(shown, part)
    _replay(shown, part)


# --- which file ----------------------------------------------------------------------------------


def _choose_file() -> Part | None:
    left, right = st.columns(2)
    left.file_uploader(
        "Upload a trace", key=UPLOAD, max_upload_size=MOST_MB, on_change=_uploaded,
        help="CSV or JSON lines, as they are or gzipped; a table of rates as CSV. The file stays "
        "on this server for as long as this browser tab is open, and no other session sees it.",
    )  # fmt: skip
    tables = [name for name in table_names() if is_rate_table(name)]
    mine = dict(_mine())
    names = [*reversed(mine), *trace_names(), *tables]
    with right:
        st.selectbox(
            "File", names, key=FILE, format_func=lambda path: mine.get(path, path),
            on_change=_other_file, persist_state="session",
            help="What you uploaded, and what comes with servecast",
        )  # fmt: skip
        st.selectbox(
            "Format", FORMATS, key=FORMAT, persist_state="session",
            help="How the file is laid out; auto: by its columns or keys",
        )  # fmt: skip
    if wrong := st.session_state.get("trace wrong"):
        look.wrong(wrong)
        return None
    return Part(st.session_state[FILE], st.session_state[FORMAT])


def _uploaded() -> None:
    st.session_state["trace wrong"] = None
    file = st.session_state[UPLOAD]
    if file is None:
        return
    try:
        content = file.getvalue()
        check_size(file.name, content)
        path = str(session.uploads().keep(file.name, content))
        _mine()[path] = file.name
        st.session_state[FILE] = path
    except UserError as error:
        st.session_state["trace wrong"] = error
    else:
        st.session_state[FORMAT] = "auto"
        _forget_part()


def _mine() -> dict[str, str]:
    """Paths of this session's uploads, and what their user calls them."""
    found: dict[str, str] = st.session_state.setdefault("trace uploads", {})
    return found


def _called(path: str) -> str:
    return _mine().get(path, path)


def _told(error: UserError) -> UserError:
    """The same error, with the user's names of files."""
    where, text, hint = error.where, error.what, error.hint
    for path, called in _mine().items():
        where, text, hint = (part.replace(path, called) for part in (where, text, hint))
    return UserError(text, where=where, hint=hint)


def _other_file() -> None:
    st.session_state["trace wrong"] = None
    _forget_part()


def _forget_part() -> None:
    for key in (START, LENGTH, MOST, RANGE):
        st.session_state.pop(key, None)


def _known(slot: str, part: Part) -> TraceProfile | None:
    """What a part is like, as soon as it is known; until then, or if it is wrong, that is drawn."""
    job: Job[TraceProfile] = session.ask(slot, part.key, profile(part))
    if not job.ended:
        job.wait(PATIENCE_S)
    if job.state == FAILED and job.error is not None:
        look.wrong(_told(job.error))
        return None
    if not job.ended or job.latest is None:
        follow(slot, job, lambda _: None, patience_s=0.0)
        return None
    return job.latest


# --- which part of it ----------------------------------------------------------------------------


def _choose_part(part: Part, whole: TraceProfile) -> Part:
    most = int(value_at(whole.to_dict(), "requests") or 1)
    start_s, length_s = 0.0, None
    if whole.rate_per_s is not None:
        end_s = whole.rate_per_s.edges[-1]
        _range(end_s)
        left, middle, right = st.columns(3)
        start_s = left.number_input(
            "Start, s", min_value=0.0, value=0.0, key=START, persist_state="session",
            on_change=_typed, args=(end_s,), help="Seconds since the first row of the file",
        )  # fmt: skip
        length_s = middle.number_input(
            "Duration, s", min_value=0.001, value=None, key=LENGTH, persist_state="session",
            placeholder="to the end", on_change=_typed, args=(end_s,),
        )  # fmt: skip
    else:
        right = st.columns(3)[2]
    wanted = right.number_input(
        "Most requests", min_value=1, value=None, key=MOST, persist_state="session",
        placeholder=f"all {most:,}", help="The part ends after so many requests",
    )  # fmt: skip
    part = Part(part.file, part.format, start_s, length_s, wanted)
    if whole.rate_per_s is not None:
        trace_charts.rate(whole.rate_per_s, part)
    return part


def _range(end_s: float) -> None:
    if RANGE not in st.session_state:
        st.session_state[RANGE] = (0.0, end_s)
    st.slider(
        "Part to look at and to replay, s", 0.0, end_s, key=RANGE, on_change=_dragged,
        args=(end_s,), format="%.0f" if end_s >= 100 else "%.3g",
        help="Drag the ends, or type below",
    )  # fmt: skip


def _dragged(end_s: float) -> None:
    start, end = st.session_state[RANGE]
    st.session_state[START] = start
    st.session_state[LENGTH] = None if end >= end_s or end <= start else end - start


def _typed(end_s: float) -> None:
    start, length = st.session_state[START], st.session_state[LENGTH]
    end = end_s if length is None else min(start + length, end_s)
    st.session_state[RANGE] = (min(start, end_s), max(min(start, end_s), end))


# --- what it is like -----------------------------------------------------------------------------


def _describe(shown: TraceProfile, part: Part) -> None:
    data = shown.to_dict()
    tiles = _TABLE_TILES if shown.is_table else _TILES
    look.tiles(
        [
            (label, with_unit(value_at(data, key), unit), meaning)
            for label, key, unit, meaning in tiles
            if _there(data, key)
        ]
    )
    if shown.is_table and shown.rate_per_s is not None:
        trace_charts.rate(shown.rate_per_s, part)
    for column, draw in zip(st.columns(2), trace_charts.charts_of(shown), strict=False):
        with column:
            draw()
    name = _called(part.file)
    told = shown.description.rows()
    rows = [{"what": label, "value": text.replace(part.file, name)} for label, text in told]
    with st.expander("All figures, as `simulate trace` prints them"):
        st.dataframe(rows, hide_index=True, width="stretch", height="content")
        notes = [note.replace(part.file, name) for note in data.get("notes", ())]
        st.json(data | {"name": name} | ({"notes": notes} if notes else {}), expanded=False)


_TILES = (
    ("Requests", "requests", "", ""),
    ("Span", "arrivals.span_s", "s", "From the first request to the last"),
    ("Mean rate", "arrivals.rate_per_s", "requests/s", "One over the mean gap"),
    (
        "Busiest 10 s", "arrivals.peak_to_mean", "× mean",
        "Most requests in any 10 seconds, over what the mean rate brings in 10 seconds",
    ),
    (
        "CV of gaps", "arrivals.interarrival_cv", "",
        "Standard deviation of the gaps between arrivals over their mean; 1 for Poisson",
    ),
    ("Input mean", "input_tokens.mean", "tokens", ""),
    ("Output mean", "output_tokens.mean", "tokens", ""),
    (
        "Repeated prompts", "prefixes.endless_cache", "%",
        "Prompt tokens whose whole prefix came before: the hit rate of an endless cache",
    ),
)  # fmt: skip

_TABLE_TILES = (
    ("Intervals", "intervals", "", ""),
    ("Span", "span_s", "s", "From the first interval's start to the last one's end"),
    ("Requests", "requests", "", "Expected of the whole table"),
    ("Mean rate", "mean_per_s", "requests/s", ""),
    ("Highest rate", "peak_per_s", "requests/s", ""),
    ("Without requests", "idle_share", "%", "Share of the time"),
)


def _there(data: dict[str, object], key: str) -> bool:
    section = data.get(key.split(".")[0])
    return section is not None and value_at(data, key) is not None


# --- replay --------------------------------------------------------------------------------------


def _replay(shown: TraceProfile, part: Part) -> None:
    st.subheader("Replay")
    scale = st.number_input(
        "Speed", min_value=0.001, value=1.0, key=SCALE, persist_state="session", width=240,
        help="2 sends the same requests twice as fast (of a table: twice as many requests)",
    )  # fmt: skip
    try:
        choice = part.replayed(session.choice(), shown, scale)
        key = choice.key
    except UserError as error:
        look.wrong(_told(error))
        return
    used = session.choice().sets == choice.sets
    if st.button(
        "Used in the scenario" if used else "Use in the scenario", disabled=used, type="primary",
        icon=":material/check:" if used else ":material/input:",
        help="Every page then simulates this traffic instead of the scenario's own",
    ):  # fmt: skip
        session.choose(choice)
        st.rerun()
    st.caption(look.plain(_said(choice.scenario.name, shown)))
    job = session.ask("replay", key, answers.run(choice), question=answers.RUN)
    follow("replay", job, _latencies)


def _said(name: str, shown: TraceProfile) -> str:
    if shown.is_table:
        return f"{name}: its deployment, SLO and lengths, with these arrivals."
    if shown.to_dict()["arrivals"] is None:
        return f"{name}: its deployment, SLO and arrivals, with lengths drawn from this file."
    return f"{name}: its deployment and SLO, under this traffic."


def _latencies(run: answers.Run) -> None:
    if run.preview:
        st.caption(f"Of the first {answers.PREVIEW_REQUESTS:,} requests:")
    tiles = [
        (f"{name} {quantile}", f"latency.{key}.{quantile}")
        for name, key in (("TTFT", "ttft_ms"), ("TPOT", "tpot_ms"))
        for quantile in ("p50", "p99")
    ]
    if run.summary["slo"]["limits_given"]:
        tiles.append(("SLO met", "slo.goodput_share"))
    tiles.append(("Output", "throughput.output_tokens_per_s"))
    look.tiles(
        [(label, look.told(run.summary, key), definition_of(key).text) for label, key in tiles]
    )


page()

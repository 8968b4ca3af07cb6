"""Roofline: operators of a prefill and of a decode step against what the device can do."""

from __future__ import annotations

from typing import TypedDict

import pandas as pd
import streamlit as st

import simulator
from dashboard import look, rooflines, session
from dashboard.background import Report, Work
from dashboard.choice import Choice
from dashboard.following import follow
from simulator import Roofline, RooflineStep, UserError, with_unit


class Sizes(TypedDict):
    """Of the steps; None: from the scenario's traffic and limits."""

    batch: int | None
    context: int | None
    prompt_tokens: int | None


_BATCH, _CONTEXT, _PROMPT, _PART = (
    f"roofline {name}" for name in ("batch", "context", "prompt", "part")
)


def page() -> None:
    """Draws the page."""
    choice = session.choice()
    try:
        key = choice.key
    except UserError as error:
        look.wrong(error)
        return
    stored = st.session_state
    sizes: Sizes = {
        "batch": stored.get(_BATCH), "context": stored.get(_CONTEXT),
        "prompt_tokens": stored.get(_PROMPT),
    }  # fmt: skip
    part = stored.get(_PART)
    job = session.ask("roofline", f"{key} {sizes} {part}", _work(choice, part, sizes))
    above = st.container()
    follow("roofline", job, draw)
    with above:  # they say what an empty one stands for, so the answer comes first
        _controls(job.latest)


def _work(choice: Choice, part: str | None, sizes: Sizes) -> Work[Roofline]:
    def work(report: Report[Roofline]) -> Roofline:
        report.stage("pricing operators")
        with choice.located() as scenario:
            try:
                return simulator.roofline(scenario, part=part, **sizes)
            except UserError as error:
                if error.where != "part":
                    raise
                # Another scenario's, chosen before this one was.
                return simulator.roofline(scenario, **sizes)

    return work


def _controls(found: Roofline | None) -> None:
    """Sizes of the steps; empty ones follow the scenario."""
    parts = found.parts if found is not None else ()
    columns = st.columns(4 if len(parts) > 1 else 3, vertical_alignment="bottom")
    if found is not None and len(parts) > 1:
        if st.session_state.get(_PART) not in parts:
            st.session_state.pop(_PART, None)
        columns[0].selectbox(
            "Shown", parts, index=parts.index(found.part), key=_PART, persist_state="session",
            help="Pools, stages of a pipeline, and steps with and without drafts have operators "
            "of their own",
        )  # fmt: skip
    own = "empty: from the scenario's traffic and limits"
    for column, key, label, value, text in (
        (columns[-3], _BATCH, "Batch (sequences)", found and found.batch,
         "That decode in one step"),
        (columns[-2], _CONTEXT, "Context (tokens)", found and found.context,
         "That each decoding sequence attends to"),
        (columns[-1], _PROMPT, "Prompt (tokens)", found and found.prompt_tokens,
         "That the prefill step computes, of one prompt"),
    ):  # fmt: skip
        column.number_input(
            label, min_value=1, value=None, step=1, key=key, persist_state="session",
            placeholder="" if value is None else f"{value:,}", help=f"{text}; {own}",
        )  # fmt: skip


def draw(found: Roofline) -> None:
    """The roofline, and what the steps are made of."""
    layout = f", {found.layout}" if found.layout else ""
    kinds = found.precision
    st.caption(
        f"{look.plain(f'{found.model} on {found.hardware}{layout}')} · weights {kinds['weights']}, "
        f"activations {kinds['activations']}, KV cache {kinds['kv_cache']}"
    )
    _figures(found)
    for note in found.notes:
        st.caption(f":material/info: {look.plain(note)}")
    st.subheader("Operators under the roof", anchor=False)
    look.show(
        rooflines.plot(found), "roofline",
        "Achieved FLOP/s against arithmetic intensity of every operator, under the device's roofs",
    )  # fmt: skip
    st.caption(
        "Solid: what the device can do at its nominal peaks. Dashed: what large kernels of a kind "
        "reach, as the hardware profile was fitted; the legend has those of the other kinds. The "
        "larger a mark, the more of its step it takes. Open marks at the left edge have no "
        "arithmetic: how far they lie below the roof is the share of the bandwidth they reach."
    )
    st.subheader("Share of the step's time, and what binds", anchor=False)
    for column, step in zip(st.columns(len(found.steps)), found.steps, strict=True):
        with column:
            st.markdown(f"**{_what(step)}**")
            look.show(
                rooflines.bars(step), f"share {step.kind}",
                f"Share of each operator in the {step.kind} step's time, by what binds it",
            )  # fmt: skip
    if found.sweep is not None:
        st.subheader("Decode steps by batch", anchor=False)
        st.markdown(_turning(found))
        look.show(
            rooflines.sweep(found), "sweep",
            "Time of a decode step against its batch, stacked by the resource that binds",
        )  # fmt: skip
    with st.expander("All operators"):
        _table(found)


def _figures(found: Roofline) -> None:
    with st.container(horizontal=True, gap="large"):
        for step in found.steps:
            name = rooflines.NAMES[step.kind]
            st.metric(f"{name} step", with_unit(1e3 * step.seconds, "ms"), width="content")
            st.metric(
                f"{name}: bound by", step.bound,
                f"{with_unit(step.resource_share[step.bound], '%')} of its time",
                delta_color="off", delta_arrow="off", width="content",
                help=f"{with_unit(step.flops_share, '%')} of the peak FLOP/s and "
                f"{with_unit(step.bytes_share, '%')} of the peak bandwidth over the step",
            )  # fmt: skip
        if found.turning is not None:
            st.metric(
                "Products compute-bound", _from(found.turning.products),
                f"whole step: {_from(found.turning.whole_step)}",
                delta_color="off", delta_arrow="off", width="content",
                help="Sequences in a decode step from which arithmetic takes longer than memory: "
                "of the matrix products, which share their weights, and of all operators together",
            )  # fmt: skip


def _from(batch: int | None) -> str:
    return "at no batch" if batch is None else f"from {batch:,}"


def _what(step: RooflineStep) -> str:
    if step.kind == "prefill":
        return f"Prefill of {step.tokens:,} tokens of one prompt"
    each = f", {step.tokens} tokens each," if step.tokens > 1 else ""
    return f"Decode of {step.sequences:,} sequences{each} with {step.context:,} tokens of context"


def _turning(found: Roofline) -> str:
    limits = (
        f"The engine runs {found.most_sequences:,} sequences at most, and the KV cache holds "
        f"{found.most_in_cache:,} of {found.context:,} tokens."
    )
    if found.turning is None:
        return limits
    products, whole = found.turning.products, found.turning.whole_step

    def at(batch: int | None) -> str:
        return "at no batch" if batch is None else f"from **{batch:,}** sequences on"

    return f"Matrix products turn compute-bound {at(products)}, whole steps {at(whole)}. {limits}"


def _table(found: Roofline) -> None:
    rows = pd.DataFrame(
        [
            {
                "step": step.kind, "operator": op.name, "bound by": op.bound,
                "time (ms)": 1e3 * op.seconds, "share (%)": 100 * op.share,
                "format": op.format, "GFLOP": op.flops / 1e9, "MB": op.bytes / 1e6,
                "MB to others": op.link_bytes / 1e6, "FLOP/byte": op.intensity,
                "TFLOP/s": op.flops_per_s / 1e12 if op.flops else None,
                "GB/s": op.bytes_per_s / 1e9, "of the roof (%)": 100 * op.floor_s / op.seconds,
            }
            for step in found.steps
            for op in step.operators
        ]
    )  # fmt: skip
    rounded = {
        str(name): st.column_config.NumberColumn(format="%.4g")
        for name, kind in rows.dtypes.items()
        if kind == "float64"
    }
    st.dataframe(rows, hide_index=True, column_config=rounded)
    st.download_button(
        "Download CSV", lambda: rows.to_csv(index=False), "roofline.csv", "text/csv",
        icon=":material/download:", on_click="ignore",
    )  # fmt: skip


page()

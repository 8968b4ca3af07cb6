"""Provenance: what stands behind the figures of the scenario's devices and engines."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from dashboard import look, session
from dashboard.calibrate import charts
from simulator import UserError, origins

_BADGES = {"fitted": ("green", "fitted"), "inherited": ("orange", "inherited"),
           "prior": ("red", "assumed")}  # fmt: skip
_METRICS = {"ttft_ms": "TTFT", "tpot_ms": "TPOT"}


def draw() -> None:
    """Draws this part of the page."""
    choice = session.choice()
    try:
        with choice.located() as scenario:
            parts = origins(scenario)
    except UserError as error:
        look.wrong(error)
        return
    shown: set[tuple[str, str, str]] = set()
    for part in parts:
        hardware, engine = part["hardware"], part["engine"]
        same = (hardware["name"], engine["name"], engine["version"])
        if same in shown:
            continue
        shown.add(same)
        pools = [p["pool"] for p in parts if p["pool"] and p["hardware"] == hardware
                 and p["engine"] == engine]  # fmt: skip
        if pools:
            named = look.plain(", ".join(pools))
            st.header(f"Pool{'s' if len(pools) > 1 else ''} {named}")
        _device(hardware, engine["title"])
        _engine(engine, hardware)


def _device(hardware: dict[str, Any], engine: str) -> None:
    st.subheader(look.plain(hardware["title"]))
    kernels, own = hardware["kernels"], hardware["own_kernels"]
    _origin("Kernel times", kernels)
    if own:
        _origin(f"{engine}'s own kernels (marked * in the chart)", own)
    chart = charts.residuals(kernels["families"])
    if chart is None:
        st.info(
            "Nothing was measured on this device or a relative, so there are no residuals: its "
            "kernels take the assumed shares of the peaks, and intervals are wide."
        )
    else:
        name = hardware["name"]
        look.show(chart, f"residuals {name}", "Range of measured over predicted time by kernel")
        st.caption(
            "Bars: where 80% of the measured times lie, for shapes held out of the fit; beside "
            "them the median error of the rows fitted."
            if kernels["method"] == "fitted" or own
            else "Bars: where 80% of the measured times lie, as on the device that was measured, "
            "and widened for the step to this one."
        )
        with st.expander("Residuals as a table"):
            _families(kernels["families"])
    _origin("Power", hardware["power"])
    for row in hardware["power"]["families"]:
        if row["fitted_pct"] is not None:
            held = row["held_out_pct"]
            st.caption(
                f"Median error of power: {row['fitted_pct']:.1f}%"
                + ("." if held is None else f"; of models held out: {held:.1f}%.")
            )
    _figures(hardware)


def _figures(hardware: dict[str, Any]) -> None:
    name = hardware["name"]
    st.markdown("**Peaks, memory, links and power**")
    st.dataframe(
        pd.DataFrame(
            [
                {"figure": f["what"], "value": f"{f['value']:,g} {f['unit']}",
                 "source": f["source"], "note": f["note"]}
                for f in hardware["figures"]
            ]
        ),
        hide_index=True, height="content", key=f"figures {name}",
        alt="Figures of the device and their sources",
    )  # fmt: skip
    st.markdown("**Prices of one device for one hour**")
    if not hardware["prices"]:
        st.caption("None is known: give your own as `cost.usd_per_device_hour`.")
        return
    st.dataframe(
        pd.DataFrame(
            [
                {"plan": p["plan"].replace("_", " "),
                 "price": f"${p['usd_per_device_hour']:,.2f}/h", "cloud": p["cloud"],
                 "as of": p["as_of"], "instance": p["instance"], "region": p["region"],
                 "source": p["source"]}
                for p in hardware["prices"]
            ]
        ),
        hide_index=True, key=f"prices {name}", alt="Prices and their sources",
    )  # fmt: skip


def _origin(title: str, origin: dict[str, Any]) -> None:
    colour, word = _BADGES[origin["method"]]
    told = look.plain(f"{origin['means']}, {origin['date']}.")
    st.markdown(f"**{title}** :{colour}-badge[{word}] {told}")
    lines = [origin["detail"][:1].upper() + origin["detail"][1:] + "."]
    if origin["engine"]:
        lines.append(f"Measured with {origin['engine']}.")
    if origin["data_sha256"]:
        lines.append(f"SHA-256 of the data: {origin['data_sha256'][:16]}…")
    st.caption(look.plain(" ".join(lines)))


def _families(families: list[dict[str, Any]]) -> None:
    percent = st.column_config.NumberColumn(format="%.1f%%")
    names = {"fitted_pct": "median error, rows fitted", "held_out_pct": "shapes held out",
             "low_pct": "80% from", "high_pct": "80% to"}  # fmt: skip
    shown = pd.DataFrame(families, columns=["family", *names, "own"]).rename(
        columns={**names, "family": "kernel", "own": "the engine's own"}
    )
    st.dataframe(
        shown, hide_index=True, column_config=dict.fromkeys(names.values(), percent),
        alt="Residuals of every kind of kernel",
    )  # fmt: skip


def _engine(engine: dict[str, Any], hardware: dict[str, Any]) -> None:
    st.subheader(look.plain(f"{engine['title']} {engine['version']}"))
    if hardware["overheads_measured"]:
        st.markdown(
            f"Its overheads on {look.plain(hardware['title'])} were measured on such a machine "
            "and replace those below."
        )
    used = next(entry for entry in engine["overheads"] if entry["used"])
    colour, word = _BADGES[used["method"]]
    st.markdown(
        f"**Overheads of this release** :{colour}-badge[{word}] {look.plain(used['means'])}."
    )
    st.caption(look.plain(used["source"][:1].upper() + used["source"][1:]))
    fit = used["fit"]
    if fit is not None:
        st.caption(
            f"{fit['rows']} rows of measured servers, the newest of "
            f"{fit['newest'] or 'unknown date'}; SHA-256 of the data: "
            f"{fit['data_sha256'][:16]}…; groups: {look.plain('; '.join(fit['groups']))}."
        )
    st.dataframe(
        pd.DataFrame([_range(entry) for entry in engine["overheads"]]), hide_index=True,
        key=f"engine {engine['name']} {hardware['name']}",
        alt="Overheads of the engine by range of releases, and errors of their fits",
    )  # fmt: skip
    with st.expander("Its constants, and the sources of its defaults"):
        st.dataframe(
            pd.DataFrame(
                {entry["releases"]: entry["constants"] for entry in engine["overheads"]}
            ).rename_axis("constant").reset_index(),
            hide_index=True, alt="Constants by range of releases",
        )  # fmt: skip
        st.dataframe(
            pd.DataFrame(engine["facts"]), hide_index=True, alt="Sources of the engine's defaults"
        )


def _range(entry: dict[str, Any]) -> dict[str, Any]:
    fit = entry["fit"] or {}
    row: dict[str, Any] = {
        "releases": entry["releases"],
        "this scenario": "yes" if entry["used"] else "",
        "stands on": entry["means"],
        "rows": fit.get("rows"),
        "newest": fit.get("newest"),
    }
    for metric, name in _METRICS.items():
        own = fit.get("fitted_median_pct", {}).get(metric)
        held = fit.get("held_out_median_pct", {}).get(metric)
        row[f"{name} error, fitted / held out"] = (
            "–" if own is None else f"{own:.1f}% / " + ("–" if held is None else f"{held:.1f}%")
        )
        spread = entry["spread_pct"].get(metric)
        row[f"{name}, 80% of rows left out"] = (
            "–" if spread is None else f"{spread[0]:+.0f}% to {spread[1]:+.0f}%"
        )
    return row

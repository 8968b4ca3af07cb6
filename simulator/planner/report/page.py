"""What the HTML reports of plans and sweeps have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from simulator.planner.report.charts import MOST_POINTS, Data
from simulator.results import parts
from simulator.results.format import money, number
from simulator.results.page import in_script, style

Report = dict[str, Any]
Cell = tuple[str, float | str | None]
"""What a cell shows, and what it is sorted by: a text as it is, or a number."""

MOST_ROWS = 2_000
"""Of a table; the files have all."""

SHOWN = (
    "latency.ttft_ms.p99", "latency.tpot_ms.p99", "throughput.output_tokens_per_s_per_user.p50",
    "throughput.output_tokens_per_s_per_device", "energy.joules_per_output_token",
)  # fmt: skip
HEADS = (
    "TTFT p99, ms", "TPOT p99, ms", "tokens/s for a user", "tokens/s of a device",
    "energy, J/token",
)  # fmt: skip
"""Of the columns with these figures."""

STATES = {
    "holds": ("holds", "good"), "fails": ("fails", "bad"), "close": ("too close to call", "close"),
    "open": ("left open", "close"), "none": ("", ""),
}  # fmt: skip
"""How a verdict is called, and its mood."""


def page(report: Report, sections: Iterable[str], data: Data) -> str:
    """The whole file.

    Args:
        report: names it and the version.
        sections: in their order; empty ones are left out.
        data: of the charts.
    """
    from plotly.offline import get_plotlyjs

    template = files("simulator.planner.report").joinpath("report.html").read_text(encoding="utf-8")
    foot = (
        f"<footer>servecast {escape(report['product']['version'])} · simulated, not measured"
        "</footer>"
    )
    return Template(template).substitute(
        title=escape(f"{report['name']} · servecast"),
        body="\n".join([*filter(None, sections), foot]),
        style=style(),
        data=in_script(data),
        plotly=get_plotlyjs(),
    )


def section(name: str, *content: str) -> str:
    """A card with a title; the content is HTML."""
    return f"<section><h2>{escape(name)}</h2>{''.join(content)}</section>"


def charts(data: Data, note: str) -> str:
    """The Pareto plots, their legend, and one plot of any two figures."""
    if not data["points"]:
        return ""
    colours = "".join(
        f'<li><i class="c{place}"></i>{escape(group)}</li>'
        for place, group in enumerate(data["groups"])
    )
    states = {point["state"] for point in data["points"]}
    signs = {"holds": "●", "fails": "✕", "close": "◇", "open": "○"}
    symbols = [f"<li><b>{signs[s]}</b>{STATES[s][0]}</li>" for s in signs if s in states]
    if any(point["winner"] for point in data["points"]):
        symbols.append("<li><b>★</b>the winner</li>")
    line = " of those that hold" if "holds" in states else ""
    symbols.append(f"<li><b>—</b>Pareto front{line}</li>")
    if len(states) > 1 or "fails" in states:
        symbols.append("<li><b>···</b>of all</li>")
    titles = [figure["title"] for figure in data["figures"]]
    plots = "".join(
        parts.chart(chart["id"], f"{titles[chart['y']]} against {titles[chart['x']]}")
        for chart in data["charts"]
    )
    first = data["charts"][0] if data["charts"] else {"x": 0, "y": min(1, len(titles) - 1)}
    choice = "".join(
        f'<label>{words} <select id="choose-{axis}">{_options(titles, first[axis])}</select>'
        "</label>"
        for axis, words in (("y", "Show"), ("x", "against"))
    )
    return section(
        "Trade-offs",
        f'<ul class="legend colours">{colours}</ul><ul class="legend">{"".join(symbols)}</ul>',
        f'<p class="small">{escape(note)}</p>' if note else "",
        f'<p class="small">At most {MOST_POINTS:,} points are drawn.</p>'
        if len(data["points"]) >= MOST_POINTS else "",
        f'<div class="two">{plots}</div><h3>Any two figures</h3>',
        f'<div class="choose">{choice}</div><div class="chart" id="any"></div>',
    )  # fmt: skip


def _options(titles: Sequence[str], chosen: int) -> str:
    return "".join(
        f'<option value="{place}"{" selected" if place == chosen else ""}>{escape(text)}</option>'
        for place, text in enumerate(titles)
    )


def sortable(
    head: Sequence[str],
    rows: Iterable[tuple[bool, list[Cell], str]],
    verdict: int,
    wide: int | None,
    *,
    text: int = 1,
) -> str:
    """A table that sorts by a click: whether a row is marked, its cells, the verdict's mood; the
    first ``text`` columns and the verdict are text."""

    def kind(place: int) -> str:
        if place == wide:
            return "wide"
        return "text" if place < text or place == verdict else ""

    top = "".join(
        f'<th scope="col" class="{"text" if kind(place) else ""}"><button>{escape(name)}</button>'
        "</th>"
        for place, name in enumerate(head)
    )
    body = []
    for chosen, cells, mood in rows:
        found = []
        for place, (shown, value) in enumerate(cells):
            key = f' data-v="{value}"' if isinstance(value, int | float) else (
                ' data-v=""' if value is None else ""
            )  # fmt: skip
            classes = f"{kind(place)} {mood if place == verdict else ''}".strip()
            found.append(f'<td class="{classes}"{key}>{escape(shown)}</td>')
        body.append(f'<tr class="{"chosen" if chosen else ""}">{"".join(found)}</tr>')
    return (
        f'<div class="scroll tall"><table class="sortable"><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def reasons(rows: Iterable[tuple[str, str]]) -> str:
    """Reasons, each with how many it concerns."""
    body = "".join(
        f'<tr><th scope="row">{escape(count)}</th><td>{escape(text)}</td></tr>'
        for text, count in rows
    )
    return f'<table class="reasons"><tbody>{body}</tbody></table>'


def counted(value: float | None) -> Cell:
    """A cell with a number."""
    return number(value), value


def folded(name: str, text: str) -> str:
    """Text that opens by a click."""
    return (
        f"<section><details><summary>{escape(name)}</summary><pre>{escape(text)}</pre>"
        "</details></section>"
    )


def provenance(found: Report) -> str:
    """Profiles, fits, prices and seeds."""
    devices = []
    for device in found["devices"]:
        prices = [
            f"{price['plan'].replace('_', '-')} {money(price['usd_per_device_hour'])} an hour at "
            f"{price['cloud']}, {price['as_of']}"
            for price in device["prices"]
        ]
        devices.append((
            device["title"], f"{device['kernels']}, {device['kernels_date']}",
            "; ".join(prices) or "no price",
        ))  # fmt: skip
    engines = ", ".join(
        f"{engine['title']} {engine['version']} ("
        f"{'fitted to measurements' if engine['fitted'] else 'estimates'})"
        for engine in found["engines"]
    )
    facts = [
        ("Version", found["version"]),
        ("Engines", engines),
        ("Seeds", ", ".join(map(str, found["seeds"]))),
        ("Price", ", ".join(f"{money(usd)} a device and hour, as given in the scenario"
                            for usd in found["own_usd_per_device_hour"])),
    ]  # fmt: skip
    return section(
        "Where the figures come from",
        parts.table(("device", "kernels' times", "lowest price"), devices),
        parts.facts(facts),
    )

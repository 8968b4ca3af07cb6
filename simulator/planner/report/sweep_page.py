"""The HTML report of a sweep: one file that needs nothing else."""

from __future__ import annotations

from collections import Counter
from html import escape
from typing import Any

from simulator.planner.report.charts import sweep_data
from simulator.planner.report.page import (
    HEADS,
    MOST_ROWS,
    SHOWN,
    Cell,
    charts,
    counted,
    page,
    provenance,
    reasons,
    section,
    sortable,
)
from simulator.planner.report.terminal import word
from simulator.results import parts
from simulator.results.format import NOTHING

Report = dict[str, Any]


def sweep_page(report: Report) -> str:
    """The report of a sweep."""
    data = sweep_data(report)
    return page(
        report,
        [
            _sweep_header(report),
            charts(data, ""),
            _points(report),
            _problems(report),
            provenance(report["provenance"]),
        ],
        data,
    )


def _sweep_header(report: Report) -> str:
    ran = sum(not row["problem"] for row in report["rows"])
    facts = [
        ("Points", f"{report['points']:,}, of which {ran:,} ran"),
        ("Axes", ", ".join(report["axes"])),
        ("Must hold", " · ".join(report["limits"])),
    ]
    return f"<header><h1>{escape(report['name'])}</h1>{parts.facts(facts)}</header>"


def _points(report: Report) -> str:
    rows = [row for row in report["rows"] if not row["problem"]]
    if not rows:
        return ""
    rows.sort(key=lambda row: not any(row["fronts"].values()))
    names = {True: ("yes", "good"), False: ("no", "bad"), None: (NOTHING, "")}
    cost = "cost.usd_per_million_output_tokens"
    head = [*report["axes"], "holds", "on fronts", "$ per M tokens out", *HEADS]
    cells = []
    for row in rows[:MOST_ROWS]:
        words, mood = names[row["holds"]]
        fronts = ", ".join(name.replace("_", "/") for name, on in row["fronts"].items() if on)
        axes: list[Cell] = []
        for axis in report["axes"]:
            value = row["values"].get(axis)
            plain = isinstance(value, int | float) and not isinstance(value, bool)
            axes.append((word(value), value if plain else word(value)))
        cells.append((False, [
            *axes, (words, words), (fronts, fronts),
            *(counted(row["figures"][path]) for path in (cost, *SHOWN)),
        ], mood))  # fmt: skip
    more = len(rows) - MOST_ROWS
    note = f'<p class="small">{more:,} further ones are in the files.</p>' if more > 0 else ""
    at = len(report["axes"])
    return section("Points", note, sortable(head, cells, at, None, text=at + 2))


def _problems(report: Report) -> str:
    found = Counter(row["problem"] for row in report["rows"] if row["problem"])
    if not found:
        return ""
    rows = [
        (text, f"{count:,} point{'' if count == 1 else 's'}")
        for text, count in found.most_common(40)
    ]
    return section("Did not run", reasons(rows))

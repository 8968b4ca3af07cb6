"""The comparison as one HTML file that needs neither a network nor a server."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from string import Template

from calibration.validate.engine import tables
from calibration.validate.engine.figures import figures
from calibration.validate.engine.run import EngineValidation
from simulator import __version__
from simulator.results import parts

_SECTIONS = (
    ("Over the rate", (
        ("rate-ttft", "TTFT, ms; bars: 80% interval of the prediction"),
        ("rate-tpot", "TPOT, ms"),
        ("rate-tokens", "Output tokens/s"),
        ("rate-cost", "Cost per million output tokens, USD"),
    )),
    ("Distributions", (
        ("cdf-ttft_ms", "TTFT: share of requests below"),
        ("cdf-tpot_ms", "TPOT: share of requests below"),
    )),
    ("Steps", (
        ("scatter", "Predicted against measured step time; dashed: −20% and +25%"),
        ("ratios", "Predicted over measured step time: share of steps below"),
        ("by-batch", "Predicted over measured, against the size of the step"),
        ("by-context", "Predicted over measured, against the context"),
    )),
)  # fmt: skip


def page(outcome: EngineValidation) -> str:
    """The whole page."""
    from plotly.offline import get_plotlyjs

    drawn = figures(outcome)
    look = files("simulator.results").joinpath("report.html").read_text(encoding="utf-8")
    here = files("calibration.validate.engine")
    return Template(here.joinpath("page.html").read_text(encoding="utf-8")).substitute(
        title=escape(f"{outcome.scenario.name} · for real and predicted · servecast"),
        style=look.partition("<style>")[2].partition("</style>")[0],
        body=_body(outcome, set(drawn)),
        # "</" inside a script would end it; in JSON strings it may be written with a backslash.
        figures=json.dumps(drawn, allow_nan=False).replace("</", "<\\/"),
        plotly=get_plotlyjs(),
    )


def _body(outcome: EngineValidation, drawn: set[str]) -> str:
    name = escape(outcome.scenario.name)
    pieces = [
        f"<header><h1>{name}, for real and predicted</h1>{parts.facts(tables.facts(outcome))}"
        f"{parts.notes(tables.warnings(outcome), 'warning')}</header>",
    ]
    if len(outcome.loads) > 1:
        table = parts.table(*tables.overview(outcome.loads))
        pieces.append(
            _section("Measured → predicted (error)", f'<div class="overview">{table}</div>')
        )
    for title, charts in _SECTIONS:
        cells = "".join(parts.chart(chart, said) for chart, said in charts if chart in drawn)
        below = ""
        if title == "Steps":
            below = parts.table(tables.STEPS_HEAD, tables.step_rows(outcome.step_errors))
        if cells:
            pieces.append(_section(title, below, f'<div class="two">{cells}</div>'))
    said = "How long each step took, and what is predicted for it; a stretch in the middle of a run"
    pieces.append(_section("Step by step", parts.chart("timeline", said)))
    for compared in outcome.loads:
        pieces.append(
            _section(
                tables.title(compared), parts.table(tables.LOAD_HEAD, tables.load_rows(compared))
            )
        )
    pieces.append(f"<footer>servecast {escape(__version__)}</footer>")
    return "\n".join(pieces)


def _section(title: str, *content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(content)}</section>"

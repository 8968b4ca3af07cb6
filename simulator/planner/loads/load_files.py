"""What ``simulate load`` leaves on disk: the curve as JSON, CSV and a page with its chart."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from simulator.planner.loads.load_words import highest_lines, knee_line, marks
from simulator.planner.report.words import amount, title
from simulator.results.format import number
from simulator.results.parts import facts, table

Report = dict[str, Any]

_WIDTH, _HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 16, 40

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem;
color:#1c2733;background:#fff}
dl div{display:flex;gap:1rem}dt{font-weight:600;min-width:6rem}dd{margin:0}
figure{margin:1.5rem 0}figcaption{font-weight:600}
svg{max-width:100%;height:auto}svg text{font-size:12px;fill:currentColor}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #d8dee6}
.scroll{overflow-x:auto}th[scope=row]{font-weight:400}
@media(prefers-color-scheme:dark){body{color:#dfe6ee;background:#14191f}th,td{border-color:#333d48}}
"""

_COLOURS = ("#2f6fde", "#d8642a", "#2b9d62", "#8a5bd0")


def write_load(report: Report, folder: Path) -> list[Path]:
    """Writes ``load.json``, ``load.csv`` and ``load.html``; returns the paths, in that order."""
    texts = {
        "load.json": json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "load.csv": load_csv(report),
        "load.html": load_page(report),
    }
    files = []
    for name, text in texts.items():
        path = folder / name
        part = path.with_name(f".{name}.part")
        part.write_text(text, encoding="utf-8")
        files.append(part.replace(path))
    return files


def load_csv(report: Report) -> str:
    """One row a point."""
    out = io.StringIO()
    points = report["curve"]["points"]
    head = ["factor", "rate_per_s", "users", "keeps_up", *points[0]["figures"]]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for point in points:
        writer.writerow([*(point[name] for name in head[:4]), *point["figures"].values()])
    return out.getvalue()


def load_page(report: Report) -> str:
    """A page of its own, without scripts: what is said, two charts, all points."""
    points = report["curve"]["points"]
    name = escape(report["name"])
    said = facts([("Knee", knee_line(report["curve"])), *highest_lines(report)])
    closed = points[0]["users"] is not None
    loads = [float(p["users"] if closed else p["rate_per_s"]) for p in points]
    lines = _vertical(report, closed=closed)
    latencies = _chart(
        loads, points,
        [("latency.ttft_ms.p99", "TTFT p99"), ("latency.tpot_ms.p99", "TPOT p99"),
         ("latency.e2e_ms.p50", "E2E p50"), ("latency.e2e_ms.p99", "E2E p99")],
        "users" if closed else "requests/s", lines, logarithmic=True,
    )  # fmt: skip
    rates = _chart(
        loads, points,
        [("throughput.requests_per_s", "completed"), ("slo.goodput_requests_per_s", "goodput")],
        "users" if closed else "requests/s", lines, logarithmic=False,
    )  # fmt: skip
    figures = [path for path in points[0]["figures"]
               if any(p["figures"][path] is not None for p in points)]  # fmt: skip
    rows = [
        [number(load), *(amount(point["figures"][path], path, 3) for path in figures), mark]
        for load, point, mark in zip(loads, points, marks(report), strict=True)
    ]
    head = ["users" if closed else "requests/s", *(title(path) for path in figures), ""]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}: load</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{name}</h1><p>{escape(report['description'])}</p>{said}"
        f"<figure><figcaption>Latency, ms</figcaption>{latencies}</figure>"
        f"<figure><figcaption>Throughput, requests/s</figcaption>{rates}</figure>"
        f"{table(head, rows)}</body></html>\n"
    )


def _vertical(report: Report, *, closed: bool) -> list[tuple[float, str]]:
    found = []
    for entry, name in ((report["curve"]["knee"], "knee"), (report["highest"], "highest")):
        at = entry and entry["users" if closed else "rate_per_s"]
        if at:
            found.append((float(at), name))
    return found


def _chart(
    loads: Sequence[float],
    points: Sequence[Report],
    series: Sequence[tuple[str, str]],
    axis: str,
    vertical: Sequence[tuple[float, str]],
    *,
    logarithmic: bool,
) -> str:
    """Lines over the load as SVG."""
    known = {
        name: [(x, float(p["figures"][path])) for x, p in zip(loads, points, strict=True)
               if (p["figures"][path] or 0.0) > 0.0]
        for path, name in series
    }  # fmt: skip
    values = [y for line in known.values() for _, y in line] or [1.0]
    most_x = max(loads) * 1.02
    low = 10 ** math.floor(math.log10(min(values))) if logarithmic else 0.0
    high = 10 ** math.ceil(math.log10(max(values) * 1.0001)) if logarithmic else max(values) * 1.05

    def x_of(x: float) -> float:
        return _LEFT + x / most_x * (_WIDTH - _LEFT - _RIGHT)

    def y_of(y: float) -> float:
        part = math.log(y / low) / math.log(high / low) if logarithmic else y / high
        return _HEIGHT - _BOTTOM - part * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    ticks_y = _powers(low, high) if logarithmic else _round_steps(high)
    for y in ticks_y:
        at = y_of(y)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}" '
                     'stroke="currentColor" opacity=".15"/>')  # fmt: skip
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{y:,g}</text>')
    for x in _round_steps(most_x):
        parts.append(f'<text x="{x_of(x):.1f}" y="{_HEIGHT - _BOTTOM + 18}" '
                     f'text-anchor="middle">{x:,g}</text>')  # fmt: skip
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 6}" text-anchor="end">{axis}</text>')
    for place, (at, name) in enumerate(vertical):
        parts.append(
            f'<line x1="{x_of(at):.1f}" x2="{x_of(at):.1f}" y1="{_TOP}" '
            f'y2="{_HEIGHT - _BOTTOM}" stroke="currentColor" stroke-dasharray="4 4"/>'
            f'<text x="{x_of(at) + 4:.1f}" y="{_TOP + 10 + 14 * place}">{name}</text>'
        )
    for place, (name, line) in enumerate(known.items()):
        if not line:
            continue
        colour = _COLOURS[place]
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3" fill="{colour}">'
                  f"<title>{escape(name)} {y:,.4g} at {x:,.4g}</title></circle>"
                  for x, y in line]  # fmt: skip
        parts.append(f'<text x="{_LEFT + 12 + 110 * place}" y="{_HEIGHT - 6}" '
                     f'style="fill:{colour}">{escape(name)}</text>')  # fmt: skip
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(parts)}</svg>'


def _powers(low: float, high: float) -> list[float]:
    return [10.0**i for i in range(round(math.log10(low)), round(math.log10(high)) + 1)]


def _round_steps(most: float) -> list[float]:
    """0 to ``most`` in four to ten steps of 1, 2 or 5 times a power of ten."""
    size = 10 ** math.floor(math.log10(most))
    step = next(s for s in (size / 5, size / 2, size, 2 * size) if most / s <= 10)
    return [i * step for i in range(int(most / step) + 1)]

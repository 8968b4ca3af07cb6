"""The charts of the roofline page."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from dashboard import look
from simulator import Roofline, RooflineStep, StepOperator, with_unit

NAMES = {"prefill": "Prefill", "decode": "Decode"}
SYMBOLS = {"prefill": "circle", "decode": "diamond"}
RESOURCES = ("compute", "memory", "network", "latency", "host")
"""What can bind, in the order of their colours."""

COLOUR = dict(zip(RESOURCES, (*look.COLOURS[:3], look.COLOURS[4], look.COLOURS[5]), strict=True))

_LABELLED = 0.09
"""Share of a step from which an operator's name is written beside it."""

_PLACES = ("bottom right", "bottom left", "top left", "top right")
"""Of names, so that those of neighbours do not cover each other."""

_LEAST = 0.002
"""Share of a step below which an operator has no bar."""

_GREY = "#8a94a3"


def plot(found: Roofline) -> go.Figure:
    """Operators of both steps under the device's roofs."""
    low, high = _ends(found)
    chart = look.figure(
        "arithmetic intensity (FLOP/byte)", "achieved (TFLOP/s)", height=470,
        xaxis={"type": "log", "range": [math.log10(low), math.log10(high)], "dtick": 1},
        yaxis={"type": "log", "rangemode": "normal", "dtick": 1},
    )  # fmt: skip
    _draw_roofs(chart, found, low, high)
    for position, step in enumerate(found.steps):
        with_arithmetic = [op for op in step.operators if op.intensity]
        without = [op for op in step.operators if not op.intensity]
        colour = look.COLOURS[position]
        chart.add_trace(_points(
            NAMES[step.kind], with_arithmetic, colour, SYMBOLS[step.kind],
            [op.intensity or low for op in with_arithmetic],
            [op.flops_per_s / 1e12 for op in with_arithmetic],
        ))  # fmt: skip
        chart.add_trace(_points(
            f"{NAMES[step.kind]}, no arithmetic", without, colour, f"{SYMBOLS[step.kind]}-open",
            [low * 1.25] * len(without), [op.bytes_per_s * low * 1.25 / 1e12 for op in without],
        ))  # fmt: skip
    return chart


def _ends(found: Roofline) -> tuple[float, float]:
    known = [op.intensity for step in found.steps for op in step.operators if op.intensity]
    ridges = [max(roof.ridge, roof.fitted_ridge) for roof in found.roofs]
    low, high = min(known, default=1.0), max([*known, *ridges])
    return 10 ** math.floor(math.log10(low / 2)), 3.0 * high


def _draw_roofs(chart: go.Figure, found: Roofline, low: float, high: float) -> None:
    known = set()
    for roof in found.roofs:
        if roof.format in known:
            continue
        known.add(roof.format)
        peak = with_unit(roof.peak_flops_per_s / 1e12, "TFLOP/s")
        rate = with_unit(roof.bytes_per_s / 1e12, "TB/s")
        ridge = with_unit(roof.ridge, "FLOP/byte")
        chart.add_trace(_roof(
            f"{roof.format} peak", low, high, roof.peak_flops_per_s, roof.bytes_per_s,
            f"{roof.format}: {peak}, memory {rate}<br>ridge at {ridge}",
            {"color": _GREY, "width": 2},
        ))  # fmt: skip
        chart.add_annotation(
            x=math.log10(roof.ridge), y=math.log10(roof.peak_flops_per_s / 1e12),
            xanchor="right", xshift=-6, yshift=8,
            text=f"ridge, {roof.format}: {ridge}", showarrow=False, font={"size": 11},
        )  # fmt: skip
    shown = set()
    for roof in found.roofs:
        peak = with_unit(roof.fitted_flops_per_s / 1e12, "TFLOP/s")
        rate = with_unit(roof.fitted_bytes_per_s / 1e12, "TB/s")
        ridge = with_unit(roof.fitted_ridge, "FLOP/byte")
        name = f"{roof.kernels}, {roof.format}, fitted"
        if name in shown:  # several shapes of one kind of kernels
            continue
        shown.add(name)
        line = _roof(
            name, low, high, roof.fitted_flops_per_s, roof.fitted_bytes_per_s,
            f"{name}: {peak}, memory {rate}<br>ridge at {ridge}",
            {"color": _GREY, "width": 1.5, "dash": "dash" if len(shown) == 1 else "dot"},
        )  # fmt: skip
        line.visible = True if len(shown) == 1 else "legendonly"
        chart.add_trace(line)


def _roof(
    name: str, low: float, high: float, peak: float, rate: float, text: str, line: dict[str, object]
) -> go.Scatter:
    x = [low, peak / rate, high]
    return go.Scatter(
        name=name, x=x, y=[rate * low / 1e12, peak / 1e12, peak / 1e12], mode="lines", line=line,
        hovertemplate=f"{text}<extra></extra>",
    )  # fmt: skip


def _points(
    name: str, ops: list[StepOperator], colour: str, symbol: str, x: list[float], y: list[float]
) -> go.Scatter:
    labels = [op.name if op.share >= _LABELLED and op.intensity else "" for op in ops]
    places = [_PLACES[at % len(_PLACES)] for at in range(len(ops))]
    return go.Scatter(
        name=name, x=x, y=y, mode="markers+text", text=labels, textposition=places,
        textfont={"size": 11},
        marker={
            "color": colour, "symbol": symbol, "opacity": 0.85,
            "size": [8 + 30 * math.sqrt(op.share) for op in ops],
        },
        customdata=[_told(op) for op in ops],
        hovertemplate="%{customdata}<extra></extra>",
    )  # fmt: skip


def _told(op: StepOperator) -> str:
    lines = [
        f"<b>{op.name}</b>, bound by {op.bound}",
        f"{with_unit(1e3 * op.seconds, 'ms')}, {with_unit(op.share, '%')} of the step",
    ]
    if op.flops:
        rate = with_unit(op.flops_per_s / 1e12, "TFLOP/s")
        lines.append(f"{rate} at {with_unit(op.intensity, 'FLOP/byte')} ({op.format})")
    lines.append(with_unit(op.bytes_per_s / 1e9, "GB/s"))
    if op.link_bytes:
        lines.append(f"{with_unit(op.link_bytes / 1e6, 'MB')} to other devices")
    lines.append(f"{with_unit(op.floor_s / op.seconds, '%')} of the roof")
    return "<br>".join(lines)


def bars(step: RooflineStep) -> go.Figure:
    """Share of a step's time by operator, coloured by what binds."""
    rows = [(op.name, op.share, op.bound) for op in step.operators]
    rows += [("weight_gather", step.gather_s / step.seconds, "network")]
    rows += [("host", step.host_s / step.seconds, "host")]
    kept = [row for row in sorted(rows, key=lambda row: row[1]) if row[1] >= _LEAST]
    chart = look.figure(
        "share of time (%)", "", height=110 + 23 * len(kept),
        xaxis={"range": [0.0, 128.0 * kept[-1][1]]},
        yaxis={"type": "category", "categoryorder": "array",
               "categoryarray": [name for name, _, _ in kept]},
    )  # fmt: skip
    for resource in RESOURCES:
        mine = [(name, share) for name, share, bound in kept if bound == resource]
        if mine:
            chart.add_trace(go.Bar(
                name=resource, orientation="h", y=[name for name, _ in mine],
                x=[100 * share for _, share in mine], marker_color=COLOUR[resource],
                text=[with_unit(share, "%") for _, share in mine], textposition="outside",
                cliponaxis=False,
                hovertemplate="%{y}: %{text}, bound by " + resource + "<extra></extra>",
            ))  # fmt: skip
    return chart


def sweep(found: Roofline) -> go.Figure:
    """Time of a decode step by batch, split by what binds, and where that turns."""
    assert found.sweep is not None
    batch, seconds = found.sweep.batch, found.sweep.seconds
    chart = look.figure(
        "sequences in the step", "step time (ms)", height=400, hovermode="x unified",
        xaxis={"type": "log", "tickvals": [1 << n for n in range(17)]},
    )  # fmt: skip
    for resource in RESOURCES:
        share = found.sweep.resource_share[resource]
        if any(share):
            chart.add_trace(go.Scatter(
                name=resource, x=batch, stackgroup="time", mode="lines",
                y=[1e3 * s * part for s, part in zip(seconds, share, strict=True)],
                line={"color": COLOUR[resource], "width": 0.5}, fillcolor=COLOUR[resource],
                customdata=[with_unit(part, "%") for part in share],
                hovertemplate="%{y:.3g} ms (%{customdata})",
            ))  # fmt: skip
    chart.add_trace(go.Scatter(
        name="step", x=batch, y=[1e3 * s for s in seconds], mode="lines", showlegend=False,
        line={"color": _GREY, "width": 2}, hovertemplate="%{y:.4g} ms",
    ))  # fmt: skip
    marks = _marks(found)
    for place, (name, at, colour) in enumerate(marks):
        # The further right, the higher, so that no line crosses another one's name.
        top = 1.0 - 0.09 * (len(marks) - 1 - place)
        chart.add_shape(
            type="line", x0=at, x1=at, y0=0.0, y1=top, yref="paper",
            line={"color": colour, "width": 1.5, "dash": "dash"},
        )  # fmt: skip
        chart.add_annotation(
            x=math.log10(at), y=top, yref="paper", text=f"{name}: {at:,}", showarrow=False,
            xanchor="right", yanchor="top", xshift=-4, font={"size": 11},
        )  # fmt: skip
    return chart


def _marks(found: Roofline) -> list[tuple[str, int, str]]:
    """Batches worth a line in the sweep, as far as it goes."""
    turning = found.turning
    marks = [
        ("shown above", found.batch, look.COLOURS[1]),
        ("KV cache", found.most_in_cache, look.LIMIT),
        ("engine's limit", found.most_sequences, look.LIMIT),
        ("products compute-bound", turning.products if turning else None, look.COLOURS[0]),
        ("step compute-bound", turning.whole_step if turning else None, look.COLOURS[0]),
    ]
    assert found.sweep is not None
    last = found.sweep.batch[-1]
    kept = [(name, at, colour) for name, at, colour in marks if at is not None and 0 < at <= last]
    at_once: dict[int, tuple[str, int, str]] = {}
    for name, at, colour in kept:
        before = at_once.get(at)
        at_once[at] = (f"{before[0]}, {name}", at, before[2]) if before else (name, at, colour)
    return sorted(at_once.values(), key=lambda mark: mark[1])

"""Charts of a real run beside its prediction, as data that the page's script draws.

A trace has ``x`` and ``y``, a name, the number of its colour, and how it is drawn: ``mode`` (lines,
markers or both), ``dash`` for predictions, ``steps`` for staircases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from calibration.validate.engine.metrics import SHARES, SPREADS, Figure
from calibration.validate.engine.run import Compared, EngineValidation
from calibration.validate.engine.steps import KINDS
from calibration.validate.engine.tables import column

Trace = dict[str, Any]
Chart = dict[str, Any]

_MOST_POINTS = 1500
"""Of a kind of step in a scatter; beyond that, dots hide each other."""

_STRETCH = 160
"""Steps of the timeline."""

_COLOURS = 6


def figures(outcome: EngineValidation) -> dict[str, Chart]:
    """All charts by name."""
    steps = outcome.steps
    charts = {
        "scatter": _scatter(steps),
        "by-batch": _ratio(steps, "batch"),
        "by-context": _ratio(steps, "context"),
        "ratios": _ratios(steps),
        "timeline": _timeline(outcome.loads),
        "cdf-ttft_ms": _cdf(outcome.loads, "ttft_ms"),
        "cdf-tpot_ms": _cdf(outcome.loads, "tpot_ms"),
    }
    if len(outcome.loads) > 1:
        charts |= {
            "rate-ttft": _over_rate(outcome.loads, "latency.ttft_ms", ("p50", "p99"), log=True),
            "rate-tpot": _over_rate(outcome.loads, "latency.tpot_ms", ("p50", "p99")),
            "rate-tokens": _over_rate(outcome.loads, "throughput.output_tokens_per_s", ()),
            "rate-cost": _over_rate(
                outcome.loads, "cost.usd_per_million_output_tokens", (), log=True
            ),
        }
    return {name: _ticked(chart) for name, chart in charts.items() if chart["traces"]}


def _ticked(chart: Chart) -> Chart:
    """With round numbers written out on logarithmic axes."""
    for name in ("x", "y"):
        axis = chart[name]
        if axis.get("type") != "log":
            continue
        drawn = [*chart["traces"], *chart.get("lines", ())]
        values = [value for trace in drawn for value in trace[name] if value > 0]
        if values:
            low, high = np.log10(min(values)), np.log10(max(values))
            steps = (1, 2, 5) if high - low < 3 else (1,)
            powers = range(int(np.floor(low)) - 1, int(np.ceil(high)) + 1)
            axis["ticks"] = [float(f"{n}e{power}") for power in powers for n in steps]
    return chart


# --- over the rate -------------------------------------------------------------------------------


def _over_rate(
    loads: Sequence[Compared], path: str, names: Sequence[str], *, log: bool = False
) -> Chart:
    """Measured and predicted figures, with the predicted interval as error bars."""
    traces = []
    for colour, name in enumerate(names or ("",)):
        whole = f"{path}.{name}" if name else path
        pairs = [(load.load.rate_per_s, _figure(load, whole)) for load in loads]
        found = [(x, f) for x, f in pairs if x is not None and f.real and f.predicted]
        if not found:
            continue
        x = _short(x for x, _ in found)
        label = f"{name} " if name else ""
        traces.append(
            {"name": f"{label}measured", "c": colour, "mode": "lines+markers", "x": x,
             "y": _short(f.real or 0.0 for _, f in found)}
        )  # fmt: skip
        predicted: Trace = {
            "name": f"{label}predicted", "c": colour, "mode": "lines+markers", "dash": True, "x": x,
            "y": _short(f.predicted or 0.0 for _, f in found),
        }  # fmt: skip
        if all(f.interval for _, f in found):
            bounds = [(f.interval or (0.0, 0.0), f.predicted or 0.0) for _, f in found]
            predicted["up"] = _short(b[1] - value for b, value in bounds)
            predicted["down"] = _short(value - b[0] for b, value in bounds)
        traces.append(predicted)
    unit = _figure(loads[0], f"{path}.{names[0]}" if names else path).metric.unit
    return {
        "traces": traces,
        "x": {"title": "requests/s sent", "from_zero": True},
        "y": {"title": unit, "type": "log" if log else "linear", "from_zero": not log},
    }


def _figure(load: Compared, path: str) -> Figure:
    return next(figure for figure in load.figures if figure.metric.path == path)


# --- steps ---------------------------------------------------------------------------------------


def _kinds(steps: pd.DataFrame) -> list[tuple[int, str, pd.DataFrame]]:
    """Steps by kind, thinned out evenly over their durations."""
    found = []
    for colour, kind in enumerate(KINDS):
        part = steps[steps["kind"] == kind].sort_values("measured_s")
        if len(part) > _MOST_POINTS:
            part = part.iloc[np.linspace(0, len(part) - 1, _MOST_POINTS).astype(int)]
        if len(part):
            found.append((colour, kind, part))
    return found


def _scatter(steps: pd.DataFrame) -> Chart:
    """Predicted against measured step times with the diagonal."""
    traces = [
        {"name": kind, "c": colour, "mode": "markers", "x": _short(1e3 * part["measured_s"]),
         "y": _short(1e3 * part["predicted_s"]), "text": _told(part)}
        for colour, kind, part in _kinds(steps)
    ]  # fmt: skip
    both = 1e3 * np.concatenate([steps["measured_s"], steps["predicted_s"]])
    low, high = float(both.min()) / 1.2, float(both.max()) * 1.2
    return {
        "traces": traces,
        "lines": [{"x": [low, high], "y": [low * f, high * f], "dash": f != 1.0}
                  for f in (1.0, 0.8, 1.25)],
        "x": {"title": "measured, ms", "type": "log"},
        "y": {"title": "predicted, ms", "type": "log"},
    }  # fmt: skip


def _ratio(steps: pd.DataFrame, over: str) -> Chart:
    """Predicted over measured step time, against tokens in the step or tokens attended to."""
    traces = []
    low, top = np.inf, 1.0
    for colour, kind, part in _kinds(steps):
        if over == "batch":
            x = part["decode"] + part["prompt_tokens"]
        else:
            past = [int(np.sum(new) + np.sum(old)) for new, old in
                    zip(part["chunk_new"], part["chunk_past"], strict=True)]  # fmt: skip
            x = part["context"] + np.asarray(past, dtype=np.int64)
        low, top = min(low, float(x.min())), max(top, float(x.max()))
        traces.append(
            {"name": kind, "c": colour, "mode": "markers", "x": _short(x),
             "y": _short(part["predicted_s"] / part["measured_s"]), "text": _told(part)}
        )  # fmt: skip
    across = [low / 1.1, top * 1.1]
    titles = {"batch": "tokens in the step", "context": "tokens attended to, summed"}
    return {
        "traces": traces,
        "lines": [{"x": across, "y": [f, f], "dash": f != 1.0} for f in (1.0, 0.8, 1.25)],
        "x": {"title": titles[over], "type": "log"},
        "y": {"title": "predicted / measured", "type": "log"},
    }


def _ratios(steps: pd.DataFrame) -> Chart:
    """Shares of steps whose predicted over measured time is below a ratio."""
    traces = []
    for colour, kind in enumerate(KINDS):
        part = steps[steps["kind"] == kind]
        if len(part):
            ratio = np.quantile(part["predicted_s"] / part["measured_s"], SHARES)
            traces.append(
                {"name": kind, "c": colour, "mode": "lines", "x": _short(ratio),
                 "y": _short(100.0 * SHARES)}
            )  # fmt: skip
    return {
        "traces": traces,
        "lines": [{"x": [f, f], "y": [0.0, 100.0], "dash": f != 1.0} for f in (1.0, 0.8, 1.25)],
        "x": {"title": "predicted / measured", "type": "log"},
        "y": {"title": "% of steps", "from_zero": True},
    }


def _told(part: pd.DataFrame) -> list[str]:
    rows = zip(part["decode"], part["context"], part["chunk_new"], strict=True)
    return [
        f"{decode} decoding over {context:,} tokens"
        + (f", prompts of {' + '.join(map(str, new))}" if len(new) else "")
        for decode, context, new in rows
    ]


def _timeline(loads: Sequence[Compared]) -> Chart:
    """One stretch of steps after another, at the rate nearest to capacity, in the middle of the
    first round: how long each took and should have taken."""
    load = min(loads, key=lambda load: abs((load.load.multiple or 1.0) - 1.0))
    steps = load.steps[load.steps["round"] == 0]
    first = max(0, (len(steps) - _STRETCH) // 2)
    part = steps.iloc[first : first + _STRETCH]
    x = _short(part["start_s"], digits=8)
    shared = {"mode": "lines", "steps": True, "x": x}
    return {
        "traces": [
            {"name": "measured", "c": 0, "y": _short(1e3 * part["measured_s"]),
             "text": _told(part), **shared},
            {"name": "predicted", "c": 1, "y": _short(1e3 * part["predicted_s"]), **shared},
        ],
        "x": {"title": "seconds since the start"
              + (f", at {column(load)}" if len(loads) > 1 else "")},
        "y": {"title": "ms a step", "from_zero": True},
    }  # fmt: skip


# --- distributions -------------------------------------------------------------------------------


def _cdf(loads: Sequence[Compared], name: str) -> Chart:
    """Shares of requests below a latency, a colour a rate."""
    traces = []
    for number, load in enumerate(loads):
        for which, values in (("measured", load.measured), ("predicted", load.predicted)):
            if not values[name]:
                continue
            label = f"{column(load)} {which}" if len(loads) > 1 else which
            traces.append(
                {"name": label, "c": number % _COLOURS, "mode": "lines",
                 "dash": which == "predicted", "x": _short(values[name]),
                 "y": _short(100.0 * SHARES)}
            )  # fmt: skip
    return {
        "traces": traces,
        "x": {"title": f"{SPREADS[name]}, ms", "type": "log"},
        "y": {"title": "% of requests", "from_zero": True},
    }


def _short(values: Any, digits: int = 5) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in values]

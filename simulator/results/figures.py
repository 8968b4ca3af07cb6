"""Charts of the HTML report as plain dictionaries for plotly.js; colours come from the page."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.results.history import mean_of_steps, overlaps, rate
from simulator.results.lives import UP
from simulator.results.presence import HELD
from simulator.results.slo import slo_of_classes
from simulator.results.window import end_of_run
from simulator.workload.requests import Floats, Ints

if TYPE_CHECKING:
    from simulator.results.result import Result

BINS = 400
"""Points along the time axis."""

RATE_BINS = 100
"""Points of requests/s, which need more time to be more than noise."""

_CURVE = 250
_TAIL = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
_MAX_CLASSES = 6

Figure = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Series:
    """A quantity over time: per bin its mean over time and replicas, and the lowest and highest
    value that any replica had. Shapes (bins,)."""

    mean: Floats
    low: Floats
    high: Floats


# --- distributions -------------------------------------------------------------------------------


def distributions(result: Result) -> dict[str, Figure]:
    """Cumulative distributions of TTFT, TPOT, ITL and E2E with the limits of the SLO."""
    times = result.times
    slos = slo_of_classes(result.deployment.scenario)
    return {
        "ttft": _of_requests(result, times.ttft_ms, {n: s.ttft_ms for n, s in slos.items()}),
        "tpot": _of_requests(result, times.tpot_ms, {n: s.tpot_ms for n, s in slos.items()}),
        "itl": _of_gaps(result),
        "e2e": _of_requests(result, times.e2e_ms, {n: s.e2e_ms for n, s in slos.items()}),
    }


def _of_requests(result: Result, values: Floats, limits: dict[str, float | None]) -> Figure:
    requests = result.record.requests
    counted = result.window.counted & np.isfinite(values)
    classes = requests.classes if 1 < len(requests.classes) <= _MAX_CLASSES else ("",)
    traces, spread = [], []
    for i, name in enumerate(classes):
        mine = np.sort(values[counted & (requests.class_id == i)] if name else values[counted])
        if len(mine):
            shares = _shares(len(mine))
            at = np.quantile(mine, shares)
            spread += [at[0], at[-1]]
            traces.append(_line(at, 100 * shares, name, i))
    shown = {n: x for n, x in limits.items() if x is not None}
    return _distribution(traces, spread, shown, requests.classes)


def _of_gaps(result: Result) -> Figure:
    gaps = result.gaps
    if not gaps.count:
        return _distribution([], [], {}, ())
    low, high = gaps.min, gaps.max
    grid = np.geomspace(low, high, _CURVE) if low > 0 else np.linspace(low, high, _CURVE)
    values = np.unique(np.concatenate((grid, gaps.quantiles(_TAIL), [high])))
    shares = gaps.counts(values) / gaps.count
    return _distribution(
        [_line(1e3 * values, 100 * shares, "", 0)], [1e3 * low, 1e3 * high], {}, ()
    )


def _shares(count: int) -> Floats:
    """Where the curve is drawn: everywhere if there are few values, and finely in the tail."""
    if count <= _CURVE:
        return np.linspace(0, 1, count) if count > 1 else np.array([0.0, 1.0])
    tail = 1 - np.geomspace(1 / count, 0.02, 40)
    return np.unique(np.concatenate((np.linspace(0, 1, _CURVE), tail)))


def _distribution(
    traces: list[Figure], spread: list[float], limits: dict[str, float], classes: tuple[str, ...]
) -> Figure:
    ends = [*spread, *limits.values()]
    wide = bool(ends) and min(ends) > 0 and max(ends) / min(ends) > 8
    marks = [
        {
            "x": x,
            "label": f"SLO {name} {x:,g} ms" if len(limits) > 1 else f"SLO {x:,g} ms",
            "c": classes.index(name) if len(limits) > 1 and name in classes else None,
        }
        for name, x in limits.items()
    ]
    return {
        "traces": traces,
        "marks": marks,
        "x": {"title": "ms"} | (_log_axis(min(ends), max(ends)) if wide else {}),
        "y": {"ticksuffix": "%", "range": [0, 101]},
        "height": 260,
    }


def _log_axis(low: float, high: float) -> Figure:
    """A logarithmic axis with whole numbers at its ticks: 1, 2, 5, 10, or only powers of ten."""
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 300 else (1,)
    ticks = [f * 10.0**d for d in decades for f in factors if low * 0.7 < f * 10.0**d < high * 1.5]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:,.6g}" for tick in ticks]}


def _line(x: Floats, y: Floats, name: str, colour: int) -> Figure:
    return {"x": _short(x), "y": _short(y), "name": name, "c": colour}


# --- over time -----------------------------------------------------------------------------------


def over_time(result: Result) -> dict[str, Figure]:
    """Requests running and waiting, KV use, tokens/s, requests sent and completed."""
    record, steps = result.record, result.record.steps
    edges = np.linspace(0.0, max(end_of_run(record), 1e-9), BINS + 1)
    pairs = list(_pairs(result, edges))
    middle = (edges[:-1] + edges[1:]) / 2
    width = edges[1] - edges[0]
    tokens = steps.tokens / np.maximum(steps.duration_s, 1e-12)
    made, prompts = np.zeros(BINS), np.zeros(BINS)
    computed = steps.prefill_tokens / np.maximum(steps.duration_s, 1e-12)
    for rows, bins, overlap in pairs:
        made += np.bincount(bins, tokens[rows] * overlap, BINS)
        prompts += np.bincount(bins, computed[rows] * overlap, BINS)
    there = _held_s(result, edges)
    use = 100 * steps.kv_blocks / record.blocks_of(steps.replica)
    load = [
        *_band(_series(there, pairs, steps.running), middle, "running", 0),
        *_band(_series(there, pairs, steps.waiting), middle, "waiting", 1),
    ]
    kv = _band(_series(there, pairs, use), middle, "KV blocks in use", 2)
    coarse = np.linspace(0.0, edges[-1], RATE_BINS + 1)
    centre = (coarse[:-1] + coarse[1:]) / 2
    rates = [
        _line(centre, rate(record.sent_s, coarse), "sent", 3),
        _line(centre, rate(record.finish_s, coarse), "completed", 0),
    ]
    flow = [
        _line(middle, made / width, "output tokens", 0),
        _line(middle, prompts / width, "prompt tokens computed", 1),
    ]
    window = [result.window.start_s, result.window.end_s]
    common: Figure = {"x": {"title": "s", "range": [0, float(edges[-1])]}, "window": window}
    fleet = _replicas(result, edges, middle)
    return {
        **({"replicas": _chart(common, fleet, {"title": "replicas"})} if fleet else {}),
        "load": _chart(common, load, {"title": "requests per replica"}),
        "kv": _chart(common, list(kv), {"ticksuffix": "%"}),
        "tokens": _chart(common, flow, {"title": "tokens/s"}),
        "requests": _chart(common, rates, {"title": "requests/s"}),
    }


def _replicas(result: Result, edges: Floats, middle: Floats) -> list[Figure]:
    """Replicas held and up, pool by pool, averaged over each bin; nothing where all are up all the
    time."""
    record, lives = result.record, result.record.lives
    if lives is None:
        return []
    traces = []
    for number, group in enumerate(record.groups):
        numbers = range(group.first, group.end)
        for place, (title, states) in enumerate((("held", HELD), ("up", (UP,)))):
            name = title if len(record.groups) == 1 else f"{group.name} {title}"
            mean = mean_of_steps(*lives.counts(states, end_of_run(record), numbers), edges)
            traces.append(_line(middle, mean, name, (2 * number + place) % 6))
    return traces


def _chart(common: Figure, traces: list[Figure], y: Figure) -> Figure:
    return common | {"traces": traces, "y": y | {"rangemode": "tozero"}, "height": 230}


Pairs = tuple[Ints, Ints, Floats]


def _pairs(result: Result, edges: Floats, chunk: int = 1 << 18) -> Iterator[Pairs]:
    """Which rows of the step table lie in which bins, and for how many seconds."""
    steps = result.record.steps
    for start in range(0, len(steps), chunk):
        rows = np.arange(start, min(start + chunk, len(steps)))
        begin = steps.start_s[rows]
        row, bins, seconds = overlaps(begin, begin + steps.duration_s[rows], edges)
        yield start + row, bins, seconds


def _held_s(result: Result, edges: Floats) -> Floats:
    """Replica-seconds within each bin in which devices were held. Shape (bins,)."""
    record = result.record
    width = edges[1] - edges[0]
    if record.held is None:
        return np.full(BINS, record.replicas * width)
    seconds = np.zeros(BINS)
    for _, start, end in record.held.tolist():
        seconds += np.maximum(np.minimum(edges[1:], end) - np.maximum(edges[:-1], start), 0.0)
    return seconds


def _series(there: Floats, pairs: list[Pairs], values: Floats | Ints) -> Series:
    whole, busy = np.zeros(BINS), np.zeros(BINS)
    low, high = np.full(BINS, np.inf), np.zeros(BINS)
    for rows, bins, overlap in pairs:
        some = values[rows].astype(np.float64)
        whole += np.bincount(bins, some * overlap, BINS)
        busy += np.bincount(bins, overlap, BINS)
        np.minimum.at(low, bins, some)
        np.maximum.at(high, bins, some)
    idle = busy < there * (1 - 1e-9)
    low[idle | ~np.isfinite(low)] = 0.0
    # A replica may still finish a step when its devices have just gone.
    return Series(np.divide(whole, there, out=np.zeros(BINS), where=there > 0), low, high)


def _band(series: Series, x: Floats, name: str, colour: int) -> tuple[Figure, ...]:
    """A line for the mean on a band from the lowest to the highest value."""
    lower = _line(x, series.low, name, colour) | {"role": "lower"}
    upper = _line(x, series.high, name, colour) | {"role": "upper"}
    return lower, upper, _line(x, series.mean, name, colour)


def _short(values: Floats) -> list[float]:
    """Six digits are more than a screen shows, and keep the file small."""
    return [float(f"{value:.6g}") for value in values.tolist()]

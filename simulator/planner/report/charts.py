"""What the charts of plans and sweeps show: points with figures, colours, symbols and words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from simulator.planner.entries import FIGURES
from simulator.planner.pareto import FRONTS
from simulator.planner.report.terminal import word
from simulator.planner.report.words import amount, title, unit
from simulator.results.definitions import DEFINITIONS

Report = dict[str, Any]
Data = dict[str, Any]

MOST_POINTS = 5_000
"""In a chart; those on a front come first."""

GROUPS = 10
"""Colours that can be told apart."""

OTHERS = "others"

_PRICE = "usd_per_hour"

_DRAWN = (
    "latency.ttft_ms.p99", "latency.tpot_ms.p99", "energy.joules_per_output_token",
    "cost.usd_per_hour", "devices",
)  # fmt: skip
"""What is drawn against the price in any case, or is as good as the price."""

_SHORT = {
    "throughput.output_tokens_per_s_per_user.p50": "Tokens/s for one user (median)",
    "throughput.output_tokens_per_s_per_device": "Output tokens/s of a device",
    "throughput.output_tokens_per_s": "Output tokens/s",
    "slo.goodput_share": "SLO attainment",
    "slo.goodput_requests_per_s": "Goodput, requests/s",
    _PRICE: "Cost per hour, USD",
    "devices": "Devices",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure that may stand on an axis.

    Args:
        key: path in a summary, or a name of its own.
        title: with the unit.
        up: whether more is better; None: neither.
    """

    key: str
    title: str
    up: bool | None


def plan_data(report: Report) -> Data:
    """Points and charts of a plan; what was ended early has no figures and is left out."""
    trials = [trial for trial in report["trials"] if not _broken(trial)]
    stressed = _stressed(report["asked"])
    limits = [limit["path"] for limit in report["asked"]["constraints"]]
    paths = [
        path
        for path in dict.fromkeys((*FIGURES, *limits))
        if not (stressed and path.startswith("cost.")) and path != "devices"
    ]
    figures = [_figure(_PRICE), _figure("devices"), *map(_figure, paths)]
    winner = report["winner"]["label"] if report["winner"] else None
    groups = _groups([trial["axes"]["hardware"] for trial in trials])
    points = [
        {
            "label": trial["label"],
            "group": _of(groups, trial["axes"]["hardware"]),
            "state": trial["state"],
            "winner": trial["label"] == winner,
            "note": trial["worst"]["text"] if trial["worst"] else "",
            "values": [trial[_PRICE], trial["devices"], *(trial["figures"][p] for p in paths)],
        }
        for trial in trials[:MOST_POINTS]
    ]
    cost = _PRICE
    return _data(figures, points, groups, [
        ("speed", FRONTS[0].x, FRONTS[0].y),
        ("cost_ttft", cost, "latency.ttft_ms.p99"),
        ("cost_tpot", cost, "latency.tpot_ms.p99"),
        ("cost_energy", cost, "energy.joules_per_output_token"),
        *((f"cost_limit_{place}", cost, path) for place, path in enumerate(dict.fromkeys(limits))
          if path not in _DRAWN),
    ])  # fmt: skip


def sweep_data(report: Report) -> Data:
    """Points and charts of a sweep."""
    rows = [row for row in report["rows"] if not row["problem"]]
    rows.sort(key=lambda row: not any(row["fronts"].values()))
    axis = colour_axis(report)
    names = [word(row["values"].get(axis)) if axis else "points" for row in rows]
    groups = _groups(names)
    verdicts = {True: "holds", False: "fails", None: "none"}
    points = [
        {
            "label": label_of(report, row),
            "group": _of(groups, name),
            "state": verdicts[row["holds"]],
            "winner": False,
            "note": "",
            "values": [row["figures"][path] for path in FIGURES],
        }
        for row, name in list(zip(rows, names, strict=True))[:MOST_POINTS]
    ]
    charts = [(front.name, front.x, front.y) for front in FRONTS]
    return _data([_figure(path) for path in FIGURES], points, groups, charts)


def label_of(report: Report, row: Report) -> str:
    """A point's values, in words."""
    values = row["values"]
    return ", ".join(
        f"{axis.rpartition('.')[2]} {word(values.get(axis))}"
        for axis in report["axes"]
        if axis in values
    )


def colour_axis(report: Report) -> str | None:
    """The axis that colours stand for: devices where they vary, else the first that varies."""
    varied = [
        axis
        for axis in report["axes"]
        if len({word(row["values"].get(axis)) for row in report["rows"]}) > 1
    ]
    devices = [axis for axis in varied if axis.partition(".")[0] == "hardware"]
    return next(iter([*devices, *varied]), None)


def _broken(trial: Report) -> bool:
    return bool(trial["problem"] or trial["ended_early"])


def _stressed(asked: Report) -> bool:
    return bool(asked["headroom"] or asked["spare_replicas"])


def _groups(names: Sequence[str]) -> list[str]:
    """The names that get a colour: the most frequent ones, in order of appearance."""
    most = {name for name, _ in Counter(names).most_common(GROUPS)}
    found = [name for name in dict.fromkeys(names) if name in most]
    if len(set(names)) > GROUPS:
        found[-1] = OTHERS
    return found


def _of(groups: Sequence[str], name: str) -> int:
    return groups.index(name) if name in groups else len(groups) - 1


def _figure(key: str) -> Figure:
    if key == "devices":
        return Figure(key, _SHORT[key], False)
    if key == _PRICE:
        return Figure(key, _SHORT[key], False)
    better = next((d.better for d in DEFINITIONS if key.startswith(d.key)), "")
    name = _SHORT.get(key)
    if name is None:
        name = title(key) + (f", {unit(key)}" if unit(key) else "")
    return Figure(key, name, {"higher": True, "lower": False}.get(better))


def _data(
    figures: Sequence[Figure],
    points: list[Data],
    groups: list[str],
    charts: Sequence[tuple[str, str, str]],
) -> Data:
    """Figures that no point has are left out."""
    kept = [
        place
        for place, _ in enumerate(figures)
        if any(point["values"][place] is not None for point in points)
    ]
    for point in points:
        point["shown"] = [_shown(figures[place].key, point["values"][place]) for place in kept]
        point["values"] = [point["values"][place] for place in kept]
    keys = [figures[place].key for place in kept]
    return {
        "figures": [
            {"key": figures[place].key, "title": figures[place].title, "up": figures[place].up,
             "share": unit(figures[place].key) == "%"}
            for place in kept
        ],
        "points": points,
        "groups": groups,
        "charts": [
            {"id": name, "x": keys.index(x), "y": keys.index(y)}
            for name, x, y in charts
            if x in keys and y in keys
        ],
    }  # fmt: skip


def _shown(key: str, value: float | None) -> str:
    return amount(value, "cost.usd_per_hour" if key == _PRICE else key)

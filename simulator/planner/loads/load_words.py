"""What a load curve says, in sentences that the terminal and the page share."""

from __future__ import annotations

from typing import Any

from simulator.results.format import milliseconds, number

Report = dict[str, Any]

_TITLES = {"ttft_ms": "TTFT", "ttfat_ms": "TTFAT", "tpot_ms": "TPOT", "itl_ms": "ITL",
           "e2e_ms": "E2E latency"}  # fmt: skip


_INTERVALS = {
    "by_chance": "by chance (80% over seeds)",
    "by_prediction": "by prediction (80% of measured step times)",
}


def metric_title(path: str) -> str:
    """E2E latency mean."""
    name, _, statistic = path.removeprefix("latency.").partition(".")
    return f"{_TITLES[name]} {statistic}"


def load_words(rate_per_s: float | None, users: int | None) -> str:
    """A load in words."""
    rate = f"{number(rate_per_s)} requests/s"
    return rate if users is None else f"{users:,} user{'s' if users != 1 else ''} ({rate})"


def knee_line(curve: Report) -> str:
    """Where the knee is and what it costs."""
    knee = curve["knee"]
    saturation = f"no load gets more than {number(curve['saturation_per_s'])} requests/s out"
    if knee is None:
        return f"none: the latency is undefined · {saturation}"
    return (
        f"{load_words(knee['rate_per_s'], knee['users'])}, {metric_title(knee['metric'])} "
        f"{milliseconds(knee['latency'])} ms, {number(knee['over_least'])} times that of the "
        f"lightest load · {saturation}"
    )


def highest_lines(report: Report) -> list[tuple[str, str]]:
    """The highest load that holds, with its intervals."""
    found = report["highest"]
    if found is None:
        return [("Holds", "no SLO and no --limit is given, so no rate is too high")]
    limits = ", ".join(found["limits"])
    if found["rate_per_s"] is None:
        return [("Holds", f"{limits} · {found['verdict']}")]
    most = load_words(found["rate_per_s"], found["users"])
    more = found["fails_at_factor"] / found["factor"] - 1
    lines = [("Holds", f"{limits}: up to {most} · at {more:.0%} more {found['binding']}")]
    within = []
    for key, words in _INTERVALS.items():
        if found[key]:
            low, high = (end * (found["users"] or found["rate_per_s"]) for end in found[key])
            if found["users"]:
                low, high = round(low), round(high)
            within.append(f"{number(low)}–{number(high)} {words}")
    if within:
        lines.append(("", " · ".join(within)))
    return lines


def load_lines(report: Report) -> list[tuple[str, str]]:
    """What a load report comes to: title and sentence of the knee and of the highest load."""
    return [("Knee", knee_line(report["curve"])), *highest_lines(report)]


def marks(report: Report) -> list[str]:
    """What is said beside each point: the one nearest to the knee, the last that holds, and those
    whose queue grows to the end."""
    points, knee, found = report["curve"]["points"], report["curve"]["knee"], report["highest"]
    noted = ["" if point["keeps_up"] else "overloaded" for point in points]
    if found and found["factor"] is not None:
        held = [i for i, p in enumerate(points) if p["factor"] <= found["factor"] * (1 + 1e-9)]
        if held:
            noted[held[-1]] = "holds"
    if knee is not None:
        factors = [abs(point["factor"] - knee["factor"]) for point in points]
        near = factors.index(min(factors))
        noted[near] = " · ".join(filter(None, ("knee", noted[near])))
    return noted

"""The HTML report of a plan: one file that needs nothing else."""

from __future__ import annotations

from html import escape
from typing import Any

from simulator.planner.report.charts import plan_data
from simulator.planner.report.meters import meters
from simulator.planner.report.page import (
    HEADS,
    MOST_ROWS,
    SHOWN,
    STATES,
    charts,
    counted,
    folded,
    page,
    provenance,
    reasons,
    section,
    sortable,
)
from simulator.planner.report.terminal import (
    bearing,
    best,
    costs,
    difference,
    limit_lines,
    prices,
    search_line,
    space_lines,
    word,
)
from simulator.planner.report.words import amount
from simulator.results import parts
from simulator.results.format import NOTHING, money, number

Report = dict[str, Any]


SURE = {True: "yes", False: "no", None: "not known"}
"""Whether something holds at the bad end of the predictions' interval."""


def plan_page(report: Report) -> str:
    """The report of a plan."""
    winner, data = report["winner"], plan_data(report)
    sections = [
        _plan_header(report),
        parts.tiles(_tiles(winner, bool(bearing(report["asked"])))) if winner else "",
        section("Why", parts.notes(report["reasons"], "slo")),
        _winner_limits(report),
        _finalists(report),
        charts(data, _plan_note(report)),
        _trials(report),
        _space(report),
        folded("The winner as a scenario", winner["scenario"]) if winner else "",
        provenance(report["provenance"]),
    ]
    return page(report, sections, data)


def _plan_header(report: Report) -> str:
    asked, winner = report["asked"], report["winner"]
    verdict = f"Take {winner['label']}" if winner else "No deployment holds."
    facts = [
        ("Model", asked["model"]),
        *(("Must hold" if place == 0 else "", text)
          for place, text in enumerate(limit_lines(asked))),
        ("Best", f"the {best(asked)}"),
        ("Search", search_line(report["search"])),
    ]  # fmt: skip
    if winner:
        facts.insert(0, ("Price", " · ".join(prices(report))))
    return (
        f"<header><h1>{escape(report['name'])}</h1>"
        f'<p class="lead">{escape(report["description"])}</p>'
        f'<p class="take {"good" if winner else "bad"}">{escape(verdict)}</p>'
        f"<p>{escape(costs(winner)) if winner else ''}</p>{parts.facts(facts)}</header>"
    )


def _tiles(winner: Report, bears_more: bool) -> list[tuple[str, str, str, str]]:
    figures = winner["figures"]

    def mean(path: str) -> float | None:
        value: float | None = (figures.get(path) or {}).get("mean")
        return value

    def within(path: str) -> str:
        interval = (figures.get(path) or {}).get("interval")
        if not interval:
            return ""
        low, high = (amount(end, path, 3) for end in interval)
        return f"80% within {low} – {high}"

    as_it_is = ", traffic as it is" if bears_more else ""
    least = "" if winner["replicas"] else "at least "
    sure = winner["sure"]
    tiles = [
        ("Devices", f"{least}{winner['devices']:,}", winner["axes"]["hardware"], ""),
        ("Cost", money(winner["usd_per_hour"]), "an hour", ""),
        *(
            (name, amount(mean(path), path, 3), within(path), "")
            for name, path in (
                ("Cost of a million tokens out", "cost.usd_per_million_output_tokens"),
                (f"TTFT p99{as_it_is}", "latency.ttft_ms.p99"),
                (f"TPOT p99{as_it_is}", "latency.tpot_ms.p99"),
            )
        ),
        ("Sure", SURE[sure], {
            True: "holds at the bad end of the predictions' 80% interval",
            False: "misses a limit at the bad end of the predictions' 80% interval",
            None: "a limit has no interval of the prediction",
        }[sure], {True: "good", False: "bad", None: ""}[sure]),
    ]  # fmt: skip
    return [tile for tile in tiles if tile[1] != NOTHING]


def _winner_limits(report: Report) -> str:
    winner = report["winner"]
    if winner is None:
        return ""
    terms = bearing(report["asked"])
    text = (
        f"Bar: mean of {winner['seeds']} runs{f' with {terms}' if terms else ''}, each with other "
        "traffic of the same kind. Dark line: its 80% interval over them. Long line: to the bad "
        "end of the prediction's 80% interval. Upright: the limit."
    )
    return section(
        "Limits of the winner", f'<p class="small">{escape(text)}</p>', meters(winner["limits"])
    )


def _finalists(report: Report) -> str:
    winner, objective = report["winner"], report["asked"]["objective"]
    if winner is None:
        return ""
    found = [winner, *report["runners_up"]]
    priced = objective["path"] != "cost.usd_per_hour"
    head = ("deployment", objective["label"], "to the best", *(["an hour"] if priced else []),
            "sure", *HEADS)  # fmt: skip
    rows = [
        (entry["label"], amount(entry["objective"]["mean"], objective["path"]), difference(entry),
         *([money(entry["usd_per_hour"])] if priced else []), SURE[entry["sure"]],
         *(number((entry["figures"].get(path) or {}).get("mean")) for path in SHOWN))
        for entry in found
    ]  # fmt: skip
    text = (
        "The best of each kind of deployment that was found to hold, with the traffic as it is; "
        f"means of {winner['seeds']} runs. Sure: it holds at the bad end of the predictions' 80% "
        "interval too."
    )
    return section(
        "The winner and the runners-up", f'<p class="small">{escape(text)}</p>',
        parts.table(head, rows),
    )  # fmt: skip


def _plan_note(report: Report) -> str:
    terms = bearing(report["asked"])
    early = sum(bool(t["ended_early"] or t["problem"]) for t in report["trials"])
    words = []
    if terms:
        words.append(
            f"Latency, throughput and energy are those with {terms}, which decide; the price is "
            "that of all replicas."
        )
    if early:
        words.append(
            f"{early:,} deployment{' is' if early == 1 else 's are'} not drawn: a limit was out of "
            "reach before the run's end, or there was no run."
        )
    return " ".join(words)


def _trials(report: Report) -> str:
    objective = report["asked"]["objective"]
    winner = report["winner"]["label"] if report["winner"] else None
    own = objective["path"] not in ("cost.usd_per_hour", "devices")
    head = ["deployment", "devices", "an hour", *([objective["label"]] if own else []),
            "verdict", "tightest limit", *HEADS]  # fmt: skip
    rows = []
    for trial in report["trials"][:MOST_ROWS]:
        words, mood = STATES[trial["state"]]
        early = bool(trial["ended_early"] or trial["problem"])
        worst = trial["worst"]["text"] if trial["worst"] else ""
        score = trial["objective"]
        rows.append((trial["label"] == winner, [
            (trial["label"], trial["label"]),
            counted(trial["devices"]),
            (money(trial["usd_per_hour"]), trial["usd_per_hour"]),
            *([(amount(score, objective["path"]), score)] if own else []),
            (words, words),
            (trial["problem"] or trial["ended_early"] or worst, _excess(trial)),
            *(counted(None if early else trial["figures"][path]) for path in SHOWN),
        ], mood))  # fmt: skip
    more = len(report["trials"]) - MOST_ROWS
    note = f'<p class="small">{more:,} further ones are in the files.</p>' if more > 0 else ""
    verdict = head.index("verdict")
    return section(
        "Deployments that were simulated", note, sortable(head, rows, verdict, verdict + 1)
    )


def _excess(trial: Report) -> float | None:
    """What the column of limits is sorted by."""
    value: float | None = (trial["worst"] or {}).get("excess")
    return value


def _space(report: Report) -> str:
    space = report["space"]
    axes = [
        (name.replace("_", " "), word(_without_none(value)))
        for name, value in report["asked"]["plan"]["space"].items()
        if value not in (None, {}, [], [1])
        and not (name in ("prefill", "decode") and not any(value.values()))
    ]
    ruled = [(entry["closest"], _count(entry["deployments"], "deployment"))
             for entry in space["ruled_out"][:40]]  # fmt: skip
    gone = [(entry["problem"], _count(entry["kinds"], "kind")) for entry in space["problems"][:40]]
    content = [parts.facts(axes), parts.notes(space_lines(space)[:1], "note")]
    if gone:
        content += ["<h3>Cannot run</h3>", reasons(gone)]
    if ruled:
        content += ["<h3>Cannot hold, as no run beats these bounds; the closest of each</h3>",
                    reasons(ruled)]  # fmt: skip
    return section("The space", *content)


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value

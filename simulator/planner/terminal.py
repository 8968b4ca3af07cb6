"""Plans and sweeps in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from simulator.planner.reasons import amount
from simulator.results.format import duration, number

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Report = dict[str, Any]

MOST_ROWS = 40
"""Of a sweep in the terminal; files have all."""

_COLUMNS = (
    ("TTFT p99", "latency.ttft_ms.p99", "ms"),
    ("TPOT p99", "latency.tpot_ms.p99", "ms"),
    ("tokens/s", "throughput.output_tokens_per_s", ""),
    ("per user", "throughput.output_tokens_per_s_per_user.p50", ""),
    ("$/M out", "cost.usd_per_million_output_tokens", ""),
    ("J/token", "energy.joules_per_output_token", ""),
)


def render_plan(report: Report, console: Console, files: Sequence[str]) -> None:
    """What was found, why, and what else there is."""
    from rich.text import Text

    console.print(Text(report["name"], style="bold"))
    if report["description"]:
        console.print(report["description"])
    lines = [
        ("Asked", _asked(report)),
        ("Space", _space(report["space"])),
        ("Search", _search(report["search"])),
    ]
    for title, text in lines:
        _line(console, title, text)
    console.print()
    winner = report["winner"]
    if winner is None:
        console.print(Text("No deployment holds.", style="bold red"))
    else:
        console.print(Text(f"Take {winner['label']}", style="bold green"))
        _line(console, "Costs", _costs(winner))
    for sentence in report["reasons"]:
        console.print(f"  {sentence}", soft_wrap=False)
    if winner is not None:
        console.print()
        console.print(_deployments([winner, *report["runners_up"]], report))
        console.print()
        console.print(_limits(winner))
    elif report["trials"]:
        console.print()
        console.print(_closest(report["trials"]))
    if files:
        console.print()
        for file in files:
            _line(console, "Files", file)


def render_sweep(report: Report, console: Console, files: Sequence[str]) -> None:
    """Every point with its figures; what lies on a front is marked."""
    from rich.text import Text

    console.print(Text(report["name"], style="bold"))
    _line(console, "Points", f"{report['points']:,}, {report['simulated']:,} simulated")
    table = _table([*report["axes"], *(title for title, *_ in _COLUMNS), "holds", "front"],
                   left=len(report["axes"]))  # fmt: skip
    for row in report["rows"][:MOST_ROWS]:
        axes = [_word(row["values"].get(axis)) for axis in report["axes"]]
        if row["problem"]:
            table.add_row(*axes, Text(row["problem"], style="dim", overflow="ellipsis"))
            continue
        figures = [_number(row["figures"][path]) for _, path, _ in _COLUMNS]
        fronts = " ".join(name for name, on in row["fronts"].items() if on)
        holds = {True: "yes", False: "no", None: "–"}[row["holds"]]
        table.add_row(*axes, *figures, holds, fronts)
    console.print(table)
    more = len(report["rows"]) - MOST_ROWS
    if more > 0:
        console.print(f"{more:,} further points are in the files.")
    for file in files:
        _line(console, "Files", file)


def render_dry_run(found: Report, console: Console) -> None:
    """How large the work is."""
    for title, text in _dry_lines(found):
        _line(console, title, text)


def _dry_lines(found: Report) -> list[tuple[str, str]]:
    lines = []
    if "space" in found:
        lines.append(("Space", _space(found["space"])))
    if "points" in found:
        lines.append(("Points", f"{found['points']:,}"))
    about = "about " if "space" in found else ""
    seconds = found["estimated_s"]
    time = "unknown" if seconds is None else duration(seconds)
    lines.append(("Work", f"{about}{found['simulations']:,} simulations, {time} with "
                  f"{found['workers']} workers"))  # fmt: skip
    return lines


def _asked(report: Report) -> str:
    asked = report["asked"]
    limits = ", ".join(limit["text"] for limit in asked["constraints"])
    extra = []
    if asked["headroom"]:
        extra.append(f"{100 * asked['headroom']:.0f}% headroom")
    if asked["spare_replicas"]:
        count = asked["spare_replicas"]
        extra.append(f"{count} replica{'s' if count > 1 else ''} may be missing")
    if asked["judge"] == "pessimistic":
        extra.append("at the bad end of the predictions' interval")
    words = " · ".join([asked["model"], limits, *extra])
    return f"{words} · best is the {_best(asked)}"


def _best(asked: Report) -> str:
    sign = "lowest" if asked["objective"]["sign"] > 0 else "highest"
    return f"{sign} {asked['objective']['metric'].replace('_', ' ')}"


def _space(space: Report) -> str:
    words = [f"{space['deployments']:,} deployments of {space['kinds']:,} kinds"]
    gone = space["kinds"] - space["kinds_that_run"]
    if gone:
        words.append(f"{gone:,} kinds cannot run (most: {space['problems'][0]['problem']})")
    if space["ruled_out_by_bounds"]:
        words.append(f"{space['ruled_out_by_bounds']:,} ruled out by bounds")
    return " · ".join(words)


def _search(search: Report) -> str:
    words = [
        f"{search['simulations']:,} simulations of {search['deployments_simulated']:,} deployments",
        f"{search['hold']:,} hold",
        f"{search['fail']:,} fail",
    ]
    if search["too_close_to_call"]:
        words.append(f"{search['too_close_to_call']:,} too close to call")
    return " · ".join(words)


def _costs(winner: Report) -> str:
    figures = winner["figures"]
    words = []
    if winner["usd_per_hour"] is not None:
        least = "" if winner["replicas"] else "at least "
        words.append(f"{least}${winner['usd_per_hour']:,.2f} an hour")
    tokens = figures["cost.usd_per_million_output_tokens"]
    if tokens and tokens["mean"] is not None:
        words.append(f"${tokens['mean']:,.2f} per million output tokens{_within(tokens, '$')}")
    power = figures["energy.power_w_mean"]
    if power and power["mean"] is not None:
        words.append(f"{power['mean'] / 1e3:,.2f} kW")
    return " · ".join(words)


def _within(figure: Report, sign: str = "") -> str:
    if not figure.get("interval"):
        return ""
    low, high = figure["interval"]
    return f" (80% within {sign}{low:,.3g}–{sign}{high:,.3g})"


def _deployments(found: Sequence[Report], report: Report) -> Table:
    objective = report["asked"]["objective"]
    table = _table(["", "deployment", objective["metric"].replace("_", " "),
                    *(title for title, *_ in _COLUMNS)], left=2)  # fmt: skip
    for place, entry in enumerate(found, 1):
        value = amount(entry["objective"]["mean"], objective["path"])
        tie = " (tie)" if place > 1 and entry["than_winner"]["tie"] else ""
        figures = [
            _number((entry["figures"].get(path) or {}).get("mean")) for _, path, _ in _COLUMNS
        ]
        table.add_row(str(place), entry["label"], f"{value}{tie}", *figures)
    return table


def _limits(winner: Report) -> Table:
    table = _table(["limit", "value", "80% within (seeds)", "room", "bad end"], left=1)
    for limit in winner["limits"]:
        half = limit["half"]
        spread = "" if half is None or limit["mean"] is None else (
            f"{limit['mean'] - half:,.4g}–{limit['mean'] + half:,.4g}"
        )  # fmt: skip
        room = "" if limit["excess"] is None else f"{-100 * limit['excess']:.0f}%"
        end = _number(limit["bad_end"]) + ("" if limit["sure"] else " ✗")
        table.add_row(limit["text"], _number(limit["mean"]), spread, room, end)
    return table


def _closest(trials: Sequence[Report]) -> Table:
    table = _table(["deployment", "misses most", "value", "by"], left=2)
    known = [trial for trial in trials if trial["worst"] and trial["worst"]["excess"] is not None]
    for trial in sorted(known, key=lambda trial: trial["worst"]["excess"])[:5]:
        worst = trial["worst"]
        value = "ended early" if worst["value"] is None else _number(worst["value"])
        table.add_row(trial["label"], worst["limit"], value, f"{100 * worst['excess']:.0f}%")
    return table


def _table(columns: Sequence[str], *, left: int) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), collapse_padding=True, show_edge=False)
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position < left else "right")
    return table


def _line(console: Console, title: str, text: str) -> None:
    from rich.table import Table

    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=11, no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(title, text)
    console.print(grid)


def _number(value: Any) -> str:
    return number(value) if isinstance(value, int | float) else "–"


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)

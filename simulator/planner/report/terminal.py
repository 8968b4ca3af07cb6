"""Plans and sweeps in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from simulator.planner.pareto import FRONTS
from simulator.planner.report.grid import Column, fitted, lines
from simulator.planner.report.words import amount, title, unit
from simulator.results.format import NOTHING, duration, money, number

if TYPE_CHECKING:
    from rich.console import Console

Report = dict[str, Any]

MOST_ROWS = 40
"""Of a sweep in the terminal; files have all."""

_COLUMNS = (
    ("TTFT", "p99 ms", "latency.ttft_ms.p99"),
    ("TPOT", "p99 ms", "latency.tpot_ms.p99"),
    ("output", "tokens/s", "throughput.output_tokens_per_s"),
    ("$ per M", "output", "cost.usd_per_million_output_tokens"),
    ("one user", "tokens/s", "throughput.output_tokens_per_s_per_user.p50"),
    ("energy", "J/token", "energy.joules_per_output_token"),
)
"""Title, unit and path; the last ones are left out first where there is no room."""

_LETTERS = {"speed": "S", "cost_ttft": "T", "cost_tpot": "P", "cost_energy": "E"}
"""What marks a front in a narrow table."""


_MARKS = {True: "✓", False: "✗", None: ""}


def render_asked(found: Report, console: Console) -> None:
    """What a plan asks for, and how large its space is."""
    lines(console, [*_asked_lines(found["asked"]), *under("Space", space_lines(found["space"]))])


def _asked_lines(asked: Report) -> list[tuple[str, str]]:
    return [
        ("Model", asked["model"]),
        *under("Must hold", limit_lines(asked)),
        ("Best", f"the {best(asked)}"),
    ]


def render_plan(report: Report, console: Console, files: Sequence[str]) -> None:
    """What was found, why, and what else there is."""
    from rich.text import Text

    asked, winner = report["asked"], report["winner"]
    console.print(Text(report["name"], style="bold"))
    if report["description"]:
        console.print(Text(report["description"]))
    lines(console, [
        *_asked_lines(asked),
        *under("Space", space_lines(report["space"])),
        ("Search", search_line(report["search"])),
    ])  # fmt: skip
    console.print()
    if winner is None:
        console.print(Text("No deployment holds.", style="bold red"))
        lines(console, under("Why", report["reasons"]))
    else:
        console.print(Text(f"Take {winner['label']}", style="bold green"))
        told = [costs(winner), *prices(report)]
        lines(console, [*under("Costs", told), *under("Why", report["reasons"])])
        terms = bearing(asked)
        console.print("\nWith the traffic as it is:\n" if terms else "")
        fitted(console, finalist_columns([winner, *report["runners_up"]], report), 1)
        console.print(f"\nThe first, with {terms}:\n" if terms else "")
        fitted(console, limit_columns(winner), 0)
    if winner is None and any(trial["worst"] for trial in report["trials"]):
        console.print()
        fitted(console, closest_columns(report["trials"]), 0)
    _files(console, files)


def render_sweep(report: Report, console: Console, files: Sequence[str]) -> None:
    """Every point with its figures; what lies on a front is marked."""
    from rich.text import Text

    console.print(Text(report["name"], style="bold"))
    good = [row for row in report["rows"] if not row["problem"]]
    shown = good
    if len(good) > MOST_ROWS:
        shown = sorted(good, key=lambda row: not any(row["fronts"].values()))[:MOST_ROWS]
    lines(console, [
        ("Points", f"{report['points']:,}, of which {len(good):,} ran"),
        *under("Must hold", ["; ".join(report["limits"])] if report["limits"] else []),
    ])  # fmt: skip
    if shown:
        console.print()
        columns = _points(report, shown)
        widths = [column.width for column in columns[: len(report["axes"])]]
        fitted(console, columns, widths.index(max(widths)) if widths else 0)
        console.print()
    told = []
    if len(shown) < len(good):
        told.append(("Rows", f"{len(shown)} of {len(good):,}, those on a front first; the files "
                     "have all"))  # fmt: skip
    if any(any(row["fronts"].values()) for row in shown):
        told += under("On a front", [
            f"{_LETTERS[front.name]}  {title(front.x)} against {title(front.y)}"
            for front in FRONTS
        ])  # fmt: skip
    problems = Counter(row["problem"] for row in report["rows"] if row["problem"])
    told += under("Did not run", [f"{count:,}: {text}" for text, count in problems.most_common(8)])
    lines(console, told)
    _files(console, files)


def render_dry_run(found: Report, console: Console) -> None:
    """How large the work is."""
    told = []
    if "space" in found:
        told += under("Space", space_lines(found["space"]))
    if "points" in found:
        told.append(("Points", f"{found['points']:,}"))
    if not found["simulations"]:
        lines(console, [*told, ("Work", "none: nothing is left to simulate")])
        return
    about = "about " if "space" in found else ""
    seconds, workers = found["estimated_s"], found["workers"]
    time = "time unknown" if seconds is None else f"about {duration(float(f'{seconds:.2g}'))}"
    told.append(("Work", f"{about}{found['simulations']:,} simulations, {time} with "
                 f"{workers} worker{'s' if workers > 1 else ''}"))  # fmt: skip
    lines(console, told)


# --- sentences -----------------------------------------------------------------------------------


def under(label: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    """Lines that share one label."""
    return [(label if place == 0 else "", text) for place, text in enumerate(texts)]


def limit_lines(asked: Report) -> list[str]:
    """What must hold, and under what."""
    limits = [limit["text"] for limit in asked["constraints"]]
    found = [" · ".join(limits)]
    terms = bearing(asked)
    if terms:
        found.append(f"with {terms}")
    if asked["judge"] == "pessimistic":
        found.append("at the bad end of the predictions' 80% interval")
    return found


def bearing(asked: Report) -> str:
    """``20% more traffic and 1 replica missing``; empty where no more is asked than the traffic."""
    words = []
    if asked["headroom"]:
        words.append(f"{100 * asked['headroom']:g}% more traffic")
    count = asked["spare_replicas"]
    if count:
        words.append(f"{count} replica{'s' if count > 1 else ''} missing")
    return " and ".join(words)


def best(asked: Report) -> str:
    """``lowest cost per hour``."""
    sign = "lowest" if asked["objective"]["sign"] > 0 else "highest"
    return f"{sign} {asked['objective']['label']}"


def space_lines(space: Report) -> list[str]:
    """How many deployments there are, and why others are not."""
    found = [f"{space['deployments']:,} deployments of {space['kinds']:,} kinds"]
    gone = space["kinds"] - space["kinds_that_run"]
    if gone:
        first = space["problems"][0]
        most = "" if len(space["problems"]) == 1 else f"{first['kinds']:,} of them: "
        cannot = f"{gone:,} kind{'' if gone == 1 else 's'} cannot run"
        found.append(f"{cannot}; {most}{first['problem']}")
    if space["ruled_out_by_bounds"]:
        closest = space["ruled_out"][0]["closest"]
        found.append(f"{space['ruled_out_by_bounds']:,} ruled out unsimulated, such as: {closest}")
    return found


def search_line(search: Report) -> str:
    """How many were simulated, and with what verdicts."""
    verdicts = [f"{search['hold']:,} hold", f"{search['fail']:,} fail"]
    if search["too_close_to_call"]:
        verdicts.append(f"{search['too_close_to_call']:,} too close to call")
    if search["left_open"]:
        verdicts.append(f"{search['left_open']:,} left open, as they could not be among the best")
    count = search["deployments_simulated"]
    of = f"{count:,} deployment{'' if count == 1 else 's'}"
    return f"{search['simulations']:,} simulations of {of}: {', '.join(verdicts)}"


def costs(winner: Report) -> str:
    """Price and power of a deployment, with the interval of what is predicted."""
    figures = winner["figures"]
    words = []
    if winner["replicas"]:
        usd, often = winner["usd_per_hour"], ""
    else:  # as many replicas as autoscaling holds
        usd, often = (figures["cost.usd_per_hour"] or {}).get("mean"), " on average"
    if usd is not None:
        words.append(f"{money(usd)} an hour{often}")
    tokens = figures["cost.usd_per_million_output_tokens"]
    if tokens and tokens["mean"] is not None:
        words.append(f"{money(tokens['mean'])} per million output tokens{_within(tokens)}")
    power = figures["energy.power_w_mean"]
    if power and power["mean"] is not None:
        words.append(f"{number(power['mean'] / 1e3)} kW")
    return " · ".join(words)


def prices(report: Report) -> list[str]:
    """What a device of the winner costs, and who said so when."""
    axes = report["winner"]["axes"]
    named = " ".join(axes.get(name, "") for name in ("hardware", "prefill", "decode")).split()
    plan = axes.get("price plan")
    return [
        f"{device['name']}: {money(price['usd_per_device_hour'])} a device and hour, "
        f"{price['plan'].replace('_', '-')} {_at(price['cloud'])}, {price['as_of']}"
        for device in report["provenance"]["devices"]
        if device["name"] in named and not report["provenance"]["own_usd_per_device_hour"]
        for price in device["prices"]
        if plan in (None, price["plan"].replace("_", "-"))
    ]


def _at(cloud: str) -> str:
    return "on the market" if cloud == "market" else f"at {cloud}"


def _within(figure: Report) -> str:
    if not figure.get("interval"):
        return ""
    low, high = figure["interval"]
    return f" (80% within {money(low)}–{money(high)})"


def difference(entry: Report) -> str:
    """How a runner-up's objective compares with the winner's: ``+4.3%``, ``tie``."""
    against = entry.get("than_winner")
    if against is None:
        return ""
    share, half = against["difference"], against["half"]
    if share is None:
        return NOTHING
    spread = f" ± {100 * half:.1f}" if half and half >= 0.0005 else ""
    return f"{100 * share:+.1f}{spread}%{', tie' if against['tie'] else ''}"


# --- tables --------------------------------------------------------------------------------------


def finalist_columns(found: Sequence[Report], report: Report) -> list[Column]:
    """The winner and the runners-up, with the traffic as it is."""
    objective = report["asked"]["objective"]
    columns = [
        Column("", [str(place) for place in range(1, len(found) + 1)], left=True),
        Column("deployment", [entry["label"] for entry in found], left=True),
        Column(objective["label"], [_objective(entry, objective["path"]) for entry in found]),
    ]
    for name, of, path in _COLUMNS:
        if path != objective["path"]:
            means = [(entry["figures"].get(path) or {}).get("mean") for entry in found]
            columns.append(Column(f"{name}\n{of}", [number(m) for m in means], optional=True))
    return columns


def _objective(entry: Report, path: str) -> str:
    to_best = difference(entry)
    return f"{amount(entry['objective']['mean'], path)}{f' ({to_best})' if to_best else ''}"


def limit_columns(winner: Report) -> list[Column]:
    """What must hold, and how well it does."""
    limits = winner["limits"]

    def spread(limit: Report) -> str:
        if limit["mean"] is None or not limit["half"]:
            return NOTHING
        low, high = limit["mean"] - limit["half"], limit["mean"] + limit["half"]
        plain = unit(limit["path"]) not in ("USD", "%")  # else the unit is part of the number
        ends = amount(low, "" if plain else limit["path"]), amount(high, limit["path"])
        return NOTHING if ends[0] == ends[1] else "–".join(ends)

    def room(limit: Report) -> str:
        return NOTHING if limit["excess"] is None else f"{-100 * limit['excess']:.0f}%"

    columns = [
        Column("limit", [limit["text"] for limit in limits], left=True),
        Column("value", [amount(limit["mean"], limit["path"]) for limit in limits]),
        Column("80% within,\nover seeds", [spread(limit) for limit in limits], optional=True),
        Column("room", [room(limit) for limit in limits]),
        Column("bad end of\nprediction", [
            f"{amount(limit['bad_end'], limit['path'])} {_MARKS[limit['sure']]}"
            for limit in limits
        ]),
    ]  # fmt: skip
    return [column for column in columns if any(cell != NOTHING for cell in column.cells)]


def closest_columns(trials: Sequence[Report]) -> list[Column]:
    """Those that miss the least, and what they miss."""
    judged = [trial for trial in trials if trial["worst"]]
    known = [trial for trial in judged if not trial["ended_early"]] or judged

    def missed(trial: Report) -> float:
        excess = trial["worst"]["excess"]
        return float("inf") if excess is None else float(excess)

    shown = sorted(known, key=missed)[:5]
    return [
        Column("closest deployments", [trial["label"] for trial in shown], left=True),
        Column("why not", [trial["ended_early"] or trial["worst"]["text"] for trial in shown],
               left=True),
    ]  # fmt: skip


def _points(report: Report, rows: Sequence[Report]) -> list[Column]:
    axes = report["axes"]
    last = [axis.rpartition(".")[2] for axis in axes]
    names = [short if last.count(short) == 1 else axis for axis, short in zip(axes, last)]  # noqa: B905
    columns = [
        Column(name, [word(row["values"].get(axis)) for row in rows], left=True)
        for axis, name in zip(axes, names, strict=True)
    ]
    for name, of, path in _COLUMNS:
        cells = [number(row["figures"][path]) for row in rows]
        columns.append(Column(f"{name}\n{of}", cells, optional=True))
    if any(row["holds"] is not None for row in rows):
        verdicts = {True: "yes", False: "no", None: NOTHING}
        columns.append(Column("holds", [verdicts[row["holds"]] for row in rows]))
    marks = [
        "".join(letter if row["fronts"].get(name) else "·" for name, letter in _LETTERS.items())
        for row in rows
    ]
    return [*columns, Column("front", marks)]


def word(value: Any) -> str:
    """A value of an axis, short."""
    from simulator.planner.space import value_words

    if value is None:
        return NOTHING
    if isinstance(value, list):
        return ", ".join(map(word, value))
    return value_words(value)


def _files(console: Console, files: Sequence[str]) -> None:
    if files:
        console.print()
        lines(console, under("Files", files))

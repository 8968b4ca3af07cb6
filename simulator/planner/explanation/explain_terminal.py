"""An explanation in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from simulator.planner.explanation.explain_words import ADMISSION, BOUND, signed
from simulator.planner.explanation.waits import PARTS
from simulator.results.format import NOTHING, milliseconds, money, number, percent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Report = dict[str, Any]

_WIDTH = 160
_MOST_OPERATORS = 8
_LEAST_SHARE = 0.001

_EFFECTS = (
    ("TTFT p99", "ttft_p99"),
    ("TPOT p99", "tpot_p99"),
    ("E2E p50", "e2e_p50"),
    ("tokens/s", "tokens_per_s"),
    ("$/M out", "usd_per_million"),
)
_AT_MOST = (("most req/s", "highest_per_s"), ("$/M out then", "usd_at_highest"))
"""Where the highest rate was looked for."""

_LEFT_OUT_FIRST = ("e2e_p50", "tokens_per_s", "usd_per_million")
"""Of the columns, where lines are too narrow for all."""

_SAME = "="


def render_explanation(found: Report, console: Console) -> None:
    """Prints what binds, what requests wait for, and what one change would do."""
    from rich.text import Text

    width = min(_WIDTH, console.width)

    def show(item: Any) -> None:
        console.print(item, width=width, markup=False, highlight=False)

    show(Text(found["name"], style="bold"))
    if found["description"]:
        show(Text(found["description"], style="dim"))
    show(Text(" ".join(found["summary"])))
    show("")
    show(_waits(found))
    show("")
    show(_operators(found))
    show("")
    show(_resources(found))
    show("")
    for line in _lines(found):
        show(line)
    if found["changes"] is not None:
        show("")
        show(_changes(found["changes"], width))
        impossible = [each for each in found["changes"]["changes"] if each["problem"]]
        if impossible:
            show("")
            show(_impossible(impossible))
        show("")
        show(Text(_legend(found["changes"]), style="dim"))


def _table(columns: Sequence[str], *, left: int = 1) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), collapse_padding=True, show_edge=False)
    for position, column in enumerate(columns):
        text = position < left
        table.add_column(column, justify="left" if text else "right", no_wrap=not text,
                         overflow="fold")  # fmt: skip
    return table


def _waits(found: Report) -> Table:
    """Parts of TTFT and E2E, of all requests and of the slowest."""
    table = _table(["a request's time, ms", "TTFT", "", "slowest 1%", "", "E2E", "", "slowest 1%",
                    ""])  # fmt: skip
    columns = [found[key][which] for key in ("ttft", "e2e") for which in ("mean_ms", "slowest_ms")]
    wholes = [sum(column.values()) for column in columns]
    for name, title in PARTS.items():
        shares = [column[name] / whole if whole else 0.0
                  for column, whole in zip(columns, wholes, strict=True)]  # fmt: skip
        if max(shares) < _LEAST_SHARE:
            continue
        cells = []
        for column, share in zip(columns, shares, strict=True):
            shown = share >= _LEAST_SHARE
            cells += [milliseconds(column[name]) if shown else NOTHING,
                      percent(share) if shown else ""]  # fmt: skip
        table.add_row(title, *cells)
    table.add_section()
    table.add_row("all", *(cell for whole in wholes for cell in (milliseconds(whole), "")))
    return table


def _operators(found: Report) -> Table:
    table = _table(["steps: operator", "bound by", "all", "with prompts", "decode only"], left=2)
    for each in found["operators"][:_MOST_OPERATORS]:
        table.add_row(
            each["name"], BOUND[each["resource"]],
            *(percent(each[key]) for key in ("share", "with_prompts", "decode_only")),
        )  # fmt: skip
    rest = found["operators"][_MOST_OPERATORS:]
    if rest:
        table.add_row(f"{len(rest)} others", "", percent(sum(each["share"] for each in rest)), "",
                      "")  # fmt: skip
    return table


def _resources(found: Report) -> Table:
    table = _table(["steps: bound by", "all", "with prompts", "decode only", "10% more of it"])
    for each in found["resources"]:
        saves = each["tenth_faster_saves"]
        effect = NOTHING if saves is None or each["share"] < 0.005 else f"steps −{100 * saves:.1f}%"
        table.add_row(
            BOUND[each["name"]],
            *(percent(each[key]) for key in ("share", "with_prompts", "decode_only")), effect,
        )  # fmt: skip
    return table


def _lines(found: Report) -> list[Table]:
    from rich.table import Table
    from rich.text import Text

    admitted = sorted(found["admission"].items(), key=lambda item: -item[1])
    words = " · ".join(f"{ADMISSION[name]} {percent(share)}" for name, share in admitted
                       if share > 0.0)  # fmt: skip
    rows = [("Admission", f"waiting requests kept out by {words}")]
    for balance in found["balances"]:
        if balance["batch_mean"] is None:
            continue
        title = "Decode" if len(found["balances"]) == 1 else f"Decode ({balance['pool']})"
        context = number(balance["context_tokens"])
        text = f"{number(balance['batch_mean'])} sequences a step, {context} tokens of context each"
        if balance["known"]:
            text += (
                f"; compute-bound: products {_from(balance['products_from'])}, "
                f"whole steps {_from(balance['steps_from'])}"
            )
        rows.append((title, text))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(min_width=11, no_wrap=True)
    grid.add_column(overflow="fold")
    for title, text in rows:
        grid.add_row(Text(title, style="bold"), Text(text))
    return [grid]


def _from(batch: int | None) -> str:
    return "at no batch" if batch is None else f"from {batch:,} on"


def _changes(tried: Report, width: int) -> Table:
    from rich.text import Text

    limited = tried["goal"] != "speed"
    most = _AT_MOST if "highest_per_s" in tried["base"] else ()
    narrow = _LEFT_OUT_FIRST[: 3 if most else 1] if width < 120 else ()
    shown = [column for column in (*_EFFECTS, *most) if column[1] not in narrow]
    columns = ["", "one change", *(title for title, _ in shown), *(["SLO"] if limited else [])]
    table = _table(columns, left=2)
    base = tried["base"]
    table.add_row(
        "", Text("as it is", style="bold"), *(_figure(name, base[name]) for _, name in shown),
        *([_verdict(tried["slo_held"], base["goodput_share"])] if limited else []),
    )  # fmt: skip
    before = "deployment"
    for change in tried["changes"]:
        if change["problem"]:
            continue
        if change["group"] != before:
            table.add_section()
            before = change["group"]
        effects = change["effects"]
        cells = [_cell(effects[name]) if name in effects else "" for _, name in shown]
        share = effects["goodput_share"]["value"]
        rank = str(change["helps"]) if change["helps"] else ""
        table.add_row(
            rank, change["title"], *cells,
            *([_verdict(change["slo_held"], share)] if limited else []),
            style="bold" if change["helps"] in (1, 2) else "",
        )  # fmt: skip
    return table


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return NOTHING
    if name.startswith("usd"):
        return money(value)
    return number(value) if name.endswith("per_s") else f"{milliseconds(value)} ms"


def _cell(effect: Report) -> str:
    if effect["ratio"] is None:
        return NOTHING
    return signed(effect["ratio"]) if effect["sure"] else _SAME


def _verdict(held: bool | None, share: float | None) -> str:
    word = "held" if held else "missed" if held is False else "unsure"
    return f"{word} {percent(share)}"


def _impossible(changes: Sequence[Report]) -> Table:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(overflow="fold", max_width=44)
    grid.add_column(overflow="fold")
    grid.add_row(Text("impossible", style="bold"), "")
    for each in changes:
        grid.add_row(Text(each["title"]), Text(each["problem"], style="dim"))
    return grid


def _legend(tried: Report) -> str:
    goal = {
        "hold": "what helps holds the SLO, the cheapest first, or brings it nearer",
        "save": "what helps costs less while the SLO is held, or shortens latency for no more",
        "speed": "what helps lowers latency × cost",
    }[tried["goal"]]
    seeds = (
        f"each with the traffic of {tried['seeds']} seeds; {_SAME}: no more than chance makes of it"
        if tried["seeds"] > 1
        else f"each with the same traffic once; {_SAME}: less than 2%"
    )
    return f"{seeds} · {goal} · --json has the --set options of every change"

"""Break-even points in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulator.results.format import number, percent

if TYPE_CHECKING:
    from rich.console import Console

Report = dict[str, Any]
Rows = list[tuple[str, str]]

_WORTH_TELLING = 1.01
"""Ratio of an interval's ends from which it is shown."""

_WAYS = {"on_demand": "on demand", "reserved": "reserved", "spot": "spot", "own": "own devices"}


def render_break_even(report: Report, console: Console) -> None:
    """Prints what was compared and where it costs the same."""
    from rich.table import Table
    from rich.text import Text

    console.print(Text(report["name"], style="bold"))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(min_width=11, no_wrap=True)
    grid.add_column(overflow="fold")
    for title, line in lines(report):
        grid.add_row(Text(title, style="bold"), Text(line))
    console.print(grid)


def lines(report: Report) -> Rows:
    """Title and text of each line."""
    rows = _run(report)
    rows += _renting(report["renting"], len(report["facts"]["held_shares"]))
    rows += _owning(report)
    rows += _api(report)
    notes = report["notes"]
    return rows + [("Note" if i == 0 else "", note) for i, note in enumerate(notes)]


def _usd(amount: float) -> str:
    """Dollars with as many digits as a comparison needs."""
    return f"${amount:,.0f}" if amount >= 100 else f"${amount:,.2f}" if amount >= 1 \
        else f"${amount:.3g}"  # fmt: skip


def _run(report: Report) -> Rows:
    facts = report["facts"]
    most, held = len(facts["held_shares"]), facts["replicas"]
    replicas = _count(most, "replica")
    if held < most:
        replicas = f"{number(held)} of up to {replicas}"
    slo = {None: "", True: " · SLO held", False: " · SLO missed"}[facts["slo_held"]]
    rows = [
        (
            "Run",
            f"{replicas} of {facts['replica_devices']} × {facts['title']} · "
            f"{number(facts['requests_per_s'])} requests/s of {facts['input_tokens']:,.0f} + "
            f"{facts['output_tokens']:,.0f} tokens{slo}",
        )
    ]
    prices = report["prices_usd_per_device_hour"]
    if prices:
        told = " · ".join(f"{_usd(usd)} {_WAYS[plan]}" for plan, usd in prices.items())
        rows.append(("Prices", f"{told}, a device and hour"))
    return rows


def _split(reserved: int, most: int) -> str:
    if reserved in (0, most):
        return "all reserved" if reserved else "none reserved"
    return f"{_count(reserved, 'replica')} reserved, the others on demand"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _renting(renting: Report, most: int) -> Rows:
    rows: Rows = []
    reserved = renting.get("reserved")
    if reserved:
        share = reserved["share_of_time"]
        line = "never pays: it costs as much as on demand or more"
        if share is not None:
            line = (
                f"pays for devices in use more than {percent(share)} of the time "
                f"({reserved['hours_per_month']:,.0f} hours a month)"
            )
        rows.append(("Reserved", line))
        rows.append(
            (
                "",
                f"cheapest here: {_split(reserved['reserved'], most)}, "
                f"{_usd(reserved['usd_per_hour'])} an hour; all on demand "
                f"{_usd(reserved['all_on_demand_usd_per_hour'])}, all reserved "
                f"{_usd(reserved['all_reserved_usd_per_hour'])}",
            )
        )
    spot = renting.get("spot")
    if spot:
        often = spot["interruptions_per_hour"]
        if often is None:
            cheaper = "cheaper" if spot["always_cheaper"] else "no cheaper"
            line = f"{cheaper} than on demand, as a start takes no time here"
        else:
            line = (
                f"cheaper than on demand up to {number(often)} interruptions of a replica an hour, "
                f"each with a start of {60 * spot['start_h']:.1f} min"
            )
        rows.append(("Spot", line))
    return rows


def _owning(report: Report) -> Rows:
    owning = report["owning"]
    if owning is None:
        return []
    rows = [
        (
            "Own",
            f"{_count(owning['devices'], 'device')} for {_usd(owning['purchase_usd'])}: "
            f"{_usd(owning['usd_per_month'])} a month, of which energy "
            f"{percent(_energy_share(report))}",
        )
    ]
    for plan, other in owning["against"].items():
        own, rent = _usd(owning["usd_per_hour"]), _usd(other["rent_usd_per_hour"])
        words = [f"{rent} against {own} an hour"]
        if plan != "reserved":
            share = other["share_of_time"]
            words.append(
                "owning never pays" if share is None
                else f"owning pays for devices in use more than {percent(share)} of the time"
            )  # fmt: skip
        months = other["payback_months"]
        words.append(
            "the rent saved never pays the purchase" if months is None
            else f"the rent saved pays the purchase in {months:,.1f} months"
        )  # fmt: skip
        words.append(f"{'own' if other['cheaper'] == 'own' else 'rented'} is cheaper here")
        rows.append((f"  {_WAYS[plan]}", " · ".join(words)))
    return rows


def _energy_share(report: Report) -> float:
    owning = report["owning"]
    fixed: float = owning["devices"] * owning["fixed_usd_per_device_hour"]
    hourly: float = owning["usd_per_hour"]
    return 1.0 - fixed / hourly


def _api(report: Report) -> Rows:
    api = report["api"]
    if api is None:
        return []
    capacity, run = api["capacity"], api["run"]
    low, high = capacity["interval"]
    within = f" ({number(low)}–{number(high)})" if high > low * _WORTH_TELLING else ""
    rows = [
        (
            "API",
            f"{_usd(api['usd_per_million_tokens'])} per million tokens of this mix, "
            f"{_usd(run['api_usd_per_day'])} a day for {_tokens(run['tokens_per_day'])} tokens",
        ),
        (
            "Capacity",
            f"{number(capacity['requests_per_s_per_replica'])}{within} requests/s a replica, "
            f"{_tokens(capacity['tokens_per_day_per_replica'])} tokens a day: {capacity['source']}",
        ),
    ]
    for way, other in api["against"].items():
        words = [f"{_usd(other['run_usd_per_day'])} a day here, {other['cheaper']} is cheaper"]
        first, share = other["first_tokens_per_day"], other["utilization"]
        if first is None:
            words.append("serving pays at no volume")
        else:
            words.append(
                f"pays from {_tokens(first)} tokens a day "
                f"({_count(other['first_replicas'], 'replica')} at {percent(share)} of capacity"
                f"{_between(other['utilization_interval'])})"
            )
            if other["always_tokens_per_day"] > first * (1 + 1e-9):
                words.append(f"at every volume from {_tokens(other['always_tokens_per_day'])} on")
        rows.append((f"  {_WAYS[way]}", " · ".join(words)))
    return rows


def _between(pair: list[float] | None) -> str:
    if not pair or pair[1] <= pair[0] * _WORTH_TELLING:
        return ""
    return f", {percent(pair[0])}–{percent(pair[1])}"


def _tokens(count: float) -> str:
    for size, unit in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:,.3g} {unit}"
    return f"{count:,.0f}"

"""A result as text for people: less than 100 columns, complete without colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from simulator.results.format import (
    NOTHING,
    energy,
    milliseconds,
    money,
    number,
    percent,
    with_unit,
)
from simulator.results.phrases import (
    adapters_line,
    answers_line,
    counted_line,
    engine_line,
    fleet_lines,
    hardware_line,
    interval_row,
    interval_title,
    job_lines,
    latencies,
    model_line,
    slo_lines,
    speculation_lines,
    traffic_line,
)
from simulator.results.pool_phrases import handover_line, pool_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from simulator.results.comparison import HasSummary, Row

_WIDTH = 98
_STATISTICS = ("mean", "p50", "p90", "p95", "p99", "max")


def render(result: HasSummary, console: Console, files: Sequence[str] = ()) -> None:
    """Prints a result.

    Args:
        result: a result, or one loaded from files.
        console: where to; narrower ones fold lines.
        files: where it was saved, one line each.
    """
    from rich.text import Text

    summary = result.summary()
    width = min(_WIDTH, console.width)

    def show(item: Any) -> None:
        console.print(item, width=width, markup=False, highlight=False)

    show(Text(summary["name"], style="bold"))
    if summary["description"]:
        show(Text(summary["description"], style="dim"))
    show(_facts(_what(summary)))
    show("")
    show(_latencies(summary, width))
    if summary["classes"]:
        show(_classes(summary["classes"]))
    show(_facts(_figures(summary)))
    notes = [(text, "!", "bold yellow") for text in summary["warnings"]]
    notes += [(text, "·", "dim") for text in summary["notes"]]
    if notes:
        show("")
        show(_bullets(notes))
    if files:
        show("")
        show(_facts([("Files", line) for line in files]))


def render_comparison(
    rows: Sequence[Row], console: Console, names: tuple[str, str] = ("A", "B")
) -> None:
    """Prints two runs side by side.

    Args:
        rows: what ``compare`` gave.
        console: where to.
        names: what the runs are called.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=True, header_style="bold")
    table.add_column("")
    for title in (*(_shortened(name, 22) for name in names), "difference", "B / A", ""):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        verdict, style = _judged(row)
        table.add_row(
            Text(row.metric),
            with_unit(row.a, row.unit),
            with_unit(row.b, row.unit),
            _signed(row),
            NOTHING if row.ratio is None else f"{row.ratio:.2f}",
            Text(verdict, style=style),
        )
    console.print(table, width=min(_WIDTH, console.width))


def _judged(row: Row) -> tuple[str, str]:
    if not row.better or not row.difference or row.ratio is None or abs(row.ratio - 1) < 0.005:
        return "", ""
    if row.unit == "%" and abs(row.difference) < 0.0005:  # nothing to see after rounding
        return "", ""
    good = (row.difference < 0) == (row.better == "lower")
    return ("better", "green") if good else ("worse", "red")


def _signed(row: Row) -> str:
    if row.difference is None:
        return NOTHING
    sign = "+" if row.difference > 0 else "−" if row.difference < 0 else ""
    if row.unit == "%":
        points = f"{100 * abs(row.difference):.1f}"
        return f"{sign if float(points) else ''}{points} points"
    return sign + with_unit(abs(row.difference), row.unit)


def _what(summary: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Model", model_line(summary)),
        ("Hardware", hardware_line(summary)),
        ("Engine", engine_line(summary)),
        ("Traffic", traffic_line(summary)),
        ("Counted", counted_line(summary)),
        *pool_lines(summary),
    ]


def _figures(summary: dict[str, Any]) -> list[tuple[str, str]]:
    rate, slo = summary["throughput"], summary["slo"]
    lines = [
        ("Throughput", f"{number(rate['requests_per_s'])} requests/s · "
         f"{number(rate['output_tokens_per_s'])} output tokens/s · "
         f"{number(rate['total_tokens_per_s'])} total tokens/s"),
        ("", f"{number(rate['output_tokens_per_s_per_device'])} output tokens/s per device · "
         f"{number(rate['output_tokens_per_s_per_user']['p50'])} per user "
         f"(median; slowest 1%: {number(rate['output_tokens_per_s_per_user']['p1'])})"),
    ]  # fmt: skip
    if special := answers_line(summary):
        lines.append(("Answers", special))
    if adapted := adapters_line(summary):
        lines.append(("Adapters", adapted))
    for name, line in job_lines(summary):
        lines.append((_shortened(name, 11), line))
    if slo["limits_given"]:
        good = f"{number(slo['goodput_requests_per_s'])} requests/s"
        lines.append(("Goodput", f"{good} · {percent(slo['goodput_share'])} of those sent"))
        lines += _fairness(summary)
        lines += [("SLO" if i == 0 else "", line) for i, line in enumerate(slo_lines(summary))]
    lines += [("Replicas" if i == 0 else "", line) for i, line in enumerate(fleet_lines(summary))]
    lines += _usage(summary)
    lines += _bill(summary)
    return lines


def _fairness(summary: dict[str, Any]) -> list[tuple[str, str]]:
    index = summary["fairness"]["jain_index"]
    if index is None:
        return []
    return [("Fairness", f"{index:.2f} (Jain's index of tokens/s over weight, by class)")]


def _usage(summary: dict[str, Any]) -> list[tuple[str, str]]:
    kv, queue, use = summary["kv_cache"], summary["scheduling"], summary["utilization"]
    blocks = "the blocks" if kv["blocks"] is None else f"{number(kv['blocks'])} blocks"
    cache = (
        f"{percent(kv['use_mean'])} of {blocks} on average, "
        f"{percent(kv['use_max'])} at most · {number(queue['preemptions'])} preemptions"
    )
    if kv["prefix_hit_rate"]:
        cache += f" · {percent(kv['prefix_hit_rate'])} prefix hits"
        tiers = kv.get("prefix_hit_rate_by_tier", {})
        if tiers:
            cache += f" ({', '.join(f'{name} {percent(rate)}' for name, rate in tiers.items())})"
    if queue["wasted_prefill_share"]:
        cache += f" · {percent(queue['wasted_prefill_share'])} of prefill recomputed or padding"
    drafts = speculation_lines(summary)
    bubbles = f"bubbles {percent(use['bubble_share'])} · " if use["bubble_share"] else ""
    handed = handover_line(summary)
    return [
        *([("KV transfer", handed)] if handed else []),
        ("KV cache", cache),
        *(("", line) for line in _kv_below(kv)),
        ("Queue", f"batch {number(queue['batch_size_mean'])} on average, "
         f"{number(queue['batch_size_max'])} at most · waiting {number(queue['waiting_mean'], 2)}, "
         f"{number(queue['waiting_max'])} at most"),
        *(("Speculation" if i == 0 else "", line) for i, line in enumerate(drafts)),
        ("Utilization", f"busy {percent(use['busy_share'])} · {bubbles}MFU {percent(use['mfu'])} · "
         f"MBU {percent(use['mbu'])}"),
        ("", use["verdict"]),
    ]  # fmt: skip


def _kv_below(kv: dict[str, Any]) -> list[str]:
    """What moved below device memory, and what contiguous runs waste."""
    lines = []
    for name, moved in kv["moved"].items():
        busy = kv["link_busy_share"]["host" if name == "swap" else name]
        line = (
            f"{name}: {number(moved['to_device_gb'])} GB to the devices, "
            f"{number(moved['from_device_gb'])} GB from them"
        )
        line += f" · busy {percent(busy['to_device'])} and {percent(busy['from_device'])}"
        lines.append(line)
    if kv["stored_share"] is not None:
        lines.append(
            f"{percent(kv['stored_share'])} of slots hold tokens, "
            f"{percent(kv['reserved_share'])} wait for one, "
            f"{percent(kv['internal_fragmentation'])} get none, "
            f"{percent(kv['external_fragmentation'])} in small holes"
        )
    return lines


def _bill(summary: dict[str, Any]) -> list[tuple[str, str]]:
    cost, power = summary["cost"], summary["energy"]
    lines = []
    if cost["usd_per_hour"] is not None:
        lines.append(
            ("Cost", f"{money(cost['usd_per_hour'])} an hour · "
             f"{money(cost['usd_per_request'])} a request · "
             f"{money(cost['usd_per_million_output_tokens'])} per million output tokens "
             f"({money(cost['usd_per_million_total_tokens'])} total)")
        )  # fmt: skip
        lines.append(("", f"{cost['price_note']}"))
    watts = (
        f"{number(power['power_w_mean'])} W · {number(power['joules_per_output_token'])} J per "
        f"output token · {number(power['joules_per_request'])} J a request · "
        f"{energy(power['whole_run_kwh'])} for the run"
    )
    lines.append(("Energy", watts))
    if power["gco2e_per_request"] is not None:
        lines.append(
            ("Carbon", f"{number(power['gco2e_per_request'])} g CO₂e a request · "
             f"{number(power['gco2e_per_million_output_tokens'])} g per million output tokens")
        )  # fmt: skip
    return lines


def _latencies(summary: dict[str, Any], width: int) -> Table:
    """As many statistics as the width has room for; a number is never cut."""
    names, rows = list(_STATISTICS), []
    for left_out, intervals in (
        *((count, True) for count in range(len(_LEFT_OUT_FIRST) + 1)),
        (len(_LEFT_OUT_FIRST), False),
    ):
        names = [name for name in _STATISTICS if name not in _LEFT_OUT_FIRST[:left_out]]
        rows = _latency_rows(summary, names, intervals=intervals)
        widths = [max(8, *(len(row[i]) for row, _ in rows)) for i in range(1, len(names) + 1)]
        first = max(11, *(len(row[0]) for row, _ in rows))
        if first + sum(widths) + _GAP * len(names) <= width:
            break
    return _latency_table(names, rows)


_GAP = 2
_LEFT_OUT_FIRST = ("p95", "p90", "p50")

_Row = tuple[list[str], str]
"""Cells, and their style."""


def _latency_rows(summary: dict[str, Any], names: Sequence[str], *, intervals: bool) -> list[_Row]:
    latency = summary["latency"]
    rows: list[_Row] = []
    for key, title in latencies(summary):
        rows.append(([title, *(milliseconds(latency[key][name]) for name in names)], ""))
        within = interval_row(summary, key, names) if intervals else None
        if within is not None:
            rows.append(([interval_title(summary), *within], "dim"))
    return rows


def _latency_table(names: Sequence[str], rows: Sequence[_Row]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    table.add_column("ms", min_width=11)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True, min_width=8)
    for cells, style in rows:
        table.add_row(*(Text(cell, style=style) for cell in cells))
    table.add_row()
    return table


def _classes(classes: dict[str, Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("by class, ms", min_width=11, max_width=24, overflow="ellipsis", no_wrap=True)
    for title in ("requests", "SLO met", "TTFT p50", "p99", "TPOT p50", "p99", "E2E p50", "p99"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, entry in classes.items():
        cells = [
            milliseconds(entry[key][percentile])
            for key in ("ttft_ms", "tpot_ms", "e2e_ms")
            for percentile in ("p50", "p99")
        ]
        good = NOTHING if entry["goodput_share"] is None else percent(entry["goodput_share"])
        table.add_row(Text(name), number(entry["counted"]), good, *cells)
    table.add_row()
    return table


def _facts(lines: Sequence[tuple[str, str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(min_width=11, no_wrap=True)
    table.add_column(overflow="fold")
    for title, text in lines:
        table.add_row(Text(title, style="bold"), Text(text))
    return table


def _bullets(lines: Sequence[tuple[str, str, str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for text, mark, style in lines:
        table.add_row(Text(mark, style=style), Text(text, style=style))
    return table


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
